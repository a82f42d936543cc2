"""The table of operations and faults in tests/README.md: a dot where the one truly meets the other in every run.

A ring where it did in some runs; a hole elsewhere.
"""

from __future__ import annotations

import re
from collections.abc import Collection
from pathlib import Path

from tests.support.real_facts import OPERATIONS
from tests.support.real_faults import FAULTS, SILENCE

PAGE = Path(__file__).resolve().parents[1] / "README.md"
BEGIN, END = "<!-- operations and faults -->", "<!-- so far -->"
KINDS = (*FAULTS, SILENCE.name)
MET, AT_TIMES = "●", "○"
Pair = tuple[str, str]
"""(operation, fault)."""


def table(met: Collection[Pair], at_times: Collection[Pair] = ()) -> str:
    """The table, with those pairs."""

    def mark(pair: Pair) -> str:
        return MET if pair in met else AT_TIMES if pair in at_times else ""

    rows = [["fault", *OPERATIONS], ["---", *[":-:"] * len(OPERATIONS)]]
    rows += [[kind, *(mark((operation, kind)) for operation in OPERATIONS)] for kind in KINDS]
    return "\n".join("| " + " | ".join(row) + " |" for row in rows)


def written(mark: str = MET) -> set[Pair]:
    """The pairs that the page says meet in every run, or with AT_TIMES in some."""
    found = set()
    for line in _block(PAGE.read_text(encoding="utf-8")).splitlines():
        kind, *cells = [cell.strip() for cell in line.strip().removeprefix("|").removesuffix("|").split("|")]
        found |= {(name, kind) for name, cell in zip(OPERATIONS, cells, strict=False) if cell == mark}
    return found


def write(met: Collection[Pair], anew: bool) -> None:
    """Put into the page what met this time: `anew` forgets all runs before."""
    every = set(met) if anew else written() & set(met)
    at_times = set() if anew else (written() | written(AT_TIMES) | set(met)) - every
    text = PAGE.read_text(encoding="utf-8")
    PAGE.write_text(text.replace(_block(text), f"\n{table(every, at_times)}\n"), encoding="utf-8")


def is_whole() -> bool:
    """Whether the page has the table as it would be written: every fault, every operation."""
    return _block(PAGE.read_text(encoding="utf-8")).strip() == table(written(), written(AT_TIMES))


def _block(text: str) -> str:
    found = re.search(f"{re.escape(BEGIN)}(.*?){re.escape(END)}", text, re.DOTALL)
    assert found is not None, f"{PAGE} has lost its marks {BEGIN} and {END}"
    return found[1]
