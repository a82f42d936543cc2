"""One agent's words with the control plane, without the wire: what a call says, and what its answer means.

Every call carries all that changed since the last answer and the digest of all runs, so losing one costs nothing; the
full list travels when a session opens and when the other side asks for it. `link.py` makes the calls, with their
deadlines and pauses; the simulator carries the same messages through networks of its own. Deliberately not here: threads,
time, what orders mean (`reconcile.py`).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace

from federation import backoff
from federation.client.settings import installed_version
from federation.errors import Code
from federation.v1 import hub_pb2
from hub_node import wire
from hub_node.reconcile import USAGE_TOLD_MAX, usage
from hub_node.records import DatasetReport, NodeReport, Orders, Outcome, Run, RunState

PROTOCOL_MIN, PROTOCOL_MAX = 1, 1
HOLD_MS = 20_000
PAUSE_S, PAUSE_S_MAX, PAUSE_S_SLOW = 0.1, 10.0, 20.0
PERSON_MUST_ACT = frozenset(
    {
        Code.IDENTITY_IN_USE,
        Code.ANOTHER_STORE,
        Code.UNAUTHENTICATED,
        Code.PERMISSION_DENIED,
        Code.PROTOCOL_UNSUPPORTED,
    }
)
"""Refusals that come again until somebody does something: they are tried slowly."""
SESSION_GONE = frozenset({Code.SESSION_UNKNOWN, Code.SESSION_SUPERSEDED})
"""The session is opened again, with the full list."""


FEATURES = ("tells-all", "tells-carried")
"""What we can do beyond the first protocol: tell a restored control plane all we know, and whose orders we carried out."""
REPORTS_BYTES_MAX = 6 << 20
"""Of reports in one message, which the other side takes up to 16 MiB: how many a long cut leaves to be told has no bound.
Ends that do not fit follow with the next sync; in a full list such a run is named as not yet ended."""
TOLD_BYTES_MAX = 8 << 20
"""Of what only a restored control plane asks for, in one message; what does not fit follows with the next."""
TOLD_USE_MAX = 100_000
"""Likewise, of stretches of use: each is a fact that the other side has to write down before it hears of anybody else."""


@dataclass(frozen=True, slots=True)
class Introduction:
    """Who we are, for OpenSession."""

    hub_id: str
    agent_id: str
    instance_id: str
    title: str
    engines: tuple[str, ...]
    datasets: tuple[DatasetReport, ...]
    reclaim_ms: int = 60_000
    """What the hub's policy gives a preempted guest."""
    takes_back: bool = False


@dataclass(frozen=True, slots=True)
class Truth:
    """What the register last saved: all unreleased runs, and how many answers it has taken so far."""

    runs: Mapping[str, Run] = field(default_factory=dict)
    orders_revision: int = 0
    orders_incarnation: int = 0
    answers: int = 0
    store_id: str = ""
    """The store that the runs belong to; empty: none has said its name."""
    released: tuple[Run, ...] | None = None
    """What the control plane had released, while it asks for that; newest first."""


@dataclass(frozen=True, slots=True)
class Reminded:
    """What a restored control plane has been told again, with one call and those before it."""

    present: frozenset[str] = frozenset()
    """The leases of unreleased runs, with all their use."""
    released: int = 0
    """How many of the released runs. Those come last: what is released meanwhile is before them."""
    complete: bool = False
    """There is no more."""


@dataclass(frozen=True, slots=True)
class Call:
    """A sync that was sent: what it said, and when by our own clock."""

    seq: int
    sent: tuple[Run, ...]
    sent_ms: int
    reminded: Reminded = Reminded()


