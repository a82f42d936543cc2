"""The share policy: what it reads, what it refuses to read, whom it lets in, what it keeps home."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from federation.errors import Code, FederationError
from federation.policy.share import (
    JobFacts,
    Refusal,
    SharePolicy,
    evaluate,
    load_share_policy,
    offered,
    parse_share_policy,
)

FULL = """
version: 1
offer: {cpus: "75%", memory: 48Gi, disk: "50%", gpus: 2}
accept:
  hubs: {allow: [cairo, shenzhen], deny: []}
  projects: {deny: [mining]}
  engines: [spark, lab]
  priorities: [class, batch]
  max_runtime: 1h30m
  max_replicas: 4
reclaim_s: 120
"""
JOB = JobFacts("cairo", "delays", "spark", "batch", replicas=4, runtime_limit_ms=5_400_000, gpu_milli=1000)


def code_of(text: str, *, toml: bool = False) -> Code:
    """The code with which a text is refused."""
    with pytest.raises(FederationError) as caught:
        parse_share_policy(text, toml=toml)
    return caught.value.code


def test_the_default_takes_everything_but_parts_of_gpus() -> None:
    """An empty file is the default; it offers all of the hub."""
    assert parse_share_policy("") == parse_share_policy("", toml=True) == SharePolicy()
    assert evaluate(SharePolicy(), JOB).ok
    assert evaluate(SharePolicy(), replace(JOB, gpu_milli=500)).code is Refusal.GPU_FRACTION_DENIED
    assert evaluate(SharePolicy(gpu_fractions=True), replace(JOB, gpu_milli=500)).ok
    there = {("cpu", ""): 8_000, ("memory", ""): 2**34, ("gpu", "nvidia/A100"): 2_000, ("licence", "x"): 3}
    assert offered(SharePolicy(), there) == there


def test_yaml_and_toml_say_the_same(tmp_path: Path) -> None:
    """The file's ending decides which it is."""
    toml = """
        version = 1
        reclaim_s = 120
        [offer]
        cpus = "75%"
        memory = "48Gi"
        disk = "50%"
        gpus = 2
        [accept]
        hubs = {allow = ["cairo", "shenzhen"]}
        projects = {deny = ["mining"]}
        engines = ["spark", "lab"]
        priorities = ["class", "batch"]
        max_runtime = "90m"
        max_replicas = 4
    """
    (tmp_path / "share.toml").write_text(toml)
    (tmp_path / "share.yaml").write_text(FULL)
    assert load_share_policy(tmp_path / "share.toml") == load_share_policy(tmp_path / "share.yaml")
    assert load_share_policy(tmp_path / "share.yaml").reclaim_s == 120


@pytest.mark.parametrize(
    ("change", "refusal"),
    [
        ({}, None),
        ({"home_hub": "kuala-lumpur"}, Refusal.HUB_DENIED),
        ({"project": "mining"}, Refusal.PROJECT_DENIED),
        ({"engine": "ray"}, Refusal.ENGINE_DENIED),
        ({"priority": "scavenger"}, Refusal.PRIORITY_DENIED),
        ({"runtime_limit_ms": 5_400_001}, Refusal.RUNTIME_TOO_LONG),
        ({"replicas": 5}, Refusal.TOO_MANY_REPLICAS),
        ({"gpu_milli": 1_500}, Refusal.GPU_FRACTION_DENIED),
    ],
)
def test_each_rule_refuses_with_its_code(change: dict[str, object], refusal: Refusal | None) -> None:
    """At the limit it is taken, past it refused, with a sentence and what varied in it."""
    values = {name: getattr(JOB, name) for name in JobFacts.__slots__} | change
    verdict = evaluate(parse_share_policy(FULL), JobFacts(**values))
    assert (verdict.ok, verdict.code) == (refusal is None, refusal)
    assert bool(verdict.message) == bool(verdict.metadata) == (refusal is not None)


def test_deny_wins_where_allow_is_empty() -> None:
    """An empty allow means everybody but the denied."""
    policy = parse_share_policy("accept: {hubs: {deny: [cairo]}}")
    assert evaluate(policy, JOB).code is Refusal.HUB_DENIED
    assert evaluate(policy, replace(JOB, home_hub="x")).ok


