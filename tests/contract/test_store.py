"""What every store keeps, one body for each kind. What only a file can do is in `test_store_file.py`."""

from __future__ import annotations

import dataclasses
import threading

import pytest

from federation.domain.ids import LeaseId
from federation.domain.job import Job, JobState, Owner
from federation.domain.lease import LeaseState
from federation.errors import Code, FederationError
from federation.ports import DAY_MS, EventMark, JobFilter, Loaded, Store, UsedRow
from federation.store import open_store
from tests.contract.store_builders import (
    AISHA,
    agent,
    fact,
    full_job,
    hub,
    interval,
    job,
    keep,
    lease,
    request,
)

EVERY = JobFilter()


def test_new_store_is_empty(store: Store) -> None:
    """A new store holds nothing, in its first incarnation."""
    assert store.load() == Loaded(incarnation=1, last_seq=0, jobs=(), leases=(), hubs=(), agents=())
    assert store.count_jobs() == {}
    assert store.list_jobs(EVERY, 0, 10).jobs == ()
    assert store.get_job("job-none") is None
    assert store.get_lease(LeaseId("lease-none")) is None


def test_what_was_put_comes_back(store: Store) -> None:
    """Every field of every noun survives the way in and out."""
    one, two = full_job(1), job(2)
    held = lease(1, one, state=LeaseState.REVOKING, revoke_code="X", revoke_message="why", usage_stored=4)
    with store.begin() as transaction:
        assert transaction.append_events([fact(one.id), fact(two.id)]) == 1
        transaction.put_jobs([one, two])
        transaction.put_leases([held])
        transaction.put_hubs([hub("shenzhen"), hub("cairo")])
        transaction.put_agents([agent("shenzhen"), agent("cairo", "a2"), agent("cairo", "a1")])
        transaction.commit()
    expected = Loaded(
        incarnation=1,
        last_seq=2,
        jobs=(one, two),
        leases=(held,),
        hubs=(hub("cairo"), hub("shenzhen")),
        agents=(agent("cairo", "a1"), agent("cairo", "a2"), agent("shenzhen")),
    )
    assert store.load() == expected
    assert store.get_job(one.id) == one
    assert store.get_lease(held.id) == held


def test_put_replaces_by_id(store: Store) -> None:
    """A second put of the same id is the new state, whether in one transaction or in two."""
    keep(store, job(1))
    running = job(1, state=JobState.RUNNING, revision=2, nodes=("n1",), state_since_ms=9)
    keep(store, running)
    assert store.get_job(running.id) == running
    done = dataclasses.replace(running, state=JobState.SUCCEEDED, revision=4)
    keep(store, dataclasses.replace(running, revision=3), done)
    assert store.get_job(running.id) == done
    with store.begin() as transaction:
        transaction.put_leases([lease(1, running), lease(1, running, state=LeaseState.ACTIVE)])
        transaction.put_hubs([hub(), hub(note="closed for the exams")])
        transaction.put_agents([agent(), agent(session_id="s-2")])
        transaction.commit()
    loaded = store.load()
    assert [each.state for each in loaded.leases] == [LeaseState.ACTIVE]
    assert [each.note for each in loaded.hubs] == ["closed for the exams"]
    assert [each.session_id for each in loaded.agents] == ["s-2"]


def test_first_revision_put_twice(store: Store) -> None:
    """Repeating a job's first row, changed or not, is an update and no error."""
    keep(store, job(1))
    keep(store, job(1, progress="again"))
    found = store.get_job(job(1).id)
    assert found is not None
    assert found.progress == "again"


def test_job_first_seen_at_a_later_revision(store: Store) -> None:
    """A job that the store does not have is inserted whatever its revision, also among jobs that it has."""
    keep(store, job(1))
    later = [job(1, revision=2, progress="on"), job(2, revision=5), job(3, revision=9)]
    keep(store, *later)
    assert store.load().jobs == tuple(later)


