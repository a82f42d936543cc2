"""Everything a round looks at and changes, as arrays: agents, sorts of jobs, the line, the work in hand, the answer.

Made by `rounds.py`, read and written by the kernels of a round (`fill.py`, `choosing.py`, `promising.py`). Deliberately
not here: any decision.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from federation.scheduling.kernels.gangs import Taste
from federation.scheduling.kernels.index import Index
from federation.scheduling.kernels.profile import Profiles
from federation.scheduling.kernels.room import Float64, Int32, Int64, Nodes, Shapes
from federation.scheduling.kernels.turns import Levels, Tree

UInt8 = npt.NDArray[np.uint8]
Int16 = npt.NDArray[np.int16]
WAITS, PLACED, RESERVED = 0, 1, 2
"""What `Out.status` says of a job."""
NO_ROW = NO_SEAT = -1
"""In `Memo`."""
PLACEMENTS, TASKS, DEVICES, ENDED_EARLY = 0, 1, 2, 3
"""Places in `Out.counters`; the last is 1 when who could start was left for the next round, because this one was full."""


class Agents(NamedTuple):
    """What does not change while a round goes on."""

    hub_first: Int64
    """(H + 1,) agents of each hub."""
    hub_of: Int64
    """(A,)"""
    guest_limit: Int64
    """(A,) ms that a guest may run that cannot be preempted; -1: as long as it asks for."""
    offered: Int64
    """(A, T)"""
    used: Int64
    """(A, T) when the round begins."""
    lease_first: Int64
    """(A + 1,) leases of each agent, by end."""
    lease_ends: Int64
    """(E,) ms"""
    lease_amounts: Int64
    """(E, T)"""
    offered_totals: Int64
    """(T,)"""


class Moves(NamedTuple):
    """Bringing inputs to where they do not lie."""

    route: Int32
    """(S,) the sort's row in `transfer`, -1: it has no inputs, or nobody fetches."""
    transfer: Int64
    """(M, A) ms until all of them are there, where the sort's step is 0."""
    near: Int64
    """(S,) ms at the agent where that takes least, of all where the sort may run or might if they were not silent ..."""
    far: Int64
    """... and where it takes most."""


class Sorts(NamedTuple):
    """Sorts of jobs (S), likings (K) and pairs of the two (C)."""

    shape: Int64
    replicas: Int64
    spread: UInt8
    steps: UInt8
    """(S, A) 0 where only room decides."""
    pair_sort: Int32
    pair_liking: Int32
    liking: Int16
    """(K, A) smaller is better."""
    home_first: UInt8
    """(K,) whether nothing is liked better than home."""
    home: Int32
    """(K,) the hub that is home, -1 where it has no agents."""
    stays: UInt8
    """(K,) whether it cannot be preempted."""
    moves: Moves


class Line(NamedTuple):
    """Jobs that wait, by slot, and their order."""

    order: Int32
    """(Q,) slots by (class, owner, line position)."""
    pair: Int32
    owner: Int32
    duration: Int64
    """ms it may run."""
    priority: UInt8
    aside: UInt8
    """1: not in this round, because a claim holds its room already."""
    submitted: Int64
    """ms"""
    due: Int32
    """Places in the order of those whose promised start has come, the earliest first."""


class Memo(NamedTuple):
    """What a round found out of sorts at agents, in rows (W): who finds none left takes that of whom it was given first.

    It only saves looking again: room shrinks, so what did not fit does not fit later, and starts before the last promised
    one are gone.
    """

    row: Int32
    """(S,) a sort's row, NO_ROW: none."""
    sort: Int32
    """(W,) whose row it is, NO_ROW: nobody's yet."""
    next: Int64
    """(1,) the row that is given next."""
    open: Int64
    """(A,) `shut` before anything is found out."""
    seat: Int32
    """(S,) the one agent where a sort may start, NO_SEAT: none; empty where all may start anywhere."""
    shut: Int64
    """(W, A) the shortest time to hold room for which a sort found no place at an agent; 0: it has no room there at all."""
    hint_ms: Int64
    """(W, A) a sort's last promised start there, ..."""
    hint_duration: Int64
    """... and for how long; NEVER_MS: none."""


class Work(NamedTuple):
    """What a round changes."""

    room: Nodes
    used: Int64
    load: Float64
    dead: Int64
    """(2, C) the shortest duration that found no place, anywhere and at home ..."""
    dead_reach: Int64
    """... of those whose data may come from so far, see `moving.reach_of`."""
    reach: Int64
    """(S,) the furthest that the data of a waiting job of the sort may come from, -1: nobody has asked."""
    memo: Memo
    only: Int32
    """(C,) the one agent that a pair likes best when all is idle, -1: there are several, or nobody has looked yet."""
    capped: UInt8
    """(C,) its best agent makes no more promises."""
    profiles: Profiles
    blocked: Int32
    """(H, seats) places in the order of a hub's own jobs that found no room there, the first of each sort; -1: nobody."""
    blocked_reach: Int64
    """(H, seats) how far the data of each may come from."""
    reserved: Int64
    """(A,) promises made."""
    draining: UInt8
    """(A,) whether nodes are kept free for the first whose room there is in sum, but not together."""
    backlog: Int64
    """(A,) work that runs or is promised, see `work_of`."""
    kept: UInt8
    """(N,) nodes that are kept free."""
    opened: Int64
    """(A,) agents in question for the job at hand."""
    cursor: Int32
    until: Int32
    users: Int32
    need: Int64
    """(T,) of the gang at hand."""
    free_now: Int64
    level_hub: Int32
    """(L,) the row of a user's home hub, -1 where it has no agents."""


class Quotas(NamedTuple):
    """What each level may hold at once, and holds; no rows when there are no quotas."""

    caps: Int64
    """(L, T)"""
    held: Int64
    """(L, T) by leases, by claims, and by what the round starts."""


class Out(NamedTuple):
    """What a round decides."""

    counters: Int64
    status: UInt8
    """(Q,) by place in the order."""
    agent: Int32
    """(Q,) where it was placed, or promised."""
    start_ms: Int64
    """(Q,) of promises."""
    placed: Int32
    """(placements,) places in the order, as decided."""
    nodes: Int64
    devices: Int64


class Limits(NamedTuple):
    """How much a round does."""

    now_ms: int
    placements: int
    reservations: int
    """For each agent."""
    headroom: int
    """Who jumps the line leaves one part in so many free, 0: nobody need ..."""
    short_ms: int
    """... unless it may run no longer than this."""
    promise_after_ms: int
    """Who has waited so long is promised a start."""
    guests_limited: bool
    """Whether any agent limits its guests."""
    silent: int
    """The step of an agent that is silent."""


class Round(NamedTuple):
    """Everything a round looks at."""

    shapes: Shapes
    totals: Int64
    idle: Nodes
    """The nodes as if nothing ran."""
    taste: Taste
    agents: Agents
    sorts: Sorts
    line: Line
    levels: Levels
    tree: Tree
    known: Index
    """What is remembered of the work's room: whoever changes a node tells it (`index.touch`)."""
    quotas: Quotas
    work: Work
    out: Out
    limits: Limits
