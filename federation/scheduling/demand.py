"""Who may run where, whatever is free: the obstacles of each sort of job at each agent, as steps of the ladder.

Each rule is one function giving uint8 (A,) steps, remembered by what it depends on; an agent's step is the highest.
Step 0 means that only free capacity decides. The rules change when an agent does: then there is a new `Feasibility`.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Mapping
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from federation.domain.hub import Dataset, HubState, LinkState
from federation.domain.ids import AgentKey
from federation.domain.plan import ReasonCode
from federation.domain.quantities import Resources
from federation.policy.data import DataAccess, DataPolicy, may_read
from federation.scheduling.grid import Grid, Int64, Shape, sums_by_agent, tasks_that_fit
from federation.scheduling.plan import LADDER, STEP, DemandKey
from federation.scheduling.rows import AgentRow

Steps = npt.NDArray[np.uint8]

_POLICIES = frozenset(DataAccess)
RULES_REMEMBERED_MAX = 10_000


def readable(dataset: Dataset, data_hub: str, home_hub: str) -> bool:
    """Whether a job of `home_hub` may read `dataset` where it lies; a policy nobody knows lets only its own hub."""
    if dataset.policy not in _POLICIES:
        return home_hub == data_hub
    policy = DataPolicy(DataAccess(dataset.policy), frozenset(dataset.readers))
    return may_read(policy, dataset_hub=data_hub, job_hub=home_hub, run_hub=data_hub).ok


@dataclass(frozen=True, slots=True)
class Terms:
    """What is fixed for one sort of job while no agent changes."""

    shape: Shape
    steps: Steps
    """(A,) lasting obstacles; 0: free capacity decides."""
    open_agents: Int64
    """Agents with step 0, by key."""
    hub_steps: bytes
    """uint8 (H): the obstacles when no open agent has room."""
    overall: ReasonCode


class DemandClass:
    """A sort of job that waits somewhere: how many, and its terms."""

    __slots__ = ("_terms", "_terms_of", "jobs", "key")

    def __init__(self, key: DemandKey) -> None:
        self.key = key
        self.jobs = 0
        self._terms: Terms | None = None
        self._terms_of: Feasibility | None = None

    def terms(self, feasibility: Feasibility) -> Terms:
        """Its terms under `feasibility`."""
        if self._terms is None or self._terms_of is not feasibility:
            self._terms = feasibility.terms(self.key)
            self._terms_of = feasibility
        return self._terms


class Feasibility:
    """The rules over one set of agents."""

    def __init__(self, agents: Mapping[AgentKey, AgentRow] | None = None, grid: Grid | None = None) -> None:
        self._grid = grid or Grid()
        self._rows = [(agents or {})[key] for key in self._grid.keys]
        self._known: dict[Hashable, Steps] = {}
        self._likings: dict[tuple[str, tuple[str, ...]], Int64] = {}
        self._datasets = {(entry.name, entry.version) for row in self._rows for entry in row.datasets}
        self._datasets |= {(name, "") for name, _ in self._datasets}

    def terms(self, key: DemandKey) -> Terms:
        """What is fixed for jobs of sort `key`."""
        steps = self._remembered(("link",), _link_step)
        for rule in (
            self._engine(key.engine),
            self._named(key.hubs_allow, key.hubs_deny, key.hubs_refused),
            self._data(key.home_hub, key.inputs),
            self._room(key.per_task, key.replicas),
        ):
            if rule is not None:
                steps = np.maximum(steps, rule)
        full = np.where(steps == 0, np.uint8(STEP[ReasonCode.CAPACITY]), steps)
        hub_steps = self.by_hub(full)
        return Terms(
            self._grid.shape(key.per_task),
            steps,
            np.flatnonzero(steps == 0),
            hub_steps.tobytes(),
            self.overall(key, hub_steps),
        )

    def by_hub(self, steps: Steps) -> Steps:
        """(H,) the step of each hub's best agent, from (A,)."""
        if not steps.size:
            return steps
        best: Steps = np.minimum.reduceat(steps, self._grid.hub_first)
        return best

    def overall(self, key: DemandKey, hub_steps: Steps) -> ReasonCode:
        """The one code that sums up a sort's obstacles."""
        if not hub_steps.size:
            return ReasonCode.NO_AGENT
        if any(wanted not in self._datasets for wanted in key.inputs):
            return ReasonCode.UNKNOWN_DATASET
        return LADDER[int(hub_steps.min())]

    def missing_datasets(self, key: DemandKey) -> tuple[tuple[str, str], ...]:
        """Inputs that no agent announces."""
        return tuple(wanted for wanted in key.inputs if wanted not in self._datasets)

    def _remembered(self, name: Hashable, rule: Callable[[AgentRow], int]) -> Steps:
        known = self._known.get(name)
        if known is None:
            if len(self._known) >= RULES_REMEMBERED_MAX:
                self._known.clear()
            known = self._known[name] = np.asarray([rule(row) for row in self._rows], np.uint8)
        return known

    def _engine(self, engine: str) -> Steps:
        missing = STEP[ReasonCode.ENGINE_MISSING]
        return self._remembered(("engine", engine), lambda row: 0 if engine in row.engines else missing)

    def _named(self, allow: tuple[str, ...], deny: tuple[str, ...], refused: tuple[str, ...]) -> Steps | None:
        if not (allow or deny or refused):
            return None
        allowed, denied, said_no = frozenset(allow), frozenset(deny), frozenset(refused)

        def step(row: AgentRow) -> int:
            hub_id = row.key[0]
            if hub_id in denied or (allowed and hub_id not in allowed):
                return STEP[ReasonCode.HUB_EXCLUDED]
            return STEP[ReasonCode.SHARE_POLICY] if hub_id in said_no else 0

        return self._remembered(("named", allow, deny, refused), step)

    def _data(self, home_hub: str, inputs: tuple[tuple[str, str], ...]) -> Steps | None:
        if not inputs:
            return None
        return self._remembered(("data", home_hub, inputs), lambda row: _data_step(row, home_hub, inputs))

    def _room(self, per_task: Resources, replicas: int) -> Steps:
        name = ("room", per_task, replicas)
        known = self._known.get(name)
        if known is None:
            grid, shape = self._grid, self._grid.shape(per_task)
            never = np.uint8(STEP[ReasonCode.SHAPE_NEVER_FITS])
            known = np.full(len(grid.keys), never)
            if shape.fits and grid.keys:
                tasks = sums_by_agent(tasks_that_fit(grid.offered, shape, replicas), grid.first)
                known[tasks >= replicas] = 0
            self._known[name] = known
        return known

    def liking(self, home_hub: str, prefer: tuple[str, ...]) -> Int64:
        """(A,) how much a job of `home_hub` likes each agent; smaller is better: as preferred, then home, then others."""
        known = self._likings.get((home_hub, prefer))
        if known is None:
            if len(self._likings) >= RULES_REMEMBERED_MAX:
                self._likings.clear()
            place = {hub_id: len(prefer) - 1 - at for at, hub_id in enumerate(reversed(prefer))}
            others = len(prefer) + 1
            place.setdefault(home_hub, len(prefer))
            known = np.asarray([place.get(row.key[0], others) for row in self._rows], np.int64)
            self._likings[home_hub, prefer] = known
        return known


def _link_step(row: AgentRow) -> int:
    if row.hub_state is not HubState.ACTIVE:
        return STEP[ReasonCode.HUB_DRAINING]
    return 0 if row.link is LinkState.ONLINE else STEP[ReasonCode.HUB_SUSPECT]


def _data_step(row: AgentRow, home_hub: str, inputs: tuple[tuple[str, str], ...]) -> int:
    """Every input must lie there and be readable; of several versions one is enough."""
    step = 0
    for name, version in inputs:
        lying = [entry for entry in row.datasets if entry.name == name and version in ("", entry.version)]
        if not lying:
            step = max(step, STEP[ReasonCode.DATA_ELSEWHERE])
        elif not any(readable(entry, row.key[0], home_hub) for entry in lying):
            step = max(step, STEP[ReasonCode.DATA_POLICY])
    return step
