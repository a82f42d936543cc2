"""Jobs that wait, as columns by slot, and their order: by class, then owner, then place in the owner's line.

A job's row is taken apart into numbers when it comes and put together again when somebody asks, so that a million
waiting jobs cost tens of bytes each. The order is kept sorted: what leaves is cut out and what comes is inserted. Whose
turn it is among owners is not here (`kernels/turns.py`), nor what a sort of job is (`demand.py`).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import numpy as np

from federation.scheduling.ageing import line_position_of
from federation.scheduling.demand import Demands
from federation.scheduling.fleet import grown
from federation.scheduling.kernels.profile import NEVER_MS
from federation.scheduling.kernels.room import Int32, Int64
from federation.scheduling.kernels.round import Line
from federation.scheduling.levels import LevelTable
from federation.scheduling.plan import DemandKey
from federation.scheduling.policy import Order
from federation.scheduling.rows import OwnerKey, QueuedJob

RESORT_SHARE = 8
"""When more than one in so many is new, sorting everything is quicker than inserting."""
Place = tuple[int, int, int, int, str]
"""(class, owner, position, seq, job id)."""


class Queue:
    """See the module. Slots (S) are reused; `order` int32 (Q,) has the slots of those that wait."""

    def __init__(self) -> None:
        self.slots: dict[str, int] = {}
        self.order: Int32 = np.zeros(0, np.int32)
        self._ids: list[str] = []
        self._spare: list[int] = []
        self._policy_order = Order.AGE
        self._pair: Int32 = np.zeros(0, np.int32)
        self._owner: Int32 = np.zeros(0, np.int32)
        self._priority = np.zeros(0, np.uint8)
        self._aside = np.zeros(0, np.uint8)
        self._preemptible = np.zeros(0, np.uint8)
        self._seq: Int64 = np.zeros(0, np.int64)
        self._position: Int64 = np.zeros(0, np.int64)
        self._limit: Int64 = np.zeros(0, np.int64)
        self._submitted: Int64 = np.zeros(0, np.int64)
        self._expected: Int64 = np.zeros(0, np.int64)
        self._promised: Int64 = np.zeros(0, np.int64)
        """The first start that was promised, 0: none yet."""
        self._gone: list[int] = []
        self._new: list[int] = []

    def __len__(self) -> int:
        return len(self.slots)

    def __contains__(self, job_id: str) -> bool:
        return job_id in self.slots

    # -- changes ------------------------------------------------------------------------------------------------------
    def add(self, job: QueuedJob, pair: int, owner: int, promised_ms: int = 0) -> None:
        """A job waits. It is not here yet; `promised_ms` is the first start that it was promised, 0: none."""
        if self._spare:
            slot = self._spare.pop()
            self._ids[slot] = job.job_id
        else:
            slot = len(self._ids)
            self._ids.append(job.job_id)
            if slot >= len(self._pair):
                self._grow(1024 + slot + slot // 4)
        self.slots[job.job_id] = slot
        self._pair[slot], self._owner[slot] = pair, owner
        self._priority[slot], self._aside[slot], self._preemptible[slot] = job.priority, 0, job.preemptible
        self._seq[slot], self._limit[slot] = job.seq, job.runtime_limit_ms
        self._submitted[slot], self._expected[slot] = job.submitted_ms, job.expected_ms
        self._promised[slot] = promised_ms
        self._position[slot] = self._place_in_line(job)
        self._new.append(slot)

    def remove(self, job_id: str) -> int:
        """A job waits no more; its pair."""
        slot = self.slots.pop(job_id)
        self._gone.append(slot)
        return int(self._pair[slot])

    def set_aside(self, job_id: str, *, aside: bool) -> None:
        """Whether a job is left out of the rounds, because a claim holds its room."""
        slot = self.slots.get(job_id)
        if slot is not None:
            self._aside[slot] = aside

    def settle(self, order: Order, demands: Demands, levels: LevelTable) -> None:
        """Bring the order up to date."""
        if order is not self._policy_order:
            self._policy_order = order
            for job_id, slot in self.slots.items():
                self._position[slot] = self._place_in_line(self.row(job_id, demands, levels))
            self._new = list(self.slots.values())
            self._gone_for_good()
            self.order = self._sorted(np.asarray(self._new, np.int32))
            self._new = []
            return
        if self._gone:
            gone = np.zeros(len(self._ids), bool)
            gone[self._gone] = True
            self.order = self.order[~gone[self.order]]
            self._new = [slot for slot in self._new if not gone[slot]]
            self._gone_for_good()
        if self._new:
            new = self._sorted(np.asarray(self._new, np.int32))
            if len(new) * RESORT_SHARE > len(self.order):
                self.order = self._sorted(np.concatenate((self.order, new)))
            else:
                self.order = np.insert(self.order, [self._before(slot) for slot in new.tolist()], new)
            self._new = []

    def _gone_for_good(self) -> None:
        for slot in self._gone:
            self._ids[slot] = ""
            self._promised[slot] = 0
        self._spare += self._gone
        self._gone = []

    # -- answers ------------------------------------------------------------------------------------------------------
    def line(self, now_ms: int, levels: LevelTable) -> Line:
        """The columns that a round looks at."""
        return Line(
            self.order,
            self._pair,
            self._owner,
            self._limit,
            self._priority,
            self._aside,
            self._submitted,
            self._due(now_ms, levels),
        )

    def keep_promises(self, slots: Int32, starts_ms: Int64) -> None:
        """What a round promised; of several promises the first is remembered."""
        before = self._promised[slots]
        self._promised[slots] = np.where(before > 0, np.minimum(before, starts_ms), starts_ms)

    def next_promised_ms(self, now_ms: int) -> int | None:
        """The next of the first starts that were promised to those that wait; None when none is after `now_ms`."""
        starts = self._promised[: len(self._ids)]
        first_ms = int(np.min(starts, initial=NEVER_MS, where=starts > now_ms))
        return first_ms if first_ms < NEVER_MS else None

    def promised_ms(self, job_id: str) -> int:
        """The first start that a job was promised, 0: none yet."""
        return int(self._promised[self.slots[job_id]])

    def promises(self) -> dict[str, int]:
        """By job, the first start that was promised."""
        slots = self.order[self._promised[self.order] > 0].tolist()
        return {self._ids[slot]: int(self._promised[slot]) for slot in slots}

    def recall(self, promises: Mapping[str, int]) -> None:
        """Remember what another state was promised: it is no part of the rows."""
        self.keep_promises(
            np.asarray([self.slots[job_id] for job_id in promises], np.int32),
            np.asarray(list(promises.values()), np.int64),
        )

    def _due(self, now_ms: int, levels: LevelTable) -> Int32:
        """Places in the order of those whose promised start has come: the earliest first, equals by owner and line.

        Not in a `short_first` line: there who is passed, and for how long, is the line's own business.
        """
        if self._policy_order is not Order.AGE:
            return np.zeros(0, np.int32)
        starts = self._promised[self.order]
        places: list[int] = np.flatnonzero((starts > 0) & (starts <= now_ms)).tolist()

        def rank(place: int) -> tuple[int, OwnerKey, int, int, str]:
            slot = int(self.order[place])
            owner = levels.owner_of(int(self._owner[slot]))
            return (int(starts[place]), owner, int(self._position[slot]), int(self._seq[slot]), self._ids[slot])

        return np.asarray(sorted(places, key=rank), np.int32)

    def id_at(self, slot: int) -> str:
        """The job in a slot."""
        return self._ids[slot]

    def pair_at(self, slot: int) -> int:
        """Its sort and liking."""
        return int(self._pair[slot])

    def row(self, job_id: str, demands: Demands, levels: LevelTable) -> QueuedJob:
        """A waiting job as it was put."""
        slot = self.slots[job_id]
        pair = int(self._pair[slot])
        key: DemandKey = demands.key_of_pair(pair)
        owner: OwnerKey = levels.owner_of(int(self._owner[slot]))
        return QueuedJob(
            job_id=job_id,
            seq=int(self._seq[slot]),
            home_hub=owner[0],
            project=owner[1],
            user=owner[2],
            engine=key.engine,
            per_task=key.per_task,
            replicas=key.replicas,
            priority=int(self._priority[slot]),
            inputs=key.inputs,
            hubs_allow=key.hubs_allow,
            hubs_deny=key.hubs_deny,
            hubs_prefer=demands.prefer_of_pair(pair),
            hubs_refused=key.hubs_refused,
            runtime_limit_ms=int(self._limit[slot]),
            preemptible=bool(self._preemptible[slot]),
            submitted_ms=int(self._submitted[slot]),
            expected_ms=int(self._expected[slot]),
            spread=key.spread,
            window=key.window,
        )

    def nbytes(self) -> int:
        """What the columns take, in bytes; the index by id comes on top."""
        columns = (self._pair, self._owner, self._priority, self._aside, self._preemptible, self._seq, self._position)
        return sum(
            array.nbytes
            for array in (*columns, self._limit, self._submitted, self._expected, self._promised, self.order)
        )

    # -- order --------------------------------------------------------------------------------------------------------
    def _place_in_line(self, job: QueuedJob) -> int:
        if self._policy_order is Order.AGE:
            return 0
        return line_position_of(self._policy_order, job)

    def _place(self, slot: int) -> Place:
        return (
            int(self._priority[slot]),
            int(self._owner[slot]),
            int(self._position[slot]),
            int(self._seq[slot]),
            self._ids[slot],
        )

    def _before(self, slot: int) -> int:
        """How many stand before this one."""
        wanted = self._place(slot)
        low, high = 0, len(self.order)
        while low < high:
            middle = (low + high) // 2
            if self._place(int(self.order[middle])) < wanted:
                low = middle + 1
            else:
                high = middle
        return low

    def _sorted(self, slots: Int32) -> Int32:
        keys = (self._seq[slots], self._position[slots], self._owner[slots], self._priority[slots])
        order = slots[np.lexsort(keys)]
        columns = [column[order] for column in (self._priority, self._owner, self._position, self._seq)]
        equal = np.flatnonzero(np.logical_and.reduce([column[1:] == column[:-1] for column in columns]))
        at = 0
        while at < len(equal):  # equal in every number: by id
            begin = end = int(equal[at])
            while at < len(equal) and int(equal[at]) == end:
                end, at = end + 1, at + 1
            order[begin : end + 1] = sorted(order[begin : end + 1].tolist(), key=self._ids.__getitem__)
        return order

    def _grow(self, slots: int) -> None:
        self._pair, self._owner = grown(self._pair, slots), grown(self._owner, slots)
        self._priority, self._aside = grown(self._priority, slots), grown(self._aside, slots)
        self._preemptible = grown(self._preemptible, slots)
        self._seq, self._position = grown(self._seq, slots), grown(self._position, slots)
        self._limit, self._submitted = grown(self._limit, slots), grown(self._submitted, slots)
        self._expected = grown(self._expected, slots)
        self._promised = grown(self._promised, slots)

    def ids(self) -> Iterable[str]:
        """All that wait."""
        return self.slots.keys()
