"""Every benchmark is listed with its question, and can be asked."""

from __future__ import annotations

import pytest

from benchmarks.__main__ import load, main, names


def test_every_benchmark_is_listed_with_its_question(capsys: pytest.CaptureFixture[str]) -> None:
    """`list` names each module, and says what it asks."""
    assert main(["list"]) == 0
    listed = dict(line.split("  ", 1) for line in capsys.readouterr().out.splitlines())
    assert set(listed) == set(names())
    assert {"submit", "dispatch", "footprint"} <= set(listed)
    assert all(question.endswith("?") for question in listed.values())


def test_each_has_options_and_a_measure() -> None:
    """A question without one of them could not be asked."""
    assert [name for name in names() if not (hasattr(load(name), "options") and hasattr(load(name), "measure"))] == []


def test_an_unknown_name_is_wrong_usage(capsys: pytest.CaptureFixture[str]) -> None:
    """Status 2, and standard output stays empty."""
    assert main(["no-such-benchmark"]) == 2
    assert capsys.readouterr().out == ""
