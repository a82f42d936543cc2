"""Logs stay at the hub: a reader's wish goes out with the agent's next answer, and the bytes come back by PutLogChunk.

Kept in memory only: a wish that is lost with the process is a reader that asks again.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import dataclass

from federation.domain.ids import AgentKey
from federation.domain.job import Epoch
from federation.errors import Code, Fault, FederationError

CHUNK_BYTES_MAX = 1 << 20
READS_PER_AGENT_MAX = 200


@dataclass(frozen=True, slots=True)
class LogRead:
    """A reader's wish."""

    read_id: str
    key: AgentKey
    job_id: str
    epoch: Epoch
    offset: int
    limit_bytes: int


@dataclass(frozen=True, slots=True)
class LogChunk:
    """What came back. `size_bytes` is how much log there is; `complete`: nothing more will come."""

    offset: int
    data: bytes
    size_bytes: int
    complete: bool
    problem: FederationError | None = None


class LogDesk:
    """Wishes by agent, and who waits for them. Safe from any thread."""

    def __init__(self) -> None:
        self._guard = threading.Lock()
        self._waiting: dict[str, tuple[LogRead, Callable[[LogChunk], None]]] = {}
        self._unsent: dict[AgentKey, dict[str, LogRead]] = {}

    def ask(self, read: LogRead, answer: Callable[[LogChunk], None]) -> None:
        """Queue a wish; `answer` is called once, or never when the reader gives up first (`forget`)."""
        with self._guard:
            unsent = self._unsent.setdefault(read.key, {})
            if len(unsent) >= READS_PER_AGENT_MAX:
                raise FederationError(
                    Code.OVERLOADED,
                    "too many people read logs of this hub",
                    fault=Fault.FEDERATION,
                    hint="Try again in a moment.",
                    metadata={"limit": str(READS_PER_AGENT_MAX)},
                )
            unsent[read.read_id] = read
            self._waiting[read.read_id] = (read, answer)

    def take(self, key: AgentKey) -> list[LogRead]:
        """The wishes to send to this agent now."""
        with self._guard:
            return list(self._unsent.pop(key, {}).values())

    def put_back(self, read: LogRead) -> None:
        """An answer that should have carried the wish did not leave: the next one takes it."""
        with self._guard:
            if read.read_id in self._waiting:
                self._unsent.setdefault(read.key, {})[read.read_id] = read

    def forget(self, read_id: str) -> None:
        """The reader has gone."""
        with self._guard:
            entry = self._waiting.pop(read_id, None)
            if entry is not None:
                self._unsent.get(entry[0].key, {}).pop(read_id, None)

    def deliver(self, key: AgentKey, read_id: str, chunk: LogChunk) -> bool:
        """Give the bytes to the reader; False when nobody waits for them, or when another agent sent them."""
        with self._guard:
            entry = self._waiting.get(read_id)
            if entry is None or entry[0].key != key:
                return False
            del self._waiting[read_id]
        entry[1](chunk)
        return True
