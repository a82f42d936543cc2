"""The table of operations and faults in tests/README.md: a dot where the one has truly met the other, a hole elsewhere."""

from __future__ import annotations

import re
from collections.abc import Collection
from pathlib import Path

from tests.support.real_facts import OPERATIONS
from tests.support.real_faults import FAULTS, SILENCE

PAGE = Path(__file__).resolve().parents[1] / "README.md"
BEGIN, END = "<!-- operations and faults -->", "<!-- so far -->"
KINDS = (*FAULTS, SILENCE.name)
MET = "●"
Pair = tuple[str, str]
"""(operation, fault)."""


def table(met: Collection[Pair]) -> str:
    """The table, with those pairs."""
    rows = [["fault", *OPERATIONS], ["---", *[":-:"] * len(OPERATIONS)]]
    rows += [[kind, *(MET if (operation, kind) in met else "" for operation in OPERATIONS)] for kind in KINDS]
    return "\n".join("| " + " | ".join(row) + " |" for row in rows)


def written() -> set[Pair]:
    """The pairs that the page says have met."""
    found = set()
    for line in _block(PAGE.read_text(encoding="utf-8")).splitlines():
        kind, *cells = [cell.strip() for cell in line.strip("| ").split("|")]
        found |= {(name, kind) for name, cell in zip(OPERATIONS, cells, strict=False) if cell == MET}
    return found


def write(met: Collection[Pair]) -> None:
    """Put the table of these pairs into the page."""
    text = PAGE.read_text(encoding="utf-8")
    PAGE.write_text(text.replace(_block(text), f"\n{table(met)}\n"), encoding="utf-8")


def is_whole() -> bool:
    """Whether the page has the table as it would be written: every fault, every operation."""
    return _block(PAGE.read_text(encoding="utf-8")).strip() == table(written())


def _block(text: str) -> str:
    found = re.search(f"{re.escape(BEGIN)}(.*?){re.escape(END)}", text, re.DOTALL)
    assert found is not None, f"{PAGE} has lost its marks {BEGIN} and {END}"
    return found[1]
