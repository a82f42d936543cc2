"""The SQL store against its slow obvious twin, the dictionaries, under any order of writes; and rows both ways."""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from federation.domain.ids import LeaseId
from federation.domain.job import (
    Epoch,
    Input,
    Job,
    JobSpec,
    JobState,
    OnPartition,
    OutputFile,
    Owner,
    Priority,
    Reason,
)
from federation.domain.quantities import Amount
from federation.ports import JobFilter, Store
from federation.store import codec, open_store
from tests.contract.store_builders import fact, full_job, interval, job, lease, request

TEXT = st.text(max_size=12)
NUMBER = st.integers(-(2**63), 2**63 - 1)
TEXTS = st.lists(TEXT, max_size=3).map(tuple)
PAIRS = st.lists(st.tuples(TEXT, TEXT), max_size=3).map(tuple)
AMOUNTS = st.lists(st.builds(Amount, TEXT, TEXT, NUMBER), max_size=3).map(tuple)
SPECS = st.builds(
    JobSpec,
    name=TEXT,
    project=TEXT,
    engine=TEXT,
    entrypoint=TEXT,
    per_task=AMOUNTS,
    replicas=NUMBER,
    package_digest=TEXT,
    arguments=TEXTS,
    requirements=TEXT,
    variables=PAIRS,
    secret_variables=PAIRS,
    inputs=st.lists(st.builds(Input, TEXT, TEXT, TEXT), max_size=2).map(tuple),
    runtime_limit_ms=NUMBER,
    priority=st.sampled_from(Priority),
    preemptible=st.booleans(),
    idempotent=st.booleans(),
    on_partition=st.sampled_from(OnPartition),
    tracking=st.booleans(),
    hubs_allow=TEXTS,
    hubs_deny=TEXTS,
    hubs_prefer=TEXTS,
)
EPOCHS = st.none() | st.builds(Epoch, NUMBER, NUMBER)
JOBS = st.builds(
    Job,
    id=TEXT,
    owner=st.builds(Owner, TEXT, TEXT, TEXT, TEXT),
    spec=SPECS,
    spec_bytes=st.binary(max_size=20),
    state=st.sampled_from(JobState),
    reason=st.none() | st.builds(Reason, TEXT, TEXT, TEXT, PAIRS),
    created_ms=NUMBER,
    state_since_ms=NUMBER,
    queue_seq=NUMBER,
    attempts=NUMBER,
    epoch=EPOCHS,
    hub_id=TEXT,
    agent_id=TEXT,
    nodes=TEXTS,
    started_ms=NUMBER,
    ended_ms=NUMBER,
    exit_code=NUMBER,
    progress=TEXT,
    url=TEXT,
    tracking_run_id=TEXT,
    parent_job_id=TEXT,
    result_epoch=EPOCHS,
    outputs=st.lists(st.builds(OutputFile, TEXT, NUMBER, TEXT), max_size=2).map(tuple),
    revision=NUMBER,
)


@pytest.mark.parametrize("of", [Job, JobSpec])
def test_no_field_is_forgotten(of: type[Job | JobSpec]) -> None:
    """A job in which nothing has its default survives its row: a field added to the noun only is noticed here."""
    full = full_job(1)
    value = full if of is Job else full.spec
    plain = {field.name for field in dataclasses.fields(of) if getattr(value, field.name) == field.default}
    assert plain - {"state", "revision"} == set()
    assert codec.job_of(codec.job_row(full) + codec.spec_row(full)[1:]) == full


@given(JOBS)
def test_any_job_survives_its_row(drawn: Job) -> None:
    """Whatever a job holds, its row holds too."""
    assert codec.job_of(codec.job_row(drawn) + codec.spec_row(drawn)[1:]) == drawn


