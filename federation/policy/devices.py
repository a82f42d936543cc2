"""GPUs one by one: which devices an offer names, in which order, and what a task needs of them. Both sides count alike.

A *place* is a device's index in `devices_of(offered)`: plans, leases and the hub's own journal speak of places, and only
the hub knows which physical device lies at one. Deliberately not here: what is free (`federation/lifecycle/room.py` and
`hub_node/admission.py`), and which device to take (`federation/scheduling`).
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

GPU = "gpu"
DEVICE_MILLI = 1_000
"""A whole device."""
ANY_OF = "|"
"""Between kinds of which any will do: "nvidia/A100|nvidia/H100"."""


class Device(NamedTuple):
    """One device: its kind, and how many thousandths of it are offered (1 to 1,000)."""

    kind: str
    milli: int


class DeviceNeed(NamedTuple):
    """What one task needs: `devices` devices with `milli` thousandths of each. A share of one is one device."""

    devices: int
    milli: int
    kinds: tuple[str, ...]
    """Any of these; empty: any at all."""

    def takes(self, kind: str) -> bool:
        """Whether a device of this kind will do."""
        return not self.kinds or kind in self.kinds


NO_DEVICES = DeviceNeed(0, 0, ())


def devices_of(offered: Iterable[tuple[str, str, int]]) -> tuple[Device, ...]:
    """The devices that a node's `offered` amounts (name, kind, amount) name, by place.

    Kinds come in the order of their names; each gives whole devices of 1,000 milli and, where its amount is no multiple,
    a last one with the rest:

        devices_of([("gpu", "nvidia/A100", 2_500)]) == (("nvidia/A100", 1_000), ("nvidia/A100", 1_000), ("nvidia/A100", 500))
    """
    sums: dict[str, int] = {}
    for name, kind, amount in offered:
        if name == GPU:
            sums[kind] = sums.get(kind, 0) + amount
    found: list[Device] = []
    for kind in sorted(sums):
        whole, rest = divmod(sums[kind], DEVICE_MILLI)
        found += [Device(kind, DEVICE_MILLI)] * whole + ([Device(kind, rest)] if rest else [])
    return tuple(found)


def need_of(per_task: Iterable[tuple[str, str, int]]) -> DeviceNeed:
    """What a task of these amounts needs: a share of one device up to 1,000 milli, above it whole devices, rounded up.

    Specs are checked to name whole devices and one kind; what was accepted before they were is rounded up, and kinds that
    were asked for side by side are taken as alternatives.
    """
    milli, kinds = 0, set[str]()
    for name, kind, amount in per_task:
        if name == GPU:
            milli += amount
            kinds |= set(kinds_of(kind))
    if not milli:
        return NO_DEVICES
    wanted = tuple(sorted(kinds))
    return (
        DeviceNeed(1, milli, wanted) if milli < DEVICE_MILLI else DeviceNeed(-(-milli // DEVICE_MILLI), 1_000, wanted)
    )


def kinds_of(kind: str) -> tuple[str, ...]:
    """The kinds that "A|B" names; none for an empty text, which means any."""
    return tuple(kind.split(ANY_OF)) if kind else ()
