"""The restore drill: real stores, real journals, the real words of both sides, and a backup that is too old.

Hubs here are the agent's own register, journal and conversation; only programs are played: a start is counted, an end is
said. Whatever the draw, no job is started twice, and nothing that was acknowledged before the backup is lost: also where facts are
removed as early as they ever may be.
"""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest

from federation.api.syncing import LeaseLinks, answer_out, beat_in
from federation.api.translate import agent_in, report_in, submission_in
from federation.domain.job import Job, JobState
from federation.policy.share import SharePolicy
from federation.service import restoring
from federation.service import sync as service_sync
from federation.service.retention import EventRetention
from federation.service.submit import request_id_of
from federation.store import backup, open_store, portable
from federation.v1 import common_pb2, hub_pb2, job_pb2
from hub_node import reconcile
from hub_node.admission import Admission
from hub_node.agent.facts import Ended, ProgramEnded, Started
from hub_node.agent.register import Register
from hub_node.config import AgentConfig
from hub_node.conversation import FEATURES, Conversation, Introduction
from hub_node.journal import Journal
from hub_node.records import NodeReport, Outcome, OutputFile, RunState
from tests.support.builders import AISHA
from tests.support.postgres import running_postgres
from tests.support.world import ControlUnderTest

HOUR_MS = 3_600_000
OFFER = (("cpu", "", 3_000), ("disk", "", 10**12), ("memory", "", 2**34))


class Hub:
    """An agent with its journal, at the control plane of `drill`."""

    def __init__(self, drill: Drill, hub_id: str, folder: Path) -> None:
        self.drill, self.hub_id = drill, hub_id
        self.journal = Journal(folder / hub_id)
        config = AgentConfig(hub_id, "", folder, engines=(), fake=True)
        self.register = Register(self.journal, Admission(config, SharePolicy(), OFFER), "")
        about = Introduction(hub_id, "main", self.journal.instance_id, hub_id, ("fake",), ())
        self.talk = Conversation(about, lambda _: 0)

    def connect(self) -> None:
        """Open a session, then say and hear until there is nothing more."""
        control = self.drill.control
        truth, nodes = self.register.truth(), [NodeReport("main", OFFER, OFFER)]
        sent = self.talk.opening(truth, nodes, control.clock.now_ms()).SerializeToString()
        request = hub_pb2.OpenSessionRequest.FromString(sent)
        arriving = agent_in(request, control.ids.new_id("session"))
        runs = tuple(report_in(report, self.hub_id) for report in request.runs)
        orders = control.run(lambda unit: service_sync.open_session(unit, control.store, arriving, request.title, runs))
        answer = hub_pb2.OpenSessionResponse(session_id=arriving.session_id, incarnation=orders.incarnation)
        self.talk.opened(truth, answer)
        self.sync()

    def sync(self) -> None:
        """Say and hear until there is nothing more."""
        for _ in range(20):
            control = self.drill.control
            now_ms = control.clock.now_ms()
            call, request = self.talk.call(self.register.truth(), (), -1, now_ms)
            beat = beat_in(hub_pb2.SyncHubRequest.FromString(request.SerializeToString()), self.hub_id)
            orders = control.run(lambda unit: service_sync.sync(unit, control.store, beat))  # noqa: B023
            sent = answer_out(orders, (), 0, now_ms, self.drill.links).SerializeToString()
            heard = self.talk.answered(call, hub_pb2.SyncHubResponse.FromString(sent), self.register.truth())
            assert heard is not None
            for command in self.register.turn([heard], now_ms).commands:
                if isinstance(command, reconcile.Start):
                    self.drill.starts[command.lease.job_id] += 1
                    self.register.turn([Started(command.lease.lease_id, now_ms, "{}", "boot")], now_ms)
                if isinstance(command, reconcile.Stop):
                    self.drill.stopped.append(f"{command.lease_id}: {command.reason.code}")
            if not orders.urgent:
                return
        raise AssertionError("they never came to an end")

    def end_some(self, chance: random.Random, part: float = 0.5) -> None:
        """Some of what runs ends well."""
        now_ms = self.drill.control.clock.now_ms()
        for run in list(self.register.live):
            if run.state is RunState.RUNNING and chance.random() < part:
                self.register.turn([Ended(run.lease_id, Outcome.SUCCEEDED, None, 0, now_ms)], now_ms)


