"""The one thread that changes the world: it drains its queue, runs the commands, commits once, and then answers.

Commands that arrive while a commit is being fsynced wait for the next one: that is group commit, and it is why a durable
submit costs a share of a disk flush. A command that raises FederationError is taken out of its batch; the rest goes on.
A commit that fails fails its whole batch, with memory rolled back. A lost fsync ends the process: see `store`.
"""

from __future__ import annotations

import logging
import os
import queue
import threading
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field
from typing import Any, Protocol, TypeVar

from federation.domain.job import Job
from federation.errors import Code, Fault, FederationError
from federation.ports import Clock, Notifier, Store
from federation.service.world import Unit, World

BATCH_MAX = 512
"""Commands in one commit; a submit counts with each of its jobs, and one alone may be larger."""
QUEUE_MAX = 50_000
log = logging.getLogger(__name__)
T = TypeVar("T")
Command = Callable[[Unit], T]


class Door(Protocol):
    """Who asked, and is told. Called on the writer thread, once a batch, with all of its entries in that batch."""

    def answered(self, entries: Sequence[Entry]) -> None:
        """Each entry has its result or its error; neither may be lost, and nothing may be raised."""


class _Futures:
    """For callers that hold a concurrent Future each. One that was cancelled meanwhile is not told."""

    def answered(self, entries: Sequence[Entry]) -> None:
        for entry in entries:
            future: Future[Any] = entry.asked
            if not future.set_running_or_notify_cancel():
                continue
            if entry.error is not None:
                future.set_exception(entry.error)
            else:
                future.set_result(entry.result)


FUTURES = _Futures()


@dataclass(slots=True)
class Entry:
    """One command, by whom it was asked, and what came of it."""

    command: Callable[[Unit], Any]
    asked: Any
    """What `door` knows it by."""
    door: Door = FUTURES
    request_keys: Sequence[tuple[str, str]] = ()
    """(principal, request id) that the command will look up: a batch's are looked up together."""
    alone: bool = False
    """It has a batch to itself: what it sees is committed."""
    result: Any = None
    error: BaseException | None = None

    @property
    def weight(self) -> int:
        """How much of a batch it takes."""
        return BATCH_MAX if self.alone else len(self.request_keys) or 1


BATCH_BOUNDS = (1, 2, 5, 10, 20, 50, 100, 200, BATCH_MAX)


@dataclass(slots=True)
class Figures:
    """Counters for operators; the writer thread alone writes them."""

    commands: int = 0
    commits: int = 0
    commits_failed: int = 0
    batches: dict[int, int] = field(default_factory=lambda: dict.fromkeys(BATCH_BOUNDS, 0))
    """Upper bound of a batch's size, commands -> how many such batches; each batch is counted once."""

    def batch(self, size: int) -> None:
        """A batch of `size` commands begins."""
        self.commands += size
        self.batches[next(bound for bound in BATCH_BOUNDS if size <= bound)] += 1

    def cumulative(self) -> list[tuple[str, float]]:
        """As Prometheus has it: each bound with all batches up to it, the last one "+Inf"."""
        several, total = [], 0
        for bound, number in self.batches.items():
            total += number
            several.append((str(bound), float(total)))
        return [*several, ("+Inf", float(total))]


