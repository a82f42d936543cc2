"""A small federation and a client of it, for every test of this room."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from federation.client import Client, Patience
from tests.unit.client.small_federation import SmallFederation

HASTY = Patience(call_s=5.0, retry_s=3.0, pause_s=0.01, pause_max_s=0.05)


@pytest.fixture
def small() -> Iterator[SmallFederation]:
    """A running small federation."""
    federation = SmallFederation()
    federation.start()
    yield federation
    federation.stop()


@pytest.fixture
def client(small: SmallFederation) -> Iterator[Client]:
    """A client with little patience."""
    with Client(small.settings, HASTY) as made:
        yield made
