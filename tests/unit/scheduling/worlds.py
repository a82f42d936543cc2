"""Whole federations out of one seed, crowded enough that agents compete, gangs spread and jobs wait.

The seeds come from Hypothesis; a seed that fails becomes a named case in the tests.
"""

from __future__ import annotations

import random
from dataclasses import replace
from itertools import product

from federation.domain.hub import Dataset, HubState, LinkState, Node
from federation.domain.ids import AgentId, AgentKey, HubId
from federation.domain.quantities import AMOUNT_MAX, Resources, need_of, resources
from federation.scheduling import Delta, Policy
from federation.scheduling.policy import Order
from federation.scheduling.rows import AgentRow, ClaimRow, LeaseRow, LinkRow, OwnerKey, QueuedJob, UsageRow, WindowRow

HUBS = ("cairo", "kuala-lumpur", "shenzhen")
KEYS: tuple[AgentKey, ...] = tuple((HubId(hub), AgentId(name)) for hub in HUBS for name in ("a", "b"))
MODELS = ("nvidia/A100", "nvidia/T4")
POLICIES = ("open", "members", "hubs", "compute-to-data", "from-the-future")
WEIGHTS = (0.5, 1.0, 2.0)
JOBS, LEASES = 24, 6
WINDOWS = 4


class World:
    """Draws rows from one seed. A wild world has absurd amounts too."""

    def __init__(self, seed: int) -> None:
        self.dice = random.Random(seed)
        self.wild = self.chance(0.1)
        self.picky = self.dice.choice((0.0, 0.3))
        self.fetching = self.dice.choice((0.0, 0.0, 0.8))
        self.sorts = [self.task() for _ in range(self.dice.randint(1, 4))]
        self.full = self.chance(0.3)
        """Leases lie on machines that there are, and most are guests that may be preempted."""
        self.there: dict[AgentKey, AgentRow] = {}
        self.put: dict[str, QueuedJob] = {}
        """Jobs as they were put last, when changes were drawn."""
        self.classes = self.chance(0.5)
        """Capacity is promised to some."""

    def chance(self, share: float) -> bool:
        """True so often."""
        return self.dice.random() < share

    def amount(self, most: int) -> int:
        """0 to `most`, or anything in a wild world."""
        if self.wild and self.chance(0.3):
            return self.dice.choice((0, 1, 10**6, AMOUNT_MAX // 128))
        return self.dice.randint(0, most)

    def gpus(self, most: int) -> int:
        """Whole devices, or a share of one."""
        return self.dice.randint(0, most) * 1000 or self.dice.choice((0, 250, 500))

    def some_hubs(self, share: float) -> tuple[str, ...]:
        """Mostly none."""
        return tuple(self.dice.sample(HUBS, self.dice.randint(1, 2))) if self.chance(share) else ()

    def owner(self) -> OwnerKey:
        """One of a few people."""
        return (self.dice.choice(HUBS), self.dice.choice("pq"), self.dice.choice(("ada", "bo")))

    def task(self) -> Resources:
        """What one task asks for: never nothing."""
        asked = [("cpu", "", self.dice.randint(1, 4)), ("memory", "", self.amount(4))]
        if self.chance(0.4):
            asked.append(("gpu", self.dice.choice(("", "|".join(MODELS), *MODELS)), self.gpus(2)))
        return resources(*asked)

    def machine(self, at: int) -> Node:
        """What one machine offers: sometimes nothing."""
        has = [("cpu", "", self.amount(12)), ("memory", "", self.amount(12))]
        if self.chance(0.5):
            has += [("gpu", kind, self.gpus(4)) for kind in self.dice.sample(("", *MODELS), self.dice.randint(1, 2))]
        offered = resources(*has)
        return Node(f"n{at}", offered, offered)

    def agent(self, key: AgentKey) -> AgentRow:
        """Mostly one that takes work."""
        return AgentRow(
            key=key,
            hub_state=HubState.DRAINING if self.chance(0.1) else HubState.ACTIVE,
            link=self.dice.choice((LinkState.SUSPECT, LinkState.LOST)) if self.chance(0.1) else LinkState.ONLINE,
            nodes=tuple(self.machine(at) for at in range(self.dice.randint(0, 4))),
            reclaim_ms=self.dice.choice((0, 20, 60)),
            takes_back=self.chance(0.2),
            engines=("command", "spark") if self.chance(0.8) else (),
            datasets=tuple(self.dataset() for _ in range(self.dice.randint(0, 2))),
            fetches=self.chance(self.fetching),
        )

    def dataset(self) -> Dataset:
        """One of few; where data moves, mostly data that may."""
        policy = "open" if self.fetching and self.chance(0.5) else self.dice.choice(POLICIES)
        return Dataset("flights", self.dice.choice("12"), self.size(), policy, readers=self.some_hubs(0.7))

    def size(self) -> int:
        """Of a dataset: mostly some bytes, which take as many ms; 0 is unknown."""
        return self.dice.choice((0, AMOUNT_MAX)) if self.chance(0.1) else self.dice.choice((1, 5, 8, 20))

    def links(self) -> tuple[LinkRow, ...]:
        """Between most hubs, also of one that has no agent; none where nobody fetches."""
        ends = [(source, target) for source in (*HUBS, "nowhere") for target in HUBS]
        return tuple(
            LinkRow(*pair, self.dice.choice((1, 500, 1_000, 1_000, AMOUNT_MAX)), self.dice.choice((0, 1)))
            for pair in ends
            if self.fetching and self.chance(0.7)
        )

    def agents(self) -> tuple[AgentRow, ...]:
        """None to six."""
        rows = tuple(self.agent(key) for key in KEYS if self.chance(0.7))
        self.there |= {row.key: row for row in rows if row.nodes}
        return rows

    def job(self, at: int) -> QueuedJob:
        """One of few sorts; arrival places may be equal."""
        hub, project, user = self.owner()
        names = ("flights", "flights", "nobodys") if not self.fetching else ("flights",) * 9 + ("nobodys",)
        wanted = [
            (self.dice.choice(names), self.dice.choice(("", "1", "2"))) for _ in range(self.dice.choice((1, 1, 2)))
        ]
        return QueuedJob(
            job_id=f"job-{at:02d}",
            seq=self.dice.randint(0, 12),
            home_hub=hub,
            project=project,
            user=user,
            engine="spark" if self.chance(0.2) else "command",
            per_task=self.dice.choice(self.sorts),
            replicas=self.dice.choice((1, 1, 1, 2, 5)),
            priority=self.dice.choice((1, 3, 3, 4)),
            inputs=tuple(wanted) if self.chance(max(self.picky, self.fetching)) else (),
            hubs_allow=self.some_hubs(self.picky),
            hubs_deny=self.some_hubs(self.picky),
            hubs_prefer=self.some_hubs(self.picky),
            hubs_refused=self.some_hubs(self.picky),
            runtime_limit_ms=self.dice.choice((5, 20, 20, 60, 100, 400_000)),
            submitted_ms=self.dice.randint(0, 9),
            spread=self.chance(0.2),
            preemptible=self.chance(0.3),
            window=self.window_id(),
        )

    def jobs(self, ids: range = range(JOBS)) -> tuple[QueuedJob, ...]:
        """Some of these ids."""
        share = self.dice.random()
        return tuple(self.job(at) for at in ids if self.chance(share))

    def again(self, job: QueuedJob) -> QueuedJob:
        """Often it asks for the same room for as long as it did when it was put last."""
        old = self.put.get(job.job_id)
        if old is not None and self.chance(0.5):
            job = replace(job, per_task=old.per_task, replicas=old.replicas, runtime_limit_ms=old.runtime_limit_ms)
        self.put[job.job_id] = job
        return job

    def lease(self, at: int) -> LeaseRow:
        """Also on agents and nodes that are not there, also of more than is offered."""
        hub, project, user = self.owner()
        task, tasks = self.dice.choice(self.sorts), self.dice.randint(1, 2)
        wanted = need_of(task).devices
        named = tuple(tuple(self.dice.sample(range(max(6, wanted)), wanted)) for _ in range(tasks))
        key, names = self.dice.choice(KEYS), ["n0", "n1", "n2", "n9"]
        if self.full and self.there:
            key = self.dice.choice(sorted(self.there))
            names = [node.name for node in self.there[key].nodes]
        return LeaseRow(
            lease_id=f"lease-{at}",
            job_id=f"held-{at}",
            key=key,
            nodes=tuple(self.dice.choice(names) for _ in range(tasks)),
            per_task=task,
            devices=named if wanted and self.chance(0.7) else (),
            home_hub=hub,
            project=project,
            user=user,
            expires_ms=self.dice.randint(0, 100),
            started_ms=self.dice.choice((0, 1, 3, 5)),
            preemptible=self.chance(0.9 if self.full else 0.5),
            window=self.window_id(),
        )

    def window_id(self) -> str:
        """Of a class, where there are any; also one that nobody knows."""
        return f"window-{self.dice.randint(0, WINDOWS)}" if self.classes and self.chance(0.4) else ""

    def window(self, at: int) -> WindowRow:
        """Begun or not, with more room than is there, on machines that are not there."""
        task, seats = self.dice.choice(self.sorts), self.dice.randint(1, 4)
        wanted = need_of(task).devices
        named = tuple(tuple(self.dice.sample(range(max(4, wanted)), wanted)) for _ in range(seats))
        start_ms = self.dice.choice((0, 2, 7, 10, 25, 60))
        end_ms = start_ms + self.dice.choice((5, 20, 100))
        return WindowRow(
            window_id=f"window-{at}",
            key=self.dice.choice(sorted(self.there) or KEYS),
            per_task=task,
            nodes=tuple(self.dice.choice(("n0", "n0", "n1", "n2", "n9")) for _ in range(seats)),
            start_ms=start_ms,
            end_ms=end_ms,
            no_show_ms=self.dice.randint(start_ms, end_ms),
            devices=named if wanted and self.chance(0.7) else (),
            taken=self.dice.choice((0, 0, 1, 3)),
        )

    def windows(self) -> tuple[WindowRow, ...]:
        """In half of the worlds, some."""
        return tuple(self.window(at) for at in range(WINDOWS) if self.chance(0.6)) if self.classes else ()

    def claims(self, jobs: tuple[QueuedJob, ...], leases: tuple[LeaseRow, ...]) -> tuple[ClaimRow, ...]:
        """Of a few of the jobs; some victims have ended."""
        return tuple(self.claim(job, leases) for job in jobs if self.chance(0.05))

    def claim(self, job: QueuedJob, leases: tuple[LeaseRow, ...]) -> ClaimRow:
        """Also of nodes that are not there."""
        wanted = need_of(job.per_task).devices
        return ClaimRow(
            job.job_id,
            self.dice.choice(KEYS),
            tuple(self.dice.choice(("n0", "n1", "n9")) for _ in range(job.replicas)),
            tuple(lease.lease_id for lease in leases if self.chance(0.2)),
            tuple(tuple(range(wanted)) for _ in range(job.replicas)) if wanted else (),
        )

    def leases(self, ids: range = range(LEASES)) -> tuple[LeaseRow, ...]:
        """Some of these ids; three times as many where most are guests."""
        if self.full:
            ids = range(ids.start, ids.start + 3 * len(ids))
        return tuple(self.lease(at) for at in ids if self.chance(0.8 if self.full else 0.4))

    def usage(self) -> tuple[UsageRow, ...]:
        """Some use of the past."""
        return tuple(
            UsageRow(
                *self.owner(),
                used=(("cpu", self.dice.randint(0, 10**12)),),
                end_ms=self.dice.choice((0, 5, 10**9)),
                host_hub=self.dice.choice(("", *HUBS)),
            )
            for _ in range(self.dice.randint(0, 3))
        )

    def policy(self) -> Policy:
        """Mostly plain."""
        if self.chance(0.6):
            return Policy()
        owners = [self.owner() for _ in range(3)]
        return Policy(
            hub_weights={hub: self.dice.choice(WEIGHTS) for hub in HUBS if self.chance(0.5)},
            project_weights={owner[:2]: self.dice.choice(WEIGHTS) for owner in owners},
            user_weights={owner: self.dice.choice(WEIGHTS) for owner in owners},
            placements_max=self.dice.choice((1, 3, 10_000)),
            reservations=self.dice.choice((None, 0, 1, 2, 1_000)),
            order=self.dice.choice(tuple(Order)),
            promise_after_ms=self.dice.choice((None, 0, 0, 4)),
            quotas=self.quotas() if self.chance(0.5) else {},
        )

    def quotas(self) -> dict[tuple[str, ...], dict[str, int]]:
        """A few levels, some of them of whoever is not named; amounts that a few jobs fill."""
        quotas = {}
        for _ in range(self.dice.randint(1, 4)):
            level: tuple[str, ...] = self.owner()[: self.dice.randint(1, 3)]
            if self.chance(0.5):
                level = (*level[:-1], "*") if self.chance(0.5) else ("*",) * len(level)
            names = self.dice.sample(("cpu", "memory", "gpu"), self.dice.randint(1, 2))
            quotas[level] = {name: self.dice.randint(0, 12) * (1_000 if name == "gpu" else 1) for name in names}
        return quotas

    def everything(self) -> Delta:
        """A whole federation."""
        agents, jobs, leases = self.agents(), self.jobs(), self.leases()
        claims, windows = self.claims(jobs, leases), self.windows()
        return Delta(
            agents=agents,
            queued=jobs,
            leases_started=leases,
            usage=self.usage(),
            claims_made=claims,
            links=self.links(),
            windows=windows,
        )

    def shuffled(self, delta: Delta) -> Delta:
        """The same rows in another order."""
        return replace(
            delta,
            agents=tuple(self.dice.sample(delta.agents, len(delta.agents))),
            queued=tuple(self.dice.sample(delta.queued, len(delta.queued))),
            leases_started=tuple(self.dice.sample(delta.leases_started, len(delta.leases_started))),
            usage=tuple(self.dice.sample(delta.usage, len(delta.usage))),
            claims_made=tuple(self.dice.sample(delta.claims_made, len(delta.claims_made))),
            links=tuple(self.dice.sample(delta.links, len(delta.links))),
            windows=tuple(self.dice.sample(delta.windows, len(delta.windows))),
        )

    def change(self, step: int) -> Delta:
        """What may happen between two rounds: few agents change, jobs and leases come and go."""
        agents = self.agents() if step == 0 else tuple(self.agent(key) for key in KEYS if self.chance(0.04))
        queued = tuple(self.again(job) for job in self.jobs(range(self.dice.randint(0, JOBS))))
        started = self.leases()
        names, ids = {job.job_id for job in queued}, {row.lease_id for row in started}
        claims = self.claims(queued, started)
        claimed = {row.job_id for row in claims}
        links = self.links() if step == 0 or self.chance(0.1) else ()
        windows = self.windows() if self.chance(0.4) else ()
        lasting = {row.window_id for row in windows}
        return Delta(
            agents=agents,
            agents_removed=tuple(key for key in KEYS if key not in {row.key for row in agents} and self.chance(0.02)),
            queued=queued,
            dequeued=tuple(name for at in range(JOBS) if (name := f"job-{at:02d}") not in names and self.chance(0.2)),
            leases_started=started,
            leases_ended=tuple(
                name for at in range(3 * LEASES) if (name := f"lease-{at}") not in ids and self.chance(0.2)
            ),
            usage=self.usage() if self.chance(0.3) else (),
            claims_made=claims,
            links=links,
            links_removed=tuple(
                ends for ends in product(HUBS, HUBS) if ends not in {row.ends for row in links} and self.chance(0.02)
            ),
            claims_ended=tuple(
                name for at in range(JOBS) if (name := f"job-{at:02d}") not in claimed and self.chance(0.1)
            ),
            windows=windows,
            windows_ended=tuple(
                name for at in range(WINDOWS) if (name := f"window-{at}") not in lasting and self.chance(0.1)
            ),
        )