class Drill:
    """A control plane on a file, two hubs, and what truly happened."""

    def __init__(self, folder: Path, postgres: bool) -> None:
        self.path, self.copy, self.folder = folder / "federation.db", folder / "backup.db", folder
        self.url = running_postgres().emptied() if postgres else f"sqlite:///{self.path}"
        self.postgres = postgres
        self.control = ControlUnderTest(open_store(self.url))
        self.starts: Counter[str] = Counter()
        self.stopped: list[str] = []
        self.hubs = [Hub(self, "cairo", folder), Hub(self, "shenzhen", folder)]
        self.acknowledged: dict[str, str] = {}
        """Request id -> job."""
        for hub in self.hubs:
            hub.connect()

    def links(self, job: Job) -> LeaseLinks:
        return LeaseLinks(request_id=request_id_of(self.control.store, job.id))

    def submit(self, request_id: str) -> str:
        """As a person does; the answer counts as an acknowledgement."""
        spec = job_pb2.JobSpec(version=1, name="a-job", engine="fake", entrypoint="x", runtime_limit_ms=600_000)
        spec.demand.per_task.append(common_pb2.Resource(name="cpu", amount=1_000))
        message = job_pb2.Submission(request_id=request_id, spec=spec.SerializeToString())
        (answer,) = self.control.submit_all(submission_in(message, AISHA))
        assert answer.problem is None, answer.problem
        self.acknowledged[request_id] = answer.job_id
        return answer.job_id

    def go_on(self, chance: random.Random, steps: int) -> None:
        """Anything that happens on a day."""
        retention = EventRetention(self.control.store, self.control.writer, self.control.clock, 0)
        for _ in range(steps):
            self.control.clock.at_ms += 1_000
            match chance.randrange(5):
                case 0:
                    self.submit(f"r{len(self.acknowledged)}")
                case 1:
                    self.control.round()
                case 2:
                    chance.choice(self.hubs).sync()
                case 3:
                    retention.sweep()  # with a limit of no days: whatever may ever be forgotten is forgotten now
                case _:
                    chance.choice(self.hubs).end_some(chance)

    def back_up(self) -> None:
        """Meanwhile the control plane serves."""
        if self.postgres:
            portable.back_up(self.url, self.copy)
        else:
            backup.back_up(self.path, self.copy)

    def restore(self) -> None:
        """The control plane dies; the backup takes its place a minute later."""
        self.control.store.close()
        self.control.clock.at_ms += HOUR_MS // 60
        if self.postgres:
            portable.restore(self.url, self.copy, self.folder, self.control.clock.at_ms)
        else:
            backup.restore(self.path, self.copy, self.control.clock.at_ms)
        self.control.store = open_store(self.url)
        self.control.boot()

    def settle(self, chance: random.Random) -> None:
        """Everything comes to its end: where the backup's newest fact was removed since, when leases of before are over."""
        for number in range(250):
            self.control.pass_time(1_000 if number < 100 else 30_000)
            self.control.round()
            for hub in self.hubs:
                hub.sync()
                hub.end_some(chance, 1.0)
                hub.sync()
            if not self.control.world.jobs:
                return
        raise AssertionError(f"still there: {self.control.world.jobs}")