class Conversation:
    """See the module. Belongs to one thread."""

    def __init__(self, introduction: Introduction, log_bytes: Callable[[Run], int]) -> None:
        self._introduction = introduction
        self._log_bytes = log_bytes
        self.session_id = ""
        """Empty: none is open."""
        self._store_id = ""
        self.hold_ms = HOLD_MS
        """How long the other side may hold a call."""
        self._seq = 0
        self._told: dict[str, Run] = {}
        self._full = False
        self._all = False
        self._reminded = Reminded()
        self._specs: frozenset[str] = frozenset()
        self._first = True

    def opening(
        self, truth: Truth, nodes: Sequence[NodeReport], now_ms: int, joins: str = ""
    ) -> hub_pb2.OpenSessionRequest:
        """The first words: who we are, and every run there is. `joins`: the store that the runs' own is left for."""
        about = self._introduction
        return hub_pb2.OpenSessionRequest(
            hub_id=about.hub_id,
            agent_id=about.agent_id,
            agent_version=installed_version(),
            protocol_min=PROTOCOL_MIN,
            protocol_max=PROTOCOL_MAX,
            features=FEATURES,
            instance_id=about.instance_id,
            nodes=[wire.node_to(node) for node in nodes],
            engines=about.engines,
            datasets=[wire.dataset_to(one) for one in about.datasets],
            runs=self._reports(truth.runs.values(), now_ms, full=True),
            title=about.title,
            reclaim_ms=about.reclaim_ms,
            takes_back=about.takes_back,
            store_id=truth.store_id,
            join_store_id=joins,
        )

    def opened(self, told: Truth, answer: hub_pb2.OpenSessionResponse) -> None:
        """The session is open; `told` is what `opening` said."""
        self.session_id, self._seq, self._store_id = answer.session_id, 0, answer.store_id
        self.hold_ms = min(HOLD_MS, answer.hold_ms or HOLD_MS)
        self._told = dict(told.runs)
        self._first, self._full, self._all, self._specs = True, False, False, frozenset()
        self._reminded = Reminded()

    def call(
        self, truth: Truth, nodes: Sequence[NodeReport], round_trip_ms: int, now_ms: int
    ) -> tuple[Call, hub_pb2.SyncHubRequest]:
        """The next sync. `nodes` is empty where there is nothing new to say of them."""
        self._seq += 1
        told = {} if self._full else self._told
        changed = tuple(
            run
            for run in truth.runs.values()
            if run.state is RunState.ENDED
            or told.get(run.lease_id) != run
            or run.lease_id in self._specs
            or usage(run, now_ms)
        )
        reports = self._reports(changed, now_ms, self._full)
        reminds = self._all and truth.released is not None
        reminded = self._remind(reports, truth, reminds, now_ms) if self._specs or reminds else self._reminded
        request = hub_pb2.SyncHubRequest(
            session_id=self.session_id,
            sync_seq=self._seq,
            orders_revision=truth.orders_revision,
            orders_incarnation=truth.orders_incarnation,
            changed=reports,
            runs_digest=wire.digest_of(truth.runs.values()),
            nodes=[wire.node_to(node) for node in nodes],
            hold_ms=self.hold_ms,
            round_trip_ms=round_trip_ms,
            full=self._full,
            tells_all=reminds and reminded.complete,
        )
        return Call(self._seq, changed, now_ms, reminded), request

    def answered(self, call: Call, answer: hub_pb2.SyncHubResponse, truth: Truth) -> Orders | None:
        """What an answer orders; None when a newer call took its place. Answers may come in any order."""
        for run in call.sent:
            self._told[run.lease_id] = run
        for lease_id in [one for one in self._told if one not in truth.runs]:
            del self._told[lease_id]
        if call.seq == self._seq:
            self._full, self._all = answer.send_full, answer.send_all
            self._specs = frozenset(answer.send_specs)
            self._reminded = call.reminded
        if answer.superseded:
            return None
        orders = replace(wire.orders_from(answer, call.sent_ms), first=self._first, store_id=self._store_id)
        self._first = False
        return orders

    def _remind(self, reports: list[hub_pb2.RunReport], truth: Truth, reminds: bool, now_ms: int) -> Reminded:
        """Add what a restored control plane forgot: what leases said, all use, specs as it asks, how released runs ended.

        As much as fits, and one run at least; what has been told then.
        """
        room, present, released = _Room(), set(self._reminded.present), self._reminded.released
        for report in reports:
            wanted = report.lease_id in self._specs
            if not wanted and (not reminds or report.lease_id in present):
                continue
            run, fuller = truth.runs[report.lease_id], hub_pb2.RunReport()
            fuller.CopyFrom(report)
            fuller.lease.CopyFrom(wire.lease_to(run, now_ms, with_spec=wanted))
            wire.add_usage(fuller, _all_use(run, now_ms))
            if not room.takes(fuller.ByteSize() - report.ByteSize(), len(fuller.usage)):
                return Reminded(frozenset(present), released)
            report.CopyFrom(fuller)
            present.add(report.lease_id)
        for run in (truth.released or ())[released:] if reminds else ():
            report = wire.report_to(run, _all_use(run, now_ms))
            report.released = True
            if not room.takes(report.ByteSize(), len(report.usage)):
                return Reminded(frozenset(present), released)
            reports.append(report)
            released += 1
        return Reminded(frozenset(present), released, complete=True)

    def _reports(self, runs: Iterable[Run], now_ms: int, full: bool) -> list[hub_pb2.RunReport]:
        reports: list[hub_pb2.RunReport] = []
        left_bytes, room = REPORTS_BYTES_MAX, True
        for run in runs:
            report = None
            if room or run.state is not RunState.ENDED:
                report = wire.report_to(run, usage(run, now_ms), self._log_bytes(run))
                left_bytes -= report.ByteSize()
                if left_bytes < 0 and run.state is RunState.ENDED and reports:
                    report, room = None, False  # it and all ends after it wait for the next sync
            if report is not None:
                reports.append(report)
            elif full:
                reports.append(wire.report_to(replace(run, state=RunState.STOPPING, outcome=Outcome.NONE)))
        return reports


class _Room:
    """What is left, in one message, for what a restored control plane asks."""

    def __init__(self) -> None:
        self._bytes, self._stretches, self._empty = TOLD_BYTES_MAX, TOLD_USE_MAX, True

    def takes(self, count_bytes: int, stretches: int) -> bool:
        """Whether that fits in, too; what comes first always does."""
        fits = self._empty or (count_bytes <= self._bytes and stretches <= self._stretches)
        if fits:
            self._bytes, self._stretches, self._empty = self._bytes - count_bytes, self._stretches - stretches, False
        return fits


def _all_use(run: Run, now_ms: int) -> tuple[tuple[int, int, int], ...]:
    return usage(replace(run, usage_stored=-1), now_ms, USAGE_TOLD_MAX)


def carried(orders: Orders) -> bool:
    """Whether an answer says anything."""
    return bool(
        orders.leases
        or orders.revokes
        or orders.renewals
        or orders.releases
        or orders.log_reads
        or orders.usage_stored
        or orders.send_full
    )


def pause_s(code: Code, failures: int, chance: float) -> float:
    """How long to wait after so many failures in a row, s: growing, and shortened by up to half by `chance` in [0, 1)."""
    if code in PERSON_MUST_ACT:
        return backoff.pause_s(1, PAUSE_S_SLOW, PAUSE_S_SLOW, chance)
    return backoff.pause_s(failures, PAUSE_S, PAUSE_S_MAX, chance)
