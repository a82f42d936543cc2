"""State and facts in a SQL database: the Store and Transaction of `federation/ports.py`.

One writer connection, used by the service's writer thread; readers come from a pool and may be any thread. Rows go to
the driver as tuples (`codec.py`) through statements compiled once (`statements.py`). A transaction that met an error
is over: the database may have rolled it back already, and a statement after that would commit by itself.

Not here: what is specific to one database (`database.py`), and how errors are named (`faults.py`).
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from federation.domain.hub import Agent, Hub
from federation.domain.ids import LeaseId
from federation.domain.job import Job, JobState
from federation.domain.lease import Lease
from federation.domain.usage import UsageInterval
from federation.errors import Code, FederationError
from federation.ports import (
    STORE_ENTITY,
    EventMark,
    EventRow,
    JobFilter,
    Loaded,
    Page,
    RequestRow,
    Transaction,
    UsedRow,
)
from federation.store import codec, faults, naming
from federation.store.database import Database
from federation.store.facts import removed_up_to
from federation.store.statements import IN_MAX, REMOVED_TO, padded


class SqlTransaction:
    """Writes of one commit; see `ports.Transaction`."""

    def __init__(self, database: Database, last_seq: int, incarnation: int, removed_to: int) -> None:
        self._database = database
        self._sql = database.statements
        self._incarnation = incarnation
        self._error: BaseException | None = None
        self._rows = 0
        self.last_seq = last_seq
        self.removed_to = removed_to
        self.committed = False
        with self._named():
            database.begin()

    def append_events(self, rows: Sequence[EventRow]) -> int:
        """Add facts; their first seq."""
        first = self.last_seq + 1
        incarnation = self._incarnation
        self._many(
            self._sql.insert_event, [codec.event_row(row, seq, incarnation) for seq, row in enumerate(rows, first)]
        )
        self.last_seq += len(rows)
        return first

    def put_jobs(self, jobs: Sequence[Job]) -> None:
        """Insert or replace by id. A job's owner, spec and spec bytes are those of its first row, whatever comes later.

        Revision 1 is taken as new and anything else as known, because writing the spec again would cost more than the
        rest of a transition; a guess that proves wrong is put right here.
        """
        new = [job for job in jobs if job.revision == 1]
        known = [job for job in jobs if job.revision != 1]
        if new:
            self._put_new(new)
        if known:
            rows = [(*codec.job_changing(job), job.id) for job in known]
            if self._many(self._sql.update_job, rows) != len(known):
                self._put_new(known)

    def _put_new(self, jobs: Sequence[Job]) -> None:
        self._many(self._sql.put_job, [codec.job_row(job) for job in jobs])
        self._many(self._sql.insert_spec, [codec.spec_row(job) for job in jobs])

    def put_leases(self, leases: Sequence[Lease]) -> None:
        """Insert or replace by id."""
        self._many(self._sql.put_lease, [codec.lease_row(lease) for lease in leases])

    def put_hubs(self, hubs: Sequence[Hub]) -> None:
        """Insert or replace by id."""
        self._many(self._sql.put_hub, [codec.hub_row(hub) for hub in hubs])

    def put_agents(self, agents: Sequence[Agent]) -> None:
        """Insert or replace by (hub, agent)."""
        self._many(self._sql.put_agent, [codec.agent_row(agent) for agent in agents])

    def put_requests(self, rows: Sequence[RequestRow]) -> None:
        """Insert. Error: REQUEST_ID_REUSED for a (principal, request_id) that is there."""
        try:
            self._many(self._sql.insert_request, [codec.request_row(row) for row in rows])
        except FederationError as error:
            if error.code is Code.INTERNAL:
                raise faults.request_reused() from error
            raise

    def put_usage(self, intervals: Sequence[UsageInterval]) -> None:
        """Insert; a (lease, index) that is there already is left alone."""
        self._many(self._sql.insert_usage, [codec.usage_row(interval) for interval in intervals])

    def remove_events(self, seqs: Sequence[int]) -> None:
        """Remove facts for good, and remember up to where."""
        if not seqs:
            return
        assert max(seqs) < self.last_seq, "the newest fact stays"
        self._many(self._sql.remove_event, [(seq,) for seq in seqs])
        self.removed_to = max(self.removed_to, *seqs)
        self._many(self._sql.put_meta, [(REMOVED_TO, self.removed_to)])

    def put_meta(self, name: str, value: int) -> None:
        """Add a fact about the store itself, which no use case knows of."""
        self._many(self._sql.put_meta, [(name, value)])

    def commit(self) -> None:
        """Durable when this returns. Raises DurabilityLost, which nobody may catch, when nobody can say that it is."""
        self._check()
        with self._named():
            self._database.commit(self._rows)
        self.committed = True

    def _many(self, sql: str, rows: Sequence[tuple[Any, ...]]) -> int:
        """Run `sql` for each row; how many rows it touched."""
        self._check()
        if not rows:
            return 0
        with self._named():
            touched = self._database.many(sql, rows)
        self._rows += len(rows)
        return touched

    @contextlib.contextmanager
    def _named(self) -> Iterator[None]:
        """An error ends the transaction, and has our name: rows before a bad one are written, so the whole must go."""
        try:
            yield
        except self._database.errors as error:
            self._error = self._database.error_of(error)
            raise self._error from error
        except (UnicodeError, OverflowError) as error:
            self._error = faults.unstorable(error)
            raise self._error from error

    def _check(self) -> None:
        assert not self.committed, "a committed transaction takes no more writes"
        if self._error is not None:
            raise self._error


class SqlStore:
    """A store in a SQL database; see `ports.Store`."""

    def __init__(self, database: Database) -> None:
        self.database = database
        self._sql = database.statements
        self._writing = False
        try:
            for sql in self._sql.each_column:
                self._ask(sql)
            incarnation = self._ask(self._sql.incarnation)
            if not incarnation:
                raise faults.damaged(database.where, "it does not say its incarnation")
            self._incarnation = int(incarnation[0][0])
            self._last_seq = int(self._ask(self._sql.last_seq)[0][0] or 0)
            self._removed_to = removed_up_to(self._ask, self._sql)
            self._store_id = naming.shown(self._named())
        except BaseException:
            database.close()
            raise

    def _named(self) -> int:
        """The store's name, given to it where it has none."""
        found = self._ask(naming.ASKED)
        if not found:
            number = naming.drawn(next(iter(self._ask(naming.FIRST_FACT)), None))
            with self.begin() as transaction:
                assert isinstance(transaction, SqlTransaction)
                transaction.put_meta(naming.NAME, number)
                transaction.commit()
            return number
        return int(found[0][0])

    def load(self, *, waiting: bool = True) -> Loaded:
        """Everything live, or all but the jobs that wait and have no claim; from one snapshot."""
        with self._reading() as connection:
            connection.execute(self.database.snapshot_sql)
            try:
                jobs = connection.execute(self._sql.live_jobs if waiting else self._sql.busy_jobs).fetchall()
                leases = connection.execute(self._sql.live_leases).fetchall()
                hubs = connection.execute(self._sql.all_hubs).fetchall()
                agents = connection.execute(self._sql.all_agents).fetchall()
            finally:
                connection.execute("COMMIT")
        return Loaded(
            incarnation=self._incarnation,
            last_seq=self._last_seq,
            jobs=tuple(sorted(codec.decoded(codec.job_of, jobs), key=lambda job: (job.queue_seq, job.id))),
            leases=tuple(sorted(codec.decoded(codec.lease_of, leases), key=lambda lease: lease.id)),
            hubs=tuple(sorted(codec.decoded(codec.hub_of, hubs), key=lambda hub: hub.id)),
            agents=tuple(sorted(codec.decoded(codec.agent_of, agents), key=lambda agent: agent.key)),
            store_id=self._store_id,
            restored=next(iter(self.events_of(STORE_ENTITY, str(self._incarnation), 1)), None),
        )

    @contextlib.contextmanager
    def begin(self) -> Iterator[Transaction]:
        """A transaction; leaving the block without `commit` rolls it back."""
        assert not self._writing, "one transaction at a time"
        self._writing = True
        transaction = None
        try:
            transaction = SqlTransaction(self.database, self._last_seq, self._incarnation, self._removed_to)
            yield transaction
        finally:
            self._writing = False
            if transaction is not None and transaction.committed:
                self._last_seq, self._removed_to = transaction.last_seq, transaction.removed_to
            else:  # also where it could not begin: PostgreSQL has then begun it, and every later one would fail
                self.database.roll_back()

    def find_requests(self, keys: Sequence[tuple[str, str]]) -> Mapping[tuple[str, str], RequestRow]:
        """Those of the (principal, request_id) that were answered."""
        by_principal: dict[str, list[str]] = {}
        for principal, request_id in keys:
            by_principal.setdefault(principal, []).append(request_id)
        found: dict[tuple[str, str], RequestRow] = {}
        for principal, ids in by_principal.items():
            for start in range(0, len(ids), IN_MAX):
                piece = padded(ids[start : start + IN_MAX])
                for row in self._ask(self._sql.requests_of(len(piece)), (principal, *piece)):
                    request = codec.request_of(row)
                    found[request.principal, request.request_id] = request
        return found

    def get_job(self, job_id: str) -> Job | None:
        """One job, also a terminal one."""
        found = codec.decoded(codec.job_of, self._ask(self._sql.job_by_id, (job_id,)))
        return found[0] if found else None

    def get_lease(self, lease_id: LeaseId) -> Lease | None:
        """One lease, also an ended one."""
        found = codec.decoded(codec.lease_of, self._ask(self._sql.lease_by_id, (lease_id,)))
        return found[0] if found else None

    def list_jobs(self, where: JobFilter, before_seq: int, limit: int) -> Page:
        """Jobs with queue_seq below `before_seq` (0: from the newest)."""
        assert limit > 0, "a page shows at least one job"
        jobs = codec.decoded(codec.job_of, self._ask(*self._sql.page(where, before_seq, limit)))
        return Page(jobs[:limit], jobs[limit - 1].queue_seq if len(jobs) > limit else 0)

    def count_jobs(self) -> Mapping[JobState, int]:
        """How many in each state; states without a job are left out."""
        return {JobState(state): count for state, count in self._ask(self._sql.count_jobs)}

    def events_of(self, entity: str, entity_id: str, limit: int) -> tuple[EventRow, ...]:
        """The facts of one thing, oldest first."""
        return codec.decoded(codec.event_of, self._ask(self._sql.events_of, (entity, entity_id, limit)))

    def event_marks(self, after_seq: int, limit: int) -> Sequence[EventMark]:
        """Of the facts after that seq, in order."""
        return codec.decoded(codec.event_mark_of, self._ask(self._sql.event_marks(limit), (after_seq,)))

    def usage_of(self, lease_id: LeaseId) -> tuple[UsageInterval, ...]:
        """The stretches of one lease, by index."""
        return codec.decoded(codec.usage_of, self._ask(self._sql.usage_of, (lease_id,)))

    def used_since(self, moment_ms: int) -> Sequence[UsedRow]:
        """What was used in stretches that ended since then, by lease and day."""
        used = codec.decoded(codec.used_of, self._ask(self._sql.used_since, (moment_ms,)))
        return sorted(used, key=lambda row: (row.lease.id, row.end_ms))

    def close(self) -> None:
        """Give back connections and files."""
        self.database.close()

    def _ask(self, sql: str, parameters: Sequence[Any] = ()) -> list[Any]:
        with self._reading() as connection:
            rows: list[Any] = connection.execute(sql, parameters).fetchall()
            return rows

    @contextlib.contextmanager
    def _reading(self) -> Iterator[Any]:
        try:
            with self.database.reading() as connection:
                yield connection
        except self.database.errors as error:
            raise self.database.error_of(error) from error
