"""Each kind of store once, for the one contract that they all keep."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from federation.ports import Store
from tests.contract.store_builders import StoreHome


@pytest.fixture
def sqlite_home(tmp_path: Path) -> Iterator[StoreHome]:
    """A folder for one SQLite store."""
    path = tmp_path / "federation.db"
    home = StoreHome(f"sqlite:///{path}", path)
    yield home
    home.close()


@pytest.fixture(params=["memory", "sqlite"])
def store_home(request: pytest.FixtureRequest, sqlite_home: StoreHome) -> StoreHome:
    """A place for a store of each kind."""
    return StoreHome("memory:") if request.param == "memory" else sqlite_home


@pytest.fixture
def store(store_home: StoreHome) -> Store:
    """A new store of each kind."""
    return store_home.open()
