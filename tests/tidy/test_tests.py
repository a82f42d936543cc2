"""Tests that test: each says what behaviour it names, each can fail, and no code is a stub."""

from __future__ import annotations

import ast
from pathlib import Path

from tests.tidy.repository import name_of, python_files, tree_of

PROVING_WORDS = ("assert", "check", "expect", "eventually", "raises", "warns", "fail", "verify", "run_state_machine")


def functions_under_test(path: Path) -> list[ast.FunctionDef | ast.AsyncFunctionDef]:
    """The test functions of a file."""
    return [
        node
        for node in ast.walk(tree_of(path))
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) and node.name.startswith("test_")
    ]


def proving_builders(path: Path) -> set[str]:
    """Functions of the same file that hold assertions themselves."""
    functions = [node for node in ast.walk(tree_of(path)) if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)]
    return {function.name for function in functions if can_fail(function, set())}


def can_fail(function: ast.AST, builders: set[str]) -> bool:
    """Whether there is an assertion, or a call that holds one or promises one by its name."""
    for node in ast.walk(function):
        if isinstance(node, ast.Assert):
            return True
        if isinstance(node, ast.Call):
            name = node.func.attr if isinstance(node.func, ast.Attribute) else getattr(node.func, "id", "")
            if name in builders or any(word in name for word in PROVING_WORDS):
                return True
    return False


def test_every_test_names_its_behaviour() -> None:
    """A docstring of its own on each test function, in classes too."""
    silent = [
        f"{name_of(path)}:{function.lineno}: {function.name}"
        for path in python_files("tests")
        for function in functions_under_test(path)
        if not ast.get_docstring(function)
    ]
    assert silent == []


def test_every_test_can_fail() -> None:
    """A test without an assertion proves only that nothing was raised."""
    idle = [
        f"{name_of(path)}:{function.lineno}: {function.name}"
        for path in python_files("tests")
        for function in functions_under_test(path)
        if not can_fail(function, proving_builders(path))
    ]
    assert idle == []


def test_no_code_is_a_stub() -> None:
    """`raise NotImplementedError` is a promise that somebody else breaks; Protocols and abstract methods need none."""
    stubs = [
        f"{name_of(path)}:{node.lineno}"
        for path in python_files("federation", "hub_node", "courses", "infra", "benchmarks")
        for node in ast.walk(tree_of(path))
        if isinstance(node, ast.Raise) and "NotImplementedError" in ast.unparse(node)
    ]
    assert stubs == []
