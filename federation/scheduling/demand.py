"""Who may run where, whatever is free: the obstacles of each sort of job at each agent, as steps of the ladder.

Each rule is one function giving uint8 (A,) steps, remembered by what it depends on; an agent's step is the highest.
Step 0 means that only free capacity decides. The rules change when an agent does: then there is a new `Feasibility`.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Hashable, Mapping
from typing import Generic, TypeVar

import numpy as np

from federation.domain.hub import HubState, LinkState
from federation.domain.ids import AgentKey
from federation.domain.plan import ReasonCode
from federation.domain.quantities import Resources
from federation.scheduling.fleet import Fleet, grown
from federation.scheduling.kernels.gangs import tasks_by_agent
from federation.scheduling.kernels.room import Int32, Int64
from federation.scheduling.kernels.round import Int16, Moves, Sorts
from federation.scheduling.plan import LADDER, STEP, DemandKey, Fetch
from federation.scheduling.rows import AgentRow
from federation.scheduling.transfers import OPEN_OR_SILENT, Inputs, Links, Steps, Transfers

N = TypeVar("N", bound=Hashable)
Liking = tuple[str, tuple[str, ...], bool, str]
"""(home hub, preferred hubs, whether it can be preempted, window): where a job is at home, a guest, and welcome."""
SEATED = -1
"""Nothing is liked better than the agent where a job's window is."""

RULES_REMEMBERED_MAX = 10_000


class Feasibility:
    """The rules over one set of agents, and of links between hubs."""

    def __init__(
        self,
        agents: Mapping[AgentKey, AgentRow] | None = None,
        fleet: Fleet | None = None,
        links: Links | None = None,
    ) -> None:
        self._fleet = fleet or Fleet()
        self._rows = [(agents or {})[key] for key in self._fleet.keys]
        self.transfers = Transfers(self._rows, self._fleet, links)
        self._known: dict[Hashable, Steps] = {}
        self._datasets = {(entry.name, entry.version) for row in self._rows for entry in row.datasets}
        self._datasets |= {(name, "") for name, _ in self._datasets}

    def steps(self, key: DemandKey) -> Steps:
        """uint8 (A,) the lasting obstacles of jobs of sort `key`; 0: free capacity decides."""
        steps = self._remembered(("link",), _link_step)
        for rule in (
            self._engine(key.engine),
            self._named(key.hubs_allow, key.hubs_deny, key.hubs_refused),
            self.transfers.distances(key.home_hub, key.inputs).steps if key.inputs else None,
            self._room(key.per_task, key.replicas),
        ):
            if rule is not None:
                steps = np.maximum(steps, rule)
        return steps

    def by_hub(self, steps: Steps) -> Steps:
        """(H,) the step of each hub's best agent, from (A,)."""
        if not steps.size:
            return steps
        best: Steps = np.minimum.reduceat(steps, self._fleet.hub_first[:-1])
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

    def transfer_ms(self, key: DemandKey) -> Int64:
        """(A,) how long it takes to bring the inputs of a sort to each agent where they can be."""
        return self.transfers.distances(key.home_hub, key.inputs).transfer_ms

    def fetches(self, key: DemandKey, agent: int) -> tuple[Fetch, ...]:
        """What a job of a sort needs brought before it can run at an agent."""
        return self.transfers.fetches(key.home_hub, key.inputs, agent) if self.transfers.any and key.inputs else ()

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

    def _room(self, per_task: Resources, replicas: int) -> Steps:
        fleet = self._fleet
        known = fleet.idle_tasks.get(per_task)
        if known is None:
            if len(fleet.idle_tasks) >= RULES_REMEMBERED_MAX:
                fleet.idle_tasks.clear()
            known = fleet.idle_tasks[per_task] = np.zeros(len(fleet.keys), np.int64)
            if fleet.possible(per_task):
                shape = fleet.shapes.id_of(per_task)
                tasks_by_agent(fleet.idle, fleet.shapes.arrays, shape, fleet.first, known)
        return np.where(known >= replicas, np.uint8(0), np.uint8(STEP[ReasonCode.SHAPE_NEVER_FITS]))

    def liking(self, home_hub: str, prefer: tuple[str, ...]) -> Int64:
        """(A,) how much a job of `home_hub` likes each agent; smaller is better: as preferred, then home, then others."""
        place = {hub_id: len(prefer) - 1 - at for at, hub_id in enumerate(reversed(prefer))}
        others = len(prefer) + 1
        place.setdefault(home_hub, len(prefer))
        return np.asarray([place.get(row.key[0], others) for row in self._rows], np.int64)


