"""An agent that meets a store which is not its own: a control plane on an empty database, or on somebody else's, by mistake.

It must not be told to end everything: it keeps its runs, says what it met, and goes on when one of the two points back to
where it belongs, or when its operator says that the other store is gone for good.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator, Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from federation.cli.main import main
from federation.domain.hub import AGENTS_PER_HUB_MAX, Agent
from federation.domain.job import Epoch, JobState
from federation.errors import Code, FederationError
from federation.lifecycle.job import Trigger
from federation.policy.share import SharePolicy
from federation.service import hubs, sync
from federation.service.sync import Belonging, Orders, RunReport
from federation.service.world import Unit
from federation.store.memory import MemoryStore
from federation.v1 import common_pb2, hub_pb2, job_pb2
from hub_node import belonging
from hub_node.admission import Admission
from hub_node.agent.register import Register
from hub_node.config import AgentConfig
from hub_node.conversation import Conversation, Introduction
from hub_node.journal import Journal
from hub_node.records import Orders as AgentOrders
from hub_node.records import Seen
from tests.scenarios.test_agent import AgentProcess
from tests.support.builders import an_agent
from tests.support.eventually import eventually
from tests.support.plane import ADMIN, AISHA, CAIRO, Plane, a_plane, a_submit
from tests.support.proxy import Manners, Middlebox
from tests.support.world import ControlUnderTest
from tests.unit.hub_node.scripted import spec_of

OURS, ANOTHER = "ours", "another"
RUNS = (
    RunReport("lease-9", "job-9", Epoch(1, 9), Trigger.RUN_STARTED),  # type: ignore[arg-type]  # NewTypes of str
    RunReport("lease-8", "job-8", Epoch(1, 8), Trigger.RUN_SUCCEEDED),  # type: ignore[arg-type]
)


def a_control(store_id: str = OURS) -> ControlUnderTest:
    """A control plane on an empty store of that name."""
    store = MemoryStore()
    store.tables.store_id = store_id
    return ControlUnderTest(store)


def met(control: ControlUnderTest, of: Belonging, runs: tuple[RunReport, ...] = RUNS) -> Orders:
    """An agent opens a session with these runs."""
    agent = an_agent()
    return control.run(lambda unit: sync.open_session(unit, control.store, agent, "Cairo", runs, of))


def test_a_hub_that_invents_agents_meets_a_limit_though_none_is_let_in() -> None:
    """Each one that was refused is remembered, once; past the limit the answer is another, and nothing is written down."""
    control = a_control()
    for number in (*range(AGENTS_PER_HUB_MAX), *range(AGENTS_PER_HUB_MAX)):
        agent = an_agent(agent_id=f"a-{number}", session_id=f"s-{number}")
        orders = control.run(partial(opened, control, agent))
        assert orders.refused is not None
    last_seq = control.world.last_seq
    with pytest.raises(FederationError) as refused:
        control.run(partial(opened, control, an_agent(agent_id="one-more")))
    assert refused.value.code is Code.LIMIT_EXCEEDED
    assert (len(control.world.problems), control.world.last_seq) == (AGENTS_PER_HUB_MAX, last_seq)


def opened(control: ControlUnderTest, agent: Agent, unit: Unit) -> Orders:
    """It speaks for runs of another store."""
    return sync.open_session(unit, control.store, agent, "Cairo", RUNS, Belonging(ANOTHER))


# ---- the control plane ------------------------------------------------------------------------------------------------
def test_runs_of_another_store_are_not_given_up() -> None:
    """The session is refused with a code: nothing is revoked, nothing released, no agent is there to plan on."""
    control = a_control()
    orders = met(control, Belonging(ANOTHER))
    assert orders.refused is not None
    assert (orders.refused.code, orders.refused.metadata["runs"]) == (Code.ANOTHER_STORE, "2")
    assert (orders.revokes, orders.releases, control.world.agents, control.world.sessions) == ([], [], {}, {})
    control.check()


def test_the_hub_says_what_its_operator_has_to_settle() -> None:
    """In a sentence on the hub, and once in the events, however often the agent tries; gone when it is let in."""
    control = a_control()
    for _ in range(3):
        met(control, Belonging(ANOTHER))
    (problem,) = control.run(lambda unit: hubs.view(unit, "cairo")).problems
    assert "has 2 runs of another store (another), of which this one (ours) knows none" in problem
    events = control.store.events_of("agent", "cairo/main", 100)
    assert [event.type for event in events] == ["SessionRefused"]
    assert json.loads(events[0].payload)["its_store_id"] == ANOTHER
    met(control, Belonging(ANOTHER, joins=OURS))
    assert control.run(lambda unit: hubs.view(unit, "cairo")).problems == ()


@pytest.mark.parametrize(
    ("of", "runs"),
    [
        (Belonging(), RUNS),
        (Belonging(OURS), RUNS),
        (Belonging(ANOTHER), ()),
        (Belonging(ANOTHER, joins=OURS), RUNS),
    ],
    ids=["an older agent", "its own store", "no runs", "told to join"],
)
def test_who_is_let_in(of: Belonging, runs: tuple[RunReport, ...]) -> None:
    """Whoever has nothing to lose here, or was told to."""
    control = a_control()
    assert met(control, of, runs).refused is None
    assert [agent.key for agent in control.world.agents.values()] == [an_agent().key]


def test_a_word_to_join_holds_for_one_store_only() -> None:
    """An agent that was told to join another one does not join this."""
    assert met(a_control(), Belonging(ANOTHER, joins="a third")).refused is not None


@pytest.mark.parametrize("ended", [False, True])
def test_one_run_that_is_known_is_enough(ended: bool) -> None:
    """Two stores with a past in common are one federation's, whatever their names: live leases and ended ones count."""
    control = a_control()
    control.join()
    job_id = control.submit()
    control.round()
    report = control.report(job_id, Trigger.RUN_STARTED)
    if ended:
        control.sync(control.report(job_id, Trigger.RUN_FAILED))
        assert control.job(job_id).state is JobState.FAILED
    assert met(control, Belonging(ANOTHER), (*RUNS, report)).refused is None


