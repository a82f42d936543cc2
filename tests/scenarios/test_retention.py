"""How long facts are kept: what is over goes, in small pieces; what anybody still needs stays, however old."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import pytest

from federation.app.serving import ControlPlane
from federation.app.settings import Server, Settings, Storage
from federation.domain.job import JobState
from federation.errors import Code, FederationError
from federation.identity.tokens import TokenFile
from federation.lifecycle.job import Trigger
from federation.ports import DAY_MS, STORE_ENTITY, EventMark, Store
from federation.service import retention
from federation.service.attempts import read_attempts
from federation.service.jobs import find, retry
from federation.service.retention import EventRetention, removable
from federation.service.submit import request_id_of
from federation.store import backup, open_store
from federation.store.memory import MemoryStore
from tests.support.world import ControlUnderTest, FailingStore, a_submission


@pytest.fixture(params=["memory", "sqlite"])
def control(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[ControlUnderTest]:
    """A control plane; when the test ends, every promise must hold."""
    store = MemoryStore() if request.param == "memory" else open_store(f"sqlite:///{tmp_path}/federation.db")
    under_test = ControlUnderTest(store)
    yield under_test
    under_test.check()
    store.close()


def _retention(control: ControlUnderTest, keep_days: int = 10) -> EventRetention:
    return EventRetention(control.store, control.writer, control.clock, keep_days)


def _facts(control: ControlUnderTest, job_id: str) -> list[str]:
    return [event.type for event in control.store.events_of("job", job_id, 100)]


def _done(control: ControlUnderTest, request_id: str) -> str:
    """A job that ran and ended, with a stretch of use."""
    at_ms = control.clock.now_ms()
    job_id = control.submit(request_id)
    assert control.round() == 1
    ran = control.report(job_id, Trigger.RUN_STARTED, started_ms=at_ms, usage=((0, at_ms, at_ms + 10),))
    control.sync(ran)
    control.sync(replace(ran, trigger=Trigger.RUN_SUCCEEDED))
    return job_id


def _seqs(store: Store) -> list[int]:
    return [mark.seq for mark in store.event_marks(0, 1_000)]


def test_what_is_over_for_long_is_forgotten(control: ControlUnderTest) -> None:
    """Of an old job its first fact stays; of a young one all; accounts, results and answers of both."""
    control.join()
    old = _done(control, "old")
    control.clock.at_ms += 20 * DAY_MS
    control.join()
    young = _done(control, "young")
    before = (control.store.used_since(0), control.store.get_job(old), len(_seqs(control.store)))
    removed = _retention(control).sweep()
    assert (_facts(control, old), len(_facts(control, young))) == (["JobSubmitted"], 4)
    assert (control.store.used_since(0), control.store.get_job(old)) == before[:2]
    assert (len(_seqs(control.store)), removed > 0) == (before[2] - removed, True)
    assert control.submit("old") == old
    (answer,) = control.submit_all(a_submission("old", name="another"))
    assert answer.problem is not None
    assert answer.problem.code is Code.REQUEST_ID_REUSED
    assert request_id_of(control.store, old) == "old"
    job = control.job(old)
    assert [one.started_ms for one in read_attempts(control.store, job)] == [job.started_ms]


def test_a_live_job_keeps_all_of_its_facts(control: ControlUnderTest) -> None:
    """However old: one that waits, one that runs, one of which nobody knows how it ended, one that was retried."""
    control.join()
    retried = _done(control, "retried")
    waits, runs = control.submit("waits", hubs_deny=("cairo",)), control.submit("runs")
    control.round()
    control.sync(control.report(runs, Trigger.RUN_STARTED))
    control.clock.at_ms += 20 * DAY_MS
    control.join()
    control.run(lambda unit: retry(unit, find(unit, control.store, retried), "user"))
    control.boot()
    before = {job_id: _facts(control, job_id) for job_id in (waits, runs, retried)}
    _retention(control).sweep()
    assert {job_id: _facts(control, job_id) for job_id in before} == before


def test_seqs_go_on_after_a_restart_where_all_else_is_gone(control: ControlUnderTest) -> None:
    """The newest fact stays, and so the orders' revision never falls."""
    control.join()
    _done(control, "one")
    control.clock.at_ms += 400 * DAY_MS
    assert _retention(control).sweep() > 0
    last_seq = control.world.last_seq
    control.boot()
    assert control.world.last_seq == last_seq
    control.join()
    assert min(seq for seq in _seqs(control.store) if seq > last_seq) == last_seq + 1


