"""The promises of the design's chapter 5, held against what truly happens: each commit, each start, each end of a program.

Looked at: nothing acknowledged is lost, nothing runs twice at once or beyond its right, room, fences, orders that arrive,
silence, a cause for each end (`causes.py`), one history and one count of use. Not looked at: places of files, figures, fairness.

Two sources are compared: what the control plane has saved, and what really runs on the machines, which nobody in the
simulated world can see at once. The first promise that does not hold ends the simulation with a sentence.
"""

from __future__ import annotations

import json
from collections.abc import Mapping

from federation.domain.hub import Agent, LinkState
from federation.domain.ids import AgentKey, JobId, LeaseId
from federation.domain.job import Job, JobState
from federation.domain.lease import KILL_GRACE_MS, LEASE_MS_BATCH, SKEW_BOUND_MS, STOP_GRACE_MS, LeaseState
from federation.lifecycle.invariants import broken, broken_history, miscounted
from federation.ports import JobFilter, Store
from federation.service.world import Unit, World
from federation.simulation.agent import SimulatedAgent
from federation.simulation.causes import SLACK_MS, Causes
from federation.simulation.machine import GUARD_GRACE_MS, Program
from federation.simulation.people import People, Wish
from federation.simulation.stage import Stage
from hub_node.records import RunState, Seen

JOBS_MAX = FACTS_MAX = 10**6
UNHEARD_MAX = 20
"""Looks, a minute apart or more; a full disk, which keeps an agent from acknowledging, lasts for ten."""
SILENT_MS_MAX = 30 * 60_000
"""A minute makes a hub SUSPECT; a store that is out of order, in which that cannot be written down, lasts for ten."""


