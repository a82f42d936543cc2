"""A machine that has lost the time, at the start of a control plane and of an agent, and while they run."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from federation.clocks import EARLIEST_MS, SLEW_PPM, SteadyClock, told_the_time
from federation.errors import Code, FederationError
from hub_node import steady
from tests.support.world import ControlUnderTest
from tests.unit.hub_node.scripted import ScriptedControl, serving, write_config

IN_1970 = (
    "import sys, time; time.time_ns = lambda: 86_400 * 10**9\n"
    "from federation.cli.main import main; sys.exit(main(sys.argv[1:]))"
)
HOUR_MS = 3_600_000


def started(*words: str | Path) -> subprocess.CompletedProcess[str]:
    """`brhub WORDS` on a machine whose clock stands at the second of January 1970."""
    command = [sys.executable, "-c", IN_1970, *map(str, words)]
    return subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)


def test_the_earliest_time_is_one_and_the_millisecond_before_is_none() -> None:
    """The code says which clock, the hint what to do."""
    told_the_time(EARLIEST_MS)
    with pytest.raises(FederationError) as caught:
        told_the_time(EARLIEST_MS - 1)
    assert (caught.value.code, "2019-12-31 23:59" in caught.value.message) == (Code.CLOCK_UNSET, True)
    assert "timedatectl" in caught.value.hint


def test_a_control_plane_does_not_start_without_the_time(tmp_path: Path) -> None:
    """It says so and ends before it opens its store: no lease is counted anew from 1970."""
    file = tmp_path / "control.toml"
    file.write_text(f'[server]\nlisten = "127.0.0.1:0"\ndata_dir = "{tmp_path / "data"}"\n')
    said = started("serve", "--config", file)
    assert (said.returncode, "clock stands at 1970-01-02" in said.stderr, "CLOCK_UNSET" in said.stderr) == (
        1,
        True,
        True,
    )
    assert not (tmp_path / "data").exists()


def test_an_agent_does_not_start_without_the_time(tmp_path: Path) -> None:
    """What runs under its guards goes on; it touches nothing."""
    with serving(ScriptedControl()) as server:
        said = started("agent", "--config", write_config(tmp_path, server))
    assert (said.returncode, "clock stands at 1970-01-02" in said.stderr) == (1, True)
    assert not (tmp_path / "state" / steady.CLOCK_FILE).exists()


def test_an_agent_that_knew_the_time_in_this_boot_goes_on_with_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its machine's clock was set to 1970 since: deadlines in its journal are of the clock that it kept."""
    monkeypatch.setattr(steady, "_clock", steady._clock)
    steady.keep_in(tmp_path)
    before_ms = steady.now_ms()
    monkeypatch.setattr(steady, "wall_ms", lambda: 0)
    steady.keep_in(tmp_path)
    assert 0 <= steady.now_ms() - before_ms < HOUR_MS
    (tmp_path / steady.CLOCK_FILE).write_text(json.dumps({"boot_id": steady.boot_id(), "ahead_ms": 0}))
    with pytest.raises(FederationError) as caught:
        steady.keep_in(tmp_path)  # an older agent of this boot began without the time
    assert caught.value.code is Code.CLOCK_UNSET


class Machine:
    """A wall clock that is set, and the time since its boot."""

    wall_ms, booted_ms = 1_760_000_000_000, 5_000


def test_a_control_plane_that_runs_goes_on_by_its_steady_clock() -> None:
    """Set to 1970 and back: no lease ends, none is granted with a time of another century, no hub falls silent."""
    machine, control = Machine(), ControlUnderTest()
    clock = SteadyClock(lambda: machine.wall_ms, lambda: machine.booted_ms, follows=True)
    control.clock.at_ms = clock.now_ms()
    control.join()
    jobs = [control.submit("r1")]
    control.round()
    machine.wall_ms = 0
    for n in range(2, 5):
        machine.booted_ms += 10_000
        before_ms = control.clock.at_ms
        control.pass_time(clock.now_ms() - before_ms)
        assert abs(control.clock.at_ms - before_ms - 10_000) <= 10_000 * SLEW_PPM / 1e6 + 1
        control.sync()
        jobs.append(control.submit(f"r{n}"))
        control.round()
    leases = [control.lease_of(job_id) for job_id in jobs]
    assert all(EARLIEST_MS < lease.granted_ms < lease.expires_ms for lease in leases)
    control.check()
