"""`brhub simulate --seed N | --seeds A..B`: the whole federation in virtual time, with faults, by seed.

Exit status 1 when a promise was broken, with the seed that shows it. Deliberately not here: the simulation itself.
"""

from __future__ import annotations

import json
import logging
import os
import re
import sys
import textwrap
import time
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from federation.cli.session import Session, say
from federation.errors import invalid

if TYPE_CHECKING:
    from federation.simulation.federated import Scenario

SEEDS_MAX = 1_000_000
BROKEN_TOLD_MAX = 10
SAY_EVERY_S = 10.0


@dataclass(frozen=True, slots=True)
class Wanted:
    """What was asked for, as it was written."""

    seed: int | None
    seeds: str
    hubs: int
    hours: float
    faults: str
    workers: int
    results: Path | None
    trace: Path | None


def seeds_of(wanted: Wanted) -> range:
    """The seeds: one, or a range with both ends. Raises: FederationError INVALID_ARGUMENT."""
    if wanted.seed is not None:
        if wanted.seeds:
            raise invalid("--seed and --seeds do not go together", hint="Use one of them.", field="seeds")
        if wanted.seed < 0:
            raise invalid(f"a seed of {wanted.seed} is none", hint="Use a whole number from 0 on.", field="seed")
        return range(wanted.seed, wanted.seed + 1)
    found = re.fullmatch(r"([0-9]{1,12})\.\.([0-9]{1,12})", wanted.seeds)
    if found is None or int(found[1]) > int(found[2]):
        raise invalid(f"{wanted.seeds[:80]!r} is no range of seeds", hint="Write A..B, such as 1..50.", field="seeds")
    seeds = range(int(found[1]), int(found[2]) + 1)
    if len(seeds) > SEEDS_MAX:
        raise invalid(f"{len(seeds):,} seeds are too many", hint=f"At most {SEEDS_MAX:,} at once.", field="seeds")
    return seeds


def run(session: Session, wanted: Wanted) -> None:
    """Simulate, say what came of it, and exit 1 when a promise was broken."""
    from federation.app.kernels import fresh_kernels
    from federation.simulation import seeds as many
    from federation.simulation.faults import kinds_named
    from federation.simulation.federated import HOURS_MAX, HUBS_MAX, Scenario

    seeds = seeds_of(wanted)
    for name, value, highest in (("hubs", wanted.hubs, HUBS_MAX), ("hours", wanted.hours, HOURS_MAX)):
        if not 0 < value <= highest:
            raise invalid(
                f"--{name} {value:g} is out of range", hint=f"Use more than 0, at most {highest}.", field=name
            )
    if wanted.trace is not None and len(seeds) > 1:
        raise invalid("--trace tells the story of one seed", hint="Use it with --seed N.", field="trace")
    scenario = Scenario(seeds[0], wanted.hubs, wanted.hours, kinds_named(wanted.faults))
    fresh_kernels()
    logging.disable(logging.CRITICAL)  # what simulated processes log is in the trace
    began_s = time.monotonic()
    before: list[dict[str, Any]] = []
    if wanted.trace is not None:
        with wanted.trace.open("w", encoding="utf-8") as out:
            now = [many.row_of(many.trace_of(scenario, out.write))]
    else:
        before, now = _many(scenario, seeds, wanted)
    rows = sorted(before + now, key=lambda row: int(row["seed"]))
    _tell(session, scenario, rows, _virtual_h(before), time.monotonic() - began_s)
    if any(row["broken"] for row in rows):
        raise typer.Exit(1)


