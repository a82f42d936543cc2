"""Documents tell the truth: their links resolve, and the map names every room and nothing that is gone."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from tests.support import diagrams
from tests.tidy.repository import ROOT, all_files, name_of

LINK = re.compile(r"(?<!!)\[[^\]]*\]\(([^)\s]+)\)|!\[[^\]]*\]\(([^)\s]+)\)")
MAPS = ("README.md", "ARCHITECTURE.md")
PACKAGES = ("federation", "hub_node", "courses")
TOP = ("federation", "hub_node", "courses", "infra", "benchmarks", "tests", "docs")
CODE_PATH = re.compile(rf"^(?:{'|'.join(TOP)})(?:/[\w.*<>-]+)*/?$")


def without_code(text: str) -> str:
    """The text without fenced blocks and inline code, in which brackets are no links."""
    return re.sub(r"`[^`\n]*`", "", re.sub(r"^```.*?^```", "", text, flags=re.MULTILINE | re.DOTALL))


def anchors_of(text: str) -> set[str]:
    """The anchors that a Markdown page's headings give."""
    headings = re.findall(
        r"^#+\s+(.+?)\s*$", re.sub(r"^```.*?^```", "", text, flags=re.MULTILINE | re.DOTALL), re.MULTILINE
    )
    return {re.sub(r"[^\w\- ]", "", heading.lower().replace("`", "")).replace(" ", "-") for heading in headings}


def broken_links(page: Path) -> list[str]:
    """Relative links of a page that lead nowhere."""
    broken = []
    for groups in LINK.findall(without_code(page.read_text(encoding="utf-8"))):
        target = next(group for group in groups if group)
        if re.match(r"[a-z]+:", target):
            continue
        path, _, anchor = target.partition("#")
        file = (page.parent / path) if path else page
        if not file.exists() or (
            anchor and file.suffix == ".md" and anchor not in anchors_of(file.read_text(encoding="utf-8"))
        ):
            broken.append(target)
    return broken


def named_paths(text: str) -> set[str]:
    """Paths of the repository in backticks, and in the left column of fenced trees that name full paths."""
    words = set(re.findall(r"`([^`\s]+)`", text))
    for block in re.findall(r"^```\w*\n(.*?)^```", text, flags=re.MULTILINE | re.DOTALL):
        words |= {line.split()[0] for line in block.splitlines() if line.strip()}
    return {word.rstrip("/") for word in words if CODE_PATH.match(word) and "<" not in word}


def rooms() -> list[str]:
    """Every room: folders and modules directly below our packages, and the packages' siblings."""
    names = set()
    for path in all_files():
        parts = path.relative_to(ROOT).parts
        if len(parts) == 2 and parts[0] in PACKAGES and parts[1].endswith(".py") and parts[1] != "__init__.py":
            names.add("/".join(parts))
        elif len(parts) > 2 and parts[0] in PACKAGES:
            names.add("/".join(parts[:2]))
        elif len(parts) > 1 and parts[0] in TOP:
            names.add(parts[0])
    return sorted(names)


def test_links_of_all_pages_resolve() -> None:
    """Every relative link of every Markdown page leads to a file, and its anchor to a heading."""
    pages = [path for path in all_files() if path.suffix == ".md"]
    assert {name_of(page): broken for page in pages if (broken := broken_links(page))} == {}


@pytest.mark.parametrize("page", [page for page in MAPS if (ROOT / page).exists()])
def test_maps_name_only_what_exists(page: str) -> None:
    """A path in backticks, or at the start of a line of a tree, is a path of this repository."""
    named = named_paths((ROOT / page).read_text(encoding="utf-8"))
    assert sorted(path for path in named if not any(ROOT.glob(path))) == []


@pytest.mark.parametrize("page", [page for page in MAPS[1:] if (ROOT / page).exists()])
def test_the_code_map_names_every_room(page: str) -> None:
    """A room that the map does not name is a room that nobody finds."""
    named = named_paths((ROOT / page).read_text(encoding="utf-8"))
    assert [room for room in rooms() if not any(path == room or path.startswith(room + "/") for path in named)] == []


def test_links_and_paths_are_found(tmp_path: Path) -> None:
    """The rule bites: a dead link, a dead anchor and a wrong path are seen; code and outside links are not."""
    page = tmp_path / "page.md"
    page.write_text(
        "# A b\n[x](gone.md) [y](#a-b) [z](#nope) [w](https://example.org) `[q](no.md)`\n", encoding="utf-8"
    )
    assert broken_links(page) == ["gone.md", "#nope"]
    text = "`federation/store/` and `brhub up`\n```\nhub_node/agent.py   the loop\n```\n"
    assert {"federation/store", "hub_node/agent.py"} == named_paths(text)


def test_the_lifecycles_page_is_what_its_tables_say() -> None:
    """A table was changed: `python -m tests.support.diagrams` draws it anew."""
    assert diagrams.PAGE.read_text(encoding="utf-8") == diagrams.page()


def test_the_failure_table_leaves_no_question_open() -> None:
    """What fails, what people see, for how long, what is lost, and what shows it: no cell of a row is empty."""
    text = (ROOT / "ARCHITECTURE.md").read_text(encoding="utf-8")
    table = text.partition("\n## When something fails\n")[2].partition("\n## ")[0]
    rows = [
        [cell.strip() for cell in line.strip("|").split("|")] for line in table.splitlines() if line.startswith("|")
    ]
    assert len(rows) > 40
    assert [row[0] for row in rows if len(row) != 5 or not all(row)] == []
