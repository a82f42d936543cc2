"""Virtual time goes one way, and what falls on one instant happens in the order in which it was put there."""

from __future__ import annotations

import pytest

from federation.simulation.clock import Agenda, VirtualClock


def test_events_come_by_time_and_then_in_the_order_of_entry() -> None:
    """An instant at a time; the clock is there when its events are taken."""
    agenda = Agenda[str](VirtualClock(5))
    for at_ms, event in ((20, "c"), (10, "a"), (20, "d"), (10, "b")):
        agenda.put(at_ms, event)
    taken = []
    while agenda:
        assert agenda.next_ms() is not None
        events = agenda.take()
        taken.append((agenda.clock.now_ms(), events))
    assert taken == [(10, ["a", "b"]), (20, ["c", "d"])]
    assert (agenda.next_ms(), agenda.take(), agenda.clock.now_ms()) == (None, [], 20)


def test_what_is_put_for_now_comes_with_the_next_call() -> None:
    """A consequence at the same instant is not lost, and does not come before its cause."""
    agenda = Agenda[str](VirtualClock())
    agenda.put(10, "cause")
    assert agenda.take() == ["cause"]
    agenda.put(10, "consequence")
    assert (agenda.take(), agenda.clock.now_ms()) == (["consequence"], 10)


def test_events_need_not_be_comparable() -> None:
    """Two events of one instant are never compared: any value may be an event."""
    agenda = Agenda[dict[str, int]](VirtualClock())
    agenda.put(1, {"b": 1})
    agenda.put(1, {"a": 2})
    assert agenda.take() == [{"b": 1}, {"a": 2}]


def test_time_does_not_go_back() -> None:
    """Neither by the clock nor by an event in the past: both are mistakes of ours."""
    clock = VirtualClock(10)
    with pytest.raises(AssertionError, match="back"):
        clock.advance(9)
    with pytest.raises(AssertionError, match="before 10"):
        Agenda[str](clock).put(9, "late")
