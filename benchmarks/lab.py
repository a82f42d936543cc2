"""How long does a student wait for a lab that nobody has warmed, through the federation and without it?

Two JupyterHubs with one configuration, side by side: one spawns through the federation (submit, round, lease, agent,
package, guard, the lab itself), the other with JupyterHub's own LocalProcessSpawner. Both start the same single-user
server for the same user on this machine, in turns. The clock runs from the REST call that asks for the server until
JupyterHub calls it ready.
"""

from __future__ import annotations

import argparse
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from benchmarks.apparatus.jupyterhub import LOCAL, OURS, jupyterhub
from benchmarks.figures import Baseline, Figure, emit, median, say

ROUNDS, ROUNDS_QUICK = 7, 2
QUICK_S = 33.0
"""No new round of a quick run after this: a round takes about ten seconds, the end a few."""
COURSE = """\
version: 1
title: Nothing but a notebook
summary: What a lab costs before it does anything.
language: en
licence: Apache-2.0
labs:
  - {notebook: empty.ipynb, title: Empty, minutes: 5}
resources: {cpus: 1, memory: 1Gi, disk: 1Gi}
session_limit: 1h
"""
NOTEBOOK = '{"cells": [], "metadata": {}, "nbformat": 4, "nbformat_minor": 5}\n'


def options(parser: argparse.ArgumentParser) -> None:
    """Its options."""
    parser.add_argument("--rounds", type=int, help=f"starts on each side (default {ROUNDS}, quick {ROUNDS_QUICK})")


def measure(chosen: argparse.Namespace) -> None:
    """Print the median of cold starts."""
    began_s = time.monotonic()
    rounds = chosen.rounds or (ROUNDS_QUICK if chosen.quick else ROUNDS)
    ours_s: list[float] = []
    local_s: list[float] = []
    folder = Path(tempfile.mkdtemp(prefix="brhub-lab-"))
    try:
        courses = folder / "courses"
        (courses / "empty").mkdir(parents=True)
        (courses / "empty" / "course.yaml").write_text(COURSE)
        (courses / "empty" / "empty.ipynb").write_text(NOTEBOOK)
        said = {"courses": str(courses), "python": sys.executable}
        with (
            jupyterhub(folder, "local", LOCAL.format(**said), {"BRHUB_SERVER": "127.0.0.1:1"}) as local,
            federation(folder / "federation") as home,
            jupyterhub(folder, "ours", OURS.format(**said), {"BRHUB_DIR": str(home)}) as ours,
        ):
            local.join()
            ours.join()
            for number in range(rounds):
                if number and chosen.quick and time.monotonic() - began_s > QUICK_S:
                    break
                for hub, found in ((ours, ours_s), (local, local_s))[:: 1 if number % 2 else -1]:
                    found.append(hub.cold_ready_s())
                say(f"round {number + 1}: ours {ours_s[-1]:.2f} s, local {local_s[-1]:.2f} s")
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    emit(
        Figure(
            "lab",
            "cold_ready_p50_s",
            median(ours_s),
            "s",
            "lower",
            Baseline("JupyterHub's LocalProcessSpawner", median(local_s)),
            time.monotonic() - began_s,
            {"rounds": len(ours_s), "hubs": 1},
        )
    )


@contextmanager
def federation(folder: Path) -> Iterator[Path]:
    """An embedded federation of one hub, as `brhub up` starts it."""
    brhub = [sys.executable, "-m", "federation.cli"]
    try:
        subprocess.run(
            [*brhub, "up", "--hubs", "1", "--dir", str(folder), "--detach"],
            check=True, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL,
        )  # fmt: skip
        yield folder
    finally:
        subprocess.run([*brhub, "down", "--dir", str(folder)], stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL)