class Demands:
    """Sorts (S) of waiting jobs, likings (K), and pairs (C) of the two, by number; numbers of what is gone are reused."""

    def __init__(self) -> None:
        self.feasibility = Feasibility()
        self._fleet = Fleet()
        self._windows: Mapping[str, AgentKey] = {}
        self._sorts = _Numbers[DemandKey]()
        self._likings = _Numbers[Liking]()
        self._pairs = _Numbers[tuple[int, int]]()
        self._shape: Int64 = np.zeros(0, np.int64)
        self._replicas: Int64 = np.zeros(0, np.int64)
        self._spread = np.zeros(0, np.uint8)
        self._steps: Steps = np.zeros((0, 0), np.uint8)
        self._liking: Int16 = np.zeros((0, 0), np.int16)
        self._home_first = np.zeros(0, np.uint8)
        self._home: Int32 = np.zeros(0, np.int32)
        self._stays = np.zeros(0, np.uint8)
        self._routes = _Numbers[tuple[str, Inputs]]()
        self._route: Int32 = np.zeros(0, np.int32)
        self._near: Int64 = np.zeros(0, np.int64)
        self._far: Int64 = np.zeros(0, np.int64)
        self._transfer: Int64 = np.zeros((0, 0), np.int64)
        self._pair_sort: Int32 = np.zeros(0, np.int32)
        self._pair_liking: Int32 = np.zeros(0, np.int32)

    # -- pairs --------------------------------------------------------------------------------------------------------
    def count_in(self, key: DemandKey, liking: Liking) -> int:
        """One more job of this sort and liking waits; the number of the pair."""
        sort, new = self._sorts.hold(key)
        if new:
            self._write_sort(sort)
        liked, new = self._likings.hold(liking)
        if new:
            self._write_liking(liked)
        pair, new = self._pairs.hold((sort, liked))
        if new and pair >= len(self._pair_sort):
            room = max(64, 2 * pair)
            self._pair_sort, self._pair_liking = grown(self._pair_sort, room), grown(self._pair_liking, room)
        self._pair_sort[pair], self._pair_liking[pair] = sort, liked
        return pair

    def count_out(self, pair: int) -> None:
        """One job fewer waits."""
        sort, liked = self._pairs.names[pair]
        self._sorts.release(sort)
        if not self._sorts.held[sort] and self._route[sort] >= 0:
            self._routes.release(int(self._route[sort]))
        self._likings.release(liked)
        self._pairs.release(pair)

    def key_of_pair(self, pair: int) -> DemandKey:
        """The sort of a pair."""
        return self._sorts.names[self._pairs.names[pair][0]]

    def fetches(self, pair: int, agent: int) -> tuple[Fetch, ...]:
        """What a job of a pair needs brought before it can run at an agent."""
        return self.feasibility.fetches(self.key_of_pair(pair), agent)

    def prefer_of_pair(self, pair: int) -> tuple[str, ...]:
        """The hubs that jobs of a pair prefer."""
        return self._likings.names[self._pairs.names[pair][1]][1]

    def waiting(self) -> list[tuple[DemandKey, int, int]]:
        """(sort, its number, how many wait), ascending by sort."""
        return sorted((key, sort, self._sorts.held[sort]) for key, sort in self._sorts.ids.items())

    def arrays(self) -> Sorts:
        """What a round looks at."""
        return Sorts(
            self._shape,
            self._replicas,
            self._spread,
            self._steps,
            self._pair_sort,
            self._pair_liking,
            self._liking,
            self._home_first,
            self._home,
            self._stays,
            Moves(self._route, self._transfer, self._near, self._far),
        )

    # -- windows ------------------------------------------------------------------------------------------------------
    def windows_changed(self, where: Mapping[str, AgentKey], changed: Collection[str]) -> None:
        """Where all windows are, by id; those that `changed` are new, or elsewhere, or gone."""
        self._windows = where
        for liking, liked in self._likings.ids.items():
            if liking[3] in changed:
                self._write_liking(liked)

    def windows_of_likings(self) -> list[str]:
        """The window of each liking's jobs, by number."""
        return [name[3] for name in self._likings.names]

    # -- agents -------------------------------------------------------------------------------------------------------
    def look_at(self, agents: Mapping[AgentKey, AgentRow], fleet: Fleet, links: Links) -> None:
        """Agents or links changed: all rules anew."""
        self.feasibility = Feasibility(agents, fleet, links)
        self._routes = _Numbers()
        self._transfer = np.zeros((0, len(fleet.keys)), np.int64)
        self._fleet = fleet
        self._steps = np.zeros((len(self._shape), len(fleet.keys)), np.uint8)
        self._liking = np.zeros((len(self._home_first), len(fleet.keys)), np.int16)
        for sort in self._sorts.ids.values():
            self._write_sort(sort)
        for liked in self._likings.ids.values():
            self._write_liking(liked)

    def _write_sort(self, sort: int) -> None:
        if sort >= len(self._shape):
            room = max(64, 2 * sort)
            self._shape, self._replicas = grown(self._shape, room), grown(self._replicas, room)
            self._spread, self._steps = grown(self._spread, room), grown(self._steps, room)
            self._route, self._near, self._far = (
                grown(self._route, room),
                grown(self._near, room),
                grown(self._far, room),
            )
        key = self._sorts.names[sort]
        self._shape[sort] = self._fleet.shapes.id_of(key.per_task)
        self._replicas[sort], self._spread[sort] = key.replicas, key.spread
        self._steps[sort] = self.feasibility.steps(key)
        self._write_route(sort, key)

    def _write_route(self, sort: int, key: DemandKey) -> None:
        """How far a sort's inputs lie from each agent; nothing where nobody fetches, or there are none."""
        self._route[sort] = -1
        if not (key.inputs and self.feasibility.transfers.any):
            return
        route, new = self._routes.hold((key.home_hub, key.inputs))
        transfer_ms = self.feasibility.transfers.distances(key.home_hub, key.inputs).transfer_ms
        if new:
            if route >= len(self._transfer):
                self._transfer = grown(self._transfer, max(64, 2 * route))
            self._transfer[route] = transfer_ms
        self._route[sort] = route
        possible = transfer_ms[np.isin(self._steps[sort], OPEN_OR_SILENT)]
        self._near[sort], self._far[sort] = (possible.min(), possible.max()) if possible.size else (0, 0)

    def _write_liking(self, liked: int) -> None:
        if liked >= len(self._home_first):
            room = max(64, 2 * liked)
            self._liking, self._home_first = grown(self._liking, room), grown(self._home_first, room)
            self._home, self._stays = grown(self._home, room), grown(self._stays, room)
        home_hub, prefer, preemptible, window = self._likings.names[liked]
        self._home[liked] = self._fleet.hub_row.get(home_hub, -1)
        self._stays[liked] = not preemptible
        self._liking[liked] = self.feasibility.liking(home_hub, prefer)
        self._home_first[liked] = not prefer or prefer[0] == home_hub
        key = self._windows.get(window)
        if key is not None and key in self._fleet.index:
            self._liking[liked, self._fleet.index[key]] = SEATED
            self._home_first[liked] &= key[0] == home_hub


class _Numbers(Generic[N]):
    """Names with a count each, by number; the number of a name whose count falls to nothing is given again."""

    def __init__(self) -> None:
        self.ids: dict[N, int] = {}
        self.names: list[N] = []
        self.held: list[int] = []
        self._spare: list[int] = []

    def hold(self, name: N) -> tuple[int, bool]:
        """(number, whether it is new)."""
        known = self.ids.get(name)
        if known is not None:
            self.held[known] += 1
            return known, False
        if self._spare:
            known = self._spare.pop()
            self.names[known], self.held[known] = name, 1
        else:
            known = len(self.names)
            self.names.append(name)
            self.held.append(1)
        self.ids[name] = known
        return known, True

    def release(self, number: int) -> None:
        """One fewer."""
        self.held[number] -= 1
        if not self.held[number]:
            del self.ids[self.names[number]]
            self._spare.append(number)


def _link_step(row: AgentRow) -> int:
    if row.hub_state is not HubState.ACTIVE:
        return STEP[ReasonCode.HUB_DRAINING]
    return 0 if row.link is LinkState.ONLINE else STEP[ReasonCode.HUB_SUSPECT]
