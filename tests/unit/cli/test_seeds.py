"""`brhub simulate --seed`: what may be asked, what is said, and how a run goes on where it was cut off."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from federation.cli.seeds import SEEDS_MAX, Wanted, seeds_of
from federation.errors import FederationError
from federation.simulation.faults import FaultKind, kinds_named
from federation.simulation.federated import FAILED, Federation, Scenario
from federation.simulation.seeds import done_before, row_of, run_all, trace_of
from tests.unit.cli.conftest import Brhub

SHORT = ("--hours", "0.2", "--workers", "1")


def wanted(seed: int | None = None, seeds: str = "") -> Wanted:
    """What was asked for; the rest does not matter here."""
    return Wanted(seed, seeds, 3, 2.0, "all", 1, None, None)


def test_seeds_that_hold_end_with_0_and_say_so(brhub: Brhub) -> None:
    """One line that says whether all is well, and what was played."""
    said = brhub("simulate", "--seeds", "1..2", *SHORT)
    assert said.status == 0
    assert said.out.startswith("2 seeds of 3 hubs x 0.2 h with faults: every promise held\n")


def test_a_count_stays_on_the_line_of_its_name(brhub: Brhub) -> None:
    """However many kinds of faults there are, each line of them ends with a number."""
    said = brhub("simulate", "--seeds", "1..2", *SHORT).out.splitlines()
    assert [line for line in said[1:-1] if not line.rstrip(",")[-1].isdigit()] == []


def test_a_broken_promise_ends_with_1_and_the_seed(brhub: Brhub) -> None:
    """A control plane that takes every submission for a new one is found out, for people and for programs."""
    from tests.simulation import mutants

    with mutants.ALL["dedup-off"]():
        said = brhub("simulate", "--seeds", "1..8", "--workers", "1", "-o", "json")
    assert said.status == 1
    assert {one["seed"] for one in said.document["broken"]} <= set(range(1, 9))
    assert f"seed {said.document['broken'][0]['seed']}: " in said.err


def test_the_story_of_a_seed_can_be_read(brhub: Brhub, tmp_path: Path) -> None:
    """Every line has its moment in ms, who, and what."""
    story = tmp_path / "story.txt"
    assert brhub("simulate", "--seed", "4", *SHORT, "--trace", story).status == 0
    first = story.read_text().splitlines()[0].split()
    assert first == ["0", "plane", "boots", "1"]


def test_a_run_that_was_cut_off_goes_on(brhub: Brhub, tmp_path: Path) -> None:
    """What is in the results file is not run again, a line that was cut off is; other scenarios' lines are left alone."""
    results = tmp_path / "results.jsonl"
    assert brhub("simulate", "--seeds", "1..2", *SHORT, "--results", results).status == 0
    lines = results.read_text().splitlines()
    results.write_text(lines[0] + "\n" + lines[1][:40])
    again = brhub("simulate", "--seeds", "1..2", *SHORT, "--results", results)
    assert (again.status, "1 of 2 seeds are in" in again.err) == (0, True)
    assert re.search(r"; \d\.\d h of virtual time in [\d.]+ s, \d\.\d h before$", again.out.rstrip())
    assert results.read_text().splitlines() == lines
    scenarios = [Scenario(seed, hours=0.3) for seed in (1, 2)]
    assert done_before(results, scenarios) == []


def test_a_seed_that_fails_is_named_and_the_others_go_on(
    brhub: Brhub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An error that is no broken promise, and only one seed has it: its row says where; mended, it is played again."""
    play = Federation.run

    def fails_once(world: Federation) -> None:
        if world.scenario.seed == 2:
            raise ZeroDivisionError("of ours")
        play(world)

    arguments = ("simulate", "--seeds", "1..3", *SHORT, "--results", tmp_path / "results.jsonl", "-o", "json")
    with monkeypatch.context() as patched:
        patched.setattr(Federation, "run", fails_once)
        said = brhub(*arguments)
    assert (said.status, said.document["seeds"]) == (1, 3)
    (failed,) = said.document["broken"]
    assert (failed["seed"], FAILED in failed["promise"], "of ours" in failed["promise"]) == (2, True, True)
    again = brhub(*arguments)
    assert (again.status, again.document["broken"], "2 of 3 seeds are in" in again.err) == (0, [], True)


@pytest.mark.parametrize(
    "arguments",
    [
        ("--seed", "1", "--seeds", "1..2"),
        ("--seed", "-1"),
        ("--seeds", "2..1"),
        ("--seeds", "1-5"),
        ("--seeds", f"0..{SEEDS_MAX}"),
        ("--seed", "1", "--hubs", "0"),
        ("--seed", "1", "--hours", "nan"),
        ("--seed", "1", "--faults", "gremlins"),
        ("--seeds", "1..2", "--trace", "story.txt"),
        ("--seed", "1", "--policy", "p.yaml"),
    ],
)
def test_nonsense_is_refused_before_anything_runs(brhub: Brhub, arguments: tuple[str, ...]) -> None:
    """Status 2 and one sentence."""
    said = brhub("simulate", *arguments)
    assert (said.status, said.out) == (2, "")
    assert "INVALID_ARGUMENT" in said.err


@given(st.text(max_size=30))
def test_any_text_is_a_range_or_refused(text: str) -> None:
    """No text makes it fail otherwise."""
    try:
        seeds = seeds_of(wanted(seeds=text))
    except FederationError:
        return
    assert text == f"{seeds[0]}..{seeds[-1]}" or text.lstrip("0") or seeds


@given(st.lists(st.sampled_from([*FaultKind, "", "none"]), max_size=6))
def test_kinds_are_named_once_each(names: list[str]) -> None:
    """A list of names is those kinds, in its order, without repetition."""
    kinds = kinds_named(",".join(names))
    assert list(kinds) == list(dict.fromkeys(FaultKind(name) for name in names if name and name != "none"))


def test_a_damaged_results_file_is_refused(tmp_path: Path) -> None:
    """A line in the middle that is no result: this is another file."""
    file = tmp_path / "other.txt"
    file.write_text("not\nours\n")
    with pytest.raises(FederationError):
        done_before(file, [Scenario(1)])


def test_workers_give_the_rows_that_one_process_gives() -> None:
    """Two processes, any order of ends: the same rows."""
    scenario = Scenario(0, hours=0.1)
    one = list(run_all(scenario, range(12), 1))
    two = sorted(run_all(scenario, range(12), 2), key=lambda row: int(row["seed"]))
    assert [row["seed"] for row in one] == list(range(12))
    assert two == one
    assert json.loads(json.dumps(one)) == one


def test_a_trace_is_the_digest_s_text() -> None:
    """What is written is what was hashed."""
    import hashlib

    lines: list[str] = []
    report = trace_of(Scenario(2, hours=0.1), lines.append)
    assert hashlib.sha256("".join(lines).encode()).hexdigest() == row_of(report)["digest"]
