"""Each kind of store once, for the one contract that they all keep."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from federation.ports import Store
from tests.contract.store_builders import StoreHome
from tests.support.postgres import PostgresUnderTest, running_postgres


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


@pytest.fixture(params=["memory", "sqlite", "postgres"])
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