def test_pieces_are_small_and_nothing_is_looked_at_twice(
    control: ControlUnderTest, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each command removes a few; a submit gets its turn between two, and a second sweep finds nothing to do."""
    monkeypatch.setattr(retention, "BATCH_MAX", 3)
    monkeypatch.setattr(retention, "LOOK_MAX", 10)
    control.join()
    for number in range(8):
        _done(control, f"r{number}")
    control.clock.at_ms += 20 * DAY_MS
    control.join()
    accepted: list[str] = []
    counts = [len(_seqs(control.store))]

    def pause() -> None:
        counts.append(len(_seqs(control.store)))
        accepted.append(control.submit(f"between-{len(accepted)}", hubs_deny=("cairo",)))

    sweeping = _retention(control)
    removed = sweeping.sweep(pause)
    taken = [before - after + (index > 0) for index, (before, after) in enumerate(pairwise(counts))]
    assert (max(taken), sum(taken), len(accepted) > 5) == (3, removed, True)
    assert sweeping.figures.at_seq <= control.world.last_seq
    assert (sweeping.sweep(), sweeping.figures.removed, sweeping.figures.sweeps) == (0, removed, 2)


def test_a_job_that_is_retried_between_look_and_removal_keeps_its_facts(control: ControlUnderTest) -> None:
    """The command looks once more at what lives."""
    control.join()
    job_id = _done(control, "one")
    control.clock.at_ms += 20 * DAY_MS
    control.join()
    marks = control.store.event_marks(0, 1_000)
    going = [mark for mark in marks if removable(mark, control.clock.now_ms() - 10 * DAY_MS)]
    assert job_id in {mark.job_id for mark in going}
    control.run(lambda unit: retry(unit, find(unit, control.store, job_id), "user"))
    before = _facts(control, job_id)
    control.run(retention._removal(going))
    assert _facts(control, job_id) == before


def test_a_removal_that_cannot_be_saved_removes_nothing() -> None:
    """The store is full: the sweep says so, all facts are there, and the next one does it."""
    store = FailingStore()
    control = ControlUnderTest(store)
    control.join()
    _done(control, "one")
    control.clock.at_ms += 20 * DAY_MS
    control.join()
    before = _seqs(store)
    store.fail_at = "remove_events"
    with pytest.raises(FederationError) as failed:
        _retention(control).sweep()
    assert (failed.value.code, _seqs(store)) == (Code.STORE_FULL, before)
    assert _retention(control).sweep() > 0
    control.check()


NOW_MS = 1_000 * DAY_MS
OLD = EventMark(5, 1 * DAY_MS, "job", "RunSucceeded", "job-1", JobState.SUCCEEDED, 1 * DAY_MS)


@pytest.mark.parametrize(
    ("mark", "goes"),
    [
        (OLD, True),
        (replace(OLD, entity="lease", type="UsageRecorded"), True),
        (replace(OLD, entity="agent", type="SessionOpened", job_id="", job_state=None), True),
        (replace(OLD, entity="hub", type="HubDrained", job_id="", job_state=None), True),
        (replace(OLD, at_ms=NOW_MS), False),
        (replace(OLD, job_since_ms=NOW_MS), False),
        (replace(OLD, type="JobSubmitted"), False),
        (replace(OLD, type="JobAdopted"), False),
        (replace(OLD, entity=STORE_ENTITY, type="StoreRestored"), False),
        (replace(OLD, job_state=None, job_id=""), False),
        *((replace(OLD, job_state=state), False) for state in JobState if not state.terminal),
    ],
)
def test_which_facts_go(mark: EventMark, goes: bool) -> None:
    """Old ones of what is over for as long, but never a first one, one about the store, or one of an unknown job."""
    assert removable(mark, NOW_MS) is goes
    assert removable(replace(mark, at_ms=NOW_MS), NOW_MS) is False


def test_the_thread_sweeps_and_ends(control: ControlUnderTest, monkeypatch: pytest.MonkeyPatch) -> None:
    """It begins by itself after a while, counts what it did, and `stop` waits for nothing; without a limit it never begins."""
    monkeypatch.setattr(retention, "FIRST_S", 0.0)
    swept = threading.Event()

    class Swept(EventRetention):
        def sweep(self, pause: object = None) -> int:
            swept.set()
            return super().sweep()

    sweeping = Swept(control.store, control.writer, control.clock, 10)
    sweeping.start()
    assert swept.wait(10)
    sweeping.stop()
    assert sweeping.figures.sweeps == 1
    idle = _retention(control, 0)
    idle.start()
    idle.stop()
    assert (idle.figures.sweeps, idle.figures.keep_days) == (0, 0)


def test_a_reader_whose_place_is_gone_is_told_so(tmp_path: Path) -> None:
    """From the start it gets what is kept; from its last one it goes on, or is refused with what to do; never a hole."""
    path = tmp_path / "federation.db"
    control = ControlUnderTest(open_store(f"sqlite:///{path}"))
    control.join()
    first = _done(control, "one")
    read = backup.events(path, None, 3)
    assert [row.seq for row in read] == [1, 2, 3]
    assert [row.seq for row in backup.events(path, 3, 2)] == [4, 5]
    control.clock.at_ms += 20 * DAY_MS
    control.join()
    _retention(control).sweep()
    removed_to = backup.summary_of(path).removed_to
    assert removed_to > 3
    with pytest.raises(FederationError) as refused:
        backup.events(path, 3, 10)
    assert refused.value.code is Code.OFFSET_OUT_OF_RANGE
    assert refused.value.metadata == {"after": "3", "removed_to": str(removed_to)}
    assert "keep_events_days" in refused.value.hint
    kept = backup.events(path, None, 100)
    assert [row.seq for row in kept] == _seqs(control.store)
    assert first in {row.entity_id for row in kept}
    assert backup.events(path, removed_to, 100) == tuple(row for row in kept if row.seq > removed_to)
    control.store.close()
    again = ControlUnderTest(open_store(f"sqlite:///{path}"))
    again.clock.at_ms = control.clock.at_ms
    assert _retention(again).sweep() == 0
    assert backup.summary_of(path).removed_to == removed_to
    again.store.close()


@pytest.mark.parametrize("days", [0, 5])
async def test_the_setting_is_what_a_control_plane_keeps(tmp_path: Path, days: int) -> None:
    """From the settings to the thread that removes: it stands ready while the control plane serves, and ends with it."""
    TokenFile.create(tmp_path / "tokens.json")
    server = Server("127.0.0.1:0", data_dir=str(tmp_path), tokens_file=str(tmp_path / "tokens.json"))
    plane = ControlPlane(Settings(server=server, store=Storage("memory:", days)))
    await plane.start()
    running = [thread.name for thread in threading.enumerate()]
    await plane.stop()
    assert (plane.desk.events.figures.keep_days, "retention" in running) == (days, days > 0)
    assert "retention" not in [thread.name for thread in threading.enumerate()]
