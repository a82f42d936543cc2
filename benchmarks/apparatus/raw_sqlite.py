"""The store's own rows, written by raw sqlite3: one connection, WAL, synchronous FULL, a transaction per so many jobs.

The rows and the tables with their indexes are read out of a store that the control plane has written, so that both
sides write the same. Only what makes a row unique is made anew.
"""

from __future__ import annotations

import sqlite3
import tempfile
import time
import uuid
from dataclasses import dataclass
from pathlib import Path
from typing import Any

TABLES = {"events": "entity_id", "jobs": "id", "specs": "job_id", "requests": "job_id"}
"""What a submit writes, in the order of their references, and the column that says for which job."""
JOBS_READ_MAX = 2_000


Row = tuple[Any, ...]


@dataclass(frozen=True, slots=True)
class Rows:
    """A store's tables, and for each of some jobs the rows that its submit wrote."""

    schema: tuple[str, ...]
    columns: dict[str, tuple[str, ...]]
    jobs: list[dict[str, Row]]
    """By table; "jobs" and "requests" tell the keys that the others repeat."""


def rows_of(database: Path) -> Rows:
    """What is in `database`, for at most 2,000 jobs; it may be in use."""
    connection = sqlite3.connect(f"{database.absolute().as_uri()}?mode=ro", uri=True)
    try:
        tables = connection.execute("SELECT sql FROM sqlite_master WHERE sql IS NOT NULL ORDER BY rowid")
        schema = tuple(sql for (sql,) in tables)
        columns: dict[str, tuple[str, ...]] = {}
        jobs: dict[str, dict[str, Row]] = {}
        for table, key in TABLES.items():
            found = connection.execute(
                f"SELECT * FROM {table} WHERE {key} IN (SELECT id FROM jobs ORDER BY queue_seq LIMIT {JOBS_READ_MAX})"
            )
            columns[table] = tuple(entry[0] for entry in found.description)
            place = columns[table].index(key)
            for row in found:
                written = jobs.setdefault(row[place], {})
                assert table not in written, f"a submit writes more than one row into {table}: count them too"
                written[table] = row
    finally:
        connection.close()
    assert jobs, "there is no job in the store"
    assert all(len(written) == len(TABLES) for written in jobs.values()), "a submit left a table out"
    return Rows(schema, columns, list(jobs.values()))


def jobs_per_s(copy: Rows, parent: Path | None, per_transaction: int, seconds: float) -> float:
    """Write for so long into a new file."""
    with tempfile.TemporaryDirectory(prefix="brhub-bench-", dir=parent) as folder:
        connection = sqlite3.connect(Path(folder) / "raw.db", isolation_level=None)
        try:
            connection.execute("PRAGMA journal_mode=WAL")
            connection.execute("PRAGMA synchronous=FULL")
            for statement in copy.schema:
                connection.execute(statement)
            return _written_per_s(connection, copy, per_transaction, seconds)
        finally:
            connection.close()


def _written_per_s(connection: sqlite3.Connection, copy: Rows, per_transaction: int, seconds: float) -> float:
    insert = {
        table: f"INSERT INTO {table} VALUES ({', '.join('?' * len(columns))})"
        for table, columns in copy.columns.items()
    }
    written, spent_s = 0, 0.0
    while spent_s < seconds:
        batch = [renamed(copy, number) for number in range(written, written + per_transaction)]
        rows = {table: [job[table] for job in batch] for table in TABLES}
        began_s = time.perf_counter()  # making rows is not writing them
        connection.execute("BEGIN IMMEDIATE")
        for table, several in rows.items():
            connection.executemany(insert[table], several)
        connection.execute("COMMIT")
        spent_s += time.perf_counter() - began_s
        written += per_transaction
    return written / spent_s


def renamed(copy: Rows, number: int) -> dict[str, Row]:
    """The rows of one more job: keys of the same length and order (job ids ascend, request ids are by chance)."""
    rows = copy.jobs[number % len(copy.jobs)]
    job_id: str = rows["jobs"][copy.columns["jobs"].index("id")]
    request_id: str = rows["requests"][copy.columns["requests"].index("request_id")]
    prefix, _, letters = job_id.partition("-")
    new = {job_id: f"{prefix}-{number:0{len(letters)}x}", request_id: uuid.uuid4().hex[: len(request_id)]}
    numbered = {"seq": number + 1, "queue_seq": number + 1}
    return {
        table: tuple(
            numbered[column] if column in numbered else new.get(value, value) if isinstance(value, str) else value
            for column, value in zip(copy.columns[table], row, strict=True)
        )
        for table, row in rows.items()
    }
