"""How many jobs a second are accepted for good, one per call and a hundred per call?

Ours: a real control plane (SQLite, WAL, synchronous FULL, on disk) in a process of its own, the client in another; an
answer counts once it is durable. Held against what the same machine does without us: one per call against a bare
grpc.aio server that answers the same calls with as many bytes and does nothing else; a hundred per call against raw
sqlite3 that writes the very rows our store wrote, a transaction per hundred jobs. The two sides take turns, so that a
busy moment of the machine meets both. `sbatch` of a tuned Slurm took 195 a second on this kind of machine.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from pathlib import Path

from benchmarks.apparatus import raw_sqlite
from benchmarks.apparatus.control_plane import control_plane
from benchmarks.apparatus.echo import METHOD as ECHO
from benchmarks.apparatus.load import METHOD
from benchmarks.apparatus.processes import child
from benchmarks.figures import Baseline, Figure, emit, median, say

SINGLE_IN_FLIGHT = 32
HUNDRED_IN_FLIGHT = 8
ROUNDS, ROUNDS_QUICK = 7, 3
SECONDS, SECONDS_QUICK = 3.0, 2.0


def options(parser: argparse.ArgumentParser) -> None:
    """Its options."""
    parser.add_argument("--dir", type=Path, help="where the stores lie (default: the system's temporary folder)")
    parser.add_argument("--only", choices=("1", "100"), help="measure one batch size")


def measure(chosen: argparse.Namespace) -> None:
    """Print both figures."""
    rounds = ROUNDS_QUICK if chosen.quick else ROUNDS
    seconds = SECONDS_QUICK if chosen.quick else SECONDS
    if chosen.only != "100":
        emit(single(chosen.dir, rounds, seconds))
    if chosen.only != "1":
        emit(hundred(chosen.dir, rounds, seconds))


def single(parent: Path | None, rounds: int, seconds: float) -> Figure:
    """One per call, 32 in flight, against the bare echo."""
    began_s = time.monotonic()
    with control_plane(parent) as ours:
        shape = load(ours.target, METHOD, ours.user_token, 1, 1, 0.2)
        with child("benchmarks.apparatus.echo", str(int(shape["answer_bytes"]))) as echo:
            target = f"127.0.0.1:{echo.said()['port']}"

            def of_ours() -> float:
                return rate(load(ours.target, METHOD, ours.user_token, 1, SINGLE_IN_FLIGHT, seconds))

            def of_echo() -> float:
                return rate(load(target, ECHO, ours.user_token, 1, SINGLE_IN_FLIGHT, seconds))

            value, bare = in_turns(of_ours, of_echo, rounds)
    return Figure(
        "submit", "submits_per_s", value, "1/s", "higher",
        Baseline("bare grpc.aio echo", bare), time.monotonic() - began_s,
        {"batch": 1, "store": "sqlite", "in_flight": SINGLE_IN_FLIGHT, "rounds": rounds},
    )  # fmt: skip


def hundred(parent: Path | None, rounds: int, seconds: float) -> Figure:
    """A hundred per call, against raw sqlite3 writing the same rows."""
    began_s = time.monotonic()
    with control_plane(parent) as ours:
        load(ours.target, METHOD, ours.user_token, 100, HUNDRED_IN_FLIGHT, 0.5)
        copy = raw_sqlite.rows_of(ours.database)

        def of_ours() -> float:
            return 100 * rate(load(ours.target, METHOD, ours.user_token, 100, HUNDRED_IN_FLIGHT, seconds))

        def of_sqlite() -> float:
            return raw_sqlite.jobs_per_s(copy, parent, 100, seconds)

        value, bare = in_turns(of_ours, of_sqlite, rounds)
    return Figure(
        "submit", "submits_per_s", value, "1/s", "higher",
        Baseline("raw sqlite3, the same rows", bare), time.monotonic() - began_s,
        {"batch": 100, "store": "sqlite", "in_flight": HUNDRED_IN_FLIGHT, "rounds": rounds},
    )  # fmt: skip


def in_turns(ours: Callable[[], float], bare: Callable[[], float], rounds: int) -> tuple[float, float]:
    """Medians of both, measured alternately; each begins every other round."""
    values: list[float] = []
    bares: list[float] = []
    for number in range(rounds):
        for side, found in ((ours, values), (bare, bares))[:: 1 if number % 2 else -1]:
            found.append(side())
        say(f"round {number + 1}: ours {values[-1]:,.0f}/s, bare {bares[-1]:,.0f}/s, {values[-1] / bares[-1]:.2f}x")
    return median(values), median(bares)


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
