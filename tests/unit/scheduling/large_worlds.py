"""Federations of some size, that go on for many rounds: more of everything than `worlds.py` draws, and all of it together.

Little is absurd here: machines are full, so that turns, promises, quotas, taking back and moving data meet each other.
"""

from __future__ import annotations

from dataclasses import replace
from itertools import product

from federation.domain.hub import Dataset, HubState, LinkState, Node
from federation.domain.ids import AgentId, AgentKey, HubId
from federation.domain.quantities import resources
from federation.scheduling import Delta, Plan, PlannerState, Policy
from federation.scheduling.policy import Order
from federation.scheduling.rows import AgentRow, ClaimRow, LeaseRow, LinkRow, OwnerKey, QueuedJob, WindowRow
from tests.unit.scheduling.worlds import MODELS, POLICIES, World

HUBS = ("cairo", "kuala-lumpur", "shenzhen", "lagos")
KEYS: tuple[AgentKey, ...] = tuple((HubId(hub), AgentId(name)) for hub in HUBS for name in "abcd")
JOBS_MAX = 140
SORTS_MAX = 12


class LargeWorld(World):
    """Draws rows from one seed; what was planned comes back as leases, claims and ends."""

    def __init__(self, seed: int) -> None:
        super().__init__(seed)
        self.wild, self.full = False, True
        self.fetching = self.dice.choice((0.0, 0.5, 0.9))
        self.sorts = [self.task() for _ in range(self.dice.randint(2, SORTS_MAX))]
        self.kinds_of_job = [self.job(at) for at in range(self.dice.randint(3, 25))]
        self.taking_back = self.dice.choice((0.0, 0.2, 0.5))
        self.number, self.now_ms = 0, 0

    def some_hubs(self, share: float) -> tuple[str, ...]:
        """Mostly none."""
        return tuple(self.dice.sample(HUBS, self.dice.randint(1, 3))) if self.chance(share) else ()

    def owner(self) -> OwnerKey:
        """One of more people."""
        return (self.dice.choice(HUBS), self.dice.choice("pq"), self.dice.choice(("ada", "bo", "cy")))

    def machine(self, at: int) -> Node:
        """Never nothing."""
        has = [("cpu", "", self.dice.randint(2, 6)), ("memory", "", self.dice.randint(3, 10))]
        if self.chance(0.4):
            has.append(("gpu", self.dice.choice(MODELS), self.dice.choice((1000, 2000, 2500, 4000))))
        offered = resources(*has)
        return Node(f"n{at}", offered, offered)

    def agent(self, key: AgentKey) -> AgentRow:
        """Mostly one that takes work, on ten machines and more."""
        return AgentRow(
            key=key,
            hub_state=HubState.DRAINING if self.chance(0.03) else HubState.ACTIVE,
            link=self.dice.choice((LinkState.SUSPECT, LinkState.LOST)) if self.chance(0.05) else LinkState.ONLINE,
            nodes=tuple(self.machine(at) for at in range(self.dice.choice((0, 2, 5, 10, 12, 14)))),
            reclaim_ms=self.dice.choice((0, 20, 60)),
            takes_back=self.chance(self.taking_back),
            engines=("command", "spark") if self.chance(0.9) else ("command",),
            datasets=tuple(self.dataset() for _ in range(self.dice.choice((0, 0, 1, 2)))),
            fetches=self.chance(self.fetching),
        )

    def dataset(self) -> Dataset:
        """One of few, mostly of a policy that lets it go."""
        name, policy = (
            self.dice.choice(("flights", "roads")),
            "open" if self.chance(0.6) else self.dice.choice(POLICIES),
        )
        return Dataset(name, self.dice.choice("12"), self.size(), policy, readers=self.some_hubs(0.7))

    def links(self) -> tuple[LinkRow, ...]:
        """Between most hubs."""
        return tuple(
            LinkRow(*pair, self.dice.choice((1, 500, 1_000, 1_000)), self.dice.choice((0, 1, 7)))
            for pair in product(HUBS, HUBS)
            if self.fetching and self.chance(0.8)
        )

    def agents(self) -> tuple[AgentRow, ...]:
        """Six to sixteen."""
        rows = tuple(self.agent(key) for key in KEYS if self.chance(0.7))
        self.there |= {row.key: row for row in rows if row.nodes}
        return rows

    def job(self, at: int) -> QueuedJob:
        """As in small worlds, with names of these hubs and more tasks."""
        job = super().job(at)
        inputs = tuple((self.dice.choice(("flights", "roads")), self.dice.choice(("", "1", "2"))) for _ in range(2))
        return replace(
            job,
            inputs=inputs[: self.dice.randint(1, 2)] if self.chance(self.fetching / 2) else (),
            replicas=self.dice.choice((1, 1, 1, 2, 3, 8, 20)),
            runtime_limit_ms=self.dice.choice((5, 20, 20, 60, 60, 400_000)),
        )

    def fresh_jobs(self, most: int) -> tuple[QueuedJob, ...]:
        """Of few sorts, from everybody."""
        found = []
        for _ in range(self.dice.randint(most // 3, most)):
            self.number += 1
            hub, project, user = self.owner()
            like = self.dice.choice(self.kinds_of_job)
            found.append(
                replace(
                    like,
                    job_id=f"job-{self.number:04d}",
                    seq=self.dice.randint(0, 50),
                    home_hub=hub,
                    project=project,
                    user=user,
                    priority=self.dice.choice((1, 3, 3, 3, 4)),
                    runtime_limit_ms=like.runtime_limit_ms if self.chance(0.8) else self.dice.choice((5, 20, 60, 200)),
                    submitted_ms=self.dice.randint(0, 30),
                    expected_ms=0 if self.chance(0.7) else 5,
                    preemptible=self.chance(0.4),
                    window=like.window if self.chance(0.7) else self.window_id(),
                )
            )
        return tuple(found)

    def quotas(self) -> dict[tuple[str, ...], dict[str, int]]:
        """Of amounts that several jobs fill."""
        drawn = super().quotas()
        return {level: {name: 4 * amount for name, amount in quota.items()} for level, quota in drawn.items()}

    def policy(self) -> Policy:
        """Anything together."""
        owners = [self.owner() for _ in range(3)]
        return Policy(
            hub_weights={hub: self.dice.choice((0.5, 1.0, 2.0)) for hub in HUBS if self.chance(0.5)},
            user_weights=dict.fromkeys(owners, 2.0),
            placements_max=self.dice.choice((3, 40, 10_000, 10_000)),
            reservations=self.dice.choice((None, None, 1, 2, 10)),
            order=self.dice.choice(tuple(Order)),
            promise_after_ms=self.dice.choice((None, 0, 0, 4, 15)),
            quotas=self.quotas() if self.chance(0.5) else {},
        )

    def beginning(self) -> Delta:
        """A whole federation."""
        return Delta(
            agents=self.agents(),
            queued=self.fresh_jobs(JOBS_MAX),
            leases_started=self.leases(range(12)),
            usage=self.usage(),
            links=self.links(),
            windows=self.windows(),
        )

    def window(self, at: int) -> WindowRow:
        """Not long ago, or soon."""
        row, later = super().window(at), max(0, self.now_ms - 10)
        return replace(row, start_ms=row.start_ms + later, end_ms=row.end_ms + later, no_show_ms=row.no_show_ms + later)

    def going_on(self, state: PlannerState, plan: Plan, now_ms: int) -> Delta:
        """The next delta: most of the plan, what ended, and now and then agents, links, windows and jobs that change."""
        self.now_ms = now_ms
        started = [
            LeaseRow(
                f"of-{entry.job_id}",
                entry.job_id,
                entry.key,
                entry.nodes,
                (job := state.job(entry.job_id)).per_task,
                *job.owner,
                now_ms + job.runtime_limit_ms,
                now_ms,
                entry.devices if self.chance(0.95) else (),
                job.preemptible,
                window=job.window,
            )
            for entry in plan.placements
            if self.chance(0.9)
        ]
        taken = {row.job_id for row in started}
        claims = [
            ClaimRow(made.job_id, made.key, made.nodes, made.victims, made.devices)
            for made in plan.preemptions
            if made.job_id not in taken and self.chance(0.9)
        ]
        victims = {name for claim in state.claims.values() for name in claim.victims}
        ended = [
            name
            for name, row in state.leases.items()
            if self.chance(0.7 if name in victims or row.expires_ms <= now_ms else 0.1)
        ]
        changed = tuple(self.changed(state, key) for key in KEYS if self.chance(0.06))
        links = self.links() if self.chance(0.15) else ()
        windows = self.windows() if self.chance(0.3) else ()
        waits = [job_id for job_id in state.queue.ids() if job_id not in taken]
        again = [
            replace(
                (job := state.job(job_id)),
                runtime_limit_ms=77 if self.chance(0.3) else job.runtime_limit_ms,
                expected_ms=0,
                hubs_refused=self.some_hubs(0.5),
            )
            for job_id in waits
            if self.chance(0.05)
        ]
        names = {job.job_id for job in again}
        return Delta(
            agents=changed,
            agents_removed=tuple(key for key in KEYS if key not in {row.key for row in changed} and self.chance(0.02)),
            queued=(*again, *self.fresh_jobs(JOBS_MAX // 4)),
            dequeued=tuple(job_id for job_id in waits if job_id not in names and self.chance(0.05)),
            leases_started=tuple(started),
            leases_ended=tuple(ended),
            usage=self.usage() if self.chance(0.4) else (),
            claims_made=tuple(claims),
            links=links,
            links_removed=tuple(
                ends for ends in sorted(state.links) if ends not in {row.ends for row in links} and self.chance(0.05)
            ),
            claims_ended=tuple(
                job_id for job_id in state.claims if job_id not in {row.job_id for row in claims} and self.chance(0.1)
            ),
            windows=windows,
            windows_ended=tuple(
                name
                for name in sorted(state.windows.rows)
                if name not in {row.window_id for row in windows} and self.chance(0.2)
            ),
        )

    def changed(self, state: PlannerState, key: AgentKey) -> AgentRow:
        """Another agent of that name, or the same with one thing changed."""
        before = state.agents.get(key)
        if before is None or self.chance(0.3):
            return self.agent(key)
        other = self.agent(key)
        what = self.dice.choice(("nodes", "link", "datasets", "fetches", "takes_back", "reclaim_ms", "engines", "one"))
        if what == "one" and before.nodes:
            at = self.dice.randrange(len(before.nodes))
            nodes = list(before.nodes)
            nodes[at] = replace(self.machine(at), name=nodes[at].name)
            self.dice.shuffle(nodes) if self.chance(0.2) else None
            return replace(before, nodes=tuple(nodes))
        return replace(before, **{what: getattr(other, what)}) if what != "one" else before
