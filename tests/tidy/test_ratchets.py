"""Sizes and names: limits that only ever get tighter."""

from __future__ import annotations

import ast
import re

from tests.tidy.repository import name_of, python_files, tree_of

FILE_LINES_MAX = 600
FUNCTION_LINES_MAX = 70
VAGUE = {"utils", "util", "helpers", "helper", "common", "manager", "managers", "misc"}
# Exceptions, each with its reason and its present length, which it may not exceed.
LONGER_FILES: dict[str, int] = {}
LONGER_FUNCTIONS: dict[str, int] = {}


def function_lengths(path_name: str, tree: ast.AST) -> dict[str, int]:
    """Lines of each function, without its docstring, by `path:name`."""
    lengths = {}
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) and node.end_lineno:
            first = node.body[0]
            documented = isinstance(first, ast.Expr) and isinstance(first.value, ast.Constant)
            docstring = (first.end_lineno or 0) - first.lineno + 1 if documented else 0
            lengths[f"{path_name}:{node.name}"] = node.end_lineno - node.lineno + 1 - docstring
    return lengths


def test_no_file_is_longer_than_600_lines() -> None:
    """A file over 600 lines holds two rooms; it is split, not excused."""
    lengths = {name_of(path): len(path.read_text(encoding="utf-8").splitlines()) for path in python_files()}
    assert {name: lines for name, lines in lengths.items() if lines > LONGER_FILES.get(name, FILE_LINES_MAX)} == {}


def test_no_function_is_longer_than_70_lines() -> None:
    """A function over 70 lines (its docstring apart) holds several; the list of exceptions only shrinks."""
    lengths: dict[str, int] = {}
    for path in python_files():
        if "labs" not in path.parts:
            lengths |= function_lengths(name_of(path), tree_of(path))
    assert {
        name: lines for name, lines in lengths.items() if lines > LONGER_FUNCTIONS.get(name, FUNCTION_LINES_MAX)
    } == {}


def test_the_lists_of_exceptions_hold_nothing_that_is_gone() -> None:
    """An exception whose reason went away leaves the list, so that the ratchet cannot slip back."""
    files = {name_of(path): path for path in python_files()}
    assert set() == LONGER_FILES.keys() - files.keys()
    for entry in LONGER_FUNCTIONS:
        name = entry.rpartition(":")[0]
        assert entry in function_lengths(name, tree_of(files[name]))


def test_modules_have_telling_names() -> None:
    """A module called utils collects what nobody wants to name."""
    assert [name_of(path) for path in python_files() if VAGUE & set(re.split(r"[_.]", path.stem))] == []


def test_every_module_says_what_it_is_for() -> None:
    """A module's docstring says what the room is for; only empty `__init__` files may go without."""
    silent = [
        name_of(path)
        for path in python_files()
        if "labs" not in path.parts and tree_of(path).body and not ast.get_docstring(tree_of(path))
    ]
    assert silent == []
