"""Real faults at moments drawn from a seed, on real processes in networks of their own: every promise is kept.

BRHUB_SEED plays another seed; BRHUB_WRITE_TABLE=1 writes the table in tests/README.md anew from what was played.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator

import pytest

from tests.support import real_table
from tests.support.real_facts import broken_now, gather, operations, played
from tests.support.real_faults import FAULTS, SILENCE
from tests.support.real_load import Load
from tests.support.real_play import Play, drawn
from tests.support.real_promises import broken_promises
from tests.support.real_site import HUBS, site

pytestmark = [
    pytest.mark.timeout(600),
    pytest.mark.root,
    pytest.mark.skipif(os.geteuid() != 0, reason="network namespaces need root"),
    pytest.mark.skipif(
        not all(map(shutil.which, ("ip", "nft", "iptables"))), reason="needs the programs ip, nft and iptables"
    ),
]
SEED = int(os.environ.get("BRHUB_SEED", "1"))
BEFORE = ("plane-killed", "plane-stopped", "delay")
"""Played before a hub falls silent: a control plane that was away counts every lease anew, and the silence would be for naught."""
SILENT_HUB = "shenzhen"


@pytest.fixture(scope="module")
def play(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Play]:
    """A federation with jobs at every hub."""
    with site(tmp_path_factory.mktemp("real")) as made:
        load = Load(made, SEED)
        try:
            found = Play(made, load, SEED)
            found.crowd()
            yield found
        finally:
            load.close()


def test_every_fault_meets_every_operation_and_no_promise_breaks(play: Play) -> None:
    """Each fault twice, at a moment of its own, while everything is being done; meanwhile a hub is silent for a whole lease."""
    print(f"seed {SEED}")
    wrong = []
    for scene in drawn(play.chance, BEFORE):
        play.play(scene)
        wrong += broken_now(play.site)
    others = [hub for hub in HUBS if hub != SILENT_HUB]
    with play.silent(SILENT_HUB):
        for scene in drawn(play.chance, [name for name in FAULTS if name not in BEFORE], others):
            play.play(scene)
            wrong += broken_now(play.site)
    play.settle()
    facts = gather(play.site)
    wrong += broken_promises(facts, play.load, play.struck) + play.told_truly(facts)
    assert wrong == []
    met = played(play.struck, operations(facts, play.load, play.started))
    if os.environ.get("BRHUB_WRITE_TABLE"):
        real_table.write(met)
    assert real_table.written() - met.keys() == set()
    assert met["run", SILENCE.name] > 0
