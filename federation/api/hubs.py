"""HubService: what agents and operators of hubs do. A sync with nothing to say is held, and superseded by a newer one."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from federation.api.door import Caller, Gate, unary
from federation.api.jobs import LINK_TTL_S, package_key
from federation.api.objects import asked, objects_of
from federation.api.syncing import LeaseLinks, answer_out, beat_in
from federation.api.translate import agent_in, checkpoint_out, epoch_in, hub_out, policy_out, report_in, saved_in
from federation.archive.limits import PATH_BYTES_MAX
from federation.client.settings import installed_version
from federation.domain.ids import AgentKey, LeaseId
from federation.domain.job import Job
from federation.domain.lease import Lease
from federation.errors import Code, Fault, FederationError, from_parts, invalid
from federation.identity.authority import Scope, denied, speaks_for
from federation.lifecycle.agent import PROTOCOL_MAX, PROTOCOL_MIN, negotiated
from federation.objects.checkpoints import Shelf, checked_files
from federation.objects.credentials import scoped_credentials
from federation.objects.store import ObjectStore
from federation.service import hubs as service_hubs
from federation.service import sync as service_sync
from federation.service.desk import Desk
from federation.service.logs import CHUNK_BYTES_MAX, LogChunk, LogRead
from federation.service.submit import request_id_of
from federation.service.sync import Belonging, Orders
from federation.service.world import Unit
from federation.v1 import hub_pb2, hub_pb2_grpc

HOLD_MS_MAX = 20_000
RESULT_FILES_MAX = 1_000
RESULT_BYTES_MAX = 64 << 20
USAGE_MAX = 9_000
"""Stretches of use in one report: of a run of a month, as agents tell them to a restored control plane."""
REPORTS_MAX = 20_000
"""In one message: what a journal holds, with what was released lately (`hub_node/ports.py`). The writer takes as many in about
a second; more are refused before it hears of them."""


_OfLease = (
    hub_pb2.CreateResultUploadRequest
    | hub_pb2.CreateCheckpointUploadRequest
    | hub_pb2.CommitCheckpointRequest
    | hub_pb2.FindCheckpointsRequest
)


@dataclass(slots=True)
class _Held:
    """The held call of one session."""

    seq: int
    woken: asyncio.Event = field(default_factory=asyncio.Event)
    superseded: bool = False


class HubServicer(hub_pb2_grpc.HubServiceServicer):
    """Each method: admit, translate, ask the desk, translate back."""

    def __init__(self, desk: Desk, gate: Gate) -> None:
        self.desk = desk
        self.gate = gate
        self._held: dict[str, _Held] = {}

    @unary("HubService")
    async def OpenSession(self, request: hub_pb2.OpenSessionRequest, caller: Caller) -> hub_pb2.OpenSessionResponse:
        """An agent introduces itself."""
        if not speaks_for(caller.scope, caller.principal, request.hub_id):
            raise denied(caller.principal, f"speak for hub {request.hub_id[:80]}")
        _check_reports(request.runs, "runs")
        if not request.instance_id:
            raise invalid("instance_id is missing", field="instance_id")
        protocol = negotiated(request.protocol_min, request.protocol_max)
        arriving = agent_in(request, self.desk.ids.new_id("session"))
        runs = tuple(report_in(report, request.hub_id) for report in request.runs)
        store, of = self.desk.store, Belonging(request.store_id, request.join_store_id)
        orders = await self.desk.ask(
            lambda unit: service_sync.open_session(unit, store, arriving, request.title[:200], runs, of)
        )
        if orders.refused is not None:
            raise orders.refused
        return hub_pb2.OpenSessionResponse(
            session_id=arriving.session_id,
            protocol=protocol,
            incarnation=orders.incarnation,
            hold_ms=HOLD_MS_MAX,
            tracking_uri=self._tracking_uri(),
            store_id=self.desk.world.store_id,
        )

    @unary("HubService")
    async def SyncHub(self, request: hub_pb2.SyncHubRequest, caller: Caller) -> hub_pb2.SyncHubResponse:
        """The heartbeat."""
        began_s = time.monotonic()
        _check_reports(request.changed, "changed")
        session_id, hub_id = request.session_id, caller.principal.home_hub
        beat = beat_in(request, hub_id)
        store = self.desk.store

        def take(unit: Unit) -> Orders:
            key = unit.world.sessions.get(session_id)
            if key is not None and not speaks_for(caller.scope, caller.principal, key[0]):
                raise denied(caller.principal, f"speak for hub {key[0]}")
            return service_sync.sync(unit, store, beat)

        held = _Held(request.sync_seq)
        watched = self.desk.world.sessions.get(session_id)  # as it was a moment ago, which is looked at again below
        end = self._watch(watched, held)  # before the orders are looked at: what comes after that look wakes us
        try:
            orders = await self.desk.ask(take)
            if orders.superseded:
                return hub_pb2.SyncHubResponse(incarnation=orders.incarnation, superseded=True)
            self._supersede(session_id, held)  # not before: the session may be somebody else's
            if orders.key != watched:
                end()
                end = self._watch(orders.key, held)
                held.woken.set()  # something may have come before this watch
            reads = self.desk.logs.take(orders.key)
            deadline_s = began_s + min(request.hold_ms, HOLD_MS_MAX) / 1000
            if not (orders.urgent or reads or held.superseded):
                orders, reads = await self._hold(held, session_id, orders, deadline_s)
            if held.superseded:
                for read in reads:  # taken for an answer that will not carry them: the newer call's does
                    self.desk.logs.put_back(read)
                return hub_pb2.SyncHubResponse(incarnation=orders.incarnation, superseded=True)
            held_ms = int((time.monotonic() - began_s) * 1000)
            return await self._answer(orders, reads, held_ms)
        finally:
            end()
            if self._held.get(session_id) is held:
                del self._held[session_id]

    def _supersede(self, session_id: str, held: _Held) -> None:
        """Take the session's held place; an older call that has it is sent home, an older one that comes late too."""
        present = self._held.get(session_id)
        if present is not None and present.seq > held.seq:
            held.superseded = True
            return
        if present is not None:
            present.superseded = True
            present.woken.set()
        self._held[session_id] = held

    def _watch(self, key: AgentKey | None, held: _Held) -> Callable[[], None]:
        """Have `held` woken when there is something to say to the agent; the answer ends that."""
        loop = asyncio.get_running_loop()

        def wake() -> None:
            loop.call_soon_threadsafe(held.woken.set)

        return self.desk.switchboard.watch_agent(key, wake) if key is not None else lambda: None

    async def _hold(
        self, held: _Held, session_id: str, orders: Orders, deadline_s: float
    ) -> tuple[Orders, list[LogRead]]:
        """Wait until there is something to say, a newer call comes, or the time is up."""
        while True:
            try:
                await asyncio.wait_for(held.woken.wait(), max(0.0, deadline_s - time.monotonic()))
            except TimeoutError:
                return orders, []
            held.woken.clear()
            if held.superseded:
                return orders, []
            orders = await self.desk.ask(lambda unit: service_sync.orders_of(unit, session_id))
            reads = self.desk.logs.take(orders.key)  # last: a caller who hangs up while we ask takes none along
            if orders.urgent or reads:
                return orders, reads

    async def _answer(self, orders: Orders, reads: list[LogRead], held_ms: int) -> hub_pb2.SyncHubResponse:
        store, starts = self.desk.store, [job.id for _, job in orders.starts]
        asked: dict[str, str] = {}
        if starts:  # a look into the store is not for the loop
            asked = await asyncio.to_thread(lambda: {job_id: request_id_of(store, job_id) for job_id in starts})

        def links(job: Job) -> LeaseLinks:
            return self._lease_links(job, asked.get(job.id, ""))

        return answer_out(orders, reads, held_ms, self.desk.clock.now_ms(), links)

    def _lease_links(self, job: Job, request_id: str) -> LeaseLinks:
        digest, objects = job.spec.package_digest, self.desk.objects
        package_url = objects.presign_get(package_key(digest), LINK_TTL_S) if digest and objects is not None else ""
        return LeaseLinks(package_url, self._tracking_uri() if job.spec.tracking else "", request_id)

    def _tracking_uri(self) -> str:
        return "" if self.desk.tracking is None else self.desk.tracking.uri()

    @unary("HubService")
    async def PutLogChunk(self, request: hub_pb2.PutLogChunkRequest, caller: Caller) -> hub_pb2.PutLogChunkResponse:
        """The answer to an order to read a log."""
        if len(request.data) > CHUNK_BYTES_MAX:
            raise invalid("the chunk is too large", code=Code.LIMIT_EXCEEDED, limit=str(CHUNK_BYTES_MAX))
        key = await self.desk.ask(lambda unit: unit.world.sessions.get(request.session_id))
        if key is None or not speaks_for(caller.scope, caller.principal, key[0]):
            raise _no_session(request.session_id)
        problem = None
        if request.HasField("problem"):
            said = request.problem
            problem = from_parts(said.code, said.message, said.fault, said.hint, dict(said.metadata))
        chunk = LogChunk(request.offset, request.data, request.size_bytes, request.complete, problem)
        self.desk.logs.deliver(key, request.read_id, chunk)
        return hub_pb2.PutLogChunkResponse()

    @unary("HubService")
    async def CreateResultUpload(
        self, request: hub_pb2.CreateResultUploadRequest, caller: Caller
    ) -> hub_pb2.CreateResultUploadResponse:
        """Links to put an attempt's output files: only for the lease's own agent, only below the attempt's prefix."""
        if len(request.files) > RESULT_FILES_MAX or sum(one.size_bytes for one in request.files) > RESULT_BYTES_MAX:
            raise invalid(
                "the result is too large",
                hint="At most 1,000 files and 64 MiB; write large data to a dataset.",
                code=Code.LIMIT_EXCEEDED,
                limit=str(RESULT_BYTES_MAX),
            )
        lease = await self._current_lease(request, caller)
        links = scoped_credentials(objects_of(self.desk), f"attempts/{lease.job_id}/{lease.epoch}/", LINK_TTL_S)
        uploads = [hub_pb2.ResultUpload(path=one.path, put_url=links.put_link(one.path)) for one in request.files]
        return hub_pb2.CreateResultUploadResponse(
            uploads=uploads, expires_ms=self.desk.clock.now_ms() + LINK_TTL_S * 1000
        )

    @unary("HubService")
    async def CreateCheckpointUpload(
        self, request: hub_pb2.CreateCheckpointUploadRequest, caller: Caller
    ) -> hub_pb2.CreateCheckpointUploadResponse:
        """Links to put the files of a checkpoint, which is none before it is committed."""
        files = checked_files(map(saved_in, request.files))
        lease = await self._current_lease(request, caller)
        shelf, attempt = Shelf(self._objects_for_checkpoints()), _attempt(lease)
        links = await asked(shelf.put_links, lease.job_id, attempt, files, LINK_TTL_S)
        return hub_pb2.CreateCheckpointUploadResponse(
            uploads=[hub_pb2.CheckpointUpload(path=one.path, put_url=links[one.path]) for one in request.files],
            expires_ms=self.desk.clock.now_ms() + LINK_TTL_S * 1000,
        )

    @unary("HubService")
    async def CommitCheckpoint(
        self, request: hub_pb2.CommitCheckpointRequest, caller: Caller
    ) -> hub_pb2.CommitCheckpointResponse:
        """Only while the lease lives, and once more after the write: whose attempt is over adds nothing to the job."""
        files = checked_files(map(saved_in, request.files))
        lease = await self._current_lease(request, caller)
        shelf, attempt = Shelf(self._objects_for_checkpoints()), _attempt(lease)
        saved = await asked(shelf.commit, lease.job_id, attempt, files, self.desk.clock.now_ms())
        try:
            await self._current_lease(request, caller)
        except FederationError:
            await asked(shelf.withdraw, lease.job_id, saved.place)
            raise
        if self.desk.retention is not None:
            self.desk.retention.saved(lease.job_id, saved)
        return hub_pb2.CommitCheckpointResponse(checkpoint_id=saved.place.name)

    @unary("HubService")
    async def FindCheckpoints(
        self, request: hub_pb2.FindCheckpointsRequest, caller: Caller
    ) -> hub_pb2.FindCheckpointsResponse:
        """What the job's older attempts left, with links to read it."""
        lease = await self._current_lease(request, caller)
        if self.desk.objects is None:
            return hub_pb2.FindCheckpointsResponse()
        shelf = Shelf(self.desk.objects.answering())
        found = await asked(shelf.newest, lease.job_id, _attempt(lease))
        answer = [checkpoint_out(saved, shelf.get_links(lease.job_id, saved, LINK_TTL_S)) for saved in found]
        return hub_pb2.FindCheckpointsResponse(checkpoints=answer)

    async def _current_lease(self, request: _OfLease, caller: Caller) -> Lease:
        """The live lease that an agent speaks of, if it is its own. SESSION_UNKNOWN, STALE_EPOCH."""
        epoch = epoch_in(request.epoch)

        def current(unit: Unit) -> Lease:
            key = unit.world.sessions.get(request.session_id)
            if key is None or not speaks_for(caller.scope, caller.principal, key[0]):
                raise _no_session(request.session_id)
            lease = unit.world.leases.get(LeaseId(request.lease_id))
            if lease is None or lease.agent_key != key or lease.epoch != epoch:
                raise FederationError(
                    Code.STALE_EPOCH,
                    f"attempt {epoch} holds no lease any more",
                    fault=Fault.HUB,
                    hint="Its output is not wanted.",
                    metadata={"lease_id": request.lease_id[:80]},
                )
            return lease

        return await self.desk.ask(current)

    def _objects_for_checkpoints(self) -> ObjectStore:
        """Said so that an agent does not try again: nobody adds a store to a control plane that runs."""
        if self.desk.objects is None:
            raise FederationError(
                Code.PROTOCOL_UNSUPPORTED,
                "this control plane has no object store and keeps no checkpoints",
                fault=Fault.FEDERATION,
                hint="Its operator sets [objects] in the configuration; jobs run all the same.",
            )
        return self.desk.objects.answering()

    @unary("HubService")
    async def ListHubs(self, request: hub_pb2.ListHubsRequest, _caller: Caller) -> hub_pb2.ListHubsResponse:
        """All hubs, by id; the page token is the last id."""
        if not 0 <= request.page_size <= 1_000:
            raise invalid("page_size is out of range", hint="Use 1 to 1000.", field="page_size")
        limit = request.page_size or 1_000
        views = [view for view in await self.desk.ask(service_hubs.views) if view.hub.id > request.page_token]
        token = views[limit - 1].hub.id if len(views) > limit else ""
        return hub_pb2.ListHubsResponse(hubs=[hub_out(view) for view in views[:limit]], next_page_token=token)

    @unary("HubService")
    async def GetHub(self, request: hub_pb2.GetHubRequest, _caller: Caller) -> hub_pb2.GetHubResponse:
        """One hub."""
        view = await self.desk.ask(lambda unit: service_hubs.view(unit, request.hub_id))
        return hub_pb2.GetHubResponse(hub=hub_out(view))

    @unary("HubService")
    async def DrainHub(self, request: hub_pb2.DrainHubRequest, caller: Caller) -> hub_pb2.DrainHubResponse:
        """Start nothing new at a hub, or take that back."""
        if not speaks_for(caller.scope, caller.principal, request.hub_id):
            raise denied(caller.principal, f"drain hub {request.hub_id[:80]}")
        view = await self.desk.ask(
            lambda unit: service_hubs.drain(unit, request.hub_id, request.note[:500], caller.actor, request.undo)
        )
        return hub_pb2.DrainHubResponse(hub=hub_out(view))

    @unary("HubService")
    async def GetPolicy(self, _request: hub_pb2.GetPolicyRequest, caller: Caller) -> hub_pb2.GetPolicyResponse:
        """The planner's policy in force."""
        own = None if caller.scope is Scope.ANY else (caller.principal.home_hub, caller.principal.subject)
        from federation.service import policies  # loads the planner, for which nobody waits at a start

        return hub_pb2.GetPolicyResponse(policy=policy_out(policies.view(self.desk.policy, own)))

    async def GetServerInfo(
        self, _request: hub_pb2.GetServerInfoRequest, _context: object
    ) -> hub_pb2.GetServerInfoResponse:
        """What answers here. Not behind the gate: nobody is asked who they are."""
        return hub_pb2.GetServerInfoResponse(
            version=installed_version(),
            protocol_min=PROTOCOL_MIN,
            protocol_max=PROTOCOL_MAX,
            now_ms=self.desk.clock.now_ms(),
            store_id=self.desk.world.store_id,
            objects_away=self.desk.objects is not None and bool(self.desk.objects.away),
        )

    @unary("HubService")
    async def WhoAmI(self, _request: hub_pb2.WhoAmIRequest, caller: Caller) -> hub_pb2.WhoAmIResponse:
        """Whom the token stands for."""
        who = caller.principal
        return hub_pb2.WhoAmIResponse(kind=who.kind, issuer=who.issuer, subject=who.subject, home_hub=who.home_hub)


