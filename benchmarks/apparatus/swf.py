"""Logs of parallel machines in the Standard Workload Format, the starts that are drawn from them, and a stand-in.

A line has 18 numbers (Chapin et al., "Benchmarks and standards for the evaluation of parallel job schedulers", JSSPP
1999); used here are submit time, run time, processors, requested time and user. Starts are those of RLScheduler (Zhang et
al., SC'20). Where no log is at hand, `synthetic` draws one in the manner of Lublin and Feitelson ("The workload on
parallel supercomputers", JPDC 2003), by the distributions that the paper gives, simplified: sizes and run times have
the paper's parameters, arrivals its daily cycle, and the gaps are scaled to a load. Deliberately not here: any log.
"""

from __future__ import annotations

import gzip
import hashlib
import struct
from pathlib import Path
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from federation.errors import invalid

SOURCES = (
    "lublin_256.swf: from the artefact of RLScheduler (SC'20), an output of the Lublin-Feitelson model; others: the "
    "Parallel Workloads Archive, for example HPC2N Seth (acknowledge Ake Sandgren); plain or .gz"
)
LENGTH = 1_024
"""Jobs from each start."""
SUBMIT, RUN, ALLOCATED, ASKED, ASKED_TIME, USER = 1, 3, 4, 7, 8, 11
FIELDS = 18
HALF_HOUR_S = 1_800
LOG_RUN_MAX = 12.0
"""The model's longest job, two days: the tail of its distribution would go on for months."""
Int64 = npt.NDArray[np.int64]


class Log(NamedTuple):
    """Jobs in the order of their arrival."""

    name: str
    submit: Int64
    """(J,) s"""
    run: Int64
    """(J,) s, 0 or more."""
    request: Int64
    """(J,) s, what was asked for; `run` where the log does not say. Never below `run`."""
    procs: Int64
    """(J,) 1 or more."""
    user: Int64
    """(J,) whose; -1 where the log does not say."""

    def window(self, start: int, length: int = LENGTH) -> Log:
        """The jobs from `start` on."""
        end = start + length
        columns = (column[start:end].copy() for column in self[1:])
        return Log(f"{self.name}@{start}", *columns)


def read(path: Path, procs_max: int) -> Log:
    """A log's jobs that ran and fit on `procs_max` processors. Errors: INVALID_ARGUMENT with the line."""
    try:
        raw = path.read_bytes()
    except OSError as error:
        raise invalid(f"no log at {path}: {error.strerror}", hint=f"What to get: {SOURCES}.", field="swf") from error
    text = (gzip.decompress(raw) if path.suffix == ".gz" else raw).decode("utf-8", "replace")
    jobs: list[tuple[int, int, int, int, int]] = []
    for number, line in enumerate(text.splitlines(), 1):
        words = line.split()
        if not words or words[0].startswith(";"):
            continue
        try:
            submit, run, asked_time = (int(float(words[at])) for at in (SUBMIT, RUN, ASKED_TIME))
            allocated, asked, user = int(words[ALLOCATED]), int(words[ASKED]), int(words[USER])
        except (ValueError, IndexError):
            raise invalid(
                f"line {number} of {path.name} is no job: {line[:60]!r}",
                hint=f"A line has {FIELDS} numbers, or begins with a semicolon.",
                field="swf",
                index=str(number),
            ) from None
        procs = asked if asked > 0 else allocated
        if run >= 0 and 0 < procs <= procs_max:
            jobs.append((submit, run, max(run, asked_time), procs, user))
    if not jobs:
        raise invalid(f"{path.name} has no job that ran", hint="Is it a log in the Standard Workload Format?")
    return _log(path.name.removesuffix(".gz").removesuffix(".swf"), np.array(jobs, np.int64))


def _log(name: str, jobs: Int64) -> Log:
    jobs = jobs[np.argsort(jobs[:, 0], kind="stable")]
    return Log(name, *(np.ascontiguousarray(jobs[:, column]) for column in range(5)))


