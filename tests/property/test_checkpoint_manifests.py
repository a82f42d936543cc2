"""A checkpoint's manifest comes from a store that may have damaged it: it is read whole, or refused in our own words."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any, TypeVar

from hypothesis import example, given
from hypothesis import strategies as st

from federation.errors import Code, FederationError
from federation.objects.checkpoints import SavedFile, checked_files, manifest_bytes, read_manifest

SHA256 = "0123456789abcdef" * 4
PATHS = st.lists(st.text("ab. é", min_size=1, max_size=8), min_size=1, max_size=3).map("/".join)
FILES = st.lists(
    st.builds(SavedFile, PATHS, st.integers(-1, 1 << 31), st.sampled_from([SHA256, "0" * 64, "x"])), max_size=4
)
LEAVES = (
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8) | st.sampled_from([1, SHA256, "a"])
)
JSON: st.SearchStrategy[Any] = st.recursive(
    LEAVES,
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.dictionaries(st.sampled_from(["checkpoint", "saved_ms", "files"]), inner, max_size=3)
    ),
    max_leaves=12,
)
REFUSALS = {Code.INVALID_ARGUMENT, Code.LIMIT_EXCEEDED}
T = TypeVar("T")


def unless_refused(attempt: Callable[[], T]) -> T | None:
    """What it gives; None where it is refused, which must be in our own words."""
    code: Code | None = None
    try:
        return attempt()
    except FederationError as error:
        code = error.code
    assert code in REFUSALS
    return None


@given(FILES, st.integers(0, (1 << 62) - 1))
def test_what_may_be_saved_comes_back(files: list[SavedFile], saved_ms: int) -> None:
    """Every list of files is refused, or comes back as it was from the bytes that are stored."""
    wanted = unless_refused(lambda: checked_files(files))
    if wanted is None:
        return
    assert read_manifest(manifest_bytes(saved_ms, wanted)) == (saved_ms, wanted)
    assert all(not set(file.path.split("/")) & {"", ".", ".."} for file in wanted), "a path stays inside its folder"


@given(st.binary(max_size=200) | JSON.map(lambda content: json.dumps(content).encode()))
@example(b"[" * 100_000)
@example(json.dumps({"checkpoint": 1, "saved_ms": 1, "files": [["a", 1, SHA256], ["a/b", 1, SHA256]]}).encode())
@example(json.dumps({"checkpoint": 1, "saved_ms": True, "files": [["a", 1, SHA256]]}).encode())
@example(json.dumps({"checkpoint": 1, "saved_ms": 1, "files": [["../a", 1, SHA256]]}).encode())
@example(json.dumps({"checkpoint": 1, "saved_ms": 1, "files": [["a", 1.5, SHA256]]}).encode())
def test_anything_else_is_refused(data: bytes) -> None:
    """Whatever the bytes are: a manifest that may be one, or an error of the closed list."""
    found = unless_refused(lambda: read_manifest(data))
    if found is None:
        return
    saved_ms, files = found
    assert (saved_ms >= 0, checked_files(files)) == (True, files)
