"""Policy parsers against any text, and the arithmetic of the home share."""

from __future__ import annotations

import json
from fractions import Fraction

from hypothesis import given, settings
from hypothesis import strategies as st

from federation.errors import FederationError
from federation.policy.data import DataPolicy, data_policy
from federation.policy.share import JobFacts, SharePolicy, evaluate, offered, parse_share_policy

words = st.sampled_from(
    [
        "version",
        "offer",
        "accept",
        "reclaim_s",
        "cpus",
        "memory",
        "disk",
        "gpus",
        "hubs",
        "allow",
        "deny",
        "projects",
        "engines",
        "priorities",
        "max_runtime",
        "max_replicas",
        "gpu_fractions",
        "50%",
        "8Gi",
        "12h",
        "spark",
        "batch",
    ]
)
values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | words | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(words, inner, max_size=4),
    max_leaves=15,
)
syntax = st.text(st.sampled_from(list("[]{}:-,&*!|>'\"#%@`=. \n\t\\01aeinofsv~?")), max_size=60)


def read(text: str, *, toml: bool) -> None:
    """A policy or our error; pytest sees anything else."""
    try:
        assert isinstance(parse_share_policy(text, toml=toml), SharePolicy)
    except FederationError as problem:
        assert problem.message  # noqa: PT017  # both outcomes are right


@settings(max_examples=400)
@given(st.text(max_size=200) | syntax, st.booleans())
def test_any_text_is_a_policy_or_an_error_of_ours(text: str, toml: bool) -> None:
    """Also what YAML and TOML themselves stumble over."""
    read(text, toml=toml)


@settings(max_examples=400)
@given(st.dictionaries(words, values, max_size=5))
def test_any_structure_is_a_policy_or_an_error_of_ours(document: dict[str, object]) -> None:
    """The right words with any value under them (JSON is YAML)."""
    read(json.dumps(document), toml=False)


@given(st.text(max_size=20) | st.sampled_from(["open", "hubs"]), st.lists(st.text(max_size=5), max_size=3))
def test_any_words_are_a_data_policy_or_an_error_of_ours(access: str, readers: list[str]) -> None:
    """And an understood one names readers only where it must."""
    try:
        policy = data_policy(access, readers)
    except FederationError:
        return
    assert policy == DataPolicy(policy.access, frozenset(readers))


rules = st.fractions(0, 1) | st.integers(0, 10_000)
capacities = st.dictionaries(
    st.tuples(st.sampled_from(["cpu", "gpu", "memory"]), st.sampled_from(["", "a", "b"])), st.integers(0, 20_000)
)


@given(st.dictionaries(st.sampled_from(["cpu", "gpu"]), rules), capacities, st.booleans())
def test_what_is_offered_is_there_and_within_the_rule(
    offer: dict[str, Fraction | int], capacity: dict[tuple[str, str], int], fractions: bool
) -> None:
    """Never negative, never more than there is, never more than the rule says, whole GPUs unless fractions may be."""
    result = offered(SharePolicy(offer=offer, gpu_fractions=fractions), capacity)
    assert result.keys() == capacity.keys()
    for (name, kind), amount in result.items():
        there = capacity[name, kind]
        assert 0 <= amount <= there
        assert fractions or name != "gpu" or amount % 1000 == 0
        rule = offer.get(name)
        if isinstance(rule, Fraction):
            assert amount <= there * rule
        elif rule is not None:
            assert sum(part for (other, _), part in result.items() if other == name) <= rule


@given(st.builds(JobFacts, st.text(), st.text(), st.text(), st.text(), st.integers(), st.integers(), st.integers()))
def test_a_verdict_is_yes_or_a_coded_no(job: JobFacts) -> None:
    """Whatever is asked."""
    verdict = evaluate(SharePolicy(), job)
    assert verdict.ok == (verdict.code is None)
