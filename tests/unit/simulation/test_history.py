"""A history's file: what a person writes is understood, what a program writes reads back, what is wrong names its line."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

from federation.domain.hub import Dataset, Node
from federation.domain.quantities import resources
from federation.errors import Code, FederationError
from federation.simulation import history as history_module
from federation.simulation.history import History, parse_history, read_history
from federation.simulation.replay import Recorded
from federation.simulation.writing import duration, format_history
from tests.tidy.repository import ROOT
from tests.unit.simulation.builders import HOUR, MINUTE, agent, cpus, job

GIB = 2**30
BEGIN = '{"history": 1}'
HUB = '{"hub": "cairo", "nodes": [{"cpus": 4}]}'
JOB = '{"job": "j1", "home": "cairo", "submit": "5s", "runtime": "20s"}'


def refused(*lines: str) -> FederationError:
    """What is said of these lines."""
    with pytest.raises(FederationError) as caught:
        parse_history(f"{line}\n" for line in lines)
    return caught.value


def test_a_history_as_a_person_writes_it() -> None:
    """Times since the beginning or as moments, amounts as in job.yaml, comments, and what is left out has its default."""
    found = parse_history(
        [
            "# October, from memory\n",
            '{"history": 1, "begins": "2026-10-01T08:00:00+08:00"}\n',
            "\n",
            (
                '{"hub": "cairo", "engines": ["command", "spark"], "reclaim": "2m", "nodes": [{"node": "rack", "count": 2, '
                '"cpus": 32, "memory": "128Gi", "gpus": {"nvidia/A100": 2}, "offers": {"cpus": 16.5, "gpus": 1}}], '
                '"datasets": [{"dataset": "flights", "policy": "hubs", "readers": ["shenzhen"]}]}\n'
            ),
            (
                '{"job": "late", "home": "cairo", "submit": "1h30m", "runtime": "20m", "limit": "1h", "cpus": 4, '
                '"memory": "8Gi", "gpus": 0.5, "inputs": ["flights@1"], "priority": "scavenger", "preemptible": true}\n'
            ),
            (
                '{"job": "early", "home": "", "submit": "2026-10-01T00:00:01.500Z", "runtime": 60, "user": "li", '
                '"project": "vision", "ran": {"hub": "cairo", "start": "2s", "end": "3m"}}\n'
            ),
        ]
    )
    begins_ms = 1_790_812_800_000
    assert (found.begins_ms, found.ends_ms) == (begins_ms, begins_ms + 110 * MINUTE)
    (row,) = found.agents
    offered = resources(("cpu", "", 16_500), ("gpu", "", 1_000))
    capacity = resources(("cpu", "", 32_000), ("memory", "", 128 * GIB), ("gpu", "nvidia/A100", 2_000))
    assert row.nodes == (Node("rack-1", offered, capacity), Node("rack-2", offered, capacity))
    assert (row.key, row.engines, row.reclaim_ms) == (("cairo", "main"), ("command", "spark"), 2 * MINUTE)
    assert row.datasets == (Dataset("flights", "1", 0, "hubs", readers=("shenzhen",)),)
    early, late = found.jobs
    assert (early.row.job_id, early.row.seq, early.row.submitted_ms, early.runtime_ms) == (
        "early", 1, begins_ms + 1_500, MINUTE,
    )  # fmt: skip
    assert (early.row.per_task, early.row.runtime_limit_ms) == (cpus(1), MINUTE)
    assert early.recorded == Recorded("cairo", begins_ms + 2_000, begins_ms + 3 * MINUTE)
    assert (late.row.seq, late.row.priority, late.row.preemptible, late.row.inputs) == (2, 4, True, (("flights", "1"),))
    assert late.row.per_task == resources(("cpu", "", 4_000), ("memory", "", 8 * GIB), ("gpu", "", 500))


def test_what_is_written_reads_back_equal() -> None:
    """Every field that a history has."""
    node = Node(
        "n", resources(("cpu", "", 1_500)), resources(("cpu", "", 2_001), ("gpu", "", 1_000), ("gpu", "A", 500))
    )
    row = replace(
        agent("cairo", cpus(1), cpus(2, gpus=4, model="nvidia/T4")),
        datasets=(Dataset("d", "1", 0, "hubs", readers=("x",)), Dataset("e", "2", 0, "open")),
        reclaim_ms=90_001,
        takes_back=True,
    )
    row = replace(row, nodes=(*row.nodes, node))
    picky = job(
        "a", 1_790_812_800_123, 12_345, resources(("memory", "", 3 * GIB), ("disk", "", 7), ("gpu", "A", 250)), seq=1,
        hubs_allow=("cairo",), hubs_deny=("x",), hubs_prefer=("y", "z"), inputs=(("d", ""), ("e", "2")), replicas=3,
        priority=1, preemptible=True, spread=True,
    )  # fmt: skip
    picky = replace(picky, recorded=Recorded("cairo", 1_790_812_800_123, 1_790_812_900_000))
    made = History(7, 1_790_812_900_001, (row,), (picky,), {"version": 1, "order": {"weights": {"hubs": {"cairo": 2}}}})
    assert parse_history(format_history(made)) == made


@pytest.mark.parametrize(
    ("length_ms", "text"),
    [(0, "0s"), (1, "1ms"), (90_000, "1m30s"), (26 * HOUR, "1d2h"), (5 * MINUTE + 12_345, "5m12s345ms")],
)
def test_durations_are_written_exactly(length_ms: int, text: str) -> None:
    """No rounding: a history is data."""
    assert duration(length_ms) == text


def test_an_empty_month_has_an_end() -> None:
    """A history without jobs is one; its length is never zero."""
    found = parse_history([BEGIN, HUB])
    assert (found.jobs, found.ends_ms - found.begins_ms) == ((), 1)


@pytest.mark.parametrize(
    ("lines", "line", "word"),
    [
        (["not json"], 1, "not a JSON object"),
        (["[]"], 1, "must be an object"),
        (["{}"], 1, "not the first line"),
        (['{"history": 2}'], 1, "history must be 1"),
        (['{"history": true}'], 1, "history"),
        (['{"history": 1, "starts": 0}'], 1, "starts"),
        (['{"history": 1, "begins": "2026-02-30T00:00:00Z"}'], 1, "begins"),
        (['{"history": 1, "begins": "1960-01-01T00:00:00Z"}'], 1, "1970"),
        (['{"history": 1, "begins": "2026-02-01T00:00:00Z", "ends": "2026-01-01T00:00:00Z"}'], 1, "ends"),
        (['{"history": 1, "policy": []}'], 1, "policy"),
        ([BEGIN, "", "{}"], 3, "neither"),
        ([BEGIN, '{"hub": "cairo"}'], 2, "nodes"),
        ([BEGIN, '{"hub": "cairo", "nodes": [{"cpu": 4}]}'], 2, "'cpu'"),
        ([BEGIN, '{"hub": "cairo", "nodes": [{"cpus": -1}]}'], 2, "nodes[0].cpus"),
        ([BEGIN, '{"hub": "cairo", "nodes": [{"cpus": NaN}]}'], 2, "NaN"),
        ([BEGIN, '{"hub": "cairo", "nodes": [{"cpus": 1e999}]}'], 2, "cpus"),
        ([BEGIN, '{"hub": "cairo", "nodes": [{"cpus": 1, "count": 0}]}'], 2, "count"),
        ([BEGIN, '{"hub": "cairo", "nodes": [{"cpus": 1, "count": 9999}, {"cpus": 1, "count": 9}]}'], 2, "more than"),
        ([BEGIN, '{"hub": "cairo", "nodes": [{"cpus": 1}, {"cpus": 2}]}'], 2, "twice"),
        ([BEGIN, HUB, HUB], 3, "in line 2 already"),
        ([BEGIN, HUB, JOB, JOB], 4, "in line 3 already"),
        ([BEGIN, '{"job": "a", "home": "x", "runtime": "1s"}'], 2, "submit is missing"),
        ([BEGIN, '{"job": "a", "home": "x", "submit": "1s"}'], 2, "runtime is missing"),
        ([BEGIN, '{"job": "a", "submit": "1s", "runtime": "1s"}'], 2, "home"),
        ([BEGIN, '{"job": "a", "home": "x", "submit": "soon", "runtime": "1s"}'], 2, "submit"),
        ([BEGIN, '{"job": "a", "home": "x", "submit": "1s", "runtime": "2h", "limit": "1h"}'], 2, "limit of 1h"),
        ([BEGIN, '{"job": "a", "home": "x", "submit": "1s", "runtime": 0}'], 2, "runtime"),
        ([BEGIN, JOB.replace("}", ', "cpus": 0}')], 2, "empty"),
        ([BEGIN, JOB.replace("}", ', "job": "j2"}')], 2, "twice"),
        ([BEGIN, JOB.replace("}", ', "priority": []}')], 2, "priority"),
        ([BEGIN, JOB.replace("}", ', "user": "a\\u0007b"}')], 2, "user"),
        ([BEGIN, JOB.replace("}", ', "user": "\\ud800"}')], 2, "user"),
        ([BEGIN, JOB.replace("}", ', "ran": {"hub": "x", "start": "1s", "end": "9s"}}')], 2, "ran"),
        ([BEGIN, JOB.replace("}", ', "ran": {"hub": "x", "start": "1d", "end": "2d", "lost": "3d"}}')], 2, "ran.lost"),
        ([BEGIN, JOB.replace("}", ', "replicas": 1001}')], 2, "replicas"),
        ([BEGIN, JOB.replace("}", f', "inputs": {json.dumps(["d"] * 65)}' + "}")], 2, "65 inputs"),
    ],
)
def test_what_is_wrong_names_its_line(lines: list[str], line: int, word: str) -> None:
    """The line, the place in it, and the caller's fault."""
    error = refused(*lines)
    assert (error.metadata["line"], error.fault) == (str(line), "caller")
    assert word in error.message


