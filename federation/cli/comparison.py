"""Before and after a change of policy: tables for people and a document for programs.

One table tells of waiting and one of machines, so that each fits a screen. In both, each hub has a line for each policy
and one for the difference, green where waiting is shorter and red where it is longer; a hub for which nothing changes has
one line. Deliberately not here: how the figures come about (`federation/simulation`).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from federation.cli import tables
from federation.cli.show import duration, print_table, rfc3339
from federation.cli.tables import plain

if TYPE_CHECKING:
    from rich.table import Table

    from federation.simulation.figures import Figures, HubFigures, NeverStarts, Waits, Work
    from federation.simulation.history import History

MILLI_MS_PER_HOUR = 3_600_000_000
"""Thousandths x ms in one unit x hour."""
SECOND_MS = 1_000
FINE_MS = 10_000
"""Shorter times are told in tenths of a second."""
FEW_HOURS = 10
"""Fewer are told in hundredths."""
NOTHING_MS = 50
"""Shorter differences show as none."""
SAME = "·"
FEDERATION, NO_HUB = "(all)", "(no hub)"
"""The last line, and the line of people whom no hub vouches for."""


@dataclass(frozen=True, slots=True)
class Seen:
    """All that is shown."""

    history: History
    before: Figures
    after: Figures
    recorded: Waits
    """What was waited in fact."""
    notes: tuple[str, ...]
    policy_known: bool
    """Whether the history says which policy was in force."""


# ---- for programs -----------------------------------------------------------------------------------------------------
def document(seen: Seen) -> dict[str, Any]:
    """Everything, with units in the names: times in ms, hours of one core or one GPU, use in percent of what is offered."""
    history = seen.history
    pairs = zip(seen.before.hubs, seen.after.hubs, strict=True)
    return {
        "begins": rfc3339(history.begins_ms) or "1970-01-01T00:00:00.000Z",
        "ends": rfc3339(history.ends_ms),
        "jobs": len(history.jobs),
        "recorded": _waits(seen.recorded) if seen.recorded.jobs else None,
        "federation": {
            name: {
                **_values(figures.total),
                "waiting_reasons": dict(figures.waiting),
                "never_start": [_never(job) for job in figures.never_start],
            }
            for name, figures in (("before", seen.before), ("after", seen.after))
        },
        "hubs": [
            {"id": before.hub_id or NO_HUB, "before": _values(before), "after": _values(after)}
            for before, after in pairs
        ],
        "notes": list(seen.notes),
    }


def _never(job: NeverStarts) -> dict[str, Any]:
    """One of those that never start: `hub` is where the obstacle is, empty for everywhere."""
    why = job.obstacle
    return {"id": job.job_id, "home": job.home_hub, "reason": why.code, "hub": why.hub_id, "message": why.message}


def _waits(waits: Waits) -> dict[str, Any]:
    return {
        "jobs": waits.jobs,
        "mean_wait_ms": round(waits.mean_ms),
        "p95_wait_ms": waits.p95_ms,
        "longest_wait_ms": waits.longest_ms,
        "mean_bounded_slowdown": round(waits.mean_bounded_slowdown, 4),
    }


def _values(hub: HubFigures) -> dict[str, Any]:
    values = {**_waits(hub.waits), "still_waiting": hub.still_waiting, "preempted": hub.preempted}
    for name, work in hub.work.items():
        share = work.used_share
        values |= {
            f"{name}_used_pct": None if share is None else round(100 * share, 3),
            f"{name}_offered_h": _hours(work.offered),
            f"{name}_used_h": _hours(work.used),
            f"guest_{name}_h_given": _hours(work.given),
            f"guest_{name}_h_taken": _hours(work.taken),
        }
    return values


def _hours(milli_ms: int) -> float:
    return round(milli_ms / MILLI_MS_PER_HOUR, 4)


# ---- for people -------------------------------------------------------------------------------------------------------
def show(seen: Seen) -> None:
    """Print both tables, and below them what they mean."""
    everybody = [*seen.before.hubs, *seen.after.hubs]
    for title, columns in (
        ("waiting, by the hub of those who waited", _waiting(everybody)),
        ("machines, by their hub", _working(everybody)),
    ):
        print(title)
        print_table(table(seen.before, seen.after, columns))
        print()
    for line in words(seen):
        print(line)
    for name, figures in (("before", seen.before), ("after", seen.after)):
        if figures.waiting:
            print()
            print(_never_start(name, figures))
            print_table(_obstacles(figures.never_start))


def words(seen: Seen) -> Iterator[str]:
    """What stands below the table."""
    history = seen.history
    length = duration(history.ends_ms - history.begins_ms)
    begins = rfc3339(history.begins_ms) or "the beginning"
    yield f"{_counted(len(history.jobs))}; use and guest hours from {begins}, for {length}."
    yield "H GAVE: hours of a core (after GPU USED: of a GPU) that a hub's machines worked for others' jobs; H TOOK: that others'"
    before = "Before is the policy that the history names." if seen.policy_known else "Before is everybody alike."
    yield f"machines worked for its jobs. USED: of what it offers. {before}"
    yield "A job waits while it is queued, after a preemption again until it starts; SLOWDOWN counts the lost runs too."
    if seen.recorded.jobs:
        was, replayed = seen.recorded, seen.before.total.waits
        yield (
            f"In fact {_counted(was.jobs)} waited {_time(was.mean_ms)} on average and {_time(was.longest_ms)} at most; the replay"
            f" of before says {_time(replayed.mean_ms)} and {_time(replayed.longest_ms)}: it stages nothing and loses no link."
        )
    started = [figures.total.waits.jobs for figures in (seen.before, seen.after)]
    if started[0] != started[1]:
        yield f"note: waits are those of jobs that start, {started[0]} before and {started[1]} after: not the same jobs"
    for note in seen.notes:
        yield f"note: {note}"


def _never_start(name: str, figures: Figures) -> str:
    """How many never start under a policy, why, and which are named below."""
    jobs, named = sum(figures.waiting.values()), len(figures.never_start)
    why = ", ".join(f"{count} {code}" for code, count in figures.waiting.items())
    return f"{name}: {_counted(jobs)} would never start: {why}" + (
        f"; the first {named} by id:" if named < jobs else ""
    )


def _obstacles(jobs: Iterable[NeverStarts]) -> Table:
    """Jobs, and what stands in their way: at home, or else where they come nearest to running."""
    made = tables.table(["JOB", "OF", "REASON", "AT", "~WHAT IT MEANS"])
    for job in jobs:
        why = job.obstacle
        where = plain(why.hub_id) or FEDERATION
        made.add_row(plain(job.job_id), plain(job.home_hub) or NO_HUB, why.code, where, plain(why.message))
    return made


def _counted(jobs: int) -> str:
    return "1 job" if jobs == 1 else f"{jobs} jobs"


@dataclass(frozen=True, slots=True)
class Column:
    """A column: its head, what stands in it for a hub, and for the difference between two."""

    head: str
    cell: Callable[[HubFigures], str]
    change: Callable[[HubFigures, HubFigures], str]


def table(before: Figures, after: Figures, columns: Sequence[Column]) -> Table:
    """Three lines a hub, or one where nothing that shows is different; then the whole federation."""
    made = tables.table(["HUB", "POLICY", *(f">{column.head}" for column in columns)])
    for was, will in [*zip(before.hubs, after.hubs, strict=True), (before.total, after.total)]:
        hub = FEDERATION if was is before.total else plain(was.hub_id) or NO_HUB
        old, new = ([column.cell(figures) for column in columns] for figures in (was, will))
        if old == new:
            made.add_row(hub, "both", *old)
        else:
            made.add_row(hub, "before", *old)
            made.add_row("", "after", *new)
            made.add_row("", "change", *(column.change(was, will) for column in columns))
    return made


def _waiting(hubs: Sequence[HubFigures]) -> list[Column]:
    """Of jobs that ended; those that never start and those that were preempted only where there are any."""
    columns = [
        Column(
            "JOBS",
            lambda hub: str(hub.waits.jobs),
            lambda was, will: _signed(will.waits.jobs - was.waits.jobs, "{:.0f}"),
        )
    ]
    if any(hub.still_waiting for hub in hubs):
        columns.append(_count("NEVER START", lambda hub: hub.still_waiting))
    columns += [
        _wait("MEAN WAIT", lambda waits: waits.mean_ms),
        _wait("P95 WAIT", lambda waits: waits.p95_ms),
        _wait("LONGEST", lambda waits: waits.longest_ms),
        Column(
            "SLOWDOWN",
            lambda hub: f"{hub.waits.mean_bounded_slowdown:.2f}" if hub.waits.jobs else "-",
            lambda was, will: (
                _lower(will.waits.mean_bounded_slowdown - was.waits.mean_bounded_slowdown, "{:.2f}")
                if was.waits.jobs and will.waits.jobs
                else SAME
            ),
        ),
    ]
    if any(hub.preempted for hub in hubs):
        columns.append(_count("PREEMPTED", lambda hub: hub.preempted))
    return columns


def _working(hubs: Sequence[HubFigures]) -> list[Column]:
    """Of cores, and of GPUs where there are any."""
    columns = _machines("cpu")
    if any(hub.work["gpu"].offered for hub in hubs):
        columns += _machines("gpu")
    return columns


def _machines(name: str) -> list[Column]:
    return [
        Column(
            f"{name.upper()} USED",
            lambda hub: _percent(hub.work[name]),
            lambda was, will: _points(was.work[name], will.work[name]),
        ),
        _guests("H GAVE", lambda hub: hub.work[name].given),
        _guests("H TOOK", lambda hub: hub.work[name].taken),
    ]


def _count(head: str, of: Callable[[HubFigures], int]) -> Column:
    return Column(head, lambda hub: str(of(hub)), lambda was, will: _lower(of(will) - of(was), "{:.0f}"))


def _wait(head: str, of: Callable[[Waits], float]) -> Column:
    def change(was: HubFigures, will: HubFigures) -> str:
        return _sooner(of(was.waits), of(will.waits)) if was.waits.jobs and will.waits.jobs else SAME

    return Column(head, lambda hub: _time(of(hub.waits)) if hub.waits.jobs else "-", change)


def _guests(head: str, of: Callable[[HubFigures], int]) -> Column:
    def change(was: HubFigures, will: HubFigures) -> str:
        hours = (of(will) - of(was)) / MILLI_MS_PER_HOUR
        return _signed(hours, "{:,.1f}" if abs(hours) >= FEW_HOURS else "{:.2f}")

    return Column(head, lambda hub: _worked(of(hub)), change)


def _time(length_ms: float) -> str:
    """As `show.duration`; short ones in tenths of a second."""
    if 0 < length_ms < FINE_MS:
        return f"{length_ms / SECOND_MS:.1f}s" if length_ms >= NOTHING_MS else "<0.1s"
    return duration(round(length_ms))


def _percent(work: Work) -> str:
    return "-" if work.used_share is None else f"{100 * work.used_share:.1f}%"


def _worked(milli_ms: int) -> str:
    """Hours, with as many decimals as tell something."""
    hours = milli_ms / MILLI_MS_PER_HOUR
    return f"{hours:,.1f}" if hours >= FEW_HOURS else f"{hours:.2f}"


def _signed(difference: float, form: str) -> str:
    """A difference with its sign; a dot where it would show as nothing."""
    shown = form.format(abs(difference))
    if not any(digit in shown for digit in "123456789"):
        return SAME
    return ("+" if difference > 0 else "-") + shown


def _lower(difference: float, form: str) -> str:
    """A difference where less is better: in colour on a terminal."""
    return _judged(_signed(difference, form), better=difference < 0)


def _sooner(was_ms: float, will_ms: float) -> str:
    difference = will_ms - was_ms
    if abs(difference) < NOTHING_MS:
        return SAME
    return _judged(("+" if difference > 0 else "-") + _time(abs(difference)), better=difference < 0)


def _judged(shown: str, *, better: bool) -> str:
    if shown == SAME:
        return shown
    return f"[green]{shown}[/]" if better else f"[red]{shown}[/]"


def _points(was: Work, will: Work) -> str:
    """Percentage points."""
    if was.used_share is None or will.used_share is None:
        return SAME
    return _signed(100 * (will.used_share - was.used_share), "{:.1f}")
