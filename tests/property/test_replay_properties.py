"""Replays of any history: the same every time, nothing over capacity, nobody lost; and histories of any text."""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Mapping
from typing import Any

from hypothesis import example, given, settings
from hypothesis import strategies as st

from federation.domain.hub import HubState, LinkState, Node
from federation.domain.ids import AgentId, HubId
from federation.domain.quantities import Amount, amount_of, resources
from federation.errors import FederationError
from federation.scheduling import Policy
from federation.scheduling.rows import AgentRow, QueuedJob
from federation.simulation import HistoricJob, Outcome, Replay
from federation.simulation.figures import figures
from federation.simulation.history import (
    _DATASET,
    _FIRST,
    _HUB,
    _JOB,
    _NODE,
    _OFFERS,
    _RAN,
    History,
    parse_history,
)
from federation.simulation.replay import Recorded
from federation.simulation.writing import format_history

HUBS = ("cairo", "kuala-lumpur", "shenzhen")
MODELS = ("nvidia/A100", "nvidia/T4")
MINUTE_MS = 60_000

amounts = st.tuples(st.integers(1, 8), st.sampled_from((0, 0, 0, 1, 2)), st.sampled_from(MODELS))


def machine(at: int, cpu: int, gpus: int, model: str) -> Node:
    """A machine that offers all it has."""
    has = resources(("cpu", "", cpu * 1000), ("gpu", model, gpus * 1000))
    return Node(f"n{at}", has, has)


@st.composite
def agents(draw: st.DrawFn) -> tuple[AgentRow, ...]:
    """One agent at some of three hubs, with a few machines each."""
    rows = []
    for hub_id in draw(st.lists(st.sampled_from(HUBS), max_size=3, unique=True)):
        machines = draw(st.lists(amounts, min_size=1, max_size=3))
        rows.append(
            AgentRow(
                key=(HubId(hub_id), AgentId("main")),
                hub_state=HubState.ACTIVE,
                link=LinkState.ONLINE,
                nodes=tuple(machine(at, *of) for at, of in enumerate(machines)),
                engines=("command",),
                reclaim_ms=draw(st.sampled_from((0, MINUTE_MS))),
            )
        )
    return tuple(rows)


@st.composite
def jobs(draw: st.DrawFn) -> tuple[HistoricJob, ...]:
    """Up to twenty jobs of a few people within ten minutes; several may come at one instant."""
    made = []
    for at in range(draw(st.integers(0, 20))):
        limit_ms = draw(st.sampled_from((MINUTE_MS, 10 * MINUTE_MS, 60 * MINUTE_MS)))
        cpu, gpus, model = draw(amounts)
        gpu_milli = draw(st.sampled_from((gpus * 1000, gpus * 300)))
        row = QueuedJob(
            job_id=f"job-{at:02d}",
            seq=at,
            home_hub=draw(st.sampled_from(HUBS)),
            project="default",
            user=draw(st.sampled_from(("ada", "bo"))),
            engine=draw(st.sampled_from(("command", "command", "command", "spark"))),
            per_task=resources(("cpu", "", cpu * 500), ("gpu", draw(st.sampled_from(("", model))), gpu_milli)),
            replicas=draw(st.sampled_from((1, 1, 1, 2, 4))),
            priority=draw(st.sampled_from((1, 3, 3, 4))),
            runtime_limit_ms=limit_ms,
            preemptible=draw(st.booleans()),
            submitted_ms=draw(st.integers(0, 10)) * MINUTE_MS,
        )
        runtime_ms = draw(st.integers(1, limit_ms))
        waited_ms, lost_ms = draw(st.integers(0, MINUTE_MS)), draw(st.integers(0, MINUTE_MS))
        start_ms = row.submitted_ms + waited_ms + lost_ms
        ran = draw(st.none() | st.just(Recorded("cairo", start_ms, start_ms + runtime_ms, lost_ms)))
        made.append(HistoricJob(row, runtime_ms, ran))
    return tuple(made)


def held_beyond(offered: tuple[Amount, ...], held: Mapping[tuple[str, str], int]) -> bool:
    """Whether tasks together hold more than a machine offers: of each resource, and of each model by name."""
    there: dict[tuple[str, str], int] = defaultdict(int)
    for name, kind, amount in offered:
        there[name, kind] += amount
    total_there: dict[str, int] = defaultdict(int)
    total_held: dict[str, int] = defaultdict(int)
    for (name, _), amount in there.items():
        total_there[name] += amount
    for (name, _), amount in held.items():
        total_held[name] += amount
    named = any(amount > there[name, kind] for (name, kind), amount in held.items() if kind)
    return named or any(amount > total_there[name] for name, amount in total_held.items())


