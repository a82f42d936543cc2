"""The statements, written once in SQLAlchemy Core and compiled once per database to text with positional parameters.

SQLAlchemy's own execution costs several times the insert itself at a hundred rows; compiled text goes straight to the
driver's `executemany`. Parameters are in the order of the table's columns, which is the order of `codec.py`'s tuples:
`_compiled` checks it, so a column added in one place only fails at import and not in somebody's data.
"""

from __future__ import annotations

import enum
import functools
from collections.abc import Sequence
from typing import Any

from sqlalchemy import (
    BindParameter,
    Dialect,
    Select,
    Table,
    and_,
    bindparam,
    case,
    delete,
    false,
    func,
    insert,
    literal,
    or_,
    select,
    update,
)
from sqlalchemy.dialects.postgresql import insert as postgresql_insert
from sqlalchemy.dialects.sqlite import insert as sqlite_insert
from sqlalchemy.sql import ClauseElement

from federation.domain.job import JobState
from federation.ports import DAY_MS, JobFilter
from federation.store import schema

_NO_OFFSET: Any = literal(0, literal_execute=True)  # SQLAlchemy writes one for SQLite in any case
IN_MAX = 512
"""Longest list in one IN (...); longer ones are asked in pieces."""

REMOVED_TO = "events_removed_to"
"""In `meta`: the highest seq of a fact that was removed; absent: none ever was."""
STAGE = "stage_"
"""Before a table's name: a temporary one with the same columns."""


def padded(values: Sequence[str]) -> list[str]:
    """`values` with the last one repeated up to a power of two: a handful of statements instead of one per length."""
    size = 1 << (len(values) - 1).bit_length()
    return [*values, *[values[-1]] * (size - len(values))]


