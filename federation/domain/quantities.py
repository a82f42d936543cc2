"""Amounts of things: resource vectors as sorted tuples of (name, kind, amount).

Amounts are integers in base units (cpu millicores, memory and disk bytes, gpu thousandths of a device): what must add
up is never a float. Only GPUs differ in kind; `devices_of` says which devices an amount of them is, in which order. It is
`federation/policy/devices.py`'s, because a hub must count alike. Deliberately not here: which node has what (`hub.py`),
arithmetic on arrays (`scheduling`), and how people write amounts (`federation/client/quantity.py`).
"""

from __future__ import annotations

from typing import NamedTuple

from federation.errors import Code, invalid
from federation.policy.devices import ANY_OF, DEVICE_MILLI, GPU, Device, DeviceNeed, devices_of, kinds_of, need_of

__all__ = [
    "AMOUNT_MAX", "ANY_OF", "CPU", "DEVICE_MILLI", "DISK", "GPU", "KINDS_MAX", "MEMORY", "Amount", "Device", "DeviceNeed",
    "DevicesByTask", "Resources", "amount_of", "devices_of", "kinds_of", "need_of", "resources", "summed_kinds",
]  # fmt: skip

CPU, MEMORY, DISK = "cpu", "memory", "disk"
KINDS_MAX = 64
"""Different (name, kind) pairs in one vector."""
AMOUNT_MAX = 2**53
"""No single amount is larger: 8 PiB of memory, and exact in every language's numbers."""


class Amount(NamedTuple):
    """So much of one resource. `kind` tells sorts apart ("nvidia/A100"); empty means any or not applicable."""

    name: str
    kind: str
    amount: int


Resources = tuple[Amount, ...]
"""Sorted by (name, kind), each pair at most once, amounts above zero."""
DevicesByTask = tuple[tuple[int, ...], ...]
"""By task, the places of its GPUs in its node's `devices_of`; empty where no task has any, or nobody wrote them down."""


def resources(*amounts: tuple[str, str, int]) -> Resources:
    """A checked resource vector; zero amounts are left out. Errors: negative, absurd or doubled amounts."""
    kept: dict[tuple[str, str], int] = {}
    sums: dict[str, int] = {}
    for name, kind, amount in amounts:
        if not name or len(name) > 63 or len(kind) > 128:
            raise invalid(
                f"resource name {name[:80]!r} is empty or too long",
                hint="Use cpu, memory, disk or gpu.",
                field="resources",
            )
        sums[name] = sums.get(name, 0) + max(0, amount)
        if amount < 0 or sums[name] > AMOUNT_MAX:
            raise invalid(
                f"{name} of {amount} is out of range", hint=f"Amounts go from 0 to {AMOUNT_MAX}.", field="resources"
            )
        if (name, kind) in kept:
            raise invalid(f"{name} is asked for twice", hint="Add the amounts up.", field="resources")
        kept[name, kind] = amount
    if len(kept) > KINDS_MAX:
        raise invalid(
            f"{len(kept)} kinds of resources are over the limit of {KINDS_MAX}",
            hint="Name fewer kinds.",
            code=Code.LIMIT_EXCEEDED,
            field="resources",
            limit=str(KINDS_MAX),
        )
    return tuple(Amount(name, kind, amount) for (name, kind), amount in sorted(kept.items()) if amount)


def amount_of(of: Resources, name: str) -> int:
    """The sum of all kinds of `name`."""
    return sum(entry.amount for entry in of if entry.name == name)


def summed_kinds(of: Resources) -> Resources:
    """The same with all kinds of a name put together, but for GPUs: nothing else is told apart by kind."""
    sums: dict[tuple[str, str], int] = {}
    for name, kind, amount in of:
        key = (name, kind if name == GPU else "")
        sums[key] = sums.get(key, 0) + amount
    return tuple(Amount(name, kind, amount) for (name, kind), amount in sorted(sums.items()))
