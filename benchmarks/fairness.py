"""How far is any hub's share from exact progressive filling, and does every hub get what its own machines would give it?

Two hundred hubs with openb's machines and shapes, Philly's arrivals and gangs of 1 to 32. At moments through the trace,
everything that is asked for at once is given to an empty federation by one round of the planner, and by the oracle:
exact progressive filling, hierarchical, with the same weights (what a hub's machines are of all) and the same
owners-first rule. The oracle cuts work as finely as it likes and knows no machines, so it is given the room that the
planner gave out, hub by hub; what no planner can use because it does not fit is `packing`'s question, and the
second row shows the distance with it. Shares are dominant shares; the unit is the largest gang of the hub in question.

Sharing incentive: no hub gets less than it would on its own machines alone, nor than exact filling of its weight's part
of what was given out. Baseline: the same planner when all jobs are one user's, which is first come, first served.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from fractions import Fraction
from pathlib import Path

from benchmarks.apparatus.oracle import Sharer, Want, fill, share_of
from benchmarks.apparatus.philly import Setting, Workload, machines_of, missing, options, workload
from benchmarks.figures import Baseline, Figure, Value, emit, say
from federation.domain.quantities import amount_of
from federation.scheduling import Delta, PlannerState, Policy, plan_round
from federation.scheduling.rows import AgentRow, QueuedJob
from federation.simulation.replay import HistoricJob

__all__ = ["measure", "options"]

NAMES = ("cpu", "memory", "gpu")
SEEDS, SEEDS_QUICK = (1, 2, 3), (1,)
MOMENTS, MOMENTS_QUICK = 6, 3
LOAD = 3.0
FCFS = "first come, first served"
Amounts = dict[str, list[int]]
"""By hub, one amount for each of `NAMES`."""


@dataclass(frozen=True, slots=True)
class Moment:
    """What happened at one moment of one seed, by hub, in gangs of that hub."""

    ours: Mapping[str, float]
    """Distance from the oracle on the room that was given out; above zero: it got more."""
    of_all_room: Mapping[str, float]
    """Distance from the oracle on all machines."""
    fcfs: Mapping[str, float]
    """Distance of first come, first served from the oracle on the room that it gave out."""
    alone: Mapping[str, float]
    """What is missing to what the hub's own machines would give it; below zero: it got more."""
    alone_fcfs: Mapping[str, float]
    part: Mapping[str, float]
    """What is missing to exact filling of the part of its weight."""
    part_fcfs: Mapping[str, float]
    shares: Sequence[tuple[float, float, float]]
    """(oracle, ours, first come), dominant shares in percent, for the chart."""


