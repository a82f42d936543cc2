"""A store's name: made once, kept by whatever becomes of the store, never another's."""

from __future__ import annotations

import sqlite3
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from federation.store import backup, naming, open_store, portable
from tests.contract.store_builders import fact
from tests.support.builders import NOON_MS
from tests.support.postgres import running_postgres


def name_of(url: str) -> str:
    """What the store at `url` is called."""
    store = open_store(url)
    try:
        return store.load().store_id
    finally:
        store.close()


def with_a_fact(url: str) -> None:
    """Something happened."""
    store = open_store(url)
    with store.begin() as transaction:
        transaction.append_events([fact("job-1")])
        transaction.commit()
    store.close()


def nameless(path: Path) -> None:
    """As a program of before left it."""
    with sqlite3.connect(path) as connection:
        connection.execute("DELETE FROM meta WHERE name = 'store_id'")
    connection.close()


@pytest.fixture(params=["sqlite", "postgres"])
def url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """A new store of each kind."""
    return f"sqlite:///{tmp_path / 'a.db'}" if request.param == "sqlite" else running_postgres().new_database()


def test_a_store_keeps_its_name(url: str) -> None:
    """However often it is opened, and whatever happens in it."""
    before = name_of(url)
    with_a_fact(url)
    assert (len(before), name_of(url)) == (16, before)


def test_two_stores_have_two_names(url: str, tmp_path: Path) -> None:
    """Also two that are empty: that is what tells a mistake."""
    others = {name_of(f"sqlite:///{tmp_path / 'b.db'}"), name_of("memory:"), name_of("memory:")}
    assert len(others | {name_of(url)}) == 4


def test_a_backup_has_the_name_and_so_has_what_it_is_restored_to(url: str, tmp_path: Path) -> None:
    """Hubs know the store again, whatever kind it is now."""
    with_a_fact(url)
    name, file, copy = name_of(url), tmp_path / "backup.db", tmp_path / "copy.db"
    if url.startswith("sqlite"):
        backup.back_up(Path(url.removeprefix("sqlite:///")), file)
    else:
        portable.back_up(url, file)
    backup.restore(copy, file, NOON_MS + 1)
    assert name_of(f"sqlite:///{copy}") == name
    if url.startswith("postgres"):
        portable.restore(url, file, tmp_path, NOON_MS + 1)
        assert name_of(url) == name


def test_a_store_of_before_is_named_after_its_first_fact(tmp_path: Path) -> None:
    """So that a backup of then, restored later, has the name that the store was given meanwhile."""
    path, copy = tmp_path / "a.db", tmp_path / "b.db"
    with_a_fact(f"sqlite:///{path}")
    nameless(path)
    backup.back_up(path, copy)
    names = {name_of(f"sqlite:///{path}"), name_of(f"sqlite:///{copy}")}
    with_a_fact(f"sqlite:///{path}")
    assert names == {name_of(f"sqlite:///{path}")}


@given(st.none() | st.lists(st.integers() | st.text(max_size=10), max_size=4))
def test_a_name_fits_where_it_is_kept(first: list[object] | None) -> None:
    """A signed 64-bit integer that is not negative, shown in 16 digits."""
    number = naming.drawn(first)
    assert 0 <= number < 2**62
    assert len(naming.shown(number)) == 16
