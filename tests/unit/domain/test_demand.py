"""What a spec may ask for: GPUs in parts or whole, of one kind or of either, and nothing else by kind."""

from __future__ import annotations

import pytest

from federation.domain.job import GPU_KINDS_MAX, check_spec
from federation.domain.quantities import Amount, Resources, resources, summed_kinds
from federation.errors import Code, FederationError
from tests.support.builders import a_spec

MANY = tuple(f"kind-{number}" for number in range(GPU_KINDS_MAX + 1))


def asking(*amounts: tuple[str, str, int]) -> Resources:
    """A task of one cpu and these."""
    return resources(("cpu", "", 1_000), *amounts)


@pytest.mark.parametrize(
    "amounts",
    [
        [("gpu", "", 1)],
        [("gpu", "", 999)],
        [("gpu", "nvidia/A100", 1_000)],
        [("gpu", "nvidia/A100|nvidia/H100", 8_000)],
        [("gpu", "|".join(MANY[:-1]), 500)],
        [("memory", "", 1), ("disk", "", 1)],
    ],
)
def test_parts_of_one_device_and_whole_devices_are_taken(amounts: list[tuple[str, str, int]]) -> None:
    """Up to one device any part of it, above one whole devices."""
    spec = a_spec(per_task=asking(*amounts))
    assert check_spec(spec) is spec


@pytest.mark.parametrize(
    ("amounts", "field"),
    [
        ([("gpu", "", 1_001)], "resources.gpus"),
        ([("gpu", "", 2_500)], "resources.gpus"),
        ([("gpu", "a", 500), ("gpu", "b", 500)], "resources.gpu_model"),
        ([("gpu", "", 500), ("gpu", "b", 500)], "resources.gpu_model"),
        ([("gpu", "a|", 500)], "resources.gpu_model"),
        ([("gpu", "a|a", 500)], "resources.gpu_model"),
        ([("gpu", "a| b", 500)], "resources.gpu_model"),
        ([("gpu", "|".join(MANY), 500)], "resources.gpu_model"),
        ([("memory", "ddr5", 1)], "resources"),
        ([("disk", "ssd", 1)], "resources"),
    ],
)
def test_what_no_machine_could_give_is_refused_by_field(amounts: list[tuple[str, str, int]], field: str) -> None:
    """One and a half devices, two kinds side by side, kinds that are none, and kinds of what has none."""
    with pytest.raises(FederationError) as refused:
        check_spec(a_spec(per_task=asking(*amounts)))
    assert (refused.value.code, refused.value.metadata["field"]) == (Code.INVALID_ARGUMENT, field)


def test_a_report_of_kinds_is_summed_but_for_gpus() -> None:
    """A hub that tells its memory apart offers the sum of it."""
    told = resources(("memory", "ddr4", 3), ("memory", "ddr5", 4), ("gpu", "a", 500), ("gpu", "b", 1_000))
    assert summed_kinds(told) == (Amount("gpu", "a", 500), Amount("gpu", "b", 1_000), Amount("memory", "", 7))
