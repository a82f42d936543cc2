"""The door before a control plane: how it counts."""

from __future__ import annotations

import itertools

from hypothesis import given
from hypothesis import strategies as st

from benchmarks.apparatus.doorway import Doorway, FrameCounter

PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"


def frame(kind: int, payload: bytes) -> bytes:
    """As RFC 9113, 4.1 has it."""
    return len(payload).to_bytes(3, "big") + bytes([kind, 0, 0, 0, 0, 1]) + payload


@given(
    frames=st.lists(st.tuples(st.integers(0, 9), st.binary(max_size=40))),
    cuts=st.lists(st.integers(0, 400)),
)
def test_headers_are_counted_in_whatever_pieces_they_come(frames: list[tuple[int, bytes]], cuts: list[int]) -> None:
    """Each HEADERS frame (type 1) once, no byte of a payload taken for one."""
    data = PREFACE + b"".join(frame(kind, payload) for kind, payload in frames)
    counter = FrameCounter()
    edges = sorted({0, len(data), *(min(cut, len(data)) for cut in cuts)})
    found = sum(counter.headers_in(data[start:end]) for start, end in itertools.pairwise(edges))
    assert found == sum(kind == 1 for kind, _ in frames)


def test_the_busiest_second_is_found_between_the_seconds() -> None:
    """Three requests within a second, though no whole second by the clock has more than two."""
    door = Doorway("127.0.0.1:1")
    door.requests_s = [0.1, 1.6, 1.9, 2.2, 3.5]
    assert door.busiest_second(0.0, 10.0) == 3
    assert door.between(1.0, 2.0) == 2
    door.end()
