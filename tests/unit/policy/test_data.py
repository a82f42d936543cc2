"""Data policies: who reads, where, and what never leaves its hub."""

from __future__ import annotations

from collections.abc import Iterable

import pytest

from federation.errors import Code, FederationError
from federation.policy.data import data_policy, may_leave, may_read, may_stage
from federation.policy.share import Refusal

STAYS, DENIED = Refusal.DATA_STAYS_HOME, Refusal.DATA_READER_DENIED


@pytest.mark.parametrize(
    ("access", "readers", "by_hub"),
    [
        # read at cairo, where the data is, by a job of: cairo, shenzhen, kuala-lumpur, nobody
        ("open", (), (None, None, None, None)),
        ("members", (), (None, None, None, DENIED)),
        ("hubs", ("shenzhen",), (None, None, DENIED, DENIED)),
        ("compute-to-data", (), (None, DENIED, DENIED, DENIED)),
    ],
)
def test_who_reads_where_the_data_is(access: str, readers: tuple[str, ...], by_hub: tuple[Refusal | None, ...]) -> None:
    """The whole table."""
    policy = data_policy(access, readers)
    hubs = ("cairo", "shenzhen", "kuala-lumpur", "")
    found = tuple(may_read(policy, dataset_hub="cairo", job_hub=hub, run_hub="cairo").code for hub in hubs)
    assert found == by_hub


def test_only_compute_to_data_stays() -> None:
    """Even the owner's own job does not carry it away; the others travel with those who may read them."""
    for access, readers in (("open", []), ("members", []), ("hubs", ["x"])):
        policy = data_policy(access, readers)
        assert may_leave(policy)
        assert may_read(policy, dataset_hub="cairo", job_hub="cairo", run_hub="shenzhen").ok
    kept = data_policy("compute-to-data")
    assert not may_leave(kept)
    assert may_read(kept, dataset_hub="cairo", job_hub="cairo", run_hub="shenzhen").code is STAYS


def test_bytes_come_only_to_hubs_that_may_read_them_for_jobs_that_may_read_them() -> None:
    """Of cairo's data: for shenzhen's job to shenzhen or tunis, for tunis's job to shenzhen, and to cairo itself."""

    def verdicts(access: str, *readers: str) -> tuple[Refusal | None, ...]:
        policy = data_policy(access, readers)
        pairs = (
            ("shenzhen", "shenzhen"),
            ("shenzhen", "tunis"),
            ("tunis", "shenzhen"),
            ("cairo", "cairo"),
            ("", "tunis"),
        )
        return tuple(may_stage(policy, dataset_hub="cairo", job_hub=job, run_hub=run).code for job, run in pairs)

    assert verdicts("open") == (None, None, None, None, None)
    assert verdicts("members") == (None, None, None, None, DENIED)
    assert verdicts("hubs", "shenzhen") == (None, DENIED, DENIED, None, DENIED)
    assert verdicts("compute-to-data") == (STAYS, STAYS, STAYS, None, STAYS)


@pytest.mark.parametrize(
    ("access", "readers"),
    [("", []), ("OPEN", []), ("secret", []), ("hubs", []), ("open", ["cairo"]), ("hubs", [""]), ("hubs", ["x" * 300])],
)
def test_other_words_are_refused(access: str, readers: Iterable[str]) -> None:
    """A policy that is not understood is not taken for an open one."""
    with pytest.raises(FederationError) as caught:
        data_policy(access, readers)
    assert caught.value.code is Code.CONFIGURATION_INVALID