class Promises:
    """See the module. A `machine.Witness`, and a listener of the writer."""

    def __init__(self, stage: Stage, store: Store, people: People) -> None:
        self.agents: dict[str, SimulatedAgent] = {}
        """By machine."""
        self.checks = 0
        self._stage = stage
        self._store = store
        self._people = people
        self._running: dict[str, Program] = {}
        """Job -> what truly runs of it."""
        self._on_machine: dict[str, dict[tuple[str, str], int]] = {}
        self._terminal: dict[JobId, JobState] = {}
        self._epochs: dict[JobId, tuple[int, int]] = {}
        self._begun: dict[tuple[str, str], Program] = {}
        self._left: dict[tuple[str, str], int] = {}
        """What was left of an attempt's lease when it began: an order to start may come late, and is not renewed before."""
        self._ran: dict[tuple[str, str], int] = {}
        """Attempts that are over -> for how long they ran, in true time."""
        self._succeeded: set[tuple[str, str]] = set()
        self._ends: dict[str, int] = {}
        """True time at which the control plane takes each lease for over, by the clock with which it saved it;
        also of those that a restore forgot."""
        self._forgotten: set[str] = set()
        """Requests whose jobs a restore forgot: repeated, they are new to it."""
        self._unheard: dict[tuple[str, bool], int] = {}
        """(lease, to end or to begin) -> at how many looks in a row its order was not obeyed though its agent got answers."""
        self._incarnation = 0
        """The store's, since it was restored."""
        self._causes = Causes(people, self._begun, self._ends)
        self._lost: set[str] = set()
        """Jobs that a restore forgot and no hub remembers."""
        self._remembered: set[str] = set()
        """Jobs that a restore forgot and a hub runs: they are back when it has spoken."""

    # ---- machines ---------------------------------------------------------------------------------------------------
    def began(self, program: Program) -> None:
        """No job runs twice at once, no attempt twice at all, and no machine is over-committed."""
        self.checks += 1
        work, (job_id, epoch) = program.run.lease.work, program.key
        self._hold(program.key not in self._begun, f"attempt {epoch} of job {job_id} runs a second time")
        self._begun[program.key] = program
        self._left[program.key] = self._ends[program.run.lease.lease_id] - self._stage.now_ms
        job = self._store.get_job(job_id)
        over = job is None or job.state.terminal
        self._hold(not over or self._of_before(program), f"job {job_id} begins and has ended before")
        other = self._running.get(job_id)
        if other is not None:
            raise self._stage.broken(
                f"job {job_id} runs twice at once: attempt {other.key[1]} at {other.machine}, {epoch} at {program.machine}"
            )
        self._running[job_id] = program
        here = self._on_machine.setdefault(program.machine, {})
        here[program.key] = work.cpu_milli * work.replicas
        offered = sum(amount for name, _, amount in self.agents[program.machine].place.offered if name == "cpu")
        if sum(here.values()) > offered:
            raise self._stage.broken(f"machine {program.machine} runs {sum(here.values())} of {offered} millicores")

    def held(self, program: Program, longest_ms: float) -> None:
        """A guard never holds a lease for longer than the control plane does: it counts from when it asked."""
        self.checks += 1
        longer_ms = int(self._stage.now_ms + longest_ms) - self._ends[program.run.lease.lease_id]
        self._hold(longer_ms <= SLACK_MS, f"job {program.key[0]} holds {longer_ms} ms beyond its lease")

    def asked(self, program: Program, cause: str, grace_ms: int) -> None:
        """A guard asks for its lease's sake only when that is over, and no later. Who makes room gets what its hub gives.

        Whoever is asked may take a grace to end, in which its hub may well be heard again.
        """
        self.checks += 1
        job_id, _ = program.key
        work = program.run.lease.work
        why = program.why if cause == "stopped" else cause
        if cause == "stopped":
            policy = self.agents[program.machine].place.policy
            least_ms = {"PREEMPTED": policy.reclaim_s * 1_000, "CANCEL_REQUESTED": STOP_GRACE_MS}.get(why, 0)
            self._hold(grace_ms >= least_ms, f"job {job_id} has {grace_ms} of {least_ms} ms to end: {why}")
        if why != "LEASE_RAN_OUT":
            return
        if work.on_partition == "keep":
            since_ms, least_ms = self._stage.now_ms - program.began_ms, work.runtime_limit_ms
        else:
            since_ms = self._stage.now_ms - self.agents[program.machine].heard_ms
            least_ms = min(LEASE_MS_BATCH // 2, self._left[program.key])
        self._hold(
            since_ms >= least_ms * 0.999 - SLACK_MS,
            f"job {job_id} was told to end for its lease after {since_ms} of {least_ms} ms",
        )
        late_ms = self._stage.now_ms - self._ends[program.run.lease.lease_id]
        self._hold(late_ms <= SLACK_MS, f"job {job_id} was told to end {late_ms} ms after its lease")

    def ended(self, program: Program) -> None:
        """Whatever ends a program has the right to."""
        self.checks += 1
        job_id, epoch = program.key
        del self._running[job_id]
        del self._on_machine[program.machine][program.key]
        ran_ms = self._ran[program.key] = self._stage.now_ms - program.began_ms
        limit_ms = program.run.lease.work.runtime_limit_ms
        longest_ms = limit_ms * 1.001 + GUARD_GRACE_MS + SLACK_MS
        self._hold(ran_ms <= longest_ms, f"job {job_id} ran for {ran_ms} ms and may run for {limit_ms} ms")
        cause = program.why if program.cause == "stopped" else program.cause
        wish = self._wish_of(job_id)
        match cause:
            case "exited":
                if program.exit_code == 0:
                    self._succeeded.add((job_id, epoch))
            case "POWER" | "OUT_OF_MEMORY" | "LEASE_RAN_OUT":
                pass  # nobody's doing, or looked at when its guard asked
            case "RUNTIME_LIMIT":
                self._hold(
                    ran_ms >= limit_ms * 0.999 - SLACK_MS, f"job {job_id} was ended {ran_ms} ms into {limit_ms} ms"
                )
            case "CANCEL_REQUESTED":
                self._hold(wish is None or wish.cancelled, f"job {job_id} was cancelled and nobody asked")
            case "PREEMPTED":
                self._hold(
                    wish is None or wish.preemptible, f"job {job_id} was preempted and never said that it may be"
                )
            case "LEASE_OVER" | "SUPERSEDED":
                self._hold(
                    self._cancelled_as_over(job_id) or self._over(program),
                    f"job {job_id} was ended as {cause} while its lease held",
                )
            case _:
                raise self._stage.broken(f"job {job_id} was ended as {cause!r}, which nobody may do")

    def _of_before(self, program: Program) -> bool:
        """Whether it was begun by orders of before a restore: what the store knows of it, its hub has yet to tell."""
        return program.run.lease.epoch.incarnation < self._incarnation

    def carried_out(self, machine: str, before: Seen, after: Seen) -> None:
        """An agent carries out no answer that is older than one it carried out before."""
        self._hold(
            (before.incarnation, before.revision) <= (after.incarnation, after.revision),
            f"{machine} carries out {after} after {before}",
        )

    def _over(self, program: Program) -> bool:
        over_ms = self._ends[program.run.lease.lease_id] + KILL_GRACE_MS + SKEW_BOUND_MS
        return self._stage.now_ms >= over_ms - SLACK_MS

    def _cancelled_as_over(self, job_id: str) -> bool:
        job = self._store.get_job(job_id)
        return job is not None and job.state is JobState.CANCELLED

    # ---- the store --------------------------------------------------------------------------------------------------
    def committed(self, unit: Unit) -> None:
        """What was saved keeps what was promised, wherever it touched; once a minute everything is looked at."""
        self.checks += 1
        if not (unit.jobs or unit.leases or unit.agents):
            return
        for lease in unit.leases.values():
            ends_ms = self._stage.now_ms + lease.expires_ms - unit.now_ms
            self._ends[lease.id] = max(ends_ms, self._ends.get(lease.id, 0))
        self._none(list(self._causes.broken(unit, self._stage.now_ms)))
        for job in unit.jobs.values():
            self._job_saved(job)
        world = unit.world
        touched = unit.agents.keys() | {lease.agent_key for lease in unit.leases.values()}
        touched |= {job.claim.agent_key for job in unit.jobs.values() if job.claim is not None}
        touched |= {held.agent_key for job_id in unit.jobs if (held := world.lease_for(job_id)) is not None}
        leases = [lease for key in touched for lease in world.held_by(key)]
        jobs = {job_id: world.jobs[job_id] for job_id in unit.jobs if job_id in world.jobs}
        jobs |= {lease.job_id: world.jobs[lease.job_id] for lease in leases if lease.job_id in world.jobs}
        jobs |= {job.id: job for key in touched for job in world.claimed_at(key)}
        self._none(broken(jobs.values(), leases, _bound(world)))

    def _job_saved(self, job: Job) -> None:
        before = self._terminal.get(job.id)
        if before is not None and self._adopted(job):
            del self._terminal[job.id]
            before = None
        self._hold(before is None or before is job.state, f"job {job.id} had ended as {before} and is {job.state} now")
        if job.state.terminal:
            if before is None:
                self._stage.tell("store", f"{job.id} is {job.state}")
            self._terminal[job.id] = job.state
        if job.state.terminal or job.state is JobState.QUEUED:
            running = self._running.get(job.id)
            if running is not None and not self._of_before(running):
                raise self._stage.broken(f"job {job.id} is {job.state} and runs at {running.machine}")
        if job.epoch is not None:
            epoch = (job.epoch.incarnation, job.epoch.n)
            self._hold(self._epochs.get(job.id, epoch) <= epoch, f"job {job.id} went back to attempt {job.epoch}")
            self._epochs[job.id] = epoch
        if job.state is JobState.SUCCEEDED:
            attempt = (str(job.id), str(job.result_epoch))
            self._hold(attempt in self._succeeded, f"job {job.id} is said to have succeeded, and did not")

    def _adopted(self, job: Job) -> bool:
        """Whether a hub has told of a later attempt than the one that had ended, begun before a restore."""
        epoch = job.epoch
        if epoch is None or epoch.incarnation >= self._incarnation:
            return False
        return self._epochs.get(job.id, (0, 0)) <= (epoch.incarnation, epoch.n)

    def memory_is_the_store(self, world: World) -> None:
        """What the control plane believes is what it would read."""
        loaded = self._store.load()
        same = {job.id: job for job in loaded.jobs} == world.jobs
        same = same and {lease.id: lease for lease in loaded.leases} == world.leases
        same = same and loaded.incarnation == world.incarnation
        same = same and world.leases == {lease.id: lease for key in world.agents for lease in world.held_by(key)}
        self._hold(same and loaded.last_seq == world.last_seq, "the control plane's memory is not what its store holds")
        self._none(broken(world.jobs.values(), world.leases.values(), _bound(world)))
        self._orders_arrive(world)

    def _orders_arrive(self, world: World) -> None:
        """An order is said until it is heard: nothing waits to begin, or to end, while its agent gets answers."""
        heard = {
            tuple(agent.name.split("/"))
            for agent in self.agents.values()
            if agent.life.alive and agent.heard_ms > self._stage.now_ms - 60_000
        }
        before, self._unheard = self._unheard, {}
        for lease in world.leases.values():
            state = world.jobs[lease.job_id].state
            waits = lease.state is LeaseState.GRANTED and state is JobState.LEASED
            ends = lease.state is LeaseState.REVOKING and state is not JobState.UNKNOWN
            if tuple(lease.agent_key) in heard and lease.epoch.incarnation == world.incarnation and (waits or ends):
                looks = self._unheard[lease.id, ends] = before.get((lease.id, ends), 0) + 1
                what = "to end" if ends else "to begin"
                self._hold(looks < UNHEARD_MAX, f"job {lease.job_id} waits for an order {what} that its hub never gets")

    def silence_is_told(self, world: World, heard_ms: Mapping[str, int], since_ms: int) -> None:
        """A hub of which nothing came for long, by this control plane that began then, is not taken for online."""
        for (hub_id, _), agent in world.agents.items():
            silent_ms = self._stage.now_ms - max(since_ms, heard_ms.get(hub_id, 0))
            online = agent.link is LinkState.ONLINE and silent_ms > SILENT_MS_MAX
            self._hold(not online, f"hub {hub_id} is taken for online, and was silent for {silent_ms} ms")

    def known_jobs(self) -> dict[str, Job]:
        """What the store has, by id."""
        return {job.id: job for job in self._store.list_jobs(JobFilter(), 0, JOBS_MAX).jobs}

    def restored(self, before: Mapping[str, Job]) -> None:
        """A backup took the place of a store that knew `before`: only what no hub runs may be lost with what came since."""
        known = self.known_jobs()
        self._incarnation = self._store.load().incarnation
        self._terminal = {job.id: job.state for job in known.values() if job.state.terminal}
        self._epochs = {job.id: (job.epoch.incarnation, job.epoch.n) for job in known.values() if job.epoch}
        run = {
            str(one.lease.job_id)
            for agent in self.agents.values()
            for one in agent.place.journal.load().values()
            if one.state is not RunState.ENDED and agent.comes_back
        }
        self._forgotten.update(job.spec.name for job_id, job in before.items() if job_id not in known)
        gone = ({*before} | self._lost | self._remembered) - {*known}
        self._remembered = gone & run
        self._lost = gone - run

    def acknowledged_are_kept(self, hubs_have_spoken: bool = False) -> None:
        """What somebody was told is accepted is there, whatever happened since."""
        excused = self._lost if hubs_have_spoken else self._lost | self._remembered
        for wish in self._people.wishes:
            if wish.job_id and wish.job_id not in excused:
                self._hold(
                    self._store.get_job(wish.job_id) is not None, f"job {wish.job_id} was acknowledged and is lost"
                )

    # ---- the end ----------------------------------------------------------------------------------------------------
    def unsettled(self) -> str:
        """What is not yet over though nothing stands in its way; empty when all is."""
        for wish in self._people.wishes:
            job = self._store.get_job(wish.job_id) if wish.job_id else None
            if job is None and wish.job_id in self._lost:
                continue
            if job is None or not job.state.terminal:
                why = "" if job is None or job.reason is None else f" ({job.reason.code})"
                return (
                    f"{wish.request_id} {wish.job_id or 'was never accepted'} is {job.state if job else 'unknown'}{why}"
                )
        for agent in self.agents.values():
            if agent.life.alive and agent.register.runs:
                return f"agent {agent.name} still keeps {', '.join(agent.register.runs)}"
        return ""

    def at_the_end(self) -> None:
        """All is settled: nothing runs, nothing is lost, and use was counted once."""
        self.acknowledged_are_kept(hubs_have_spoken=True)
        self._hold(not self._running, f"jobs {', '.join(self._running)} still run and nobody knows")
        accepted = {wish.job_id for wish in self._people.wishes}
        twice = [
            job.id
            for job in self.known_jobs().values()
            if job.id not in accepted and job.spec.name not in self._forgotten
        ]
        self._hold(not twice and len(accepted) == len(self._people.wishes), "a request became two jobs")
        for wish in self._people.wishes:
            program = self._begun.get((wish.job_id, str(getattr(self._store.get_job(wish.job_id), "epoch", None))))
            if wish.given_up and program is not None:
                returned = self.agents[program.machine].life.alive
                self._hold(not returned, f"job {wish.job_id} had to be given up, and its hub is there")
        for lease_id in self._ends:
            self._none(miscounted(lease_id, self._store.usage_of(LeaseId(lease_id))))
        for key, ran_ms in self._ran.items():
            self._all_is_counted(self._begun[key], ran_ms)
        for job_id in self.known_jobs():
            facts = self._store.events_of("job", job_id, FACTS_MAX)
            self._none(broken_history(job_id, [(one.type, json.loads(one.payload)) for one in facts]))

    def _all_is_counted(self, program: Program, ran_ms: int) -> None:
        """What a hub that is there ran under a lease that is known was counted, all of it.

        Not what was over in an earlier boot of its machine: power takes it, or the moment at which it ended.
        """
        lease_id, agent = program.run.lease.lease_id, self.agents[program.machine]
        this_boot = program.boot == agent.place.machine.boot_id and program.cause != "POWER"
        if this_boot and agent.life.alive and self._store.get_lease(LeaseId(lease_id)) is not None:
            counted_ms = sum(one.end_ms - one.start_ms for one in self._store.usage_of(LeaseId(lease_id)))
            self._hold(
                counted_ms >= ran_ms * 0.999 - SLACK_MS,
                f"job {program.key[0]} ran for {ran_ms} ms under {lease_id} ({program.cause}), and {counted_ms} ms are counted",
            )

    def _wish_of(self, job_id: str) -> Wish | None:
        return self._people.by_job.get(job_id)

    def _hold(self, holds: bool, otherwise: str) -> None:
        if not holds:
            raise self._stage.broken(otherwise)

    def _none(self, found: list[str]) -> None:
        if found:
            raise self._stage.broken("; ".join(found))


def _bound(world: World) -> Mapping[AgentKey, Agent]:
    """Agents that hold no more than they offer, by the plan.

    What a hub says that it runs since before a restore counts, and may come to what was placed there meanwhile.
    """
    if world.restoration is None:
        return world.agents
    told = {lease.agent_key for lease in world.leases.values() if lease.epoch.incarnation < world.incarnation}
    return {key: agent for key, agent in world.agents.items() if key not in told}