def _attempt(lease: Lease) -> tuple[int, int]:
    return lease.epoch.incarnation, lease.epoch.n


def _no_session(session_id: str) -> FederationError:
    return FederationError(
        Code.SESSION_UNKNOWN,
        "this session is not open here",
        fault=Fault.FEDERATION,
        hint="Open a session.",
        metadata={"session_id": session_id[:80]},
    )


def _check_reports(reports: Sequence[hub_pb2.RunReport], field: str) -> None:
    """Refuse what no agent has to say, before the writer hears of it. Raises: FederationError LIMIT_EXCEEDED."""
    if len(reports) > REPORTS_MAX:
        raise invalid(f"more than {REPORTS_MAX} runs in one message", field=field, code=Code.LIMIT_EXCEEDED)
    for report in reports:
        if len(report.usage) > USAGE_MAX:
            many, part = f"more than {USAGE_MAX} stretches of use", "usage"
        elif len(report.outputs) > RESULT_FILES_MAX:
            many, part = f"more than {RESULT_FILES_MAX} files", "outputs"
        elif any(len(one.path.encode()) > PATH_BYTES_MAX for one in report.outputs):
            many, part = f"a path of more than {PATH_BYTES_MAX} bytes", "outputs.path"
        else:
            continue
        raise invalid(f"{many} in the report of one run", field=f"{field}.{part}", code=Code.LIMIT_EXCEEDED)