class Writer:
    """Owns the world. `call` from any thread."""

    def __init__(self, store: Store, world: World, clock: Clock, notifier: Notifier) -> None:
        self.world = world
        self.figures = Figures()
        self._store = store
        self._clock = clock
        self._notifier = notifier
        self._queue: queue.SimpleQueue[Sequence[Entry] | None] = queue.SimpleQueue()
        self._waiting = 0
        self._guard = threading.Lock()
        self._thread = threading.Thread(target=self._run, name="writer", daemon=True)
        self._after: list[Callable[[Unit], None]] = []

    def after_commit(self, listener: Callable[[Unit], None]) -> None:
        """Have `listener` called on the writer thread with every unit that was committed. Before `start` only."""
        self._after.append(listener)

    def first(self, command: Command[T]) -> T:
        """Run `command` here and now, in a batch of its own, before anything else is. Before `start` only."""
        future: Future[T] = Future()
        self.process((Entry(command, future),))
        return future.result()

    def start(self) -> None:
        """Begin."""
        self._thread.start()

    def stop(self) -> None:
        """Finish what is queued, then end."""
        self._queue.put(None)
        self._thread.join()

    def call(self, command: Command[T]) -> Future[T]:
        """Run `command` on the writer thread; the future is done only when its batch is durable. OVERLOADED at the limit."""
        future: Future[T] = Future()
        self.post((Entry(command, future),))
        return future

    def post(self, entries: Sequence[Entry]) -> None:
        """Run these commands in order; each one's door is told when it is durable. OVERLOADED: none will run."""
        with self._guard:
            if self._waiting + len(entries) > QUEUE_MAX:
                raise FederationError(
                    Code.OVERLOADED,
                    "the control plane has more to do than it may queue",
                    fault=Fault.FEDERATION,
                    hint="Nothing was accepted; try again in a few seconds.",
                    metadata={"limit": str(QUEUE_MAX)},
                )
            self._waiting += len(entries)
        self._queue.put(entries)

    def run(self, command: Command[T]) -> T:
        """`call`, waited for. Not from the writer thread."""
        return self.call(command).result()

    def run_alone(self, command: Command[T]) -> T:
        """`run`, in a batch of its own: what the command sees is committed."""
        future: Future[T] = Future()
        self.post((Entry(command, future, alone=True),))
        return future.result()

    def _run(self) -> None:
        left: deque[Entry] = deque()
        while self._fill(left) or left:
            batch: list[Entry] = []
            weight = 0
            while left and (not batch or weight + left[0].weight <= BATCH_MAX):
                batch.append(left.popleft())
                weight += batch[-1].weight
            with self._guard:
                self._waiting -= len(batch)
            self.process(batch)

    def _fill(self, left: deque[Entry]) -> bool:
        """Take what was posted, and wait for it when there is nothing left to do; False: it is the end."""
        try:
            while len(left) < BATCH_MAX:
                entries = self._queue.get(block=not left)
                if entries is None:
                    self._queue.put(None)  # nothing is posted after the end: it is found again when all is done
                    return False
                left.extend(entries)
        except queue.Empty:
            pass  # that was all for now
        return True

    def process(self, batch: Sequence[Entry]) -> None:
        """One batch: decide, save, then speak."""
        self.figures.batch(len(batch))
        unit = Unit(self.world, self._clock.now_ms(), [key for entry in batch for key in entry.request_keys])
        for entry in batch:
            savepoint = unit.savepoint()
            try:
                entry.result = entry.command(unit)
            except FederationError as error:
                unit.rollback(savepoint)
                entry.error = error
            except Exception as error:
                log.exception("a command failed for a reason of ours")
                unit.rollback(savepoint)
                entry.error = _internal(error)
        failed = self._commit(unit)
        self.figures.commits += unit.dirty and failed is None
        self.figures.commits_failed += failed is not None
        if failed is None:
            self._speak(unit)
        by_door: dict[Door, list[Entry]] = {}
        for entry in batch:
            entry.error = failed or entry.error
            by_door.setdefault(entry.door, []).append(entry)
        for door, entries in by_door.items():
            door.answered(entries)

    def _commit(self, unit: Unit) -> FederationError | None:
        if not unit.dirty:
            return None
        try:
            with self._store.begin() as transaction:
                unit.save(transaction)
                transaction.commit()
        except FederationError as error:
            unit.rollback()
            return error
        except Exception as error:
            log.exception("a commit failed for a reason of ours")
            unit.rollback()
            return _internal(error)
        except BaseException:
            log.critical("the store cannot promise durability; ending at once rather than lie", exc_info=True)
            self.end_process()
            raise
        self.world.last_seq += len(unit.events)
        return None

    def end_process(self) -> None:
        """No flush, no farewell, no reply: see `store/faults.py`. The simulator's process is not this one."""
        os._exit(70)

    def _speak(self, unit: Unit) -> None:
        for job in unit.jobs.values():
            _told(self._notifier.job_changed, job)
        for key in unit.orders:
            _told(self._notifier.agent_has_orders, key)
        for listener in self._after:
            _told(listener, unit)


def _told(listener: Callable[[T], object], news: T) -> None:
    """What was saved must be answered: a listener that fails, such as one whose loop has closed, may not end us."""
    try:
        listener(news)
    except Exception:
        log.exception("a listener failed for a reason of ours")


def _internal(error: BaseException) -> FederationError:
    return FederationError(
        Code.INTERNAL,
        f"the control plane failed: {type(error).__name__}",
        fault=Fault.FEDERATION,
        hint="It is our mistake; the server's log has the details. Trying again is safe.",
    )


class SilentNotifier:
    """Nobody listens: for tools and tests that only look at the store."""

    def job_changed(self, job: Job) -> None:
        """Nobody to tell."""

    def agent_has_orders(self, key: tuple[str, str]) -> None:
        """Nobody to tell."""