@pytest.fixture(params=["sqlite", "postgres"])
def drill(tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[Drill]:
    """Two hubs that are connected."""
    made = Drill(tmp_path, request.param == "postgres")
    yield made
    made.control.store.close()
    for hub in made.hubs:
        hub.journal.close()


def test_the_feature_has_one_name() -> None:
    """The agent announces what the control plane looks for."""
    assert restoring.TELLS_ALL in FEATURES


@pytest.mark.parametrize(
    ("drill", "seed"),
    [*(("sqlite", seed) for seed in range(12)), *(("postgres", seed) for seed in range(3))],
    indirect=["drill"],
)
def test_nothing_runs_twice_and_nothing_of_before_is_lost(drill: Drill, seed: int) -> None:
    """Work, a backup, more work, the backup in the store's place, hubs return in any order while work goes on."""
    chance = random.Random(seed)
    drill.go_on(chance, 40)
    drill.back_up()
    before = dict(drill.acknowledged)
    drill.go_on(chance, 40)
    began = set(drill.starts)
    drill.restore()
    for hub in chance.sample(drill.hubs, 2):
        for _ in range(3):
            drill.control.pass_time(1_000)
            drill.control.round()
        hub.connect()
    after = [drill.submit(f"after-{seed}-{number}") for number in range(3)]
    drill.settle(chance)
    twice = {job_id: count for job_id, count in drill.starts.items() if count != 1}
    assert (twice, drill.stopped) == ({}, [])
    kept = {job_id: drill.control.store.get_job(job_id) for job_id in {*before.values(), *after}}
    assert {job.state for job in kept.values() if job is not None} == {JobState.SUCCEEDED}
    assert None not in kept.values()
    assert set(drill.starts) >= set(kept) | began


def test_who_repeats_a_submission_gets_the_job_that_runs(drill: Drill) -> None:
    """It was submitted and started since the backup; its hub has told the control plane under which request id."""
    drill.back_up()
    job_id = drill.submit("mine")
    drill.control.round()
    for hub in drill.hubs:
        hub.sync()
    drill.restore()
    for hub in drill.hubs:
        hub.connect()
    assert drill.submit("mine") == job_id
    job = drill.control.job(job_id)
    assert (job.state, job.owner.subject, drill.starts[job_id]) == (JobState.RUNNING, AISHA.subject, 1)
    drill.settle(random.Random(1))
    drill.control.check()


def test_a_second_restore_of_the_same_backup_adopts_again(drill: Drill) -> None:
    """What was adopted under one incarnation and forgotten again is adopted under the next."""
    job_id = drill.submit("mine")
    drill.back_up()
    drill.control.round()
    for hub in drill.hubs:
        hub.sync()
    for _ in range(2):
        drill.restore()
        for hub in drill.hubs:
            hub.connect()
        assert drill.control.job(job_id).state is JobState.RUNNING
    drill.settle(random.Random(1))
    assert drill.starts == {job_id: 1}


def test_a_result_that_only_the_hub_remembers_is_the_result(drill: Drill) -> None:
    """Ended, stored, released and forgotten since the backup: the journal still says how."""
    job_id = drill.submit("mine")
    drill.back_up()
    drill.control.round()
    for hub in drill.hubs:
        hub.sync()
    ran_at = next(hub for hub in drill.hubs if hub.register.live)
    (run,) = ran_at.register.live
    now_ms = drill.control.clock.now_ms()
    outputs = (OutputFile("table.csv", 3, "a" * 64),)
    ended = Ended(run.lease_id, Outcome.SUCCEEDED, None, 0, now_ms)
    ran_at.register.turn([ProgramEnded(run.lease_id, Outcome.SUCCEEDED, now_ms, outputs), ended], now_ms)
    ran_at.sync()
    assert (drill.control.job(job_id).state, ran_at.register.runs) == (JobState.SUCCEEDED, {})
    drill.restore()
    for hub in drill.hubs:
        hub.connect()
    job = drill.control.job(job_id)
    assert (job.state, [one.path for one in job.outputs]) == (JobState.SUCCEEDED, ["table.csv"])
    drill.settle(random.Random(1))
    assert drill.starts == {job_id: 1}
