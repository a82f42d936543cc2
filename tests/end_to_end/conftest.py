"""One federation for the whole session: three hubs with the sample data, up by `brhub up`, ended by `brhub down`.

Tests may drain, kill and restart parts of it; each leaves three hubs online, with nothing running or waiting.
"""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from federation.cli import processes
from federation.client import Client
from tests.support.embedded_federation import EmbeddedFederation


@pytest.fixture(scope="session")
def federation() -> Iterator[EmbeddedFederation]:
    """The federation. Its folder has a short path: sockets of engines lie below it."""
    folder = Path(tempfile.mkdtemp(prefix="brhub-e2e-"))
    running = EmbeddedFederation(folder)
    try:
        running.up("--hubs", 3, "--sample-data")
        yield running
    finally:
        running.down()
        left = running.processes()
        if left:
            processes.stop_all(running.folder, print)
        assert left == []
        shutil.rmtree(folder)


@pytest.fixture
def client(federation: EmbeddedFederation) -> Iterator[Client]:
    """A client of the one who started the federation."""
    with federation.client() as connected:
        yield connected
