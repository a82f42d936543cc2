"""Time that nobody can step: on both sides, and across an agent's restarts within one boot."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from federation.clocks import SLEW_PPM, SteadyClock
from hub_node import steady

DAY_MS = 86_400_000


class Machine:
    """Two clocks that a test moves."""

    def __init__(self) -> None:
        self.wall_ms, self.booted_ms = 1_760_000_000_000, 5_000

    def passes(self, ms: int) -> None:
        """Both go on."""
        self.wall_ms += ms
        self.booted_ms += ms

    def clock(self, ahead_ms: int | None = None, follows: bool = False) -> SteadyClock:
        """A clock of this machine."""
        return SteadyClock(lambda: self.wall_ms, lambda: self.booted_ms, ahead_ms=ahead_ms, follows=follows)


@given(st.lists(st.tuples(st.integers(0, DAY_MS), st.integers(-DAY_MS, DAY_MS)), max_size=20), st.booleans())
def test_a_length_of_time_stays_what_it_is(steps: list[tuple[int, int]], follows: bool) -> None:
    """However often the wall clock is set, what passes is what passed, but for the slew; and it never goes back."""
    machine = Machine()
    clock = machine.clock(follows=follows)
    for passed_ms, set_by_ms in steps:
        before_ms = clock.now_ms()
        machine.wall_ms += set_by_ms
        machine.passes(passed_ms)
        slew_ms = passed_ms * SLEW_PPM / 1e6 + 1 if follows else 0
        assert abs(clock.now_ms() - before_ms - passed_ms) <= slew_ms
        assert clock.now_ms() >= before_ms


def test_a_clock_that_follows_is_right_again_in_the_end() -> None:
    """Ten seconds off: half a day later the wall clock is reached, and kept."""
    machine = Machine()
    clock = machine.clock(follows=True)
    machine.wall_ms += 10_000
    for _ in range(24):
        machine.passes(DAY_MS // 24)
        clock.now_ms()
    assert clock.now_ms() == machine.wall_ms


def test_an_agent_goes_on_with_its_boot_s_clock(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The second agent of a boot has the first one's clock, though the machine's was set by an hour meanwhile."""
    steady.keep_in(tmp_path)
    kept = json.loads((tmp_path / steady.CLOCK_FILE).read_text())
    (tmp_path / steady.CLOCK_FILE).write_text(json.dumps({**kept, "ahead_ms": kept["ahead_ms"] - 3_600_000}))
    before_ms = steady.now_ms()
    steady.keep_in(tmp_path)
    assert 3_590_000 < before_ms - steady.now_ms() < 3_610_000
    monkeypatch.setattr(steady, "boot_id", lambda: "another boot")
    steady.keep_in(tmp_path)
    assert abs(steady.now_ms() - before_ms) < 60_000


@pytest.mark.parametrize("text", ["", "{", "[]", '{"boot_id": 3}', '{"boot_id": "x", "ahead_ms": "y"}', "\0"])
def test_a_damaged_clock_file_is_written_anew(tmp_path: Path, text: str) -> None:
    """It is small, and every boot begins a new one: nothing is lost with it that could be asked back."""
    (tmp_path / steady.CLOCK_FILE).write_text(text)
    steady.keep_in(tmp_path)
    assert json.loads((tmp_path / steady.CLOCK_FILE).read_text())["boot_id"] == steady.boot_id()
