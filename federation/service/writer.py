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
from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import dataclass
from typing import Any, TypeVar

from federation.domain.job import Job
from federation.errors import Code, Fault, FederationError
from federation.ports import Clock, Notifier, Store
from federation.service.world import Unit, World

BATCH_MAX = 512
QUEUE_MAX = 50_000
log = logging.getLogger(__name__)
T = TypeVar("T")
Command = Callable[[Unit], T]


@dataclass(slots=True)
class _Entry:
    command: Callable[[Unit], Any]
    future: Future[Any]
    result: Any = None
    error: BaseException | None = None


class Writer:
    """Owns the world. `call` from any thread."""

    def __init__(self, store: Store, world: World, clock: Clock, notifier: Notifier) -> None:
        self.world = world
        self._store = store
        self._clock = clock
        self._notifier = notifier
        self._queue: queue.Queue[_Entry | None] = queue.Queue(QUEUE_MAX)
        self._thread = threading.Thread(target=self._run, name="writer", daemon=True)
        self._after: list[Callable[[Unit], None]] = []

    def after_commit(self, listener: Callable[[Unit], None]) -> None:
        """Have `listener` called on the writer thread with every unit that was committed. Before `start` only."""
        self._after.append(listener)

    def start(self) -> None:
        """Begin."""
        self._thread.start()

    def stop(self) -> None:
        """Finish what is queued, then end."""
        self._queue.put(None)
        self._thread.join()

    def call(self, command: Command[T]) -> Future[T]:
        """Run `command` on the writer thread; the future is done only when its batch is durable. OVERLOADED at the limit."""
        entry = _Entry(command, Future())
        try:
            self._queue.put_nowait(entry)
        except queue.Full:
            raise FederationError(
                Code.OVERLOADED, "the control plane has more to do than it may queue", fault=Fault.FEDERATION,
                hint="Nothing was accepted; try again in a few seconds.", metadata={"limit": str(QUEUE_MAX)},
            ) from None
        return entry.future

    def run(self, command: Command[T]) -> T:
        """`call`, waited for. Not from the writer thread."""
        return self.call(command).result()

    def _run(self) -> None:
        while True:
            batch, ending = self._drain()
            if batch:
                self.process(batch)
            if ending:
                return

    def _drain(self) -> tuple[list[_Entry], bool]:
        batch: list[_Entry] = []
        entry = self._queue.get()
        while entry is not None:
            batch.append(entry)
            if len(batch) >= BATCH_MAX:
                return batch, False
            try:
                entry = self._queue.get_nowait()
            except queue.Empty:
                return batch, False
        return batch, True

    def process(self, batch: list[_Entry]) -> None:
        """One batch: decide, save, then speak."""
        unit = Unit(self.world, self._clock.now_ms())
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
        if failed is None:
            self._speak(unit)
        for entry in batch:
            refused = failed or entry.error
            if refused is not None:
                entry.future.set_exception(refused)
            else:
                entry.future.set_result(entry.result)

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
            os._exit(70)
        self.world.last_seq += len(unit.events)
        return None

    def _speak(self, unit: Unit) -> None:
        for job in unit.jobs.values():
            self._notifier.job_changed(job)
        for key in unit.orders:
            self._notifier.agent_has_orders(key)
        for listener in self._after:
            listener(unit)


def _internal(error: BaseException) -> FederationError:
    return FederationError(
        Code.INTERNAL, f"the control plane failed: {type(error).__name__}", fault=Fault.FEDERATION,
        hint="It is our mistake; the server's log has the details. Trying again is safe.",
    )


class SilentNotifier:
    """Nobody listens: for tools and tests that only look at the store."""

    def job_changed(self, job: Job) -> None:
        """Nobody to tell."""

    def agent_has_orders(self, key: tuple[str, str]) -> None:
        """Nobody to tell."""
