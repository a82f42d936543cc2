"""A console over a real desk: memory store, real threads, real sockets on loopback, a clock that can be moved.

Hubs here speak through the service layer, as the api would for their agents: `Hub.join`, `Hub.report`; a hub that joined
answers whoever reads its logs. Not here: agents of their own (`tests/end_to_end` starts those), the pages' assertions.
"""

from __future__ import annotations

import asyncio
import contextlib
import threading
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import httpx

from federation.console import ConsoleServer
from federation.domain.hub import Agent
from federation.domain.ids import JobId
from federation.domain.job import Job, JobState, Owner
from federation.identity.principal import OPERATOR, Principal, PrincipalKind
from federation.identity.tokens import TokenFile
from federation.lifecycle.job import Trigger
from federation.service import hubs as service_hubs
from federation.service import jobs as service_jobs
from federation.service import sync as service_sync
from federation.service.desk import Desk, Outside
from federation.service.logs import LogChunk
from federation.service.world import Unit
from federation.store import open_store
from tests.support.builders import an_agent
from tests.support.eventually import eventually
from tests.support.world import CountingIds, a_submission

AISHA = Principal(PrincipalKind.USER, "local", "aisha", "kuala-lumpur", ("default",))
OMAR = Principal(PrincipalKind.USER, "local", "omar", "cairo", ("default",), (OPERATOR,))
ADMIN = Principal(PrincipalKind.ADMIN, "local", "root", "")
CAIRO = Principal(PrincipalKind.HUB, "local", "cairo", "cairo")


class MovedClock:
    """The machine's clock, moved: a test may put things into the past."""

    def __init__(self) -> None:
        self.moved_ms = 0

    def now_ms(self) -> int:
        """Now, as moved."""
        return time.time_ns() // 1_000_000 + self.moved_ms


class Hub:
    """One agent of a hub, by its voice."""

    def __init__(self, desk: Desk, agent: Agent, title: str) -> None:
        self.desk = desk
        self.agent = agent
        self.title = title
        self.logs: dict[str, bytes] = {}
        """Job -> what it wrote."""
        self.silent = False
        self.stop_listening = desk.switchboard.watch_agent(agent.key, self._orders)

    def join(self) -> Hub:
        """Open a session."""
        store = self.desk.store
        self.desk.writer.run(lambda unit: service_sync.open_session(unit, store, self.agent, self.title, ()))
        return self

    def report(self, job_id: str, trigger: Trigger, **said: Any) -> None:
        """Say what became of the run that the job has here."""
        job = self.wait_for_lease(job_id)
        store = self.desk.store

        def command(unit: Unit) -> None:
            lease = unit.world.lease_for(job.id)
            assert lease is not None
            assert lease.agent_key == self.agent.key
            run = service_sync.RunReport(lease.id, job.id, lease.epoch, trigger, **said)
            beat = service_sync.Heartbeat(self.agent.session_id, (run,), "")
            service_sync.sync(unit, store, beat)

        self.desk.writer.run(command)

    def beat(self) -> None:
        """A heartbeat without news."""
        store = self.desk.store
        beat = service_sync.Heartbeat(self.agent.session_id, (), "", round_trip_ms=38)
        self.desk.writer.run(lambda unit: service_sync.sync(unit, store, beat))

    def wait_for_lease(self, job_id: str) -> Job:
        """The job, once a round has leased it to this agent."""

        def leased(unit: Unit) -> Job | None:
            lease = unit.world.lease_for(JobId(job_id))
            return unit.world.jobs[JobId(job_id)] if lease is not None and lease.agent_key == self.agent.key else None

        found = eventually(lambda: self.desk.writer.run(leased), 20, f"a lease of {job_id} at {self.agent.hub_id}")
        assert found is not None
        return found

    def _orders(self) -> None:
        for read in [] if self.silent else self.desk.logs.take(self.agent.key):
            whole = self.logs.get(read.job_id, b"")
            data = whole[read.offset : read.offset + read.limit_bytes]
            job = self.desk.store.get_job(read.job_id)
            complete = job is None or job.state.terminal
            self.desk.logs.deliver(
                self.agent.key, read.read_id, LogChunk(read.offset, data, len(whole), complete and bool(data or whole))
            )


