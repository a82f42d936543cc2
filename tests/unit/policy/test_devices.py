"""GPUs one by one: the order that both sides count in, and what a task needs of them."""

from __future__ import annotations

import pytest

from federation.policy.devices import NO_DEVICES, Device, DeviceNeed, devices_of, kinds_of, need_of


@pytest.mark.parametrize(
    ("offered", "expected"),
    [
        ([], []),
        ([("cpu", "", 4_000)], []),
        ([("gpu", "", 1_000)], [("", 1_000)]),
        ([("gpu", "t4", 2_500)], [("t4", 1_000), ("t4", 1_000), ("t4", 500)]),
        ([("gpu", "t4", 300), ("memory", "", 7), ("gpu", "a100", 2_000)], [("a100", 1_000), ("a100", 1_000), ("t4", 300)]),
        ([("gpu", "t4", 600), ("gpu", "t4", 600)], [("t4", 1_000), ("t4", 200)]),
    ],
)  # fmt: skip
def test_devices_come_in_the_order_of_their_kinds(
    offered: list[tuple[str, str, int]], expected: list[tuple[str, int]]
) -> None:
    """A thousand milli each; what is left of a kind is a last device of fewer."""
    assert devices_of(offered) == tuple(Device(kind, milli) for kind, milli in expected)


@pytest.mark.parametrize(
    ("kind", "milli", "expected"),
    [
        ("", 1, DeviceNeed(1, 1, ())),
        ("", 999, DeviceNeed(1, 999, ())),
        ("t4", 1_000, DeviceNeed(1, 1_000, ("t4",))),
        ("t4|a100", 3_000, DeviceNeed(3, 1_000, ("a100", "t4"))),
        ("", 1_500, DeviceNeed(2, 1_000, ())),
    ],
)
def test_a_task_needs_a_share_or_whole_devices(kind: str, milli: int, expected: DeviceNeed) -> None:
    """Up to a whole device it is a share of one; above, whole ones, and what is no whole number is rounded up."""
    assert need_of([("cpu", "", 1_000), ("gpu", kind, milli)]) == expected


def test_a_task_without_gpus_needs_none() -> None:
    """Nothing, of no kind."""
    assert need_of([("cpu", "", 1_000)]) == NO_DEVICES


def test_kinds_are_alternatives() -> None:
    """A bar stands between kinds of which either will do; an empty text means any."""
    assert (kinds_of(""), kinds_of("t4"), kinds_of("t4|a100")) == ((), ("t4",), ("t4", "a100"))
    need = need_of([("gpu", "t4|a100", 500)])
    assert [need.takes(kind) for kind in ("t4", "a100", "h100")] == [True, True, False]
    assert need_of([("gpu", "", 500)]).takes("h100")
