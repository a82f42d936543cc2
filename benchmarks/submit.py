"""How many jobs a second are accepted for good, one per call and a hundred per call?

Ours: a real control plane (SQLite, WAL, synchronous FULL, on disk) in a process of its own, the client in another; an
answer counts once it is durable. Held against what the same machine does without us: one per call against a bare
grpc.aio server that answers the same calls with as many bytes and does nothing else; a hundred per call against raw
sqlite3 that writes the very rows our store wrote, a transaction per hundred jobs. The two sides take turns, so that a
busy moment of the machine meets both. `sbatch` of a tuned Slurm took 195 a second on this kind of machine.

A third side is the same control plane on PostgreSQL, fsync at each commit too; its figures are held against SQLite's.
"""

from __future__ import annotations

import argparse
import contextlib
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

from benchmarks.apparatus import raw_sqlite
from benchmarks.apparatus.control_plane import Running, control_plane
from benchmarks.apparatus.echo import METHOD as ECHO
from benchmarks.apparatus.load import METHOD
from benchmarks.apparatus.postgres import postgres
from benchmarks.apparatus.processes import child
from benchmarks.figures import Baseline, Figure, emit, median, say

SINGLE_IN_FLIGHT = 32
HUNDRED_IN_FLIGHT = 8
ROUNDS, ROUNDS_QUICK = 7, 3
SECONDS, SECONDS_QUICK = 3.0, 1.0
Planes = tuple[Running, Running]
"""On SQLite and on PostgreSQL."""


def options(parser: argparse.ArgumentParser) -> None:
    """Its options."""
    parser.add_argument("--dir", type=Path, help="where the stores lie (default: the system's temporary folder)")
    parser.add_argument("--only", choices=("1", "100"), help="measure one batch size")


def measure(chosen: argparse.Namespace) -> None:
    """Print the figures."""
    rounds = ROUNDS_QUICK if chosen.quick else ROUNDS
    seconds = SECONDS_QUICK if chosen.quick else SECONDS
    with both_stores(chosen.dir) as planes:
        if chosen.only != "100":
            for figure in single(planes, rounds, seconds):
                emit(figure)
        if chosen.only != "1":
            for figure in hundred(planes, chosen.dir, rounds, seconds):
                emit(figure)


@contextlib.contextmanager
def both_stores(parent: Path | None) -> Iterator[Planes]:
    """Two control planes, one on SQLite and one on PostgreSQL, below `parent`."""
    with postgres(parent) as url, control_plane(parent) as on_sqlite, control_plane(parent, url) as on_postgres:
        yield on_sqlite, on_postgres


def single(planes: Planes, rounds: int, seconds: float) -> list[Figure]:
    """One per call, 32 in flight, against the bare echo; and on PostgreSQL."""
    began_s = time.monotonic()
    ours, other = planes
    shape = load(ours.target, METHOD, ours.user_token, 1, 1, 0.2)
    with child("benchmarks.apparatus.echo", str(int(shape["answer_bytes"]))) as echo:
        target = f"127.0.0.1:{echo.said()['port']}"

        def of(plane: Running) -> float:
            return rate(load(plane.target, METHOD, plane.user_token, 1, SINGLE_IN_FLIGHT, seconds))

        def of_echo() -> float:
            return rate(load(target, ECHO, ours.user_token, 1, SINGLE_IN_FLIGHT, seconds))

        sides = in_turns({"sqlite": lambda: of(ours), "bare": of_echo, "postgresql": lambda: of(other)}, rounds)
    config = {"batch": 1, "in_flight": SINGLE_IN_FLIGHT, "rounds": rounds}
    return figures(sides, Baseline("bare grpc.aio echo", sides["bare"]), config, time.monotonic() - began_s)


def hundred(planes: Planes, parent: Path | None, rounds: int, seconds: float) -> list[Figure]:
    """A hundred per call, against raw sqlite3 writing the same rows; and on PostgreSQL."""
    began_s = time.monotonic()
    ours, other = planes
    for plane in planes:
        load(plane.target, METHOD, plane.user_token, 100, HUNDRED_IN_FLIGHT, 0.5)
    copy = raw_sqlite.rows_of(ours.database)

    def of(plane: Running) -> float:
        return 100 * rate(load(plane.target, METHOD, plane.user_token, 100, HUNDRED_IN_FLIGHT, seconds))

    def of_sqlite() -> float:
        return raw_sqlite.jobs_per_s(copy, parent, 100, seconds)

    sides = in_turns({"sqlite": lambda: of(ours), "bare": of_sqlite, "postgresql": lambda: of(other)}, rounds)
    config = {"batch": 100, "in_flight": HUNDRED_IN_FLIGHT, "rounds": rounds}
    return figures(sides, Baseline("raw sqlite3, the same rows", sides["bare"]), config, time.monotonic() - began_s)


def figures(sides: Mapping[str, float], bare: Baseline, config: Mapping[str, int], seconds: float) -> list[Figure]:
    """SQLite against what the machine does without us, PostgreSQL against SQLite."""
    on_sqlite = Baseline("the same on SQLite", sides["sqlite"])
    return [
        Figure(
            "submit", "submits_per_s", sides[store], "1/s", "higher", baseline, seconds, {**config, "store": store}
        )
        for store, baseline in (("sqlite", bare), ("postgresql", on_sqlite))
    ]  # fmt: skip


def in_turns(sides: Mapping[str, Callable[[], float]], rounds: int) -> dict[str, float]:
    """The median of each, measured in turns; the order is turned around every other round."""
    found: dict[str, list[float]] = {name: [] for name in sides}
    for number in range(rounds):
        for name in list(sides)[:: 1 if number % 2 else -1]:
            found[name].append(sides[name]())
        last = ", ".join(f"{name} {values[-1]:,.0f}/s" for name, values in found.items())
        say(f"round {number + 1}: {last}")
    return {name: median(values) for name, values in found.items()}


def rate(answer: dict[str, float]) -> float:
    """Calls a second."""
    return answer["calls"] / answer["seconds"]


def load(
    target: str, method: str, token: str, batch: int, in_flight: int, seconds: float, calls_max: int = 0
) -> dict[str, float]:
    """What a load measured; to the control plane, every answer is checked."""
    calls_max = calls_max or max(40, int(20_000 * seconds / batch))
    words = [
        "--target", target, "--method", method, "--token", token, "--batch", str(batch),
        "--in-flight", str(in_flight), "--seconds", str(seconds), "--calls-max", str(calls_max),
    ]  # fmt: skip
    with child("benchmarks.apparatus.load", *words, *(["--check"] if method == METHOD else [])) as sender:
        answer: dict[str, float] = sender.said()
        return answer