# ---- the agent --------------------------------------------------------------------------------------------------------
def a_register(journal: Journal) -> Register:
    """An agent's register that takes nothing."""
    return Register(journal, Admission(AgentConfig("cairo", "", Path()), SharePolicy(), ()), "")


def test_an_agent_knows_whose_its_runs_are(tmp_path: Path) -> None:
    """Written down with the first orders of a store, also where they order nothing; said at the next session."""
    journal = Journal(tmp_path)
    a_register(journal).turn([AgentOrders(7, 3, first=True, store_id=OURS)], 0)
    assert belonging.read(tmp_path) == belonging.Belonging(OURS, 0)
    journal.close()
    journal = Journal(tmp_path)
    truth = a_register(journal).truth()
    about = Introduction("cairo", "main", "i", "", (), ())
    opening = Conversation(about, lambda _: 0).opening(truth, (), 0, ANOTHER)
    assert (journal.seen(), opening.store_id, opening.join_store_id) == (Seen(7, 3, OURS), OURS, ANOTHER)
    journal.close()


def test_the_orders_of_a_store_that_was_joined_are_not_old(tmp_path: Path) -> None:
    """A new store begins at incarnation 1, the one before was restored and counted in years: each counts for itself."""
    journal = Journal(tmp_path)
    register = a_register(journal)
    register.turn([AgentOrders(1_700_000_000, 900, first=True, store_id=OURS)], 0)
    register.turn([AgentOrders(1, 2, first=True, store_id=ANOTHER)], 0)
    assert journal.seen() == Seen(1, 2, ANOTHER)
    journal.close()