def longer_requests(log: Log, factor: str) -> Log:
    """The same jobs, asking for `factor` times what they run: a number, or LOW-HIGH for one drawn for each job.

    An empty one leaves the log's own requests. Errors: INVALID_ARGUMENT.
    """
    if not factor:
        return log
    try:
        low, _, high = factor.partition("-")
        least, most = float(low), float(high or low)
    except ValueError:
        least, most = 0.0, 0.0
    if not 1 <= least <= most <= 1_000:
        raise invalid(f"request factor of {factor!r}", hint="Use 1 to 1000, or a range such as 2-20.", field="factor")
    drawn = np.random.RandomState(5).uniform(least, most, len(log.run)) if most > least else least
    return log._replace(request=np.maximum(log.run, (log.run * drawn).astype(np.int64)))


def starts(jobs: int, seed: int, count: int = 10) -> list[int]:
    """Where the windows begin: RLScheduler's draws for `seed`, each from 1,024 to jobs - 1,026.

    Its generator is seeded with the first two little-endian words of SHA-512 of the seed's digits.
    """
    if jobs <= 2 * LENGTH + 1:
        raise invalid(f"{jobs} jobs are too few to draw starts from", hint="Use --protocol whole.", field="swf")
    words = struct.unpack("<2I", hashlib.sha512(str(seed).encode()).digest()[:8])
    dice = np.random.RandomState(np.array(words, np.uint32))
    return [int(dice.randint(LENGTH, jobs - LENGTH - 1)) for _ in range(count)]


def synthetic(jobs: int, procs: int, load: float, seed: int) -> Log:
    """A log of `jobs` jobs that ask for `load` of `procs` processors, drawn by `seed`."""
    dice = np.random.default_rng(seed)
    sizes = _sizes(dice, jobs, procs)
    short_share = np.clip(0.78 - 0.0054 * sizes, 0.0, 1.0)
    short = dice.gamma(4.2, 0.94, jobs)
    long = dice.gamma(312.0, 0.03, jobs)
    log_run = np.minimum(np.where(dice.random(jobs) < short_share, short, long), LOG_RUN_MAX)
    run = np.exp(log_run).astype(np.int64) + 1
    submit = _arrivals(dice, jobs, float(np.sum(run * sizes)) / (procs * load))
    return Log("synthetic:lublin", submit, run, run.copy(), sizes, np.full(jobs, -1))


def _sizes(dice: np.random.Generator, jobs: int, procs: int) -> Int64:
    """A quarter of one processor; the others two-stage uniform in the logarithm, most of them powers of two."""
    high = np.log2(procs)
    low, middle = 0.8, high - 2.5
    exponent = np.where(dice.random(jobs) < 0.86, dice.uniform(low, middle, jobs), dice.uniform(middle, high, jobs))
    exponent = np.where(dice.random(jobs) < 0.576 / (1 - 0.244), np.round(exponent), exponent)
    sizes = np.where(dice.random(jobs) < 0.244, 1, np.round(2.0**exponent))
    return np.clip(sizes, 1, procs).astype(np.int64)


def _arrivals(dice: np.random.Generator, jobs: int, until_s: float) -> Int64:
    """Seconds of arrival: exponential gaps, in a time that passes as fast as the daily cycle is busy, up to `until_s`."""
    half_hour = np.arange(int(until_s / HALF_HOUR_S) + 1) % 48 + 0.5
    busy = half_hour ** (8.1737 - 1) * np.exp(-half_hour / 3.9631)
    passed = np.concatenate([[0.0], np.cumsum(busy / busy.mean() + 0.1)])
    due = np.cumsum(dice.exponential(1.0, jobs))
    ends = np.minimum(np.arange(len(passed)) * HALF_HOUR_S, until_s)
    submit: Int64 = np.interp(due * passed[-1] / due[-1], passed, ends).astype(np.int64)
    return submit