class Statements:
    """All SQL of one store, for one dialect. The dialect's parameters must be positional ("qmark" or "format")."""

    def __init__(self, dialect: Dialect) -> None:
        self._dialect = dialect
        self.insert_event = self._insert(schema.events)
        self.insert_spec = self._insert_new(schema.specs)
        self.insert_request = self._insert(schema.requests)
        self.insert_usage = self._insert_new(schema.usage)
        self.put_job = self._upsert(schema.jobs, schema.JOB_COLUMNS_CHANGING)
        self.update_job = self._text(
            update(schema.jobs).where(schema.jobs.c.id == _given("key")),
            (*schema.JOB_COLUMNS_CHANGING, "key"),
            columns=schema.JOB_COLUMNS_CHANGING,
        )
        self.put_lease = self._upsert(schema.leases)
        self.put_hub = self._upsert(schema.hubs)
        self.put_agent = self._upsert(schema.agents)

        job = self._job_select()
        leases, events, usage = schema.leases, schema.events, schema.usage
        self.job_by_id = self._text(job.where(schema.jobs.c.id == _given("id")), ("id",))
        self.live_jobs = self._text(job.where(schema.jobs.c.state.in_(_literals(schema.LIVE_JOB_STATES))), ())
        busy = _literals([state for state in schema.LIVE_JOB_STATES if state is not JobState.QUEUED])
        claiming = and_(schema.jobs.c.state.in_(_literals([JobState.QUEUED])), schema.jobs.c.claim.is_not(None))
        self.busy_jobs = self._text(job.where(or_(schema.jobs.c.state.in_(busy), claiming)), ())
        self.lease_by_id = self._text(select(leases).where(leases.c.id == _given("id")), ("id",))
        live_leases = select(leases).where(leases.c.state.in_(_literals(schema.LIVE_LEASE_STATES)))
        self.live_leases = self._text(live_leases, ())
        self.all_hubs = self._text(select(schema.hubs), ())
        self.all_agents = self._text(select(schema.agents), ())
        self.count_jobs = self._text(select(schema.jobs.c.state, func.count()).group_by(schema.jobs.c.state), ())
        self.events_of = self._text(
            select(events)
            .where(events.c.entity == _given("entity"), events.c.entity_id == _given("entity_id"))
            .order_by(events.c.seq)
            .limit(_given("most"))
            .offset(_NO_OFFSET),
            ("entity", "entity_id", "most"),
        )
        self.events_after = self._text(
            select(events)
            .where(events.c.seq > _given("after"))
            .order_by(events.c.seq)
            .limit(_given("most"))
            .offset(_NO_OFFSET),
            ("after", "most"),
        )
        self.event_marks = functools.lru_cache(maxsize=4)(self._event_marks)
        self.remove_event = self._text(delete(events).where(events.c.seq == _given("seq")), ("seq",))
        self.put_meta = self._upsert(schema.meta)
        removed_to = literal(REMOVED_TO, literal_execute=True)
        self.removed_to = self._text(select(schema.meta.c.value).where(schema.meta.c.name == removed_to), ())
        self.usage_of = self._text(
            select(usage).where(usage.c.lease_id == _given("lease_id")).order_by(usage.c.idx), ("lease_id",)
        )
        self.used_since = self._used_since()
        self.each_column = [
            self._text(select(*table.columns).where(false()), ()) for table in schema.metadata.sorted_tables
        ]
        """Fails where the schema is not what it says."""
        self.last_seq = self._text(select(func.max(events.c.seq)), ())
        self.incarnation = self._text(
            select(schema.meta.c.value).where(schema.meta.c.name == literal("incarnation", literal_execute=True)),
            (),
        )
        self.requests_of = functools.lru_cache(maxsize=16)(self._requests_of)
        self._jobs_page = functools.lru_cache(maxsize=256)(self._page)

    def _used_since(self) -> str:
        leases, jobs, usage = schema.leases, schema.jobs, schema.usage
        day = usage.c.end_ms // literal(DAY_MS, literal_execute=True)
        last_ms = func.max(usage.c.end_ms)
        query = (
            select(
                *leases.columns,
                *(jobs.c.home_hub, jobs.c.project, jobs.c.issuer, jobs.c.subject),
                func.sum(usage.c.end_ms - usage.c.start_ms),
                last_ms,
            )
            .select_from(usage)
            .join(leases, leases.c.id == usage.c.lease_id)
            .join(jobs, jobs.c.id == leases.c.job_id)
            .where(usage.c.end_ms >= _given("moment_ms"))
            .group_by(leases.c.id, jobs.c.id, day)
        )
        return self._text(query, ("moment_ms",))

    def _event_marks(self, limit: int) -> str:
        """The limit stands in the text: with one that it does not know PostgreSQL prepares for a tenth of the table."""
        events, jobs, leases = schema.events, schema.jobs, schema.leases
        page = (
            select(events.c.seq, events.c.at_ms, events.c.entity, events.c.entity_id, events.c.type)
            .where(events.c.seq > _given("after"))
            .order_by(events.c.seq)
            .limit(literal(limit, literal_execute=True))
            .offset(_NO_OFFSET)
            .subquery()
        )
        its_lease = and_(page.c.entity == _literal("lease"), leases.c.id == page.c.entity_id)
        its_job = case((page.c.entity == _literal("job"), page.c.entity_id), else_=leases.c.job_id)
        query = (
            select(page.c.seq, page.c.at_ms, page.c.entity, page.c.type)
            .add_columns(jobs.c.id, jobs.c.state, jobs.c.state_since_ms)
            .select_from(page)
            .join(leases, its_lease, isouter=True)
            .join(jobs, jobs.c.id == its_job, isouter=True)
            .order_by(page.c.seq)
        )
        return self._text(query, ("after",))

    def page(self, where: JobFilter, before_seq: int, limit: int) -> tuple[str, tuple[Any, ...]]:
        """The SQL and parameters of one page, newest first, with one row more than `limit` to see whether it ends."""
        ids = padded(where.job_ids) if where.job_ids else []
        sql = self._jobs_page(
            before_seq > 0,
            len(where.states),
            bool(where.project),
            bool(where.hub_id),
            where.owner is not None,
            len(ids),
        )
        parameters: list[Any] = [before_seq] if before_seq > 0 else []
        parameters += [state.value for state in where.states]
        parameters += [text for text in (where.project, where.hub_id) if text]
        parameters += where.owner or ()
        return sql, (*parameters, *ids, limit + 1)

    # The booleans say which conditions there are: they are the cache's key, not a caller's options.
    def _page(self, before: bool, states: int, project: bool, hub: bool, owner: bool, ids: int) -> str:
        jobs = schema.jobs
        names: list[str] = []

        def given(name: str) -> Any:
            names.append(name)
            return _given(name)

        conditions = []
        if before:
            conditions.append(jobs.c.queue_seq < given("before_seq"))
        if states:
            conditions.append(jobs.c.state.in_([given(f"state{n}") for n in range(states)]))
        if project:
            conditions.append(jobs.c.project == given("project"))
        if hub:
            conditions.append(jobs.c.hub_id == given("hub_id"))
        if owner:
            conditions.append(jobs.c.issuer == given("issuer"))
            conditions.append(jobs.c.subject == given("subject"))
        if ids:
            conditions.append(jobs.c.id.in_([given(f"id{n}") for n in range(ids)]))
        # first the ids, from indexes alone: sorting whole jobs with their specs would move megabytes for one page
        newest_first = (jobs.c.queue_seq.desc(), jobs.c.id.desc())
        ids_only = select(jobs.c.id).where(and_(True, *conditions)).order_by(*newest_first)
        page = ids_only.limit(given("most")).offset(_NO_OFFSET).subquery()
        query = self._job_select().join(page, page.c.id == jobs.c.id).order_by(*newest_first)
        return self._text(query, tuple(names))

    def _requests_of(self, ids: int) -> str:
        names = [f"id{n}" for n in range(ids)]
        requests = schema.requests
        query = select(requests).where(
            requests.c.principal == _given("principal"),
            requests.c.request_id.in_([_given(name) for name in names]),
        )
        return self._text(query, ("principal", *names))

    @staticmethod
    def _job_select() -> Select[Any]:
        jobs, specs = schema.jobs, schema.specs
        return select(*jobs.columns, specs.c.spec, specs.c.spec_bytes).join(specs, specs.c.job_id == jobs.c.id)

    def _insert(self, table: Table) -> str:
        return self._text(insert(table), _names(table))

    def _insert_new(self, table: Table) -> str:
        return self._text(self._conflicting(table).on_conflict_do_nothing(), _names(table))

    def _upsert(self, table: Table, changing: Sequence[str] = ()) -> str:
        keys = [column.name for column in table.primary_key]
        statement = self._conflicting(table)
        names = changing or [name for name in _names(table) if name not in keys]
        return self._text(
            statement.on_conflict_do_update(
                index_elements=keys, set_={name: statement.excluded[name] for name in names}
            ),
            _names(table),
        )

    def from_stage(self, sql: str, table: Table) -> str:
        """An insert of rows, `sql`, as one of all rows of the table's stage at once."""
        values = f"VALUES ({', '.join(['%s'] * len(table.columns))})"
        assert values in sql, f"{sql} inserts other columns than the table's"
        return sql.replace(values, f"SELECT {', '.join(_names(table))} FROM {STAGE}{table.name}")  # noqa: S608 - ours

    def _conflicting(self, table: Table) -> Any:
        return postgresql_insert(table) if self._dialect.name == "postgresql" else sqlite_insert(table)

    def _text(self, statement: ClauseElement, names: tuple[str, ...], columns: Sequence[str] | None = None) -> str:
        compiled: Any = statement.compile(
            dialect=self._dialect,
            column_keys=columns,
            compile_kwargs={"render_postcompile": isinstance(statement, Select)},
        )
        order = tuple(compiled.positiontup or ())
        assert order == names, f"parameters are {order}, rows are {names}"
        return str(compiled)


def _names(table: Table) -> tuple[str, ...]:
    return tuple(column.name for column in table.columns)


def _literals(states: Sequence[enum.StrEnum]) -> list[Any]:
    return [literal(state.value, literal_execute=True) for state in states]


def _literal(text: str) -> Any:
    return literal(text, literal_execute=True)


def _given(name: str) -> BindParameter[Any]:
    """A parameter of the statement; the None is never used, but compiling in full asks for some value."""
    return bindparam(name, None)
