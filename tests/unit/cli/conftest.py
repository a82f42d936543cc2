"""`brhub` in this process, against a small federation."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from federation.cli.main import main
from tests.unit.client.small_federation import TOKEN, SmallFederation


class Said(NamedTuple):
    """What a call left."""

    status: int
    out: str
    err: str

    @property
    def document(self) -> Any:
        return json.loads(self.out)


Brhub = Callable[..., Said]


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[SmallFederation]:
    """A running small federation that the environment names."""
    federation = SmallFederation()
    federation.start()
    monkeypatch.setenv("BRHUB_SERVER", federation.settings.server)
    monkeypatch.setenv("BRHUB_TOKEN", TOKEN)
    monkeypatch.setenv("BRHUB_DIR", str(tmp_path / ".brhub"))
    yield federation
    federation.stop()


@pytest.fixture
def brhub(capfd: pytest.CaptureFixture[str]) -> Brhub:
    """Run `brhub WORDS` and see what it said."""

    def run(*words: object) -> Said:
        capfd.readouterr()
        status = main([str(word) for word in words])
        logging.disable(logging.NOTSET)  # `simulate` turns it off for its process, and this one goes on
        return Said(status, *capfd.readouterr())

    return run