def test_owner_and_spec_never_change(store: Store) -> None:
    """What was asked, and by whom, stays what it was when the job was first put."""
    first = job(1)
    keep(store, first)
    keep(store, dataclasses.replace(full_job(1), revision=2, state=JobState.RUNNING))
    found = store.get_job(first.id)
    assert found is not None
    assert (found.owner, found.spec, found.spec_bytes) == (first.owner, first.spec, first.spec_bytes)
    assert (found.created_ms, found.parent_job_id) == (first.created_ms, first.parent_job_id)
    assert (found.state, found.progress) == (JobState.RUNNING, "staging 3 of 7 MB")


def test_load_leaves_out_what_is_over(store: Store) -> None:
    """Terminal jobs and ended leases stay readable, but are not loaded; jobs come in arrival order."""
    states = [job(n, state=state) for n, state in enumerate(JobState, 1)]
    with store.begin() as transaction:
        transaction.put_jobs(list(reversed(states)))
        transaction.put_leases([lease(n, states[0], state=state) for n, state in enumerate(LeaseState, 1)])
        transaction.commit()
    loaded = store.load()
    assert [each.id for each in loaded.jobs] == [each.id for each in states if not each.state.terminal]
    assert [each.state for each in loaded.leases] == [each for each in LeaseState if each is not LeaseState.ENDED]
    assert [store.get_job(each.id) for each in states] == states
    ended = store.get_lease(LeaseId("lease-00000004"))
    assert ended is not None
    assert not ended.live


def test_what_only_waits_can_be_left_out(store: Store) -> None:
    """A start loads what runs and what holds a claim; the rest of the queue comes by pages, newest first."""
    states = [job(n, state=state) for n, state in enumerate(JobState, 1)]
    claiming = dataclasses.replace(full_job(40), state=JobState.QUEUED)
    assert claiming.claim is not None
    keep(store, *states, claiming, job(41), job(42))
    loaded = store.load(waiting=False)
    assert dataclasses.replace(store.load(), jobs=()) == dataclasses.replace(loaded, jobs=())
    busy = [one for one in states if one.state is not JobState.QUEUED and not one.state.terminal]
    assert loaded.jobs == (*busy, claiming)
    page = store.list_jobs(JobFilter(states=(JobState.QUEUED,)), 42, 2)
    assert page.jobs == (job(41), claiming)


def test_event_seqs_have_no_gap(store: Store) -> None:
    """Facts are numbered from 1 in order; a number that was rolled back is given again."""
    assert keep(store, facts=[fact("job-1"), fact("job-2")]) == 1
    with store.begin() as transaction:
        assert transaction.append_events([fact("job-3")]) == 3
        assert transaction.append_events([]) == 4
        assert transaction.append_events([fact("job-3", "JobLeased")]) == 4
    assert store.load().last_seq == 2
    assert keep(store, facts=[fact("job-3", "JobCancelled", seq=77, incarnation=9)]) == 3
    (kept,) = store.events_of("job", "job-3", 10)
    assert kept == fact("job-3", "JobCancelled", seq=3, incarnation=1)


def test_facts_of_one_thing(store: Store) -> None:
    """The facts of one thing come oldest first, and no more than asked for."""
    names = [f"Happened{n}" for n in range(6)]
    keep(store, facts=[row for name in names for row in (fact("job-1", name), fact("job-2", name))])
    keep(store, facts=[fact("job-1", "Leased", entity="lease")])
    assert [row.type for row in store.events_of("job", "job-1", 4)] == names[:4]
    assert [row.type for row in store.events_of("job", "job-2", 100)] == names
    assert [row.type for row in store.events_of("lease", "job-1", 100)] == ["Leased"]
    assert store.events_of("job", "job-3", 100) == ()


def test_nothing_shows_before_commit(store: Store) -> None:
    """Until the commit every reader sees the state before, also on the writer's own thread."""
    keep(store, job(1))
    with store.begin() as transaction:
        transaction.append_events([fact("job-1")])
        transaction.put_jobs([job(1, revision=2, state=JobState.RUNNING), job(2)])
        transaction.put_leases([lease(1, job(1))])
        transaction.put_requests([request("r1", job(1))])
        transaction.put_usage([interval(0)])
        assert store.load() == Loaded(1, 0, (job(1),), (), (), ())
        assert store.find_requests([("aisha", "r1")]) == {}
        assert store.usage_of(LeaseId("lease-00000001")) == ()
        transaction.commit()
        assert store.count_jobs() == {JobState.RUNNING: 1, JobState.QUEUED: 1}
    assert store.usage_of(LeaseId("lease-00000001")) == (interval(0),)


