"""Real faults at moments drawn from a seed, on real processes in networks of their own: every promise is kept.

BRHUB_SEED plays another seed. BRHUB_WRITE_TABLE=new writes the table in tests/README.md from what was played;
BRHUB_WRITE_TABLE=more adds this run to those before.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from random import Random

import pytest

from federation.domain.ids import JobId
from federation.domain.job import JobState
from tests.support import real_table
from tests.support.real_facts import Facts, broken_now, gather, operations, played
from tests.support.real_faults import FAULTS
from tests.support.real_load import Load, Wish
from tests.support.real_play import Play, Scene, drawn
from tests.support.real_promises import broken_promises
from tests.support.real_site import CONTROL, HUBS, site

pytestmark = [
    pytest.mark.timeout(900),
    pytest.mark.root,
    pytest.mark.skipif(os.geteuid() != 0, reason="network namespaces need root"),
    pytest.mark.skipif(
        not all(map(shutil.which, ("ip", "nft", "iptables"))), reason="needs the programs ip, nft and iptables"
    ),
]
SEED = int(os.environ.get("BRHUB_SEED", "1"))
WRITES = os.environ.get("BRHUB_WRITE_TABLE", "")
BEFORE = ("plane-killed", "plane-stopped", "delay")
"""Played before a hub falls silent: a control plane that was away counts every lease anew, and the silence would be for naught."""
SILENT_HUB = "shenzhen"
ROUNDS = 20
LONGEST_S = 8.0


@dataclass(frozen=True, slots=True)
class Story:
    """What was played, and what is known of it afterwards."""

    play: Play
    wrong: list[str]
    """What the store's invariants said meanwhile."""
    silent: Sequence[Wish]
    """A job to be kept, one to be stopped, and two to be run again, at the hub that was silent."""
    facts: Facts


@pytest.fixture(scope="module")
def play(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Play]:
    """A federation with jobs at every hub."""
    with site(tmp_path_factory.mktemp("real")) as made:
        load = Load(made, SEED)
        try:
            found = Play(made, load, SEED)
            for hub in HUBS:
                load.wish(hub, exit_status=3, lasts_s=0.3)  # whose owner will want it once more
            found.crowd()
            yield found
        finally:
            load.close()


@pytest.fixture(scope="module")
def story(play: Play) -> Story:
    """Each fault twice, at a moment of its own, while everything is being done; meanwhile a hub is silent for a whole lease."""
    wrong = []
    for scene in drawn(play.chance, BEFORE):
        play.play(scene)
        wrong += broken_now(play.site)
    others = [hub for hub in HUBS if hub != SILENT_HUB]
    with play.silent(SILENT_HUB) as silent:
        for scene in drawn(play.chance, [name for name in FAULTS if name not in BEFORE], others):
            play.play(scene)
            wrong += broken_now(play.site)
    play.settle()
    for scene in drawn(play.chance, [] if WRITES else unmet(play)):
        play.play(scene)
        wrong += broken_now(play.site)
    play.settle()
    return Story(play, wrong, silent, gather(play.site))


def unmet(play: Play) -> list[str]:
    """Faults that struck while nothing was under way that should have been: a busy machine is slow at the wrong moment."""
    missing = real_table.written() - played_by(play, gather(play.site)).keys()
    return sorted({fault for _, fault in missing} & FAULTS.keys())


def played_by(play: Play, facts: Facts) -> dict[tuple[str, str], int]:
    """(operation, fault) -> how many times one met the other."""
    return played(play.struck, operations(facts, play.load, play.started))


def broken_in(play: Play, facts: Facts) -> list[str]:
    """Every promise that these facts break."""
    return broken_promises(facts, play.load, play.struck) + play.told_truly(facts)


def test_every_fault_at_any_moment_breaks_no_promise(story: Story) -> None:
    """Nothing lost, nothing twice, nobody ended for a quiet link: by what programs wrote down, the store and the journals."""
    assert (SEED, story.wrong + broken_in(story.play, story.facts)) == (SEED, [])


def test_a_silent_hubs_jobs_go_the_way_they_asked_for(story: Story) -> None:
    """Past its leases: the one to keep never heard of it, the one to stop failed, those to rerun ran on elsewhere."""
    kept, stopped, *again = [story.facts.jobs[wish.job_id] for wish in story.silent]
    assert (kept.state, kept.attempts, kept.hub_id) == (JobState.SUCCEEDED, 1, SILENT_HUB)
    codes = [event.payload["code"] for event in story.facts.events[stopped.id] if event.type == "RunFailed"]
    assert codes[:1] == ["LEASE_RAN_OUT"] or "LeaseExpired" in [one.type for one in story.facts.events[stopped.id]]
    for job in again:
        hubs = [one.payload["hub_id"] for one in story.facts.events[job.id] if one.type == "LeaseGranted"]
        assert (job.state, hubs[0], SILENT_HUB in hubs[1:2]) == (JobState.SUCCEEDED, SILENT_HUB, False)
        assert job.attempts >= 2


