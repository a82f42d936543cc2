"""One agent and several control planes over real sockets: it finds the one that answers, and its runs notice nothing."""

from __future__ import annotations

import signal
from pathlib import Path

from federation.errors import Code, Fault, FederationError
from tests.scenarios.test_agent import RUNNING, SUCCEEDED, AgentProcess, in_state, program
from tests.support.eventually import eventually
from tests.unit.client.test_lines import a_black_hole
from tests.unit.hub_node.scripted import ScriptedControl, serving, write_config

WAITS = """
    import os, time
    open(os.environ["BRHUB_OUTPUT_DIR"] + "/../starts", "a").write("x")
    while not os.path.exists(os.environ["BRHUB_OUTPUT_DIR"] + "/../go"):
        time.sleep(0.02)
"""


def test_an_agent_goes_over_to_the_one_that_took_over(tmp_path: Path) -> None:
    """A machine without power, one that leads, one that stands by: when the second ends, the run is told to the third."""
    first, second = ScriptedControl(), ScriptedControl()
    with a_black_hole() as dead, serving(second) as spare:
        port = int(spare.rpartition(":")[2])
    with a_black_hole() as dead:
        with serving(first) as leading:
            write_config(tmp_path, f"{dead},{leading},{spare}")
            agent = AgentProcess(tmp_path)
            agent.start()
            first.start("job-1", program(WAITS))
            first.wait(in_state(first, "job-1", RUNNING))
        try:
            second.incarnation, second.revision = first.incarnation, first.revision + 1
            with serving(second, port):
                second.wait(lambda: second.told.sessions)
                assert [run.state for run in second.told.sessions[0].runs] == [RUNNING]
                folder = tmp_path / "state/attempts/job-1/1-1"
                starts = eventually(lambda: (folder / "starts").exists() and (folder / "starts").read_text())
                (folder / "go").touch()
                end = second.wait(lambda: second.ended("job-1"))  # its folder may be gone by then
                assert (end.outcome, starts) == (SUCCEEDED, "x")
        finally:
            agent.end(signal.SIGUSR1)
    assert agent.log.read_text().count("cannot be reached, runs go on") <= 2  # once before each session


def test_an_agent_that_is_told_off_by_a_stranger_asks_the_others(tmp_path: Path) -> None:
    """An address that leads to somebody else's control plane does not hold it there."""
    stranger, ours = ScriptedControl(), ScriptedControl()
    stranger.refuse_open = FederationError(Code.UNAUTHENTICATED, "the token is not known", fault=Fault.CALLER)
    with serving(stranger) as wrong, serving(ours) as right:
        write_config(tmp_path, f"{wrong},{right}")
        agent = AgentProcess(tmp_path)
        agent.start()
        try:
            ours.wait(lambda: ours.told.syncs)
            assert eventually(lambda: "the control plane refuses this agent" in agent.log.read_text())
        finally:
            agent.end(signal.SIGUSR1)
