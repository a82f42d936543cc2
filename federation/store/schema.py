"""The one schema, for every database: tables, indexes, and which columns of a job change during its life.

A job lies in two rows. `jobs` holds where its life stands and is rewritten at each transition; `specs` holds what was
asked, up to half a megabyte, and is written once. An owner and a spec never change, so an update does not carry them.
JSON columns are text that `codec.py` writes and reads; the database never looks into them.

Not here: how a schema of last year becomes this one (`migrations/`), and statements (`statements.py`).
"""

from __future__ import annotations

from sqlalchemy import (
    BigInteger,
    Column,
    ForeignKey,
    Index,
    Integer,
    LargeBinary,
    MetaData,
    PrimaryKeyConstraint,
    Table,
    Text,
)

from federation.domain.job import TERMINAL, JobState
from federation.domain.lease import LeaseState

HEAD = "0002"
"""The newest revision in `migrations/versions`; a store at this revision opens without loading Alembic."""

LIVE_JOB_STATES = tuple(state for state in JobState if state not in TERMINAL)
LIVE_LEASE_STATES = tuple(state for state in LeaseState if state is not LeaseState.ENDED)

metadata = MetaData()

# SQLite keeps a table by its INTEGER primary key; spelled BIGINT it would grow a second tree beside it.
_SEQ = BigInteger().with_variant(Integer(), "sqlite")


def _text(name: str) -> Column[str]:
    return Column(name, Text, nullable=False)


def _int(name: str) -> Column[int]:
    return Column(name, BigInteger, nullable=False)


meta = Table("meta", metadata, Column("name", Text, primary_key=True), _int("value"), sqlite_with_rowid=False)
"""Facts about the store itself. `incarnation` starts at 1 and is raised by a restore."""

events = Table(
    "events",
    metadata,
    Column("seq", _SEQ, primary_key=True, autoincrement=False),
    _int("at_ms"),
    _text("entity"),
    _text("entity_id"),
    _text("type"),
    _text("cause"),
    _text("actor"),
    _text("payload"),
    _int("schema_version"),
    _int("incarnation"),
    Index("events_entity", "entity", "entity_id"),  # SQLite adds seq by itself: it is the rowid
)

jobs = Table(
    "jobs",
    metadata,
    Column("id", Text, primary_key=True),
    _text("home_hub"),
    _text("project"),
    _text("issuer"),
    _text("subject"),
    _int("created_ms"),
    _text("parent_job_id"),
    # from here on: what changes
    _int("queue_seq"),
    _text("state"),
    Column("reason", Text),
    _int("state_since_ms"),
    _int("attempts"),
    Column("epoch_incarnation", BigInteger),
    Column("epoch_n", BigInteger),
    _text("hub_id"),
    _text("agent_id"),
    _text("nodes"),
    _int("started_ms"),
    _int("ended_ms"),
    _int("exit_code"),
    _text("progress"),
    _text("url"),
    _text("tracking_run_id"),
    Column("result_incarnation", BigInteger),
    Column("result_n", BigInteger),
    _text("outputs"),
    _int("revision"),
    Column("claim", Text),
    Index("jobs_queue_seq", "queue_seq"),
    Index("jobs_state", "state", "queue_seq"),
    Index("jobs_project", "project", "queue_seq"),
    Index("jobs_owner", "issuer", "subject", "queue_seq"),
    Index("jobs_hub", "hub_id", "queue_seq"),
    sqlite_with_rowid=False,
)

JOB_COLUMNS = tuple(column.name for column in jobs.columns)
JOB_COLUMNS_FIXED = JOB_COLUMNS[: JOB_COLUMNS.index("queue_seq")]
JOB_COLUMNS_CHANGING = JOB_COLUMNS[len(JOB_COLUMNS_FIXED) :]

specs = Table(
    "specs",
    metadata,
    Column("job_id", Text, ForeignKey("jobs.id"), primary_key=True),
    _text("spec"),
    Column("spec_bytes", LargeBinary, nullable=False),
)

leases = Table(
    "leases",
    metadata,
    Column("id", Text, primary_key=True),
    Column("job_id", Text, ForeignKey("jobs.id", deferrable=True, initially="DEFERRED"), nullable=False),
    _int("incarnation"),
    _int("n"),
    _text("hub_id"),
    _text("agent_id"),
    _text("nodes"),
    _text("per_task"),
    _text("state"),
    _int("on_partition"),
    _int("granted_ms"),
    _int("expires_ms"),
    _text("revoke_code"),
    _text("revoke_message"),
    _int("usage_stored"),
    Column("devices", Text, nullable=False, server_default="[]"),
    Index("leases_job", "job_id"),
    Index("leases_state", "state"),
    sqlite_with_rowid=False,
)
hubs = Table(
    "hubs",
    metadata,
    Column("id", Text, primary_key=True),
    _text("title"),
    _text("state"),
    _text("note"),
    sqlite_with_rowid=False,
)

agents = Table(
    "agents",
    metadata,
    _text("hub_id"),
    _text("agent_id"),
    _text("instance_id"),
    _text("session_id"),
    _text("version"),
    _text("link"),
    _int("last_sync_ms"),
    _text("nodes"),
    _text("engines"),
    _text("datasets"),
    _text("features"),
    _int("round_trip_ms"),
    Column("reclaim_ms", BigInteger, nullable=False, server_default="60000"),
    Column("takes_back", BigInteger, nullable=False, server_default="0"),
    PrimaryKeyConstraint("hub_id", "agent_id"),
    sqlite_with_rowid=False,
)

requests = Table(
    "requests",
    metadata,
    _text("principal"),
    _text("request_id"),
    _text("body_digest"),
    _text("job_id"),
    _int("at_ms"),
    PrimaryKeyConstraint("principal", "request_id"),
    sqlite_with_rowid=False,
)

usage = Table(
    "usage",
    metadata,
    _text("lease_id"),
    _int("idx"),
    _int("start_ms"),
    _int("end_ms"),
    PrimaryKeyConstraint("lease_id", "idx"),
    sqlite_with_rowid=False,
)