def test_leaving_without_commit_rolls_back(store: Store) -> None:
    """Neither leaving the block nor an exception in it leaves a trace, and the next transaction works."""
    with store.begin() as transaction:
        transaction.put_jobs([job(1)])
        transaction.append_events([fact("job-1")])
    with pytest.raises(ZeroDivisionError), store.begin() as transaction:
        transaction.put_jobs([job(2)])
        transaction.put_requests([request("r1", job(2))])
        _ = 1 // 0
    assert store.load() == Loaded(1, 0, (), (), (), ())
    with store.begin() as transaction:
        transaction.put_requests([request("r1", job(3))])
        transaction.put_jobs([job(3)])
        transaction.commit()
    assert store.load().jobs == (job(3),)


def test_failure_after_commit_keeps_the_commit(store: Store) -> None:
    """What was committed stays, whatever happens to the block afterwards."""
    with pytest.raises(ZeroDivisionError), store.begin() as transaction:
        transaction.append_events([fact("job-1")])
        transaction.put_jobs([job(1)])
        transaction.commit()
        _ = 1 // 0
    assert (store.load().last_seq, store.load().jobs) == (1, (job(1),))


def test_misuse_is_our_own_mistake(store: Store) -> None:
    """Two transactions at once and writes after the commit stop at an assertion."""
    with store.begin() as transaction:
        with pytest.raises(AssertionError), store.begin():
            pass
        transaction.put_jobs([job(1)])
        transaction.commit()
        with pytest.raises(AssertionError):
            transaction.put_jobs([job(2)])
        with pytest.raises(AssertionError):
            transaction.commit()
    assert store.load().jobs == (job(1),)


def test_answered_requests_are_found(store: Store) -> None:
    """Answers are kept by principal and request id, of thousands too, and asking twice for one finds it once."""
    rows = [request(f"r{n}", job(1), who) for who in ("aisha", "omar") for n in range(1_300)]
    with store.begin() as transaction:
        transaction.put_requests(rows)
        transaction.commit()
    keys = [(row.principal, row.request_id) for row in rows]
    assert store.find_requests(keys) == dict(zip(keys, rows, strict=True))
    assert store.find_requests([("omar", "r7"), ("omar", "r7"), ("omar", "nope"), ("li", "r7")]) == {
        ("omar", "r7"): request("r7", job(1), "omar")
    }
    assert store.find_requests([]) == {}


@pytest.mark.parametrize("inside", [False, True], ids=["another_transaction", "same_transaction"])
def test_request_id_is_unique(store: Store, inside: bool) -> None:
    """A second answer to one request id is refused, and nothing of its transaction is kept, even if it goes on."""
    if not inside:
        with store.begin() as transaction:
            transaction.put_requests([request("r1", job(1))])
            transaction.commit()
    with store.begin() as transaction:
        transaction.put_jobs([job(2)])
        rows = [request("r1", job(2))] * (2 if inside else 1)
        with pytest.raises(FederationError) as refused:
            transaction.put_requests(rows)
        assert refused.value.code is Code.REQUEST_ID_REUSED
        with pytest.raises(FederationError):
            transaction.put_jobs([job(3)])
        with pytest.raises(FederationError):
            transaction.commit()
    assert store.load().jobs == ()
    assert len(store.find_requests([("aisha", "r1")])) == (0 if inside else 1)


def test_usage_is_posted_once(store: Store) -> None:
    """A stretch that is there already is left alone; stretches come by index."""
    for rows in ([interval(2), interval(0)], [interval(0, end_ms=999), interval(1), interval(1, end_ms=999)]):
        with store.begin() as transaction:
            transaction.put_usage(rows)
            transaction.commit()
    assert store.usage_of(LeaseId("lease-00000001")) == (interval(0), interval(1), interval(2))
    assert store.usage_of(LeaseId("lease-00000002")) == ()