def measure(chosen: argparse.Namespace) -> None:
    """Print the figures and the table."""
    began_s = time.monotonic()
    note = missing(chosen.traces)
    if note and chosen.trace is None:
        say(note)
    seeds = chosen.seeds or (SEEDS_QUICK if chosen.quick else SEEDS)
    moments: dict[int, list[Moment]] = {}
    trace = ""
    for seed in seeds:
        work = workload(chosen.traces, Setting(seed=seed, load=LOAD), chosen.trace)
        trace = work.trace
        moments[seed] = []
        count = MOMENTS_QUICK if chosen.quick else MOMENTS
        last_ms = work.jobs[-1].row.submitted_ms
        for at in range(count):
            moment = look(work, last_ms * (at + 2) // (count + 2))
            if moment is not None:
                moments[seed].append(moment)
        _say(seed, moments[seed])
    config: dict[str, Value] = {
        "trace": trace,
        "hubs": Setting().hubs,
        "load": LOAD,
        "seeds": ",".join(map(str, seeds)),
    }
    for figure in figures([of for several in moments.values() for of in several], config, time.monotonic() - began_s):
        emit(figure)
    if chosen.plot:
        plot(chosen.plot, next(iter(moments.values()))[-1])


def look(work: Workload, at_ms: int) -> Moment | None:
    """One moment; None when everything that is asked for fits, so that nobody had to be chosen."""
    asked = [job for job in work.jobs if job.row.submitted_ms <= at_ms < job.row.submitted_ms + job.runtime_ms]
    own = {hub: [of.get(name, 0) for name in NAMES] for hub, of in machines_of(work.agents).items()}
    offered = [sum(amounts[at] for amounts in own.values()) for at in range(len(NAMES))]
    weights = {hub: dominant(amounts, offered) * len(own) for hub, amounts in own.items()}
    got, room = planned(work.agents, asked, Policy(hub_weights=weights), at_ms)
    first_got, first_room = planned(work.agents, asked, Policy(reservations=0), at_ms, as_one_user=True)
    hubs = sorted({job.row.home_hub for job in asked})
    wants = {hub: dominant(_sum(asked, hub), offered) for hub in hubs}
    if all(dominant(got[hub], offered) == wants[hub] for hub in hubs):
        return None
    gang = {hub: max(dominant(total(job.row), offered) for job in asked if job.row.home_hub == hub) for hub in hubs}

    def oracle(rooms: Amounts) -> dict[str, float]:
        sharers = tree(asked, weights)
        fill(sharers, offered, rooms, exact=False)
        return {sharer.name: float(share_of(sharer, offered)) for sharer in sharers}

    def over(mine: Amounts, exactly: Mapping[str, float]) -> dict[str, float]:
        return {hub: (dominant(mine[hub], offered) - exactly[hub]) / gang[hub] for hub in hubs}

    exact = oracle(room)
    alone = by_itself(work.agents, asked, at_ms)
    entitled = {hub: dominant(alone[hub], offered) for hub in hubs}
    part, part_first = (weighted_part(asked, weights, rooms, offered) for rooms in (room, first_room))
    return Moment(
        ours=over(got, exact),
        of_all_room=over(got, oracle(own)),
        fcfs=over(first_got, oracle(first_room)),
        alone=_minus(over(got, entitled)),
        alone_fcfs=_minus(over(first_got, entitled)),
        part=_minus(over(got, part)),
        part_fcfs=_minus(over(first_got, part_first)),
        shares=[
            (100 * exact[hub], 100 * dominant(got[hub], offered), 100 * dominant(first_got[hub], offered))
            for hub in hubs
        ],
    )


# -- who gets what ----------------------------------------------------------------------------------------------------
def total(row: QueuedJob) -> list[int]:
    """What a whole gang asks for."""
    return [amount_of(row.per_task, name) * row.replicas for name in NAMES]


def dominant(amounts: Sequence[int], offered: Sequence[int]) -> float:
    """The largest part of any resource."""
    return max(amount / there for amount, there in zip(amounts, offered, strict=True))


def planned(
    agents: Sequence[AgentRow], asked: Sequence[HistoricJob], policy: Policy, at_ms: int, *, as_one_user: bool = False
) -> tuple[Amounts, Amounts]:
    """What one round on idle machines gives to each home hub, and of each hub's machines.

    `as_one_user`: all jobs are one user's, of no hub, so that they go in order of arrival; who does not fit is passed over.
    """
    rows = [replace(job.row, home_hub="", project="all", user="all") if as_one_user else job.row for job in asked]
    _, plan = plan_round(PlannerState(), Delta(agents=tuple(agents), queued=tuple(rows)), policy, at_ms)
    by_id = {job.row.job_id: job.row for job in asked}
    names = {row.key[0] for row in agents} | {job.row.home_hub for job in asked}
    got: Amounts = {hub: [0] * len(NAMES) for hub in names}
    room: Amounts = {hub: [0] * len(NAMES) for hub in names}
    for entry in plan.placements:
        row = by_id[entry.job_id]
        for at, amount in enumerate(total(row)):
            got[row.home_hub][at] += amount
            room[entry.key[0]][at] += amount
    return got, room


def by_itself(agents: Sequence[AgentRow], asked: Sequence[HistoricJob], at_ms: int) -> Amounts:
    """What each hub would run on its own machines, with no federation."""
    alone: Amounts = {}
    for agent in agents:
        mine = [job for job in asked if job.row.home_hub == agent.key[0]]
        alone[agent.key[0]] = planned([agent], mine, Policy(), at_ms)[0][agent.key[0]]
    return alone


def tree(asked: Sequence[HistoricJob], weights: Mapping[str, float]) -> list[Sharer]:
    """Hubs, projects and users with their work in order of arrival, for the oracle."""
    paths: dict[str, dict[str, dict[str, list[Want]]]] = {}
    for job in asked:
        row = job.row
        users = paths.setdefault(row.home_hub, {}).setdefault(row.project, {})
        users.setdefault(row.user, []).append(Want(tuple(total(row)), 1))
    return [
        Sharer(
            hub,
            Fraction(weights[hub]),
            [
                Sharer(project, children=[Sharer(user, wants=wants) for user, wants in sorted(users.items())])
                for project, users in sorted(projects.items())
            ],
        )
        for hub, projects in sorted(paths.items())
    ]


def weighted_part(
    asked: Sequence[HistoricJob], weights: Mapping[str, float], room: Amounts, offered: Sequence[int]
) -> dict[str, float]:
    """Each hub's share if it alone had the part of its weight of every resource that was given out."""
    given_out = [sum(of[at] for of in room.values()) for at in range(len(NAMES))]
    everybody = sum(weights.values())
    found = {}
    for sharer in tree(asked, weights):
        part = [int(amount * weights[sharer.name] / everybody) for amount in given_out]
        fill([sharer], offered, {sharer.name: part}, exact=False)
        found[sharer.name] = float(share_of(sharer, offered))
    return found


def _sum(asked: Sequence[HistoricJob], hub: str) -> list[int]:
    totals = [total(job.row) for job in asked if job.row.home_hub == hub]
    return [sum(of[at] for of in totals) for at in range(len(NAMES))]


def _minus(of: Mapping[str, float]) -> dict[str, float]:
    return {hub: -value for hub, value in of.items()}


# -- figures ----------------------------------------------------------------------------------------------------------
def figures(moments: Sequence[Moment], config: Mapping[str, Value], seconds: float) -> list[Figure]:
    """The rows; with no moment at which anybody had to wait there is nothing to say."""
    if not moments:
        say("everything fitted at every moment: nothing to be fair about")
        return []

    def largest(of: Sequence[Mapping[str, float]]) -> float:
        return max(max(abs(value) for value in one.values()) for one in of)

    def worst(of: Sequence[Mapping[str, float]]) -> float:
        return max(0.0, *(max(one.values()) for one in of))

    first = largest([one.fcfs for one in moments])
    rows = (
        ("largest_deviation_gangs", largest([one.ours for one in moments]), first, {"room": "given out"}),
        ("largest_deviation_gangs", largest([one.of_all_room for one in moments]), first, {"room": "all machines"}),
        (
            "sharing_incentive_shortfall_gangs",
            worst([one.alone for one in moments]),
            worst([one.alone_fcfs for one in moments]),
            {"partition": "own machines"},
        ),
        (
            "sharing_incentive_shortfall_gangs",
            worst([one.part for one in moments]),
            worst([one.part_fcfs for one in moments]),
            {"partition": "weight's part"},
        ),
    )
    return [
        Figure(
            "fairness", metric, value, "gangs", "lower", Baseline(FCFS, first_come), seconds,
            {**config, "policy": "ours", "moments": len(moments), **more},
        )
        for metric, value, first_come, more in rows
    ]  # fmt: skip


def _say(seed: int, moments: Sequence[Moment]) -> None:
    for one in moments:
        say(
            f"seed {seed}: {len(one.ours)} hubs; from the oracle {min(one.ours.values()):+.2f} to "
            f"{max(one.ours.values()):+.2f} gangs (first come {min(one.fcfs.values()):+.2f} to "
            f"{max(one.fcfs.values()):+.2f}); short of its own machines by {max(0.0, *one.alone.values()):.2f} at most "
            f"(first come {max(0.0, *one.alone_fcfs.values()):.2f})"
        )


def plot(path: Path, moment: Moment) -> None:
    """Every hub's share: the oracle's, ours and first come's."""
    from benchmarks.apparatus.plot import Chart, Series, write_chart

    ordered = sorted(moment.shares)
    names = ("exact progressive filling", "ours", FCFS)
    series = [
        Series(name, tuple((float(at), share[which]) for at, share in enumerate(ordered, 1)), dots=which > 0)
        for which, name in enumerate(names)
    ]
    write_chart(
        path,
        Chart(
            "Who gets what of a federation that is asked for too much",
            "hubs, by exact share",
            "dominant share, %",
            tuple(series),
        ),
    )
