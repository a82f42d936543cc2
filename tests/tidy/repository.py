"""What the tidy tests look at: the repository's files, and Python files as syntax trees.

Not here: any rule. Each rule is a test of its own.
"""

from __future__ import annotations

import ast
import functools
import subprocess
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
GENERATED = ("_pb2.py", "_pb2.pyi", "_pb2_grpc.py", "_pb2_grpc.pyi")


@functools.lru_cache(maxsize=1)
def all_files() -> tuple[Path, ...]:
    """Every file that is committed or would be: what git lists, without what it ignores."""
    words = ["git", "-c", f"safe.directory={ROOT}", "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    listed = subprocess.run(words, cwd=ROOT, check=True, capture_output=True).stdout.decode()
    return tuple(path for name in sorted(set(listed.split("\0"))) if name and (path := ROOT / name).is_file())


def python_files(*folders: str) -> list[Path]:
    """Our Python files, without generated ones; only those under `folders` where some are named."""
    return [
        path
        for path in all_files()
        if path.suffix == ".py"
        and not path.name.endswith(GENERATED)
        and (not folders or path.relative_to(ROOT).parts[0] in folders)
    ]


@functools.lru_cache(maxsize=1024)
def tree_of(path: Path) -> ast.Module:
    """The file's syntax tree."""
    return ast.parse(path.read_text(encoding="utf-8"), filename=str(path))


def name_of(path: Path) -> str:
    """The file as the rules and their messages name it."""
    return path.relative_to(ROOT).as_posix()


def imported_modules(tree: ast.AST) -> list[tuple[int, str]]:
    """(line, dotted name) of everything that the file imports, also inside functions; `from a import b` gives a.b."""
    found = []
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            found += [(node.lineno, alias.name) for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and not node.level:
            found += [(node.lineno, f"{node.module}.{alias.name}") for alias in node.names]
    return found
