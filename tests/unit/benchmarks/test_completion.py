"""The baselines of completion on cases worked out by hand, and the workload that it and its sisters run."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from benchmarks.apparatus.philly import (
    MINUTE_MS,
    Arrival,
    Setting,
    first_of,
    machines_of,
    missing,
    read_arrivals,
    synthetic_arrivals,
    tasks_by_hub,
    workload,
)
from benchmarks.apparatus.pooled import first_come, in_line, shortest_remaining
from benchmarks.completion import (
    ALIKE,
    BY_LIMIT,
    KEPT,
    ORACLE,
    OURS,
    OURS_SHORT,
    PASSING,
    SHORTEST,
    STRICT,
    Completions,
    completions,
    figures,
    prices,
)
from federation.domain.quantities import amount_of
from federation.errors import FederationError

SMALL = Setting(hubs=4, machines=12, jobs=80, load=2.0)
CHRONUS = "job_id,user,num_gpu,submit_time,duration,best_effort\n0,vc_a,1,3,20,0\n1,vc_b,8,1,5,1\n"
MURI = "job_id,num_gpu,submit_time,duration,iteration_time\n0,2,5000,120000,7\n"
SUBMIT, RUN = np.asarray([0, 0, 0]), np.asarray([10, 5, 3])
NEED = np.asarray([[1, 0], [2, 1], [1, 0]])
ONE_HUB, TWO_HUBS = np.asarray([[2, 1]]), np.asarray([[1, 0], [2, 1]])


def test_strict_first_come_holds_up_everybody_behind() -> None:
    """The second waits for both halves, and the third for the second."""
    assert first_come(SUBMIT, RUN, NEED, ONE_HUB, True).tolist() == [10, 15, 18]


def test_first_come_may_pass_over_what_does_not_fit() -> None:
    """The third takes the half that the second cannot use."""
    assert first_come(SUBMIT, RUN, NEED, ONE_HUB, False).tolist() == [10, 15, 3]


def test_a_gang_runs_within_one_hub() -> None:
    """With a hub of its own, the second need not wait."""
    assert first_come(SUBMIT, RUN, NEED, TWO_HUBS, False).tolist() == [10, 5, 8]


def test_a_line_goes_by_its_places() -> None:
    """On one machine the shortest first; equal places go by arrival; who comes later cannot have been first."""
    one, each = np.asarray([[1]]), np.asarray([[1], [1], [1]])
    assert in_line(SUBMIT, RUN, RUN, each, one, True).tolist() == [18, 8, 3]
    assert in_line(SUBMIT, RUN, 0 * RUN, each, one, True).tolist() == [10, 15, 18]
    assert in_line(np.asarray([0, 1, 2]), RUN, RUN, each, one, True).tolist() == [10, 18, 13]


def test_prices_sum_up_to_the_distance_from_the_oracle(tmp_path: Path) -> None:
    """Whatever each is, and those in between are run when they are asked for only."""
    work = workload(tmp_path, SMALL)
    of = completions(work, explained=True)
    found = prices(of, SMALL, "t", 1.0)
    assert sum(price.value for price in found) == pytest.approx(of.mean(OURS) - of.mean(ORACLE))
    assert {SHORTEST, BY_LIMIT, ALIKE, KEPT} <= set(of.hours)
    assert not {SHORTEST, BY_LIMIT, ALIKE, KEPT} & set(completions(work).hours)


def test_the_oracle_stops_the_long_for_the_short() -> None:
    """The longest runs beside the shortest, stands aside for the second, and ends last."""
    assert shortest_remaining(SUBMIT, RUN, NEED, ONE_HUB).tolist() == [15, 8, 3]


def test_the_oracle_knows_who_comes_next() -> None:
    """A job of a tick that comes later is over at once."""
    ends = shortest_remaining(np.asarray([0, 4]), np.asarray([10, 1]), np.asarray([[1], [1]]), np.asarray([[1]]))
    assert ends.tolist() == [11, 5]


def test_the_gain_is_a_part_of_the_oracles() -> None:
    """Half way from first come to the oracle is half the gain; where the oracle gains nothing there is none."""
    of = Completions(
        {
            name: np.asarray([hours])
            for name, hours in ((STRICT, 10.0), (PASSING, 2.0), (ORACLE, 2.0), (OURS, 6.0), (OURS_SHORT, 5.0))
        }
    )
    assert (of.gain(OURS, STRICT), of.gain(OURS, PASSING)) == (0.5, 0.0)
    assert {figure.metric for figure in figures(of, SMALL, "t", 1.0)} == {"mean_completion_h", "share_of_oracles_gain"}


def test_both_kinds_of_trace_are_read(tmp_path: Path) -> None:
    """Minutes and clusters from one, milliseconds from the other."""
    (tmp_path / "a.csv").write_text(CHRONUS)
    (tmp_path / "b.csv").write_text(MURI)
    assert read_arrivals(tmp_path / "a.csv") == (
        Arrival(3 * MINUTE_MS, 20 * MINUTE_MS, 1, "vc_a", False),
        Arrival(MINUTE_MS, 5 * MINUTE_MS, 8, "vc_b", True),
    )
    assert read_arrivals(tmp_path / "b.csv") == (Arrival(5000, 120_000, 2, "", False),)
    assert first_of(read_arrivals(tmp_path / "a.csv"), 1) == (Arrival(0, 5 * MINUTE_MS, 8, "vc_b", True),)


@pytest.mark.parametrize(
    "text", ["", "submit_time,duration,num_gpu\n", "submit_time,duration,num_gpu\n1,x,1\n", "a,b\n1,2\n"]
)
def test_a_file_that_is_no_trace_is_refused(text: str, tmp_path: Path) -> None:
    """The error names the file."""
    (tmp_path / "bad.csv").write_text(text)
    with pytest.raises(FederationError, match=r"bad\.csv"):
        read_arrivals(tmp_path / "bad.csv")


def test_without_traces_a_generator_stands_in_and_says_so(tmp_path: Path) -> None:
    """The config says synthetic, and a word says what to get, from where, under which licence."""
    made = workload(tmp_path, SMALL)
    assert made.trace == "synthetic:philly + synthetic:openb"
    assert "CC-BY-4.0" in missing(tmp_path)
    assert "cluster-trace-gpu-v2023" in missing(tmp_path)


def test_a_workload_is_one_of_its_seed(tmp_path: Path) -> None:
    """The same seed gives the same federation and jobs, another seed another."""
    assert workload(tmp_path, SMALL) == workload(tmp_path, SMALL)
    assert workload(tmp_path, SMALL) != workload(tmp_path, SMALL._replace(seed=2))


def test_every_job_fits_some_idle_hub_and_the_load_is_the_one_asked_for(tmp_path: Path) -> None:
    """Gangs are whole, within one hub; GPU time asked for is the load's part of what there is."""
    made = workload(tmp_path, SMALL)
    room = tasks_by_hub(made.agents)
    assert all(room(job.row.per_task).max() >= job.row.replicas for job in made.jobs)
    gpus = sum(of.get("gpu", 0) for of in machines_of(made.agents).values())
    asked = sum(amount_of(job.row.per_task, "gpu") * job.row.replicas * job.runtime_ms for job in made.jobs)
    span_ms = made.jobs[-1].row.submitted_ms
    assert asked / (gpus * span_ms) == pytest.approx(SMALL.load, rel=0.05)


def test_the_generator_has_gangs_and_a_long_tail() -> None:
    """Nine of ten ask for one GPU, some for 8 and more, and the longest run for days."""
    made = synthetic_arrivals(5_000, 1)
    gpus = np.asarray([of.gpus for of in made])
    hours = np.asarray([of.runtime_ms for of in made]) / 3_600_000
    assert 0.88 < (gpus == 1).mean() < 0.94
    assert (gpus >= 8).sum() > 50
    assert hours.max() > 48
    assert np.median(hours) < 4
