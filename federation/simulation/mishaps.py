"""A store and a journal that fail as disks do: before the write, after it, or without saying which.

Both keep what was committed when their process ends, as a disk does. `mishap` is what befalls the next write; it befalls
it once. Deliberately not here: deciding when (`faults.py`).
"""

from __future__ import annotations

import contextlib
import enum
import json
from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace
from typing import Protocol

from federation.errors import Code, Fault, FederationError
from federation.ports import Store, Transaction
from federation.store import raising
from federation.store.faults import DurabilityLost, full, unavailable
from federation.store.memory import MemoryStore, MemoryTransaction, Tables
from hub_node.records import Run, Seen

WHERE = "a simulated disk"


class Mishap(enum.StrEnum):
    """What befalls a write."""

    NONE = ""
    CRASH_BEFORE = "crash before the write"
    CRASH_AFTER = "crash after the write"
    FSYNC_KEPT = "failed fsync, data kept"
    FSYNC_LOST = "failed fsync, data lost"
    FULL = "disk full"
    AWAY = "store away"


class ProcessEndedError(BaseException):
    """The process is gone, at once. No handler for errors may catch it."""


class FaultyDisk(Store, Protocol):
    """The control plane's disk with the store on it, and what befalls them."""

    mishap: Mishap
    out_of_order: Mishap
    """FULL or AWAY for as long as it is set."""
    fence: Callable[[], None]
    """Called when a transaction begins, by whoever's turn it is: a control plane that leads no more may write nothing."""

    def back_up(self) -> object:
        """A copy of what is committed."""

    def restore(self, backup: object, now_ms: int, *, lost: bool) -> bool:
        """Put a backup in the store's place, as `store/backup.py` does; False: refused, for the clock stands before it.

        `lost`: nothing can be read of the present store. Else it tells the agents that joined since.
        """

    def process_ended(self) -> None:
        """Whoever wrote is gone."""


class FaultyStore(MemoryStore):
    """A `FaultyDisk` in memory: what is committed is on it."""

    def __init__(self) -> None:
        super().__init__()
        self.mishap = Mishap.NONE
        self.out_of_order = Mishap.NONE
        self.fence: Callable[[], None] = lambda: None

    @contextlib.contextmanager
    def begin(self) -> Iterator[Transaction]:
        """A transaction that may end badly."""
        with self.writing():
            self.fence()
            yield _FaultyTransaction(self)

    def process_ended(self) -> None:
        """Nothing of it was in that process."""

    def back_up(self) -> object:
        """A copy of what is committed."""
        return self.tables.copied()

    def restore(self, backup: object, now_ms: int, *, lost: bool) -> bool:
        """Put a backup in the store's place; False: refused."""
        assert isinstance(backup, Tables)
        if backup.events and now_ms < backup.events[-1].at_ms:
            return False
        present, self.tables = self.tables, backup.copied()
        highest = self.tables.incarnation if lost else max(self.tables.incarnation, present.incarnation)
        tells_all = not lost and bool(backup.events) and backup.events[-1] in present.events
        if tells_all:
            self.tables.hubs = present.hubs | self.tables.hubs
            tells_all = not _several(self.tables, present)
            self.tables.agents = self.tables.agents | present.agents
        last_seq = self.tables.last_seq
        self.tables.incarnation = raising.incarnation_after(highest, now_ms)
        fact = raising.fact_of(
            self.tables.incarnation, now_ms, source="backup", last_seq=last_seq, agents_complete=tells_all
        )
        self.tables.events.append(replace(fact, seq=last_seq + 1, incarnation=self.tables.incarnation))
        return True


def _several(backup: Tables, present: Tables) -> bool:
    """Whether more than one machine spoke for an agent since the backup."""
    known = {("/".join(agent.key), agent.instance_id) for agent in backup.agents.values()}
    since = [one for one in present.events if one.type == "SessionOpened" and one.seq > backup.last_seq]
    known |= {(one.entity_id, json.loads(one.payload)["instance"]) for one in since}
    return len({name for name, _ in known}) < len(known)


class _FaultyTransaction(MemoryTransaction):
    def __init__(self, store: FaultyStore) -> None:
        super().__init__(store)
        self._faulty = store

    def commit(self) -> None:
        """Durable, or not."""
        store = self._faulty
        mishap, store.mishap = store.mishap or store.out_of_order, Mishap.NONE
        match mishap:
            case Mishap.CRASH_BEFORE:
                raise ProcessEndedError
            case Mishap.CRASH_AFTER:
                super().commit()
                raise ProcessEndedError
            case Mishap.FSYNC_KEPT:
                super().commit()
                raise DurabilityLost(WHERE)
            case Mishap.FSYNC_LOST:
                raise DurabilityLost(WHERE)
            case Mishap.FULL:
                raise full(WHERE)
            case Mishap.AWAY:
                raise unavailable("the store is away", "Try again.", WHERE)
            case _:
                super().commit()


class FaultyJournal:
    """An agent's disk: a `hub_node.ports.RunJournal` that outlives its agent, not its machine's loss."""

    def __init__(self) -> None:
        self.mishap = Mishap.NONE
        self.out_of_order = Mishap.NONE
        self.heard: Callable[[Seen, Seen], None] = lambda _before, _after: None
        """Told which orders were carried out last, before and with a write."""
        self._runs: dict[str, Run] = {}
        self._released: dict[str, Run] = {}
        self._seen = Seen()

    def load(self) -> dict[str, Run]:
        """All runs, by lease id."""
        return dict(self._runs)

    def seen(self) -> Seen:
        """The newest orders carried out."""
        return self._seen

    def released(self) -> tuple[Run, ...]:
        """Runs that were forgotten, newest first."""
        return tuple(reversed(self._released.values()))

    def save(self, changed: Iterable[Run] = (), removed: Iterable[Run] = (), seen: Seen | None = None) -> None:
        """One transaction, or none of it."""
        mishap, self.mishap = self.mishap or self.out_of_order, Mishap.NONE
        if mishap is Mishap.FULL:
            raise FederationError(Code.STORE_FULL, "the journal's disk is full", fault=Fault.HUB, hint="Free space.")
        if mishap is Mishap.CRASH_BEFORE:
            raise ProcessEndedError
        for run in removed:
            self._runs.pop(run.lease_id, None)
            self._released[run.lease_id] = run
        for run in changed:
            self._runs[run.lease_id] = run
        if seen is not None:
            self.heard(self._seen, seen)
            self._seen = seen
        if mishap is Mishap.CRASH_AFTER:
            raise ProcessEndedError