def test_use_is_recalled_by_lease_and_day(store: Store) -> None:
    """Whose it was and how long, also of leases and jobs that are over; what ended before the moment is left out."""
    first, second = job(1), full_job(2)
    ended = lease(1, first, state=LeaseState.ENDED)
    kept = lease(2, second)
    with store.begin() as transaction:
        transaction.put_jobs([first, second])
        transaction.put_leases([ended, kept])
        transaction.put_usage([interval(0, start_ms=10, end_ms=20), interval(1, start_ms=20, end_ms=50)])
        transaction.put_usage([interval(2, start_ms=50, end_ms=DAY_MS + 7)])
        transaction.put_usage([interval(0, "lease-00000002", 30, 45), interval(0, "lease-of-nobody", 30, 45)])
        transaction.commit()
    assert list(store.used_since(0)) == [
        UsedRow(ended, first.owner, 40, 50),
        UsedRow(ended, first.owner, DAY_MS + 7 - 50, DAY_MS + 7),
        UsedRow(kept, second.owner, 15, 45),
    ]
    assert [row.used_ms for row in store.used_since(45)] == [30, DAY_MS + 7 - 50, 15]
    assert list(store.used_since(2 * DAY_MS)) == []


def test_lease_needs_its_job(store: Store) -> None:
    """A lease of a job that nobody knows is refused at the commit, and the store goes on."""
    with pytest.raises(FederationError) as refused, store.begin() as transaction:
        transaction.put_jobs([job(1)])
        transaction.put_leases([lease(1, job(2))])
        transaction.commit()
    assert refused.value.code is Code.INTERNAL
    assert store.load().jobs == ()
    with store.begin() as transaction:  # in either order: the commit is what counts
        transaction.put_leases([lease(1, job(2))])
        transaction.put_jobs([job(2)])
        transaction.commit()
    assert len(store.load().leases) == 1


def test_pages_newest_first(store: Store) -> None:
    """Pages run from the newest job to the oldest without a gap or a repeat, and the last one says so."""
    keep(store, *[job(n) for n in range(1, 8)])
    seen: list[int] = []
    before = 0
    for expected in ([7, 6, 5], [4, 3, 2], [1]):
        page = store.list_jobs(EVERY, before, 3)
        assert [each.queue_seq for each in page.jobs] == expected
        seen += expected
        before = page.next_before_seq
    assert (before, seen) == (0, [7, 6, 5, 4, 3, 2, 1])
    exact = store.list_jobs(EVERY, 0, 7)
    assert (len(exact.jobs), exact.next_before_seq) == (7, 0)
    assert store.list_jobs(EVERY, 1, 7).jobs == ()


def _mixed_jobs() -> list[Job]:
    omar = Owner("cairo", "aviation", "https://id.cairo.example", "omar")
    return [
        job(1, state=JobState.SUCCEEDED, hub_id="cairo"),
        job(2, owner=omar),
        job(3, state=JobState.RUNNING, hub_id="cairo", owner=omar),
        job(4, state=JobState.RUNNING, hub_id="shenzhen"),
        job(5),
        job(6, owner=dataclasses.replace(omar, project="default")),
    ]


@pytest.mark.parametrize(
    ("where", "expected"),
    [
        (EVERY, [6, 5, 4, 3, 2, 1]),
        (JobFilter(states=(JobState.RUNNING,)), [4, 3]),
        (JobFilter(states=(JobState.RUNNING, JobState.SUCCEEDED)), [4, 3, 1]),
        (JobFilter(project="aviation"), [3, 2]),
        (JobFilter(hub_id="cairo"), [3, 1]),
        (JobFilter(owner=("https://id.cairo.example", "omar")), [6, 3, 2]),
        (JobFilter(owner=("https://id.kl.example", "omar")), []),
        (JobFilter(job_ids=("job-00000002", "job-00000005", "job-00000009")), [5, 2]),
        (JobFilter(job_ids=tuple(f"job-{n:08d}" for n in range(1_000))), [6, 5, 4, 3, 2, 1]),
        (JobFilter((JobState.RUNNING,), "aviation", "cairo", ("https://id.cairo.example", "omar")), [3]),
        (JobFilter((JobState.RUNNING,), "default", "", (AISHA.issuer, "aisha"), ("job-00000004",)), [4]),
    ],
)
def test_filters(store: Store, where: JobFilter, expected: list[int]) -> None:
    """Each condition narrows the page, alone and together with the others, and paging keeps it."""
    keep(store, *_mixed_jobs())
    assert [each.queue_seq for each in store.list_jobs(where, 0, 50).jobs] == expected
    assert [each.queue_seq for each in store.list_jobs(where, 5, 1).jobs] == [n for n in expected if n < 5][:1]


