"""Rules that matter only when much else is equal: past use, promises that others may still have, drained machines, old leases."""

from __future__ import annotations

from federation.scheduling import Delta, Plan, PlannerState, Policy, plan_round
from federation.scheduling.rows import QueuedJob, UsageRow
from tests.unit.scheduling.builders import agent, cpus, job, lease, planned, where, world

MINUTE_MS = 60_000


def promised(state: PlannerState, plan: Plan) -> dict[str, str]:
    """Job id to the hub of its promised start."""
    assert plan.promised is not None
    rows = zip(plan.promised.slots.tolist(), plan.promised.agents.tolist(), strict=True)
    return {state.queue.id_at(slot): state.fleet.keys[at][0] for slot, at in rows}


def test_of_equal_shares_who_used_less_goes_first() -> None:
    """Both hold half of the memory, which is their share; ada has used cpus before, and her name comes first."""
    held = tuple(lease(user, cpus(0.001, 8), "cairo", user=user) for user in ("ada", "bo"))
    jobs = (job("of-ada", cpus(1), seq=1), job("of-bo", cpus(1), seq=2, user="bo"))
    used = UsageRow("cairo", "default", "ada", (("cpu", 10**9),), 0, "cairo")
    delta = Delta(agents=(agent("cairo", cpus(1.5, 16)),), queued=jobs, leases_started=held)
    for usage, first in (((), "of-ada"), ((used,), "of-bo")):
        full = Delta(agents=delta.agents, queued=jobs, leases_started=held, usage=usage)
        assert set(where(plan_round(PlannerState(), full, Policy(), 0)[1])) == {first}


def test_a_short_guest_is_promised_a_start_where_long_ones_may_not_be() -> None:
    """The open hub has no more promises to give to two long jobs; the third is short enough for the strict hub."""
    agents = (agent("open", cpus(4)), agent("strict", cpus(4), takes_back=True, reclaim_ms=MINUTE_MS))
    full = tuple(lease(hub, cpus(4), hub, expires_ms=9 * MINUTE_MS) for hub in ("open", "strict"))
    limits = {"first": 60, "second": 60, "third": 1}
    jobs = tuple(
        job(name, cpus(4), "lima", seq=at, runtime_limit_ms=minutes * MINUTE_MS)
        for at, (name, minutes) in enumerate(limits.items())
    )
    assert promised(*world(*agents, jobs=jobs, leases=full, reservations=1)) == {"first": "open", "third": "strict"}


def test_a_machine_is_drained_also_for_who_is_not_the_first_to_be_promised() -> None:
    """The first waits for all machines; the second lacks no room but one machine; the last may not take what is left of it."""
    held = [lease("l0", cpus(2), "cairo", "n0", expires_ms=99 * MINUTE_MS)]
    held += [lease(f"l{at}", cpus(3), "cairo", f"n{at}", expires_ms=99 * MINUTE_MS) for at in range(1, 5)]

    def starts(*jobs: QueuedJob) -> set[str]:
        return set(where(planned(agent("cairo", *[cpus(4)] * 5), jobs=jobs, leases=tuple(held))))

    first = job("first", cpus(4), seq=1, replicas=5, runtime_limit_ms=MINUTE_MS)
    second = job("second", cpus(4), seq=2, runtime_limit_ms=10 * MINUTE_MS)
    last = job("last", cpus(2), seq=3, runtime_limit_ms=MINUTE_MS)
    assert starts(first, last) == {"last"}
    assert starts(first, second, last) == set()


def test_a_lease_that_should_have_ended_is_little_work_and_not_less_than_none() -> None:
    """A whole hub's for one more millisecond is more than a 64th of another for ten."""
    late, small = lease("late", cpus(64), "a", expires_ms=1), lease("small", cpus(1), "b", expires_ms=1_010)
    delta = Delta(
        agents=(agent("a", cpus(64)), agent("b", cpus(64))),
        queued=(job("wide", cpus(64), "lima"),),
        leases_started=(late, small),
    )
    state, plan = plan_round(PlannerState(), delta, Policy(promise_after_ms=0), 1_000)
    assert promised(state, plan) == {"wide": "b"}
