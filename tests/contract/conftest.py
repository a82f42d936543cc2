"""Each kind of store once, for the one contract that they all keep."""

from __future__ import annotations

import random
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from federation.ports import Store
from federation.store import open_store
from tests.contract.store_builders import StoreHome
from tests.support.faulty_disk import FaultyDisk
from tests.support.postgres import PostgresUnderTest, running_postgres
from tests.support.tomorrow import scripts_of_tomorrow, upgrade_file


@pytest.fixture(scope="session")
def postgres() -> PostgresUnderTest:
    """A PostgreSQL that runs."""
    return running_postgres()


@pytest.fixture
def postgres_home(postgres: PostgresUnderTest) -> Iterator[StoreHome]:
    """A database for one store."""
    home = StoreHome(postgres.emptied())
    yield home
    home.close()


@pytest.fixture
def sqlite_home(tmp_path: Path) -> Iterator[StoreHome]:
    """A folder for one SQLite store."""
    path = tmp_path / "federation.db"
    home = StoreHome(f"sqlite:///{path}", path)
    yield home
    home.close()


@pytest.fixture
def watched_home(tmp_path: Path) -> Iterator[StoreHome]:
    """A folder for one SQLite store on a disk that can fail."""
    path = tmp_path / "watched.db"
    home = StoreHome(f"sqlite:///{path}", path, disk=FaultyDisk(random.Random(1)))
    yield home
    home.close()


@pytest.fixture(scope="session")
def tomorrow(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The revisions of a version that is one step ahead."""
    return scripts_of_tomorrow(tmp_path_factory.mktemp("tomorrow"))


@pytest.fixture(scope="session")
def file_of_tomorrow(tomorrow: Path) -> Path:
    """An empty store with the schema that its programs share with ours."""
    path = tomorrow.parent / "tomorrow.db"
    open_store(f"sqlite:///{path}").close()
    upgrade_file(path, tomorrow)
    return path


@pytest.fixture
def sqlite_ahead_home(tmp_path: Path, file_of_tomorrow: Path) -> Iterator[StoreHome]:
    """A file that a newer program has brought one step ahead."""
    path = tmp_path / "federation.db"
    shutil.copy(file_of_tomorrow, path)
    home = StoreHome(f"sqlite:///{path}", path)
    yield home
    home.close()


@pytest.fixture
def postgres_ahead_home(postgres: PostgresUnderTest, tomorrow: Path) -> Iterator[StoreHome]:
    """A database that a newer program has brought one step ahead."""
    home = StoreHome(postgres.emptied(tomorrow))
    yield home
    home.close()


@pytest.fixture(params=["memory", "sqlite", "watched", "postgres", "sqlite_ahead", "postgres_ahead"])
def store_home(request: pytest.FixtureRequest) -> StoreHome:
    """A place for a store of each kind."""
    if request.param == "memory":
        return StoreHome("memory:")
    home: StoreHome = request.getfixturevalue(f"{request.param}_home")
    return home


@pytest.fixture
def store(store_home: StoreHome) -> Store:
    """A new store of each kind."""
    return store_home.open()