@functools.cache
def _new_store() -> bytes:
    """The file of an empty store: making one from its revisions a hundred times would take a minute."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "new.db")
        open_store(f"sqlite:///{path}").close()
        return path.read_bytes()


@contextlib.contextmanager
def _both() -> Iterator[tuple[Store, Store]]:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "twin.db")
        path.write_bytes(_new_store())
        plain, sql = open_store("memory:"), open_store(f"sqlite:///{path}")
        try:
            yield plain, sql
        finally:
            sql.close()


SMALL = st.integers(1, 6)
STEP = st.one_of(
    st.tuples(st.just("job"), SMALL, st.integers(1, 3), st.sampled_from(JobState)),
    st.tuples(st.just("lease"), SMALL, SMALL),
    st.tuples(st.just("fact"), SMALL),
    st.tuples(st.just("forget"), SMALL),
    st.tuples(st.just("request"), SMALL),
    st.tuples(st.just("usage"), SMALL, st.integers(0, 3)),
)
TRANSACTIONS = st.lists(st.tuples(st.lists(STEP, max_size=6), st.booleans()), max_size=6)


def _apply(store: Store, steps: list[tuple[object, ...]], commit: bool) -> str:
    """Do the steps; what came of it, in a word."""
    try:
        with store.begin() as transaction:
            for step in steps:
                match step:
                    case ("job", int(n), int(revision), JobState() as state):
                        transaction.put_jobs([job(n, revision=revision, state=state, progress=f"{revision}")])
                    case ("lease", int(n), int(of)):
                        transaction.put_leases([lease(n, job(of))])
                    case ("fact", int(n)):
                        transaction.append_events([fact(f"job-{n}")])
                    case ("forget", int(seq)):
                        transaction.remove_events([seq])
                    case ("request", int(n)):
                        transaction.put_requests([request(f"r{n}", job(n))])
                    case ("usage", int(n), int(index)):
                        transaction.put_usage([interval(index, f"lease-{n}", end_ms=n)])
            if commit:
                transaction.commit()
    except Exception as error:  # noqa: BLE001 - both stores must fail alike, whatever it is
        return f"{type(error).__name__} {getattr(error, 'code', '')}"
    return "done"


@settings(max_examples=60, deadline=None)
@given(TRANSACTIONS)
def test_sqlite_does_what_the_dictionaries_do(transactions: list[tuple[list[tuple[object, ...]], bool]]) -> None:
    """After any transactions, committed, abandoned or refused, both stores answer every question alike."""
    with _both() as (plain, sql):
        check_held_together(plain, sql, transactions)


def check_held_together(plain: Store, sql: Store, transactions: list[tuple[list[tuple[object, ...]], bool]]) -> None:
    """Both do the transactions, and then answer every question alike."""
    for steps, commit in transactions:
        assert _apply(sql, steps, commit) == _apply(plain, steps, commit)
    assert sql.load() == plain.load()
    assert sql.count_jobs() == plain.count_jobs()
    assert tuple(sql.event_marks(0, 100)) == tuple(plain.event_marks(0, 100))
    for limit in (1, 3, 10):
        assert sql.list_jobs(JobFilter(), 0, limit) == plain.list_jobs(JobFilter(), 0, limit)
    keys = [("aisha", f"r{n}") for n in range(1, 7)]
    assert sql.find_requests(keys) == plain.find_requests(keys)
    for n in range(1, 7):
        assert sql.usage_of(LeaseId(f"lease-{n}")) == plain.usage_of(LeaseId(f"lease-{n}"))
        assert sql.events_of("job", f"job-{n}", 5) == plain.events_of("job", f"job-{n}", 5)


@given(st.lists(st.lists(TEXT | st.sampled_from("\0\ufdd0m0") | NUMBER, max_size=4).map(tuple), max_size=3))
def test_any_text_survives_a_database_without_zero_bytes(rows: list[tuple[object, ...]]) -> None:
    """What PostgreSQL is given holds no zero byte, and what comes back is what was given."""
    from federation.store import postgres

    given_ = postgres.storable(rows)
    assert not any("\0" in value for row in given_ for value in row if isinstance(value, str))
    assert list(postgres.readable(given_)) == rows