def test_the_home_share_is_kept() -> None:
    """Parts are rounded down, GPUs to whole devices, amounts filled up by kind and never above what is there."""
    policy = parse_share_policy(FULL)
    there = {("cpu", ""): 7_999, ("memory", ""): 2**34, ("gpu", "a"): 1_000, ("gpu", "b"): 4_000, ("disk", ""): 101}
    assert offered(policy, there) == {
        ("cpu", ""): 5_999,
        ("memory", ""): 2**34,
        ("gpu", "a"): 1_000,
        ("gpu", "b"): 1_000,
        ("disk", ""): 50,
    }
    half = parse_share_policy('offer: {gpus: "50%"}')
    assert offered(half, {("gpu", "a"): 3_000}) == {("gpu", "a"): 1_000}
    assert offered(replace(half, gpu_fractions=True), {("gpu", "a"): 3_000}) == {("gpu", "a"): 1_500}
    nothing = parse_share_policy('offer: {cpus: 0, memory: "0%"}')
    assert offered(nothing, {("cpu", ""): 8_000, ("memory", ""): 5}) == {("cpu", ""): 0, ("memory", ""): 0}


@pytest.mark.parametrize(
    ("text", "key"),
    [
        ("offers: {}", "offers"),
        ("offer: {cpu: 1}", "cpu"),
        ("accept: {hub: {}}", "hub"),
        ("accept: {hubs: {allowed: []}}", "allowed"),
    ],
)
def test_unknown_keys_are_refused_by_name(text: str, key: str) -> None:
    """A misspelt rule must not silently be no rule."""
    with pytest.raises(FederationError) as caught:
        parse_share_policy(text)
    assert (caught.value.code, caught.value.metadata["key"]) == (Code.UNKNOWN_KEY, key)


@pytest.mark.parametrize(
    "text",
    [
        "- a",
        "1",
        "version: 2",
        "version: true",
        "version: 1\nversion: 1",
        "{1: 2}",
        "{[a]: 2}",
        "[" * 5_000,
        "a: &a [*a]",
        "offer: 2024-13-45",
        'offer: {cpus: "101%"}',
        'offer: {cpus: "-1%"}',
        "offer: {cpus: -1}",
        "offer: {cpus: .nan}",
        "offer: {cpus: .inf}",
        "offer: {cpus: 0.0001}",
        "offer: {cpus: true}",
        f"offer: {{cpus: 0x{'f' * 8000}}}",
        f"reclaim_s: 0x{'f' * 8000}",
        "offer: {cpus: 8Gi}",
        "offer: {memory: 1.5}",
        "offer: {memory: lots}",
        "offer: {memory: 9999999Ti}",
        "offer: []",
        "accept: {engines: spark}",
        "accept: {engines: [cobol]}",
        "accept: {engines: [[]]}",
        "accept: {priorities: [urgent]}",
        "accept: {hubs: {allow: [a], deny: [a]}}",
        "accept: {hubs: {allow: ['']}}",
        "accept: {max_runtime: 31d}",
        "accept: {max_runtime: 0s}",
        "accept: {max_runtime: 60}",
        "accept: {max_replicas: 0}",
        "accept: {gpu_fractions: 1}",
        "reclaim_s: 3601",
        "reclaim_s: '60'",
        "#" * 70_000,
        "!!python/object/apply:os.system [ls]",
        "\x00",
    ],
)
def test_other_mistakes_are_told(text: str) -> None:
    """Wrong types, bounds, versions and texts that are no YAML: never another exception."""
    assert code_of(text) in (Code.CONFIGURATION_INVALID, Code.UNKNOWN_KEY)


def test_a_file_that_is_not_there_is_told(tmp_path: Path) -> None:
    """Or is not text, or is broken TOML."""
    (tmp_path / "bytes.yaml").write_bytes(b"\xff\xfe")
    (tmp_path / "broken.toml").write_text("a = ")
    for name in ("absent.yaml", "bytes.yaml", "broken.toml", "."):
        with pytest.raises(FederationError) as caught:
            load_share_policy(tmp_path / name)
        assert caught.value.code is Code.CONFIGURATION_INVALID