def test_an_empty_file_is_no_history() -> None:
    """It says how one begins."""
    assert '{"history": 1}' in refused("", "  ").hint


def test_limits_hold_and_just_not_past_them(monkeypatch: pytest.MonkeyPatch) -> None:
    """Lines and jobs."""
    monkeypatch.setattr(history_module, "JOBS_MAX", 1)
    assert len(parse_history([BEGIN, JOB]).jobs) == 1
    assert refused(BEGIN, JOB, JOB.replace("j1", "j2")).code is Code.LIMIT_EXCEEDED
    monkeypatch.setattr(history_module, "LINE_CHARACTERS_MAX", len(BEGIN) + 1)
    assert parse_history([BEGIN + "\n"]).jobs == ()
    assert refused(" " + BEGIN).code is Code.LIMIT_EXCEEDED


def test_files_that_cannot_be_read(tmp_path: Path) -> None:
    """None there, a folder, and bytes that are no text: each in words."""
    for path, word in ((tmp_path / "none", "none"), (tmp_path, "cannot be read")):
        with pytest.raises(FederationError, match=word):
            read_history(path)
    (tmp_path / "bytes").write_bytes(b"\xff\xfe")
    with pytest.raises(FederationError, match="UTF-8"):
        read_history(tmp_path / "bytes")
    (tmp_path / "good").write_text(f"{BEGIN}\n{HUB}\n{JOB}\n")
    assert len(read_history(tmp_path / "good").jobs) == 1


def test_the_history_in_the_readme_is_one() -> None:
    """Whoever copies it has a file that can be replayed."""
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    (block,) = [block for block in text.split("```") if block.lstrip().startswith('{"history"')]
    found = parse_history(block.strip().splitlines())
    assert [job.row.job_id for job in found.jobs] == ["a", "b"]
    assert [len(row.nodes) for row in found.agents] == [4, 1]
