"""Room on one node: what is left of its offer under what is held there, scalars in sum and GPUs one by one.

Slow, obvious and exact: a commit looks at the few nodes of one placement. Deliberately not here: choosing among nodes
(`federation/scheduling`, whose kernels count alike), and what may hold room (`commit.py`).
"""

from __future__ import annotations

import functools
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from federation.domain.quantities import GPU, Device, DeviceNeed, Resources
from federation.domain.quantities import devices_of as _devices_of
from federation.domain.quantities import need_of as _need_of

devices_of = functools.lru_cache(maxsize=4096)(_devices_of)
need_of = functools.lru_cache(maxsize=4096)(_need_of)


class Hold(NamedTuple):
    """One task's room. `devices` are places in the node's list; empty where nobody wrote them down."""

    per_task: Resources
    devices: tuple[int, ...] = ()


@dataclass(slots=True)
class Left:
    """What is left on one node. Scalars by name, kinds in sum; `free` is milli by place. Below zero: held too much."""

    devices: tuple[Device, ...]
    scalars: dict[str, int]
    free: list[int]
    astray: int = 0
    """Tasks that hold devices which are not there (any more), or no one knows which."""

    @property
    def over_full(self) -> bool:
        """Whether more is held than is offered."""
        return bool(self.astray) or min(self.scalars.values(), default=0) < 0 or min(self.free, default=0) < 0

    def take(self, hold: Hold) -> None:
        """Give room to a task, whether there is any or not."""
        for name, _, amount in hold.per_task:
            if name != GPU:
                self.scalars[name] = self.scalars.get(name, 0) - amount
        need = need_of(hold.per_task)
        if not need.devices:
            return
        places = hold.devices or chosen(self.devices, self.free, need)
        there = [place for place in places if 0 <= place < len(self.free)]
        if len(there) < max(need.devices, len(places)):
            self.astray += 1
        for place in there:
            self.free[place] -= need.milli

    def has_scalars(self, per_task: Resources) -> bool:
        """Whether all that a task needs, GPUs apart, is left."""
        return all(self.scalars.get(name, 0) >= amount for name, _, amount in per_task if name != GPU)


def left_on(offered: Resources, holds: Iterable[Hold]) -> Left:
    """What `holds` leave of `offered`. Tasks whose devices nobody wrote down are laid last, each where it fits tightest."""
    left = Left(devices_of(offered), {}, [device.milli for device in devices_of(offered)])
    for name, _, amount in offered:
        if name != GPU:
            left.scalars[name] = left.scalars.get(name, 0) + amount
    for hold in sorted(holds, key=lambda one: not one.devices):
        left.take(hold)
    return left


def chosen(devices: Sequence[Device], free: Sequence[int], need: DeviceNeed) -> tuple[int, ...]:
    """The places that one task takes: of those that will do the ones with least left, first places first; () when none.

    A device that is not offered whole is never taken as a whole one.
    """
    fitting = [place for place, milli in enumerate(free) if milli >= need.milli and need.takes(devices[place].kind)]
    best = sorted(fitting, key=lambda place: (free[place], place))[: need.devices]
    return tuple(sorted(best)) if len(best) == need.devices else ()


def proper(devices: Sequence[Device], places: Sequence[int], need: DeviceNeed) -> bool:
    """Whether `places` are as many different devices as one task needs, of kinds that will do."""
    return (
        len(places) == len(set(places)) == need.devices
        and all(0 <= place < len(devices) for place in places)
        and all(need.takes(devices[place].kind) for place in places)
    )