def test_counts(store: Store) -> None:
    """Jobs are counted by state, terminal ones too."""
    keep(store, *_mixed_jobs())
    assert store.count_jobs() == {JobState.QUEUED: 3, JobState.RUNNING: 2, JobState.SUCCEEDED: 1}


@pytest.mark.parametrize(
    "text",
    ["推荐系统", "مرحبا بالعالم", "🚄🛰️", "e\u0301 is not \u00e9", "a\0b", "line\nline\r\n", "' \" \\ %s ?", "\ufeff"],
)
def test_any_text_is_kept(store: Store, text: str) -> None:
    """Text of any script, with quotes, zero bytes or line ends, comes back as it was, and can be asked for."""
    plain = full_job(1)
    spec = dataclasses.replace(plain.spec, name=text, arguments=(text,), secret_variables=((text, text),))
    owner = dataclasses.replace(plain.owner, subject=text, project=text)
    kept = dataclasses.replace(plain, spec=spec, owner=owner, progress=text, nodes=(text,), reason=None)
    with store.begin() as transaction:
        transaction.append_events([fact(text, payload=f'{{"x":"{text}"}}')])
        transaction.put_jobs([kept])
        transaction.put_requests([request(text, kept, text)])
        transaction.put_agents([agent(features=(text,))])
        transaction.commit()
    assert store.get_job(kept.id) == kept
    assert store.list_jobs(JobFilter(project=text, owner=(owner.issuer, text)), 0, 5).jobs == (kept,)
    assert store.find_requests([(text, text)]) == {(text, text): request(text, kept, text)}
    assert [row.entity_id for row in store.events_of("job", text, 5)] == [text]
    assert store.load().agents == (agent(features=(text,)),)


def test_large_values(store: Store) -> None:
    """The largest spec, the largest amounts and negative exits fit."""
    plain = full_job(1)
    spec = dataclasses.replace(plain.spec, arguments=("x" * 128 * 1024,))
    kept = dataclasses.replace(plain, spec=spec, spec_bytes=b"\xff" * 512 * 1024, created_ms=2**53, exit_code=-(2**31))
    keep(store, kept)
    assert store.get_job(kept.id) == kept


def test_readers_on_other_threads_see_whole_commits(store: Store) -> None:
    """While the writer commits pairs of jobs, no reader on any thread ever sees half a pair or an error."""
    stop = threading.Event()
    broken: list[object] = []

    def read() -> None:
        try:
            while not stop.is_set():
                count = sum(store.count_jobs().values())
                loaded = store.load()
                page = store.list_jobs(EVERY, 0, 1_000)
                if count % 2 or len(loaded.jobs) % 2 or len(page.jobs) % 2:
                    broken.append((count, len(loaded.jobs), len(page.jobs)))
        except BaseException as error:  # noqa: BLE001 - whatever it is, the test must see it
            broken.append(error)

    readers = [threading.Thread(target=read) for _ in range(4)]
    for reader in readers:
        reader.start()
    for n in range(1, 101, 2):
        keep(store, job(n), job(n + 1), facts=[fact("job-1")])
    stop.set()
    for reader in readers:
        reader.join(timeout=30)
    assert broken == []
    assert store.count_jobs() == {JobState.QUEUED: 100}


def test_writer_may_be_another_thread_than_the_opener(store: Store) -> None:
    """The store is opened by whoever starts and written by the writer thread."""
    writer = threading.Thread(target=keep, args=(store, job(1)))
    writer.start()
    writer.join(timeout=30)
    assert store.load().jobs == (job(1),)


