"""The twin's quotas: what everybody holds, and may hold, by name."""

from __future__ import annotations

from collections import Counter

from federation.domain.quantities import Resources
from federation.scheduling.policy import Policy
from federation.scheduling.reference.room import NAMES, amount
from federation.scheduling.rows import QueuedJob

Owner = tuple[str, str, str]


class Ledger:
    """What hubs, projects and users hold."""

    def __init__(self, policy: Policy) -> None:
        self.policy = policy
        self.held: dict[tuple[str, ...], Counter[str]] = {}

    def hold(self, owner: Owner, task: Resources, tasks: int) -> None:
        """So many tasks more."""
        for depth in (1, 2, 3):
            held = self.held.setdefault(owner[:depth], Counter())
            for name in NAMES:
                held[name] += amount(task, name) * tasks

    def over(self, job: QueuedJob) -> bool:
        """Whether a job would take anybody above what they may hold."""
        for depth in (1, 2, 3):
            level = job.owner[:depth]
            held = self.held.get(level, Counter())
            for name, cap in self.quota(level).items():
                need = amount(job.per_task, name) * job.replicas
                if need and held[name] + need > cap:
                    return True
        return False

    def quota(self, level: tuple[str, ...]) -> dict[str, int]:
        """Its own, that of others there, that of others anywhere."""
        quotas = self.policy.quotas
        if level in quotas:
            return dict(quotas[level])
        if (*level[:-1], "*") in quotas:
            return dict(quotas[*level[:-1], "*"])
        return dict(quotas.get(tuple("*" for _ in level), {}))
