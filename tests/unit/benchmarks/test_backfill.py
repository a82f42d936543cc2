"""The backfill benchmark: logs are read as they are, loops do what they say, and the shipped planner is one of them."""

from __future__ import annotations

import gzip
import json
from pathlib import Path

import numpy as np
import pytest

from benchmarks.__main__ import main
from benchmarks.apparatus.backfill_loops import Jumping, Rule, serve, serve_published
from benchmarks.apparatus.swf import Log, longer_requests, read, starts, synthetic
from benchmarks.backfill import POLICIES, SWEEP_H, aligned, area, chart, f1, ours_line, outcome_of
from federation.errors import FederationError

HEADER = "; Version: 2\n;\n\n"


def line(submit: int, run: int, allocated: int, asked: int = -1, asked_time: int = -1) -> str:
    """A job of a log."""
    return f"1 {submit} -1 {run} {allocated} -1 -1 {asked} {asked_time} -1 1 3 -1 -1 -1 -1 -1 -1\n"


def a_log(*jobs: tuple[int, int, int]) -> Log:
    """Jobs as (submit, run, processors) that ask for what they run."""
    submit, run, procs = (np.array(column, np.int64) for column in zip(*jobs, strict=True))
    return Log("by hand", submit, run, run.copy(), procs, np.full(len(run), -1))


def by_arrival(log: Log) -> np.ndarray[tuple[int], np.dtype[np.float64]]:
    """First come, first served, as a score."""
    return np.arange(len(log.run), dtype=np.float64)


# -- logs -------------------------------------------------------------------------------------------------------------
def test_a_log_has_the_jobs_that_ran_and_fit(tmp_path: Path) -> None:
    """By arrival; processors as asked for, else as allocated; a request is never below the run; the rest is left out."""
    path = tmp_path / "small.swf.gz"
    text = HEADER + line(9, 60, 4, 8, 50) + line(5, 7, 2) + line(6, -1, 2) + line(6, 5, 0) + line(6, 5, 9)
    path.write_bytes(gzip.compress(text.encode()))
    log = read(path, procs_max=8)
    assert log.name == "small"
    assert [column.tolist() for column in log[1:]] == [[5, 9], [7, 60], [7, 60], [2, 8], [3, 3]]


def test_a_line_that_is_no_job_is_named(tmp_path: Path) -> None:
    """By its number in the file; a file that is not there, or holds no job, is said too."""
    path = tmp_path / "bad.swf"
    path.write_text(HEADER + line(1, 1, 1) + "1 2 three\n", encoding="utf-8")
    with pytest.raises(FederationError, match="line 5 of bad"):
        read(path, 8)
    path.write_text(HEADER, encoding="utf-8")
    with pytest.raises(FederationError, match="no job that ran"):
        read(path, 8)
    with pytest.raises(FederationError, match="no log at"):
        read(tmp_path / "none.swf", 8)


def test_starts_are_drawn_as_published() -> None:
    """The ten of seed 1 on 10,000 jobs, others for another seed; too short a log has none."""
    assert starts(10_000, 1) == [1981, 2756, 4299, 8850, 3316, 2714, 5228, 7762, 4022, 7085]
    assert starts(10_000, 2) != starts(10_000, 1)
    assert len(starts(2_050, 1, 3)) == 3
    with pytest.raises(FederationError, match="too few"):
        starts(2_049, 1)


def test_requests_may_be_too_long() -> None:
    """By one factor, or by one drawn for each job; never below the run; nonsense is refused."""
    log = a_log((0, 100, 1), (1, 200, 1))
    assert longer_requests(log, "") is log
    assert longer_requests(log, "5").request.tolist() == [500, 1000]
    drawn = longer_requests(log, "2-20").request
    assert all(2 * run <= asked <= 20 * run for run, asked in zip(log.run, drawn, strict=True))
    for factor in ("0.5", "20-2", "many", "1e9"):
        with pytest.raises(FederationError, match="request factor"):
            longer_requests(log, factor)


