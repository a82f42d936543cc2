"""Tables on a terminal that is narrower than they are: what may be cut is, what goes on below does, ids stay whole."""

from __future__ import annotations

import io

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console
from rich.table import Table

from federation.cli import tables
from federation.cli.show import CUT_COLUMNS_MIN, FOLD_COLUMNS_MIN, fit
from federation.cli.top import Cropped

JOB_ID = "job-01m81redmm3jpfxnjcs7xyvst7"
SENTENCE = "machines of kuala-lumpur are being freed for it and kept for it alone, expected by 14:03:20 UTC"


def drawn(table: Table, width: int) -> list[str]:
    """The lines of a table on a terminal of this width."""
    out = io.StringIO()
    needed = fit(table, width)
    Console(file=out, width=needed, highlight=False).print(table, crop=False, overflow="ignore", no_wrap=True)
    return [line.rstrip() for line in out.getvalue().splitlines()]


def a_list() -> Table:
    """A list of one job."""
    made = tables.table(["ID", "~NAME", "STATE", "~WHY"])
    made.add_row(JOB_ID, "a-rather-long-name", "QUEUED", SENTENCE)
    return made


@pytest.mark.parametrize("width", [200, 100, 80, 60])
def test_a_list_cuts_names_and_reasons_and_never_ids(width: int) -> None:
    """The longest of what may be cut first; the rest stands whole."""
    (_, row) = drawn(a_list(), width)
    assert row.startswith(f"{JOB_ID}  ")
    assert "QUEUED" in row
    assert len(row) <= max(width, len(JOB_ID) + 2 * (2 + CUT_COLUMNS_MIN) + 6)
    assert (SENTENCE in row) == (width == 200)


@pytest.mark.parametrize("width", [200, 60, 31])
def test_a_look_at_the_queue_leaves_out_the_right_end_and_cuts_no_id(width: int) -> None:
    """A line of the screen is a row: no row is broken into two, which would push the last ones out of sight."""
    out = io.StringIO()
    Console(file=out, width=width, highlight=False).print(Cropped(a_list()))
    lines = [line.rstrip() for line in out.getvalue().splitlines()]
    assert [bool(line) for line in lines] == [True, True, False]
    assert lines[1].startswith(JOB_ID)
    assert max(map(len, lines)) <= width


def test_a_sentence_goes_on_below() -> None:
    """Nothing of a reason is lost on a narrow terminal."""
    made = tables.table(["HUB", "REASON", "+WHAT IT MEANS"])
    made.add_row("kuala-lumpur", "CLAIM_HELD", SENTENCE)
    (_, first, *more) = drawn(made, 80)
    assert first.startswith("kuala-lumpur  CLAIM_HELD  machines of")
    assert max(map(len, (first, *more))) <= 80
    assert " ".join([first.partition("CLAIM_HELD")[2].strip(), *(line.strip() for line in more)]) == SENTENCE


@given(st.lists(st.tuples(st.sampled_from(["A", ">B", "~C", "+D"]), st.integers(0, 60)), min_size=1, max_size=6), st.integers(1, 200))  # fmt: skip
def test_no_column_that_stays_whole_is_narrowed(columns: list[tuple[str, int]], width: int) -> None:
    """Whatever the columns: these keep their width, and the table is as wide as it says."""
    made = tables.table([name for name, _ in columns])
    made.add_row(*("x" * length for _, length in columns))
    needed = fit(made, width)
    widths = [column.width or 0 for column in made.columns]
    for (name, length), found in zip(columns, widths, strict=True):
        wanted = max(1, length)
        least = {"~": CUT_COLUMNS_MIN, "+": FOLD_COLUMNS_MIN}.get(name[0], wanted)
        assert min(wanted, least) <= found <= wanted
        assert found == wanted or name[0] in "~+"
    assert sum(widths) + 2 * (len(widths) - 1) <= needed
    assert needed >= width