def devices_beyond(history: tuple[HistoricJob, ...], outcome: Outcome) -> list[str]:
    """Every device and moment at which tasks hold more than all of it, and every GPU task without its devices."""
    wanted = {job.row.job_id: amount_of(job.row.per_task, "gpu") for job in history}
    changes, found = [], []
    for run in outcome.runs:
        milli = wanted[run.job_id]
        if milli and [len(of) for of in run.devices] != [max(1, milli // 1000)] * len(run.nodes):
            found.append(f"{run.job_id} has devices {run.devices}")
        for node, of_task in zip(run.nodes, run.devices, strict=False):
            for device in of_task:
                changes.append((run.start_ms, 1, (run.key, node, device), min(milli, 1000)))
                changes.append((run.end_ms, -1, (run.key, node, device), min(milli, 1000)))
    held: dict[Any, int] = defaultdict(int)
    for at_ms, sign, place, milli in sorted(changes):
        held[place] += sign * milli
        if held[place] > 1000:
            found.append(f"{place} at {at_ms}")
    return found


def over_capacity(machines: tuple[AgentRow, ...], history: tuple[HistoricJob, ...], outcome: Outcome) -> list[str]:
    """Every machine and moment at which runs hold more than there is: by a sweep over all starts and ends."""
    per_task = {job.row.job_id: job.row.per_task for job in history}
    offered = {(row.key, node.name): node.offered for row in machines for node in row.nodes}
    changes: list[tuple[int, int, Any, Amount]] = []
    for run in outcome.runs:
        for node in run.nodes:
            for entry in per_task[run.job_id]:
                changes.append((run.start_ms, 1, (run.key, node), entry))
                changes.append((run.end_ms, -1, (run.key, node), entry))
    held: dict[Any, dict[tuple[str, str], int]] = defaultdict(lambda: defaultdict(int))
    found = []
    for at_ms, sign, place, (name, kind, amount) in sorted(changes):
        held[place][name, kind] += sign * amount
        if held_beyond(offered[place], held[place]):
            found.append(f"{place} at {at_ms}")
    return found


def check_outcome(machines: tuple[AgentRow, ...], history: tuple[HistoricJob, ...], outcome: Outcome) -> None:
    """Each job ends once, no sooner than it can, or waits with a reason; no machine is ever over-committed."""
    completed = sorted(run.job_id for run in outcome.runs if run.completed)
    ended = [one for one in outcome.jobs if one.end_ms is not None]
    assert completed == sorted(one.job_id for one in ended)
    assert [one.job_id for one in outcome.jobs] == [job.row.job_id for job in history]
    for one, job in zip(outcome.jobs, history, strict=True):
        if one.end_ms is None:
            assert (one.start_ms, one.hub_id, one.reason is None) == (None, "", False)
        else:
            assert one.start_ms is not None
            assert one.start_ms >= job.row.submitted_ms
            assert one.end_ms == one.start_ms + job.runtime_ms
            assert one.reason is None
    assert all(run.start_ms <= run.end_ms for run in outcome.runs)
    may_be_ended = {job.row.job_id for job in history if job.row.preemptible}
    assert {run.job_id for run in outcome.runs if not run.completed} <= may_be_ended
    assert over_capacity(machines, history, outcome) == []
    assert devices_beyond(history, outcome) == []


@settings(max_examples=60)
@given(machines=agents(), history=jobs(), placements_max=st.sampled_from((1, 10_000)))
def test_any_history(machines: tuple[AgentRow, ...], history: tuple[HistoricJob, ...], placements_max: int) -> None:
    """See `check_outcome`."""
    check_outcome(machines, history, Replay(machines, Policy(placements_max=placements_max)).run(history))


@st.composite
def crowds(draw: st.DrawFn) -> tuple[HistoricJob, ...]:
    """Cairo's one machine of four cpus, full of guests that may mostly be ended, and owners that come by and by."""
    made = []
    for at in range(draw(st.integers(2, 12))):
        guest = at < 4
        runtime_ms = draw(st.integers(1, 60)) * MINUTE_MS
        row = QueuedJob(
            job_id=f"job-{at:02d}",
            seq=at,
            home_hub="shenzhen" if guest else draw(st.sampled_from(("cairo", "cairo", "shenzhen"))),
            project="default",
            user="ada",
            engine="command",
            per_task=resources(("cpu", "", draw(st.sampled_from((1000, 2000))))),
            replicas=draw(st.sampled_from((1, 1, 2))),
            priority=draw(st.sampled_from((3, 3, 4))),
            runtime_limit_ms=60 * MINUTE_MS,
            preemptible=draw(st.sampled_from((True, True, False))),
            submitted_ms=0 if guest else draw(st.integers(1, 90)) * MINUTE_MS,
        )
        made.append(HistoricJob(row, runtime_ms))
    return tuple(made)


@settings(max_examples=60)
@given(history=crowds(), grace_ms=st.sampled_from((0, MINUTE_MS, 20 * MINUTE_MS)), takes_back=st.booleans())
def test_any_crowd(history: tuple[HistoricJob, ...], grace_ms: int, takes_back: bool) -> None:
    """The same where owners push guests out; an end before its time comes after the hub's grace at the earliest."""
    here = Node("n0", resources(("cpu", "", 4000)), resources(("cpu", "", 4000)))
    machines = (
        AgentRow(
            (HubId("cairo"), AgentId("main")), HubState.ACTIVE, LinkState.ONLINE, (here,), ("command",),
            reclaim_ms=grace_ms, takes_back=takes_back,
        ),
    )  # fmt: skip
    outcome = Replay(machines, Policy()).run(history)
    check_outcome(machines, history, outcome)
    lost = [run for run in outcome.runs if not run.completed]
    assert (len(lost), sum(run.end_ms - run.start_ms for run in lost)) == (outcome.preemptions, outcome.lost_ms)
    assert all(run.end_ms - run.start_ms >= grace_ms for run in lost)


@settings(max_examples=30)
@given(machines=agents(), history=jobs())
def test_the_same_input_has_the_same_outcome(machines: tuple[AgentRow, ...], history: tuple[HistoricJob, ...]) -> None:
    """Byte for byte, whatever the order in which agents and jobs are given."""
    first = Replay(machines, Policy()).run(history)
    assert repr(Replay(machines, Policy()).run(history)) == repr(first)
    turned = Replay(machines[::-1], Policy()).run(history[::-1])
    assert sorted(map(repr, turned.jobs)) == sorted(map(repr, first.jobs))


@settings(max_examples=30)
@given(machines=agents(), history=jobs(), end_minute=st.integers(1, 100))
def test_figures_add_up(machines: tuple[AgentRow, ...], history: tuple[HistoricJob, ...], end_minute: int) -> None:
    """What hubs give is what hubs take; no hub is used beyond what it offers; each job is counted once."""
    outcome = Replay(machines, Policy()).run(history)
    found = figures(history, machines, outcome, 0, end_minute * MINUTE_MS)
    assert sum(hub.waits.jobs + hub.still_waiting for hub in found.hubs) == len(history)
    assert found.total.still_waiting == sum(found.waiting.values())
    for name in ("cpu", "gpu"):
        work = found.total.work[name]
        assert work.given == work.taken <= work.used <= work.offered
        assert all(hub.work[name].given <= hub.work[name].used <= hub.work[name].offered for hub in found.hubs)


@settings(max_examples=30)
@given(machines=agents(), history=jobs(), names=st.lists(st.text(max_size=6), max_size=3))
def test_what_is_written_reads_back(
    machines: tuple[AgentRow, ...], history: tuple[HistoricJob, ...], names: list[str]
) -> None:
    """A history survives its file."""
    policy = {"order": {name: 1 for name in names if name.isprintable()}}
    by_time = sorted(history, key=lambda job: job.row.submitted_ms)
    again = parse_history(format_history(History(0, 10**9, machines, tuple(by_time), policy)))
    assert (again.begins_ms, again.ends_ms, again.policy) == (0, 10**9, policy)
    assert again.agents == tuple(sorted(machines, key=lambda row: row.key))
    assert [job.row.job_id for job in again.jobs] == [job.row.job_id for job in by_time]
    assert [(job.runtime_ms, job.recorded) for job in again.jobs] == [(job.runtime_ms, job.recorded) for job in by_time]
    assert list(format_history(again))[1:] == list(format_history(parse_history(format_history(again))))[1:]


KEYS = st.sampled_from([*_FIRST, *_HUB, *_NODE, *_OFFERS, *_DATASET, *_JOB, *_RAN]) | st.text(max_size=5)
VALUES: st.SearchStrategy[Any] = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.integers(10**300, 10**301)
    | st.floats()
    | st.text(max_size=8)
    | st.sampled_from(["1h30m", "2Gi", "2026-10-01T00:00:00Z", "9999-12-31T23:59:59-23:59", "batch", "10d", "1e999"]),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(KEYS, inner, max_size=5),
    max_leaves=8,
)
LINES = (
    st.dictionaries(KEYS, VALUES, max_size=8).map(json.dumps)
    | st.dictionaries(KEYS, VALUES, max_size=5).map(
        lambda more: json.dumps({"job": "a", "home": "b", "submit": "1s", "runtime": "1s", **more})
    )
    | st.dictionaries(KEYS, VALUES, max_size=5).map(
        lambda more: json.dumps({"hub": "b", "nodes": [{"cpus": 1}], **more})
    )
    | st.text(max_size=20)
)


@settings(max_examples=200)
@given(lines=st.lists(LINES, max_size=5), begun=st.booleans())
@example(lines=["[" * 100_000], begun=False)
@example(lines=['{"job": ' + "9" * 5_000 + "}"], begun=True)
@example(lines=['{"job": "a", "home": "b", "submit": "1s", "runtime": "1s", "cpus": {"a": 1}}'], begun=True)
def test_any_text_is_a_history_or_an_error(lines: list[str], begun: bool) -> None:
    """Never another exception; an error of one line names it; a history can be replayed and written."""
    try:
        history = parse_history([*(['{"history": 1}'] if begun else []), *lines])
    except FederationError:
        return
    assert isinstance(history, History)
    outcome = Replay(history.agents, Policy()).run(history.jobs)
    assert len(outcome.jobs) == len(history.jobs)
    assert parse_history(format_history(history)).jobs == history.jobs
