"""Any text, any mapping: a spec or a FederationError, never anything else."""

from __future__ import annotations

from typing import Any

import yaml
from hypothesis import example, given, settings
from hypothesis import strategies as st

from federation.client.quantity import AMOUNT_MAX, parse_bytes, parse_duration_ms, parse_milli
from federation.client.specfile import (
    _ENVIRONMENT,
    _HUBS,
    _INPUT,
    _RESOURCES,
    _TOP,
    Draft,
    draft_from_mapping,
    draft_from_text,
)
from federation.errors import FederationError
from federation.v1 import job_pb2

KEYS = st.sampled_from([*_TOP, *_RESOURCES, *_ENVIRONMENT, *_INPUT, *_HUBS]) | st.text(max_size=8)
SCALARS = (
    st.none()
    | st.booleans()
    | st.integers()
    | st.integers(min_value=10**30, max_value=10**40)
    | st.floats()
    | st.text(max_size=30)
    | st.sampled_from(["spark", "ray", "batch", "keep", "2Gi", "10m", "a.py", "1e999", "../x", "\x00"])
    | st.dates()
    | st.binary(max_size=8)
)
VALUES = st.recursive(
    SCALARS, lambda inner: st.lists(inner, max_size=4) | st.dictionaries(KEYS, inner, max_size=4), max_leaves=12
)
YAML_SCRAPS = st.lists(
    st.sampled_from(
        ["engine: spark\n", "entrypoint: a.py\n", "name: ", "x", "&a ", "*a", "!!int ", "!!binary ", "!x ", "<<: ",
         "[", "]", "{", "}", ",", ": ", "- ", "\n", "  ", "? ", "|\n", ">\n", "'", '"', "#", "%YAML 1.1\n", "---\n",
         "...\n", "2024-13-40", "0o9", "0x", "1:99:99", ".inf", "~", "\t", "\u2028", "\x85", "=", "@", "`"]
    ),
    max_size=25,
).map("".join)  # fmt: skip


def spec_or_error(make: Any) -> Draft | None:
    """The draft; None where the answer was a FederationError."""
    try:
        draft = make()
    except FederationError:
        return None
    assert isinstance(draft, Draft)
    return draft


@settings(max_examples=400, deadline=None)
@given(st.text() | YAML_SCRAPS)
@example("a: " + "[" * 5_000)
@example("- " * 5_000)
@example("? " * 5_000)
@example("!!timestamp 2024-01-01T00:00:00+99:99")
@example("engine: !!python/name:os.system")
def test_any_text_gives_a_spec_or_a_federation_error(text: str) -> None:
    """Nothing that a stranger writes ends in another exception."""
    spec_or_error(lambda: draft_from_text(text))


@settings(max_examples=400, deadline=None)
@given(st.dictionaries(KEYS, VALUES, max_size=8))
def test_any_mapping_gives_a_spec_that_can_travel_or_a_federation_error(mapping: dict[str, Any]) -> None:
    """And what can travel comes back the same."""
    draft = spec_or_error(lambda: draft_from_mapping({"engine": "spark", "entrypoint": "a.py", **mapping}))
    if draft is not None:
        sent = draft.spec.SerializeToString(deterministic=True)
        assert job_pb2.JobSpec.FromString(sent) == draft.spec


@settings(max_examples=200, deadline=None)
@given(
    st.fixed_dictionaries(
        {"engine": st.sampled_from(["spark", "ray", "lab", "command"]), "entrypoint": st.text(min_size=1, max_size=20)},
        optional={
            "arguments": st.lists(st.text(max_size=20), max_size=5),
            "tracking": st.booleans(),
            "resources": st.fixed_dictionaries(
                {}, optional={"cpus": st.integers(0, 1_000), "memory": st.integers(0, 2**40)}
            ),
        },
    )
)
@example({"engine": "spark", "entrypoint": "\x85"})  # a line break to YAML, unless it is escaped
def test_yaml_and_mapping_mean_the_same(mapping: dict[str, Any]) -> None:
    """A mapping that is written as YAML and read again gives the same spec, or the same refusal."""
    direct = spec_or_error(lambda: draft_from_mapping(mapping))
    read = spec_or_error(lambda: draft_from_text(yaml.safe_dump(mapping)))
    assert (direct and direct.spec) == (read and read.spec)


@given(st.integers(0, AMOUNT_MAX))
def test_plain_bytes_are_themselves(size: int) -> None:
    """As a number and as a text."""
    assert parse_bytes(size, "x") == parse_bytes(str(size), "x") == size


@given(st.integers(0, 10**9))
def test_thousandths_written_as_decimals_are_exact(milli: int) -> None:
    """No float comes between."""
    assert parse_milli(f"{milli // 1000}.{milli % 1000:03d}", "x") == milli


@given(st.integers(0, 20), st.integers(0, 23), st.integers(0, 59), st.integers(0, 59))
def test_durations_add_up(days: int, hours: int, minutes: int, seconds: int) -> None:
    """1d2h3m4s is the sum of its parts."""
    total_s = ((days * 24 + hours) * 60 + minutes) * 60 + seconds
    assert parse_duration_ms(f"{days}d{hours}h{minutes}m{seconds}s", "x") == total_s * 1000
