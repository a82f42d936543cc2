"""Hubs' share policies in a replay: what they would offer, how fast they take it back, and which jobs they would refuse.

In the live federation a hub's own admission says no to a job, which is then queued again and not offered to that hub any
more. A replay foresees the same no by the same rules (`federation/policy/share.py`) and writes it into the job at once.
Deliberately not here: what the rules are, and the order of the queue.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import replace

from federation.domain.hub import Node
from federation.domain.job import Priority
from federation.domain.quantities import GPU, amount_of, resources
from federation.policy.share import JobFacts, SharePolicy, evaluate, offered
from federation.scheduling.rows import AgentRow, QueuedJob
from federation.simulation.replay import HistoricJob

Shares = Mapping[str, SharePolicy]
"""By hub; a hub that is not named offers what it did, and refuses nobody."""


def agents_under(shares: Shares, agents: Iterable[AgentRow]) -> tuple[AgentRow, ...]:
    """The agents as their hubs would offer them: machine by machine, as each agent does for its own."""
    return tuple(_agent_under(shares[row.key[0]], row) if row.key[0] in shares else row for row in agents)


def _agent_under(policy: SharePolicy, row: AgentRow) -> AgentRow:
    return replace(
        row,
        nodes=tuple(_node_under(policy, node) for node in row.nodes),
        reclaim_ms=policy.reclaim_s * 1_000,
        takes_back=policy.takes_back,
    )


def _node_under(policy: SharePolicy, node: Node) -> Node:
    there = {(name, kind): amount for name, kind, amount in node.capacity}
    kept = [(name, kind, amount) for (name, kind), amount in sorted(offered(policy, there).items()) if amount > 0]
    return replace(node, offered=resources(*kept))


def jobs_under(shares: Shares, jobs: Iterable[HistoricJob]) -> tuple[HistoricJob, ...]:
    """The jobs, each with the hubs that would refuse it. Jobs that look alike to the policies are asked about once."""
    known: dict[JobFacts, tuple[str, ...]] = {}
    result = []
    for job in jobs:
        facts = facts_of(job.row)
        refused = known.get(facts)
        if refused is None:
            refused = known[facts] = tuple(
                sorted(hub_id for hub_id, policy in shares.items() if not evaluate(policy, facts).ok)
            )
        if refused:
            named = tuple(sorted({*job.row.hubs_refused, *refused})) if job.row.hubs_refused else refused
            job = replace(job, row=replace(job.row, hubs_refused=named))  # noqa: PLW2901  # the same job, with its noes
        result.append(job)
    return tuple(result)


def facts_of(row: QueuedJob) -> JobFacts:
    """What a hub's policy looks at."""
    return JobFacts(
        home_hub=row.home_hub,
        project=row.project,
        engine=row.engine,
        priority=Priority(row.priority).name.lower(),
        replicas=row.replicas,
        runtime_limit_ms=row.runtime_limit_ms,
        gpu_milli=amount_of(row.per_task, GPU),
    )
