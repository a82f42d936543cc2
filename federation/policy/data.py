"""Who may read a dataset, and whether its bytes may leave its hub.

`open`: every job. `members`: every job of a member hub. `hubs`: jobs of the named hubs, and of the dataset's own.
`compute-to-data`: the bytes never leave their hub, and in this version only that hub's own jobs read them; approved
packages and aggregates of other hubs' jobs come with the federated jobs. Not here: where the bytes lie.
"""

from __future__ import annotations

import enum
from collections.abc import Iterable
from dataclasses import dataclass

from federation.errors import Code, Fault, FederationError
from federation.policy.document import bad, names
from federation.policy.share import YES, Refusal, Verdict, no


class DataAccess(enum.StrEnum):
    """The kinds of data policy."""

    OPEN = "open"
    MEMBERS = "members"
    HUBS = "hubs"
    COMPUTE_TO_DATA = "compute-to-data"


@dataclass(frozen=True, slots=True)
class DataPolicy:
    """One dataset's policy; `readers` are hub ids and only for HUBS."""

    access: DataAccess
    readers: frozenset[str] = frozenset()


def data_policy(access: str, readers: Iterable[str] = ()) -> DataPolicy:
    """The policy by its words. Raises: FederationError CONFIGURATION_INVALID."""
    if access not in set(DataAccess):
        raise FederationError(
            Code.CONFIGURATION_INVALID,
            f"{access[:80]!r} is not a data policy.",
            fault=Fault.CALLER,
            hint=f"It can be {', '.join(DataAccess)}.",
            metadata={"policy": access[:80]},
        )
    hubs = names(list(readers), "readers")
    if bool(hubs) != (access == DataAccess.HUBS):
        raise bad("readers", "must name hubs where the policy is `hubs`, and only there")
    return DataPolicy(DataAccess(access), hubs)


def may_leave(policy: DataPolicy) -> bool:
    """Whether the bytes may be copied to a hub other than their own, for a job that may read them."""
    return policy.access is not DataAccess.COMPUTE_TO_DATA


def may_stage(policy: DataPolicy, *, dataset_hub: str, job_hub: str, run_hub: str) -> Verdict:
    """Whether the bytes may be copied to `run_hub` for a job: it may read them there, and so might that hub's own jobs.

    Whose machines hold a copy can read it, whatever anybody agreed on.
    """
    readable = may_read(policy, dataset_hub=dataset_hub, job_hub=job_hub, run_hub=run_hub)
    if not readable.ok:
        return readable
    return may_read(policy, dataset_hub=dataset_hub, job_hub=run_hub, run_hub=run_hub)


def may_read(policy: DataPolicy, *, dataset_hub: str, job_hub: str, run_hub: str) -> Verdict:
    """Whether a job may read the dataset where it would run.

    `dataset_hub` holds the data, `job_hub` vouches for the job's owner (empty: nobody does), `run_hub` would run it.
    """
    if run_hub != dataset_hub and not may_leave(policy):
        return no(Refusal.DATA_STAYS_HOME, f"The data may not leave {dataset_hub}.", dataset_hub=dataset_hub)
    allowed = (
        policy.access is DataAccess.OPEN
        or (job_hub != "" and job_hub == dataset_hub)
        or (policy.access is DataAccess.MEMBERS and job_hub != "")
        or (policy.access is DataAccess.HUBS and job_hub in policy.readers)
    )
    if allowed:
        return YES
    return no(
        Refusal.DATA_READER_DENIED,
        f"Its policy ({policy.access}) lets no job of {job_hub or 'an unknown hub'} read the data.",
        policy=policy.access.value,
        job_hub=job_hub,
    )