def test_the_table_in_the_readme_tells_what_is_played(story: Story) -> None:
    """Every dot is an operation that was under way when that fault was there, this time too."""
    met = played_by(story.play, story.facts)
    if WRITES:
        real_table.write(met, anew=WRITES == "new")
    assert sorted(real_table.written() - met.keys()) == []
    assert real_table.is_whole()


Tamper = Callable[[Facts, str], Facts]


def without_the_job(facts: Facts, job_id: str) -> Facts:
    """As if the store had lost it."""
    return replace(facts, jobs={name: job for name, job in facts.jobs.items() if name != job_id})


def begun_again(facts: Facts, job_id: str) -> Facts:
    """As if its attempt had begun once more."""
    begin = next(line for line in facts.lines if (line.job_id, line.what) == (job_id, "begin"))
    return replace(facts, lines=[*facts.lines, begin])


def told_to_end(facts: Facts, job_id: str) -> Facts:
    """As if its hub had told it to end."""
    lines = [
        replace(line, what="term") if (line.job_id, line.what) == (job_id, "end") else line for line in facts.lines
    ]
    return replace(facts, lines=lines)


def never_ended(facts: Facts, job_id: str) -> Facts:
    """As if its program had been killed by nobody known."""
    return replace(facts, lines=[one for one in facts.lines if (one.job_id, one.what) != (job_id, "end")])


def cancelled(facts: Facts, job_id: str) -> Facts:
    """As if somebody had cancelled it."""
    job = replace(facts.jobs[job_id], state=JobState.CANCELLED)
    return replace(facts, jobs={**facts.jobs, job_id: job})


def without_use(facts: Facts, job_id: str) -> Facts:
    """As if nobody had counted its use."""
    leases = {lease.id for lease in facts.leases.values() if lease.job_id == job_id}
    return replace(facts, usage={name: () if name in leases else used for name, used in facts.usage.items()})


def of_another_hub(facts: Facts, job_id: str) -> Facts:
    """As if its hub had run what nobody granted."""
    lease = next(lease for lease in facts.leases.values() if lease.job_id == job_id)
    return replace(facts, leases={name: one for name, one in facts.leases.items() if name != lease.id})


@pytest.mark.parametrize(
    ("tamper", "sentence"),
    [
        (without_the_job, "was acknowledged and is lost"),
        (begun_again, "began 2 times"),
        (told_to_end, "was told to end and was to be kept"),
        (never_ended, "vanished, and no fault hit it"),
        (cancelled, "was cancelled and nobody asked"),
        (without_use, "and none is counted"),
        (of_another_hub, "which nobody granted"),
    ],
)
def test_the_checks_bite(story: Story, tamper: Tamper, sentence: str) -> None:
    """What did not happen here would be seen: the facts of the job that was to be kept, changed by hand."""
    found = broken_promises(tamper(story.facts, JobId(story.silent[0].job_id)), story.play.load, story.play.struck)
    assert any(sentence in line for line in found), found


def pairs(chance: Random) -> Iterator[tuple[Scene, Scene]]:
    """Two faults at a time, each of whatever is not the other's: two hubs, or a hub and what all share.

    First the control plane is started anew while its object store is away, or hangs.
    """
    for name in ("objects-killed", "objects-stopped"):
        yield drawn_pair(chance, [name], ["plane-killed"])
    for _ in range(ROUNDS):
        one, two = drawn_pair(chance, list(FAULTS), list(FAULTS))
        at = [FAULTS[scene.fault].at for scene in (one, two)]
        if at != ["hub", "hub"] and at[0] == at[1]:
            continue
        if FAULTS[two.fault].only_at not in ("", two.hub):
            continue
        yield one, two


def drawn_pair(chance: Random, first: Sequence[str], second: Sequence[str]) -> tuple[Scene, Scene]:
    """One of each, at two hubs."""
    one, two = (chance.choice(drawn(chance, names, longest_s=LONGEST_S)) for names in (first, second))
    if one.hub == two.hub:
        two = replace(two, hub=chance.choice([hub for hub in HUBS if hub != one.hub]))
    return one, two


@pytest.mark.long
@pytest.mark.parametrize("seed", range(2, 5))
def test_two_faults_at_a_time_break_no_promise(play: Play, seed: int) -> None:
    """Longer ones, one inside the other; in the end the control plane is killed once more and knows all that it knew."""
    play.chance = Random(f"pairs {seed}")
    wrong = []
    for outer, inner in pairs(play.chance):
        play.play(outer, during=inner)
        wrong += broken_now(play.site)
    play.settle()
    wrong += broken_in(play, gather(play.site))
    play.site.kill(CONTROL)
    play.site.start(CONTROL)
    play.site.answers()
    wrong += play.told_truly(gather(play.site))
    assert (seed, wrong) == (seed, [])
