"""The federation's policy file: every key known, every value in its range, or an error that names it."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from federation.app.policyfile import FederationPolicy, federation_policy, load_policy
from federation.errors import Code, FederationError
from federation.policy.document import parse_text
from federation.scheduling import Policy
from federation.scheduling.fairness import FairnessTerms
from federation.scheduling.policy import RESERVATIONS_MAX, Order


def order(text: str) -> Policy:
    """The order that a text asks for."""
    return federation_policy(parse_text(text, toml=False)).order


def test_nothing_said_is_the_default() -> None:
    """An empty file changes nothing."""
    assert federation_policy({}) == FederationPolicy(Policy(), {})


def test_weights_by_hub_project_and_user() -> None:
    """Names nest, so that none of them needs a sign that it may not hold."""
    found = order("order: {weights: {hubs: {cairo: 2}, projects: {cairo: {v: 1.5}}, users: {cairo: {v: {a/b: 3}}}}}")
    assert (found.hub_weights, found.project_weights, found.user_weights) == (
        {"cairo": 2.0},
        {("cairo", "v"): 1.5},
        {("cairo", "v", "a/b"): 3.0},
    )


def test_quotas_by_hub_project_and_user() -> None:
    """Amounts as in a share policy; a star is whoever is not named."""
    found = order(
        """
        quotas:
          hubs: {cairo: {gpus: 1.5, memory: 2Ti}, "*": {cpus: 8}}
          projects: {cairo: {v: {disk: 1Gi}, "*": {}}}
          users: {cairo: {v: {a/b: {cpus: 0}}}, "*": {"*": {"*": {gpus: 0.25}}}}
        """
    ).quotas
    assert found == {
        ("cairo",): {"gpu": 1_500, "memory": 2 * 2**40},
        ("*",): {"cpu": 8_000},
        ("cairo", "v"): {"disk": 2**30},
        ("cairo", "*"): {},
        ("cairo", "v", "a/b"): {"cpu": 0},
        ("*", "*", "*"): {"gpu": 250},
    }


def test_hubs_are_as_in_their_own_files(tmp_path: Path) -> None:
    """TOML as well as YAML."""
    file = tmp_path / "policy.toml"
    file.write_text('version = 1\n[hubs.cairo]\nreclaim_s = 9\noffer = {cpus = "50%"}\n')
    assert load_policy(file).hubs["cairo"].reclaim_s == 9


@pytest.mark.parametrize(
    ("text", "code", "word"),
    [
        ("version: 2", Code.CONFIGURATION_INVALID, "version"),
        ("colour: red", Code.UNKNOWN_KEY, "colour"),
        ("order: {speed: 1}", Code.UNKNOWN_KEY, "speed"),
        ("order: {weights: {stars: {}}}", Code.UNKNOWN_KEY, "stars"),
        ("order: {weights: {hubs: {cairo: 0}}}", Code.CONFIGURATION_INVALID, "order.weights.hubs.cairo"),
        ("order: {weights: {hubs: {cairo: .nan}}}", Code.CONFIGURATION_INVALID, "cairo"),
        ("order: {weights: {hubs: {cairo: .inf}}}", Code.CONFIGURATION_INVALID, "cairo"),
        ("order: {weights: {hubs: {cairo: yes}}}", Code.CONFIGURATION_INVALID, "cairo"),
        ("order: {weights: {users: {cairo: {v: 2}}}}", Code.CONFIGURATION_INVALID, "order.weights.users.cairo.v"),
        ("order: {half_life: 0s}", Code.CONFIGURATION_INVALID, "half_life"),
        ("order: {half_life: 7}", Code.CONFIGURATION_INVALID, "half_life"),
        ("order: {contribution: {gain: -1}}", Code.CONFIGURATION_INVALID, "contribution.gain"),
        ("order: {contribution: {share: 1}}", Code.UNKNOWN_KEY, "share"),
        ("order: {within_user: random}", Code.CONFIGURATION_INVALID, "within_user"),
        ("order: {backfill: [easy]}", Code.CONFIGURATION_INVALID, "backfill"),
        ("order: {placements_max: 0}", Code.CONFIGURATION_INVALID, "placements_max"),
        ("order: []", Code.CONFIGURATION_INVALID, "order"),
        ("quotas: {groups: {}}", Code.UNKNOWN_KEY, "groups"),
        ("quotas: {hubs: {cairo: {gpu: 1}}}", Code.UNKNOWN_KEY, "quotas.hubs.cairo"),
        ("quotas: {hubs: {cairo: {gpus: 50%}}}", Code.CONFIGURATION_INVALID, "quotas.hubs.cairo.gpus"),
        ("quotas: {hubs: {cairo: {cpus: -1}}}", Code.CONFIGURATION_INVALID, "quotas.hubs.cairo.cpus"),
        ("quotas: {hubs: {cairo: {cpus: 1.0005}}}", Code.CONFIGURATION_INVALID, "quotas.hubs.cairo.cpus"),
        ("quotas: {hubs: {cairo: 4}}", Code.CONFIGURATION_INVALID, "quotas.hubs.cairo"),
        ("quotas: {users: {cairo: {gpus: 4}}}", Code.CONFIGURATION_INVALID, "quotas.users.cairo.gpus"),
        ('quotas: {users: {"*": {v: {ada: {}}}}}', Code.CONFIGURATION_INVALID, "neither last nor everywhere"),
        ("hubs: {cairo: {offers: {}}}", Code.UNKNOWN_KEY, "hubs.cairo"),
        ("hubs: {cairo: {reclaim_s: -1}}", Code.CONFIGURATION_INVALID, "hubs.cairo"),
        ('hubs: {"": {}}', Code.CONFIGURATION_INVALID, "hubs"),
    ],
)
def test_what_is_wrong_is_named(text: str, code: Code, word: str) -> None:
    """The key and its place."""
    with pytest.raises(FederationError) as caught:
        order(text)
    assert (caught.value.code, caught.value.fault) == (code, "caller")
    assert word in caught.value.message


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("quotas: {users: {amina: {gpus: 4}}}", "quotas.users.amina.gpus must be a table: users are hub -> project -> user -> amounts"),
        ("quotas: {users: {cairo: {amina: {gpus: 4}}}}", "users are hub -> project -> user -> amounts"),
        ("order: {weights: {users: {amina: 2}}}", "users are hub -> project -> user -> weight"),
        ("order: {weights: {hubs: 2}}", "order.weights.hubs must be a table: hubs are hub -> weight"),
        ("order: {weights: {hubs: {cairo: 0}}}", "a number above 0, up to 1,000,000."),
        ("order: {half_life: 0s}", "from 1s to 366d."),
        ("quotas: {hubs: {cairo: {memory: 50%}}}", 'memory must be bytes such as "48Gi", not a part, and not negative.'),
        ("quotas: {hubs: {cairo: {gpus: much}}}", "gpus must be an amount of at most 3 decimals, not a part"),
    ],
)  # fmt: skip
def test_an_error_says_what_is_expected_in_units_a_person_reads(text: str, said: str) -> None:
    """Which names lead to a weight, ranges in days, thousands apart; never a part where a part is refused."""
    with pytest.raises(FederationError) as caught:
        order(text)
    assert said in caught.value.message


def test_every_setting_of_the_planner_can_be_said() -> None:
    """All of `Policy` differs from its default: a setting that no file can name is one that no operator can try."""
    text = """
      order:
        weights: {hubs: {a: 2}, projects: {a: {p: 2}}, users: {a: {p: {u: 2}}}}
        half_life: 3d
        contribution: {gain: 0.5, cap: 4}
        within_user: short_first
        backfill: easy
        promise_after: 20m
        placements_max: 9
      quotas: {hubs: {a: {cpus: 9}}}
    """
    found, plain = order(text), Policy()
    for entry in dataclasses.fields(Policy):
        assert getattr(found, entry.name) != getattr(plain, entry.name), entry.name
    assert found.fairness == FairnessTerms(3 * 86_400_000, 0.5, 4.0)
    assert (found.order, found.reservations) == (Order.SHORT_FIRST, 1)


@pytest.mark.parametrize(("word", "reservations"), [("conservative", RESERVATIONS_MAX), ("easy", 1), ("none", 0)])
def test_backfill_is_how_many_starts_are_promised(word: str, reservations: int) -> None:
    """To all, to the first, to nobody."""
    assert order(f"order: {{backfill: {word}}}").reservations == reservations


KEYS = st.sampled_from(
    ["version", "order", "hubs", "weights", "projects", "users", "half_life", "contribution", "gain", "cap", "within_user",
     "backfill", "promise_after", "placements_max", "quotas", "*", "gpus", "offer", "accept", "reclaim_s", "cairo"]
) | st.text(max_size=4)  # fmt: skip
VALUES: st.SearchStrategy[Any] = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.text(max_size=5)
    | st.sampled_from(["7d", "easy", "age"]),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(KEYS, inner, max_size=4),
    max_leaves=12,
)


@given(st.dictionaries(KEYS, VALUES, max_size=4))
def test_any_mapping_is_a_policy_or_an_error(document: dict[str, Any]) -> None:
    """Never another exception."""
    try:
        found = federation_policy(document)
    except FederationError:
        return
    assert isinstance(found, FederationPolicy)