def test_a_drawn_log_stands_in() -> None:
    """It asks for the load, fits the machine, comes by day rather than by night, and is the same every time."""
    log, again = (synthetic(4_000, 128, 1.05, seed=3) for _ in range(2))
    assert all(np.array_equal(mine, other) for mine, other in zip(log[1:], again[1:], strict=True))
    assert log.name.startswith("synthetic:")
    load = float(np.sum(log.run * log.procs)) / (128 * int(log.submit[-1]))
    assert 1.04 < load < 1.06
    assert (log.procs.min(), log.procs.max()) == (1, 128)
    assert log.run.min() >= 1
    assert 10_000 < log.run.max() < 2 * 86_400
    assert (np.diff(log.submit) >= 0).all()
    hours = np.bincount(log.submit // 3600 % 24, minlength=24)
    assert hours[12:18].sum() > 4 * hours[0:6].sum()


# -- the published loop -----------------------------------------------------------------------------------------------
def test_the_published_loop_lets_jump_who_ends_before_the_shadow() -> None:
    """The second job waits for the first; of those behind it, one that ends just before the shadow jumps, none that ends on it."""
    log = a_log((0, 100, 3), (1, 10, 4), (2, 97, 1), (3, 97, 1))
    assert serve_published(log, by_arrival(log), 4, Jumping(True, False)).tolist() == [0, 100, 2, 110]
    assert serve_published(log, by_arrival(log), 4, Jumping(False, False)).tolist() == [0, 100, 110, 110]


def test_spare_processors_count_in_easy() -> None:
    """A job that runs on beside the one that was picked may jump, and only as many as fit beside it."""
    log = a_log((0, 100, 2), (1, 10, 3), (2, 500, 1), (3, 500, 1))
    assert serve_published(log, by_arrival(log), 4, Jumping(True, True)).tolist() == [0, 100, 2, 110]
    assert serve_published(log, by_arrival(log), 4, Jumping(True, False)).tolist() == [0, 100, 100, 110]


def test_the_published_loop_is_bound_to_its_pick() -> None:
    """A shorter job that comes later does not take the turn of the one that was picked."""
    log = a_log((0, 100, 4), (1, 50, 4), (2, 10, 4))
    assert serve_published(log, log.run.astype(np.float64), 4, Jumping(True, False)).tolist() == [0, 100, 150]
    assert serve(log, log.run, log.run, 4, Rule(1, 0, 0)).tolist() == [0, 110, 100]


# -- deciding anew ----------------------------------------------------------------------------------------------------
class SlowMachine:
    """The twin of `serve` with one order: lists, and what is held at a moment summed anew each time."""

    def __init__(self, log: Log, procs: int) -> None:
        self.submit, self.run, self.request, self.size = (column.tolist() for column in log[1:5])
        self.procs = procs
        self.begun: dict[int, int] = {}
        self.promised: list[tuple[int, int, int]] = []

    def held(self, at: int, now: int) -> int:
        live = [job for job, start in self.begun.items() if start + self.run[job] > now]
        running = sum(int(self.size[job]) for job in live if self.begun[job] + self.request[job] > at)
        return running + sum(taken for since, until, taken in self.promised if since <= at < until)

    def ends(self) -> set[int]:
        return {start + int(self.request[job]) for job, start in self.begun.items()} | {
            moment for since, until, _ in self.promised for moment in (since, until)
        }

    def fits(self, job: int, start: int, now: int) -> bool:
        looked_at = {start} | {at for at in self.ends() if start < at < start + self.request[job]}
        return all(self.held(at, now) + self.size[job] <= self.procs for at in looked_at)

    def decide(self, order: list[int], rule: Rule, now: int) -> None:
        self.promised = []
        for job in (job for job in order if job not in self.begun and self.submit[job] <= now):
            free = self.procs - self.held(now, now) + sum(taken for since, _, taken in self.promised if since == now)
            behind = len(self.promised) == rule.reservations
            if behind and self.request[job] > rule.short_s and self.size[job] + rule.headroom > free:
                continue
            if self.fits(job, now, now):
                self.begun[job] = now
            elif not behind:
                start = min(at for at in self.ends() if at > now and self.fits(job, at, now))
                self.promised.append((start, start + self.request[job], self.size[job]))

    def serve(self, order: list[int], rule: Rule) -> list[int]:
        moments = set(self.submit)
        while moments:
            now = min(moments)
            self.decide(order, rule, now)
            ends = {start + self.run[job] for job, start in self.begun.items()}
            moments = {at for at in moments | ends if at > now}
        return [self.begun[job] for job in range(len(self.run))]


@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize("rule", [Rule(1, 0, 0), Rule(1, 2, 300), Rule(3, 0, 0), Rule(100, 0, 0)], ids=str)
def test_the_loop_that_decides_anew_is_its_slow_twin(seed: int, rule: Rule) -> None:
    """On crowded machines, in the shipped order, with requests that are too long: the same starts."""
    log = longer_requests(synthetic(60, 16, 1.5, seed), "1" if seed % 2 else "1-4")
    key = ours_line(log)
    order = np.argsort(key, kind="stable").tolist()
    assert serve(log, key, key, 16, rule).tolist() == SlowMachine(log, 16).serve(order, rule)


def test_the_shipped_planner_decides_as_the_loop() -> None:
    """Job by job the same start: what the curve shows of the loop holds for the federation."""
    log = synthetic(200, 64, 1.3, seed=2)
    assert POLICIES["ours"](log, 64).tolist() == POLICIES["ours_loop"](log, 64).tolist()


def test_the_curve_goes_through_the_shipped_order() -> None:
    """Ten hours for each doubling is what is shipped."""
    log = synthetic(500, 256, 1.0, seed=4)
    assert np.abs(aligned(log, 10.0) - ours_line(log)).max() <= 1


@pytest.mark.parametrize("name", sorted(POLICIES))
def test_every_policy_serves_everybody_and_never_too_many(name: str) -> None:
    """Nobody starts before arriving, and at no moment more processors run than there are."""
    log = synthetic(120, 32, 1.2, seed=5)
    begun = POLICIES[name](log, 32)
    assert (begun >= log.submit).all()
    for at in begun.tolist():
        assert int(log.procs[(begun <= at) & (at < begun + log.run)].sum()) <= 32


def test_f1_weighs_size_against_arrival() -> None:
    """log10(run) x processors + 870 log10(submit)."""
    assert f1(a_log((1_000, 100, 4))).tolist() == [2 * 4 + 870 * 3]


# -- what is printed --------------------------------------------------------------------------------------------------
def printed(out: str) -> list[dict[str, object]]:
    """The JSON lines."""
    return [json.loads(entry) for entry in out.splitlines()]


def test_two_figures_for_each_policy(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Slowdown and longest wait, with what they are held against; the chart where asked for; the table beside."""
    path = tmp_path / "tiny.swf"
    path.write_text(HEADER + line(0, 100, 4) + line(1, 100, 4) + line(2, 10, 1), encoding="utf-8")
    drawing = tmp_path / "curve.svg"
    words = ["--swf", str(path), "--procs", "4", "--protocol", "whole", "--policy", "fcfs,ours_loop"]
    assert main(["backfill", "--quick", *words, "--plot", str(drawing)]) == 0
    out, told = capsys.readouterr()
    assert [(entry["metric"], entry["config"]["policy"], entry["value"]) for entry in printed(out)] == [  # type: ignore[index]
        ("mean_bounded_slowdown", "fcfs", 7.93), ("longest_wait_s", "fcfs", 198.0),
        ("mean_bounded_slowdown", "ours_loop", 4.63), ("longest_wait_s", "ours_loop", 109.0),
    ]  # fmt: skip
    assert "ours_loop" in told
    assert drawing.read_text(encoding="utf-8").startswith("<svg")


def test_without_the_log_a_drawn_one_stands_in_and_says_so(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Marked in the figures, with what to get and from where in the words."""
    assert main(["backfill", "--quick", "--traces", str(tmp_path), "--policy", "ours_loop"]) == 0
    out, told = capsys.readouterr()
    assert {entry["config"]["trace"] for entry in printed(out)} == {"synthetic:lublin"}  # type: ignore[index]
    assert "Parallel Workloads Archive" in told


def test_a_policy_that_there_is_not_is_named(tmp_path: Path) -> None:
    """With those that there are."""
    with pytest.raises(FederationError, match="no policy 'best'"):
        main(["backfill", "--traces", str(tmp_path), "--policy", "best"])


def test_the_curve_has_a_point_for_each_constant() -> None:
    """Three curves, and dots for what was measured."""
    log = synthetic(60, 16, 1.2, seed=1)
    found = {name: outcome_of(POLICIES[name], [log], 16) for name in ("fcfs", "shortest_area", "ours_loop")}
    drawn = chart([log], 16, found)
    assert [len(series.points) for series in drawn.series] == [len(SWEEP_H)] * 3 + [1, 1, 1]
    assert area(log).tolist() == (log.request * log.procs).tolist()