def _many(
    scenario: Scenario, seeds: Sequence[int], wanted: Wanted
) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """The rows of seeds that were in the results file, and of those that were played now."""
    from dataclasses import replace

    from federation.simulation import seeds as many

    before: list[dict[str, Any]] = []
    now: list[dict[str, Any]] = []
    if wanted.results is not None:
        before = many.done_before(wanted.results, (replace(scenario, seed=seed) for seed in seeds))
        if before:
            say(f"{len(before)} of {len(seeds)} seeds are in {wanted.results} already")
    known = {int(row["seed"]) for row in before}
    left = [seed for seed in seeds if seed not in known]
    said_s = began_s = time.monotonic()
    for done, row in enumerate(many.run_all(scenario, left, wanted.workers or os.cpu_count() or 1), 1):
        now.append(row)
        if wanted.results is not None:
            with wanted.results.open("a", encoding="utf-8") as out:
                out.write(json.dumps(row, separators=(",", ":")) + "\n")
        if row["broken"]:
            say(f"seed {row['seed']}: {row['broken']}")
        if sys.stderr.isatty() and time.monotonic() - said_s > SAY_EVERY_S:
            said_s = time.monotonic()
            left_s = (said_s - began_s) / done * (len(left) - done)
            say(f"{done} of {len(left)} seeds, about {left_s:.0f} s to go")
    return before, now


def _virtual_h(rows: Iterable[Mapping[str, Any]]) -> float:
    return float(sum(row["virtual_ms"] for row in rows)) / 3_600_000


def _summed(rows: Iterable[Mapping[str, Any]], name: str) -> dict[str, int]:
    total: Counter[str] = Counter()
    for row in rows:
        total.update(row[name])
    return dict(sorted(total.items()))


def _counts(title: str, of: Mapping[str, int]) -> str:
    """One paragraph, as wide as a narrow terminal."""
    text = ", ".join(f"{name}\N{NO-BREAK SPACE}{number:,}" for name, number in of.items()) or "none"
    filled = textwrap.fill(f"{title:8}{text}", 100, subsequent_indent=" " * 8, break_on_hyphens=False)
    return filled.replace("\N{NO-BREAK SPACE}", " ")  # which kept a count on the line of its name


def _tell(
    session: Session, scenario: Scenario, rows: Sequence[Mapping[str, Any]], before_h: float, seconds: float
) -> None:
    """`before_h` of the virtual time was played by earlier runs, the rest in so many `seconds`."""
    from federation.cli.show import print_one
    from federation.simulation.faults import FaultKind

    broken = [row for row in rows if row["broken"]]
    now_h = _virtual_h(rows) - before_h
    value = {
        "id": f"seeds-{rows[0]['seed']}-{rows[-1]['seed']}",
        "seeds": len(rows),
        "hubs": scenario.hubs,
        "hours": scenario.hours,
        "broken": [{"seed": row["seed"], "promise": row["broken"]} for row in broken],
        "faults": _summed(rows, "faults"),
        "jobs": _summed(rows, "jobs"),
        "events": sum(row["events"] for row in rows),
        "checks": sum(row["checks"] for row in rows),
        "virtual_hours": round(now_h, 1),
        "virtual_hours_before": round(before_h, 1),
        "seconds": round(seconds, 1),
        "digests": {str(row["seed"]): row["digest"] for row in rows},
    }
    lines = [
        f"{len(rows):,} seeds of {scenario.hubs} hubs x {scenario.hours:g} h with faults: "
        + (f"{len(broken)} BROKE A PROMISE" if broken else "every promise held"),
        _counts("jobs", value["jobs"]),
        _counts("faults", value["faults"]),
        f"{value['checks']:,} checks after {value['events']:,} events; {now_h:,.1f} h of virtual time in {seconds:.1f} s"
        + (f", {before_h:,.1f} h before" if before_h else ""),
    ]
    asked_for = "" if len(scenario.kinds) == len(FaultKind) else f" --faults {','.join(scenario.kinds) or 'none'}"
    for row in broken[:BROKEN_TOLD_MAX]:
        lines.append(f"seed {row['seed']}: {row['broken']}")
        lines.append(
            f"  its story: brhub simulate --seed {row['seed']} --hubs {scenario.hubs} --hours {scenario.hours:g}"
            f"{asked_for} --trace story.txt"
        )
    if len(broken) > BROKEN_TOLD_MAX:
        lines.append(f"and {len(broken) - BROKEN_TOLD_MAX} more")
    print_one(value, session.form, text="\n".join(lines))
