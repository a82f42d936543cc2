"""Builders that read as words, for the tests of the simulation room."""

from __future__ import annotations

from typing import Any

from federation.domain.hub import HubState, LinkState, Node
from federation.domain.ids import AgentId, HubId
from federation.domain.quantities import Resources, resources
from federation.scheduling import Policy
from federation.scheduling.rows import AgentRow, QueuedJob
from federation.simulation import HistoricJob, JobOutcome, Outcome, Replay

SECOND, MINUTE, HOUR = 1_000, 60_000, 3_600_000


def cpus(count: float, gpus: float = 0, model: str = "") -> Resources:
    """So many cpus and gpus."""
    return resources(("cpu", "", round(count * 1000)), ("gpu", model, round(gpus * 1000)))


def agent(hub: str, *offered: Resources, **changes: Any) -> AgentRow:
    """The agent of `hub` in front of machines n0, n1, ... that offer all they have."""
    values: dict[str, Any] = {"hub_state": HubState.ACTIVE, "link": LinkState.ONLINE, "engines": ("command",)}
    nodes = tuple(Node(f"n{at}", of, of) for at, of in enumerate(offered))
    return AgentRow(key=(HubId(hub), AgentId("main")), nodes=nodes, **(values | changes))


def job(name: str, at_ms: int, runtime_ms: int, per_task: Resources | None = None, **changes: Any) -> HistoricJob:
    """A job of cairo's ada that came at `at_ms`, ran for `runtime_ms`, and asked for one cpu for ten hours at most."""
    values: dict[str, Any] = {
        "home_hub": "cairo", "project": "default", "user": "ada", "engine": "command", "seq": at_ms,
        "runtime_limit_ms": 10 * HOUR,
    }  # fmt: skip
    row = QueuedJob(job_id=name, per_task=per_task or cpus(1), submitted_ms=at_ms, **(values | changes))
    return HistoricJob(row, runtime_ms)


def replayed(agents: list[AgentRow], jobs: list[HistoricJob], **policy: Any) -> Outcome:
    """What came of it."""
    return Replay(agents, Policy(**policy)).run(jobs)


def by_name(outcome: Outcome) -> dict[str, JobOutcome]:
    """Jobs by id."""
    return {one.job_id: one for one in outcome.jobs}


def times(outcome: Outcome) -> dict[str, tuple[int | None, int | None]]:
    """(start, end) by job id."""
    return {one.job_id: (one.start_ms, one.end_ms) for one in outcome.jobs}
