"""A store with so many jobs in its queue, and hubs that have joined: what a control plane finds when it starts.

The rows are written by the code that writes them in service, `SubmitJobs` and `open_session` on a writer, only without the
wire and without a planner. Nobody runs behind the hubs: their agents are names with machines.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence

from benchmarks.apparatus.control_plane import USER
from benchmarks.apparatus.load import SPEC
from federation.api.translate import submission_in
from federation.app.outside import SortableIds, SystemClock
from federation.client.specfile import spec_from_mapping
from federation.domain.hub import Agent, LinkState, Node
from federation.domain.ids import AgentId, HubId
from federation.domain.job import Owner
from federation.domain.quantities import resources
from federation.ports import Store
from federation.service import sync
from federation.service.submit import BATCH_MAX, Submission, SubmitJobs
from federation.service.world import Unit, World
from federation.service.writer import SilentNotifier, Writer
from federation.store import open_store
from federation.v1 import job_pb2

USERS = 40
MACHINE = resources(("cpu", "", 4_000), ("disk", "", 100 << 30), ("memory", "", 16 << 30))
CPUS = (1, 2, 4)


def filled(url: str, jobs: int, hubs: int) -> None:
    """Make the store at `url` one with `jobs` that wait and `hubs` of one machine each."""
    store = open_store(url)
    try:
        world = World.rebuilt(store.load(), SystemClock().now_ms())
        writer = Writer(store, world, SystemClock(), SilentNotifier())
        ids, submit = SortableIds(), SubmitJobs(store, SortableIds())
        for number in range(hubs):
            _join(writer, store, _agent(number, ids.new_id("session")))
        every = submissions(jobs, hubs)
        while members := list(itertools.islice(every, BATCH_MAX)):
            _submit(writer, submit, members)
    finally:
        store.close()


def _submit(writer: Writer, submit: SubmitJobs, members: Sequence[Submission]) -> None:
    principal = principal_of(members[0].owner)
    for answer in writer.first(lambda unit: submit(unit, principal, members)):
        if answer.problem is not None:
            raise RuntimeError(f"a job was not accepted: {answer.problem}")


def principal_of(owner: Owner) -> str:
    """Under which name a person's requests are kept."""
    return f"{owner.issuer}/{owner.subject}@{owner.home_hub}"


def hub_name(number: int) -> str:
    """Ascending."""
    return f"hub-{number:03d}"


def submissions(jobs: int, hubs: int) -> Iterator[Submission]:
    """Ordinary jobs of three sizes; each thousand is one person's, so that a call of theirs is one batch."""
    shapes = [spec_from_mapping({**SPEC, "resources": {"cpus": cpus, "memory": f"{2 * cpus}Gi"}}) for cpus in CPUS]
    for number in range(jobs):
        person = number // BATCH_MAX % USERS
        home = hub_name(person % hubs) if hubs else "cairo"
        spec = shapes[number % len(shapes)]
        spec.arguments[-1] = f"{number:08d}"
        message = job_pb2.Submission(request_id=f"filled-{number}", spec=spec.SerializeToString())
        yield submission_in(message, Owner(home, "default", "local", f"{USER}-{person}"))


def _agent(number: int, session_id: str) -> Agent:
    machine = Node("main", MACHINE, MACHINE)
    hub_id, agent_id = HubId(hub_name(number)), AgentId("main")
    return Agent(hub_id, agent_id, f"played-{number}", session_id, "0", LinkState.ONLINE, 0, (machine,), ("command",))


def _join(writer: Writer, store: Store, agent: Agent) -> None:
    def command(unit: Unit) -> None:
        sync.open_session(unit, store, agent, agent.hub_id, ())

    writer.first(command)