class Console:
    """The desk, its hubs and its console."""

    def __init__(self, folder: Path) -> None:
        self.clock = MovedClock()
        self.desk = Desk(Outside(open_store("memory:"), self.clock, CountingIds(), None, None))
        self.tokens = TokenFile.create(folder / "tokens.json")
        self.server = ConsoleServer(self.desk, self.tokens, "127.0.0.1:0", None)
        self.port = 0
        self.hubs: dict[str, Hub] = {}

    @property
    def url(self) -> str:
        """Where it is."""
        return f"http://127.0.0.1:{self.port}"

    async def start(self) -> None:
        """Serve."""
        self.desk.start()
        await asyncio.to_thread(self.desk.rebuild)
        self.port = await self.server.start()

    async def stop(self) -> None:
        """End."""
        await self.server.stop()
        await asyncio.to_thread(self.desk.stop)

    def hub(self, hub_id: str = "cairo", title: str = "", **agent: Any) -> Hub:
        """A hub that has joined."""
        agent_id = agent.setdefault("agent_id", "main")
        said = replace(an_agent(hub_id, **agent), last_sync_ms=self.clock.now_ms())
        hub = Hub(self.desk, said, title or hub_id.title()).join()
        self.hubs[f"{hub_id}/{agent_id}"] = hub
        return hub

    def submit(self, request_id: str, who: Principal = AISHA, **spec: Any) -> str:
        """A job that must be accepted; its id."""
        owner = Owner(who.home_hub or "cairo", "default", who.issuer, who.subject)
        member = a_submission(request_id, owner, **spec)
        (answer,) = self.desk.writer.run(lambda unit: self.desk._submit(unit, who.name, [member]))
        assert answer.problem is None, answer.problem
        return answer.job_id

    def job(self, job_id: str) -> Job:
        """As it stands."""
        return self.desk.writer.run(lambda unit: service_jobs.find(unit, self.desk.store, job_id))

    def reaches(self, job_id: str, state: JobState) -> Job:
        """The job, once it is in `state`."""
        return eventually(lambda: job if (job := self.job(job_id)).state is state else None, 20) or self.job(job_id)

    def hub_of(self, job_id: str) -> Hub:
        """The hub that the job is leased to, once it is."""

        def found(unit: Unit) -> str:
            lease = unit.world.lease_for(JobId(job_id))
            return "/".join(lease.agent_key) if lease is not None else ""

        return self.hubs[eventually(lambda: self.desk.writer.run(found), 20, f"a lease of {job_id}")]

    def silence(self, ms: int) -> None:
        """Every agent was last heard of so much earlier. A clock that jumped would be taken for one that was set."""

        def command(unit: Unit) -> None:
            for agent in list(unit.world.agents.values()):
                unit.put_agent(replace(agent, last_sync_ms=agent.last_sync_ms - ms), save=False)

        self.desk.writer.run(command)

    def until_link(self, link: str) -> None:
        """Wait until time has told on every agent's link."""
        eventually(
            lambda: self.desk.writer.run(lambda unit: {agent.link for agent in unit.world.agents.values()} == {link}),
            20,
        )

    def cancel(self, job_id: str) -> None:
        """Its owner gives it up."""
        store = self.desk.store

        def command(unit: Unit) -> None:
            service_jobs.cancel(unit, service_jobs.find(unit, store, job_id), "", AISHA.name)

        self.desk.writer.run(command)

    def drain(self, hub_id: str, note: str) -> None:
        """An operator drains a hub."""
        self.desk.writer.run(lambda unit: service_hubs.drain(unit, hub_id, note, ADMIN.name))

    def client(self, who: Principal | None, *, bearer: bool = True) -> httpx.AsyncClient:
        """Somebody's browser (`bearer=False`: it has no token yet) or script."""
        headers = {"accept": "text/html"}
        if who is not None and bearer:
            headers["authorization"] = f"Bearer {self.tokens.issue(who)}"
        return httpx.AsyncClient(base_url=self.url, headers=headers, timeout=20)


@asynccontextmanager
async def a_console(folder: Path) -> AsyncIterator[Console]:
    """A console in this event loop."""
    console = Console(folder)
    await console.start()
    try:
        yield console
    finally:
        await console.stop()


@contextmanager
def console_beside(folder: Path) -> Iterator[Console]:
    """A console in an event loop of its own, for tests whose browser has the main thread."""
    loop = asyncio.new_event_loop()
    thread = threading.Thread(target=loop.run_forever, name="console-under-test", daemon=True)
    thread.start()

    def wait(coroutine: Any) -> Any:
        return asyncio.run_coroutine_threadsafe(coroutine, loop).result(60)

    async def made() -> Console:
        return Console(folder)

    console = wait(made())
    try:
        wait(console.start())
        yield console
    finally:
        with contextlib.suppress(TimeoutError):
            wait(console.stop())
        loop.call_soon_threadsafe(loop.stop)
        thread.join(20)
        loop.close()
