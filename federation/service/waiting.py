"""Calls that wait: held syncs, job watchers, log readers. A registry of who is to be told, safe from any thread.

Listeners are plain callables; what they do with the news (an asyncio event, a queue) is the api's matter.
"""

from __future__ import annotations

import threading
from collections.abc import Callable

from federation.domain.ids import AgentKey
from federation.domain.job import Job

JobListener = Callable[[Job], None]
AgentListener = Callable[[], None]


class Switchboard:
    """The Notifier that the control plane uses."""

    def __init__(self) -> None:
        self._guard = threading.Lock()
        self._jobs: dict[int, JobListener] = {}
        self._agents: dict[AgentKey, dict[int, AgentListener]] = {}
        self._next = 0

    def job_changed(self, job: Job) -> None:
        """Tell every watcher."""
        with self._guard:
            listeners = list(self._jobs.values())
        for listener in listeners:
            listener(job)

    def agent_has_orders(self, key: AgentKey) -> None:
        """Tell the agent's held call."""
        with self._guard:
            listeners = list(self._agents.get(key, {}).values())
        for listener in listeners:
            listener()

    def watch_jobs(self, listener: JobListener) -> Callable[[], None]:
        """Have `listener` called with every job that changes; the answer ends that."""
        with self._guard:
            self._next += 1
            token = self._next
            self._jobs[token] = listener

        def end() -> None:
            with self._guard:
                self._jobs.pop(token, None)

        return end

    def watch_agent(self, key: AgentKey, listener: AgentListener) -> Callable[[], None]:
        """Have `listener` called when there are orders for the agent; the answer ends that."""
        with self._guard:
            self._next += 1
            token = self._next
            self._agents.setdefault(key, {})[token] = listener

        def end() -> None:
            with self._guard:
                self._agents.get(key, {}).pop(token, None)

        return end
