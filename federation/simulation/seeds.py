"""Many scenarios, spread over the machine's cores, and resumable: what is in the results file is not run again.

Each worker is a process of its own with one thread; a scenario depends on nothing but itself, so the order in which they
end changes no result. Deliberately not here: what a scenario is (`federated.py`), how it is shown (`cli/seeds.py`).
"""

from __future__ import annotations

import json
import logging
import multiprocessing
import os
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import replace
from pathlib import Path
from typing import Any

from federation.errors import invalid
from federation.simulation.federated import Report, Scenario, simulate

Row = Mapping[str, Any]
AT_ONCE = 4
"""Scenarios that wait for each worker: few, so that an interrupt loses little."""


def row_of(report: Report) -> dict[str, Any]:
    """One scenario's line in a results file: its `key` says what was simulated, `broken` is empty when all held."""
    return {
        "key": key_of(report.scenario),
        "seed": report.scenario.seed,
        "broken": report.broken,
        "digest": report.digest,
        "events": report.events,
        "checks": report.checks,
        "jobs": dict(report.jobs),
        "faults": dict(report.faults),
        "virtual_ms": report.virtual_ms,
    }


def key_of(scenario: Scenario) -> str:
    """What makes two scenarios the same."""
    kinds = ",".join(scenario.kinds)
    rates = f"{scenario.jobs_per_hub_hour:g}/{scenario.faults_per_hour:g}"
    return f"{scenario.seed} {scenario.hubs} {scenario.hours:g} {rates} {kinds}"


def done_before(file: Path, scenarios: Iterable[Scenario]) -> list[dict[str, Any]]:
    """Rows of `file` that are of these scenarios and need not be played again: one that broke is, to see it mended.

    A last line that was cut off is removed, so that the next one begins on a line of its own. Raises: INVALID_ARGUMENT.
    """
    if not file.exists():
        return []
    wanted = {key_of(scenario) for scenario in scenarios}
    lines = file.read_bytes().splitlines(keepends=True)
    rows = {}
    for number, line in enumerate(lines, 1):
        try:
            row = json.loads(line)
            if row["key"] in wanted and not row["broken"]:
                rows[row["key"]] = row
        except (ValueError, KeyError, TypeError):
            if number < len(lines) or line.endswith(b"\n"):
                raise invalid(
                    f"line {number} of {file} is no result of a simulation",
                    hint="Name the file that an earlier run wrote, or a new one.",
                    line=str(number),
                ) from None
            os.truncate(file, file.stat().st_size - len(line))
    return list(rows.values())


def run_all(scenario: Scenario, seeds: Iterable[int], workers: int) -> Iterator[dict[str, Any]]:
    """A row for each seed, as they end. With one worker in this process, in their order."""
    scenarios = [replace(scenario, seed=seed) for seed in seeds]
    if workers <= 1 or len(scenarios) == 1:
        for one in scenarios:
            yield _one(one)
        return
    waiting = iter(scenarios)  # always the last in a zip: one that it drew and did not use would be lost
    # not fork: whoever calls has threads
    with ProcessPoolExecutor(workers, multiprocessing.get_context("spawn"), initializer=_begin) as pool:
        futures = {pool.submit(_one, one) for _, one in zip(range(workers * AT_ONCE), waiting, strict=False)}
        while futures:
            done = next(as_completed(futures))
            futures.remove(done)
            yield done.result()
            futures |= {pool.submit(_one, one) for _, one in zip(range(1), waiting, strict=False)}


def _begin() -> None:
    """A worker's first act: what the simulated processes log is in the trace already."""
    logging.disable(logging.CRITICAL)


def _one(scenario: Scenario) -> dict[str, Any]:
    return row_of(simulate(scenario))


def trace_of(scenario: Scenario, write: Callable[[str], object]) -> Report:
    """One scenario with its whole story told to `write`, line by line."""
    report = simulate(scenario, keep_trace=True)
    for line in report.trace:
        write(line + "\n")
    return report