def test_ten_thousand_jobs(store: Store) -> None:
    """Ten thousand jobs in a hundred commits load, count and page like three."""
    for start in range(1, 10_001, 100):
        jobs = [job(n, state=JobState.FAILED if n % 10 == 0 else JobState.QUEUED) for n in range(start, start + 100)]
        first = keep(store, *jobs, facts=[fact(each.id) for each in jobs])
        assert first == start
    loaded = store.load()
    assert (len(loaded.jobs), loaded.last_seq) == (9_000, 10_000)
    assert store.count_jobs() == {JobState.QUEUED: 9_000, JobState.FAILED: 1_000}
    seen, before = 0, 0
    while True:
        page = store.list_jobs(JobFilter(states=(JobState.FAILED,)), before, 300)
        seen += len(page.jobs)
        before = page.next_before_seq
        if not before:
            break
    assert seen == 1_000


@pytest.mark.parametrize(
    "url", ["", "postgres", "mysql://root:pw@db/x", "sqlite://", "sqlite:///", "sqlite:///:memory:"]
)
def test_unknown_urls_are_refused(url: str) -> None:
    """A url of no known kind is the configuration's mistake, and its password is not repeated."""
    with pytest.raises(FederationError) as refused:
        open_store(url)
    assert refused.value.code is Code.CONFIGURATION_INVALID
    assert "pw" not in str(refused.value)


def test_marks_say_whose_facts_they_are_and_how_that_stands(store: Store) -> None:
    """Page by page, in order: a job's facts and its leases' with the job's state; others', and of what is unknown, without."""
    ended = job(1, state=JobState.FAILED, state_since_ms=77)
    with store.begin() as transaction:
        transaction.append_events([fact(ended.id), fact("lease-00000001", "UsageRecorded", entity="lease")])
        transaction.append_events(
            [fact("cairo/a1", "SessionOpened", entity="agent"), fact("job-none"), fact("job-00000002")]
        )
        transaction.append_events([fact("lease-none", entity="lease"), fact("cairo", "HubJoined", entity="hub")])
        transaction.put_jobs([ended, job(2)])
        transaction.put_leases([lease(1, ended)])
        transaction.commit()
    expected = (
        EventMark(1, 5, "job", "JobSubmitted", ended.id, JobState.FAILED, 77),
        EventMark(2, 5, "lease", "UsageRecorded", ended.id, JobState.FAILED, 77),
        EventMark(3, 5, "agent", "SessionOpened"),
        EventMark(4, 5, "job", "JobSubmitted"),
        EventMark(5, 5, "job", "JobSubmitted", "job-00000002", JobState.QUEUED, 0),
        EventMark(6, 5, "lease", "JobSubmitted"),
        EventMark(7, 5, "hub", "HubJoined"),
    )
    assert tuple(store.event_marks(0, 100)) == expected
    assert tuple(store.event_marks(2, 3)) == expected[2:5]
    assert tuple(store.event_marks(7, 3)) == ()


def test_removed_facts_are_gone_and_seqs_go_on(store: Store) -> None:
    """With other writes in one commit, or not at all where that is not reached; an old fact's number is never given again."""
    keep(store, job(1), facts=[fact("job-00000001", f"Fact{number}") for number in range(1, 9)])
    with store.begin() as transaction:
        transaction.remove_events([1, 2])
    assert len(store.event_marks(0, 100)) == 8
    with store.begin() as transaction:
        assert transaction.append_events([fact("job-00000001", "Fact9")]) == 9
        transaction.remove_events([2, 3, 5, 8])
        transaction.commit()
    assert [mark.seq for mark in store.event_marks(0, 100)] == [1, 4, 6, 7, 9]
    assert [row.type for row in store.events_of("job", "job-00000001", 3)] == ["Fact1", "Fact4", "Fact6"]
    assert keep(store, facts=[fact("job-00000001", "Fact10")]) == 10
    assert store.load().last_seq == 10
    with store.begin() as transaction, pytest.raises(AssertionError):
        transaction.remove_events([10])
