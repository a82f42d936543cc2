"""Places of names: whatever comes in whatever order, they ascend as the names do, and few of them ever move."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from federation.scheduling import Policy
from federation.scheduling.fairness import UseLedger
from federation.scheduling.fleet import Fleet
from federation.scheduling.levels import LevelTable, NamePlaces


@given(st.lists(st.sets(st.text(max_size=3), max_size=6), max_size=30))
def test_places_ascend_as_names_do(batches: list[set[str]]) -> None:
    """After each batch; and where it says that nobody moved, nobody has."""
    places = NamePlaces()
    for batch in batches:
        before = dict(places.places)
        moved = places.add(batch)
        assert places.places.keys() == before.keys() | batch
        assert moved or places.places.items() >= before.items()
        values = [places.places[name] for name in sorted(places.places)]
        assert values == sorted(set(values))
        assert all(0 < value < NamePlaces.END for value in values)


def test_a_crowd_in_one_gap_moves_the_others_now_and_then_only() -> None:
    """Each new name comes just before the same other one: the gap is halved each time, and after dozens all move."""
    places = NamePlaces()
    places.add(f"user-{at:04d}" for at in range(1_000))
    moved = sum(places.add([f"user-0500-{at:04d}"]) for at in range(1_000))
    assert 0 < moved < 1_000 // 40


def test_a_new_owner_stands_where_a_new_table_would_have_them() -> None:
    """Names, parents and home hubs of a table that grew are those of one that was made at once."""
    owners = [(f"hub-{at * 7 % 5}", f"p{at % 3}", f"u{at * 31 % 97:02d}") for at in range(60)]
    grown, fleet, ledger, policy = LevelTable(), Fleet(), UseLedger(), Policy(quotas={("*", "*", "*"): {"cpu": 1}})
    for owner in owners:
        grown.id_of(owner)
        one = grown.arrays(fleet, ledger, policy, 0)
        whole = LevelTable()
        for level in grown.ids:
            whole.id_of(level)
        other = whole.arrays(fleet, ledger, policy, 0)
        assert one.name.argsort(kind="stable").tolist() == other.name.argsort(kind="stable").tolist()
        assert one.parent.tolist() == other.parent.tolist() == grown.parents.tolist()
        assert grown.hub_rows(fleet).tolist() == whole.hub_rows(fleet).tolist()
        assert grown.caps(policy).tolist() == whole.caps(policy).tolist()