def test_an_older_journal_belongs_to_the_store_that_it_meets_first(tmp_path: Path) -> None:
    """And keeps what it has seen: orders of before a restore stay old."""
    journal = Journal(tmp_path)
    journal.save(seen=Seen(5, 9))
    journal._db.execute("UPDATE meta SET value = '[5, 9]' WHERE name = 'seen'")
    assert (journal.seen(), belonging.read(tmp_path)) == (Seen(5, 9), belonging.Belonging("", 0))
    register = a_register(journal)
    register.turn([AgentOrders(4, 1, first=True, store_id=OURS)], 0)
    assert journal.seen() == Seen(5, 9, OURS)
    journal.close()


@pytest.mark.parametrize("text", ["", "no journal at all"])
def test_a_journal_that_cannot_be_read_tells_nothing(tmp_path: Path, text: str) -> None:
    """The doctor goes on to its next question."""
    if text:
        (tmp_path / "journal.db").write_text(text)
    assert (belonging.read(tmp_path), belonging.joins(tmp_path)) == (belonging.Belonging(), "")


@pytest.mark.parametrize("text", [None, b"\xff\xfe"])
def test_a_word_to_join_that_cannot_be_read_is_refused(tmp_path: Path, text: bytes | None) -> None:
    """The agent asks for no session while nobody knows which store is meant: it says so, with whose fault it is; then it goes on."""
    file = tmp_path / "state" / belonging.JOIN_FILE
    file.parent.mkdir()
    file.mkdir() if text is None else file.write_bytes(text)
    (tmp_path / "agent.toml").write_text(
        'hub_id = "cairo"\nserver = "127.0.0.1:1"\ntoken = "x"\nstate_dir = "state"\nengines = ["command"]\n'
    )
    agent = AgentProcess(tmp_path)
    agent.start()
    try:
        eventually(lambda: "which store this agent is to join cannot be read" in agent.log.read_text(), 30)
        said = agent.log.read_text()
        assert ("asks for no session" in said, "remove it" in said, "UNREACHABLE" in said) == (True, True, False)
        file.rmdir() if text is None else file.unlink()
        eventually(lambda: "UNREACHABLE" in agent.log.read_text(), 30)
    finally:
        agent.end()


# ---- for real ---------------------------------------------------------------------------------------------------------
WAITS = """
import os, time
os.write(os.open("starts", os.O_APPEND | os.O_CREAT | os.O_WRONLY), b"x")
while not os.path.exists("go"):
    time.sleep(0.02)
"""


class Campus:
    """An agent behind a hop that can be turned from one control plane to another."""

    def __init__(self, folder: Path, hop: Middlebox) -> None:
        self.folder = folder
        self.hop = hop
        self.agent = AgentProcess(folder)
        self.file = folder / "agent.toml"

    def lead_to(self, plane: Plane) -> None:
        """From now on its address leads there, and its token is known there."""
        token = plane.plane.tokens.issue(CAIRO)
        self.file.write_text(
            f'hub_id = "cairo"\nserver = "{self.hop.address}"\ntoken = "{token}"\nstate_dir = "state"\nengines = ["command"]\n'
        )
        self.hop.lead_to(("127.0.0.1", plane.plane.ports["grpc"]))
        if self.agent.running():
            self.agent.end()
        self.agent.start()

    def said(self, words: str) -> bool:
        """Whether its log has these."""
        return words in self.agent.log.read_text()


async def the_hub(plane: Plane) -> hub_pb2.Hub:
    """Cairo, as an operator sees it."""
    return (await plane.voice(ADMIN).hub("GetHub", hub_pb2.GetHubRequest(hub_id="cairo"))).hub  # type: ignore[no-any-return]


async def in_time(check: Callable[[], Any]) -> Any:
    """What `check` gives once it is true, with the control planes' loop going on."""
    return await asyncio.to_thread(eventually, check, 60)


async def a_running_job(plane: Plane, folder: Path) -> str:
    """A job that runs, and waits for a word."""
    spec = spec_of("python3", "command", arguments=("-c", f"import os; os.chdir({str(folder)!r})\n{WAITS}"))
    answer = await plane.voice(AISHA).job("SubmitJobs", a_submit(spec.SerializeToString()))
    job_id = str(answer.results[0].job_id)
    world = plane.plane.desk.world
    await in_time(lambda: world.jobs[job_id].state is JobState.RUNNING)  # type: ignore[index]  # a NewType of str
    return job_id


async def state_of(plane: Plane, job_id: str) -> str:
    """The job's state."""
    answer = await plane.voice(AISHA).job("GetJob", job_pb2.GetJobRequest(job_id=job_id))
    return common_pb2.JobState.Name(answer.job.state)


@contextlib.asynccontextmanager
async def led_astray(folder: Path) -> AsyncIterator[tuple[Campus, Plane, Plane, str]]:
    """An agent with a running job has met a store that is not its own: campus, its own plane, the other one, the job's id."""
    for name in ("own", "other"):
        (folder / name).mkdir()
    async with a_plane(folder / "own") as own, a_plane(folder / "other") as other:
        with Middlebox(Manners(), to=("127.0.0.1", 1)) as hop:
            campus = Campus(folder, hop)
            campus.lead_to(own)
            try:
                job_id = await a_running_job(own, folder)
                campus.lead_to(other)
                await in_time(lambda: campus.said("ANOTHER_STORE"))
                yield campus, own, other, job_id
            finally:
                campus.agent.end()


@pytest.mark.asyncio
async def test_a_run_outlives_a_control_plane_on_an_empty_store(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    """The agent says what it met, on its log, to the doctor and on the hub; pointed back, the run ends once and well."""
    async with led_astray(tmp_path) as (campus, right, wrong, job_id):
        hub = await the_hub(wrong)
        assert (len(hub.problems), len(hub.agents)) == (1, 0)
        status = await asyncio.to_thread(main, ["doctor", "--agent", str(campus.file), "-o", "json"])
        items = json.loads(capfd.readouterr().out)["items"]
        (found,) = [item for item in items if item["id"] == "store"]
        assert (status, found["level"], found["code"]) == (1, "bad", "ANOTHER_STORE")
        word = tmp_path / "state" / belonging.JOIN_FILE
        word.mkdir()
        await asyncio.to_thread(main, ["doctor", "--agent", str(campus.file), "-o", "json"])
        items = json.loads(capfd.readouterr().out)["items"]
        (found,) = [item for item in items if item["id"] == "store"]
        assert (found["level"], found["code"], found["fault"]) == ("bad", "CONFIGURATION_INVALID", "hub")
        word.rmdir()
        campus.lead_to(right)
        (tmp_path / "go").touch()
        world = right.plane.desk.world
        await in_time(lambda: job_id not in world.jobs)
        assert await state_of(right, job_id) == "JOB_STATE_SUCCEEDED"
        assert (tmp_path / "starts").read_text() == "x"


@pytest.mark.asyncio
async def test_an_agent_joins_another_store_when_it_is_told_to(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    """Its runs of before are ended there, it takes work, and what was said is used up; a second word changes nothing."""
    async with led_astray(tmp_path) as (campus, _, new, _):
        join = ["agent", "--config", str(campus.file), "--join-new-store", "-o", "json"]
        assert await asyncio.to_thread(main, join) == 0
        said = json.loads(capfd.readouterr().out)
        world = new.plane.desk.world
        assert (said["runs"], said["store"]) == (1, world.store_id)
        await in_time(lambda: ("cairo", "main") in world.agents)
        (tmp_path / "starts").unlink()
        await a_running_job(new, tmp_path)
        state = tmp_path / "state"
        assert belonging.read(state).store_id == world.store_id
        assert belonging.joins(state) == ""
        assert (await the_hub(new)).problems == []
        assert await asyncio.to_thread(main, join) == 0
        assert json.loads(capfd.readouterr().out)["file"] == ""
        (tmp_path / "go").touch()
        await in_time(lambda: belonging.read(state).runs == 0)
