"""Numbers, codes and links as the pages say them."""

from __future__ import annotations

import json

import pytest

from federation.console import words
from federation.console.reasons import in_short
from federation.console.rows import Meter, hub_row
from federation.domain.hub import HubState, LinkState
from federation.domain.job import Reason
from federation.lifecycle.job import Trigger
from federation.ports import EventRow
from federation.service.hubs import HubView
from tests.support.builders import NOON_MS, a_hub, a_job, a_lease, a_node, an_agent, some_resources

GIB = 2**30


@pytest.mark.parametrize(
    ("ms", "text"),
    [(0, "0 s"), (-5, "0 s"), (59_999, "59 s"), (60_000, "1 min 00 s"), (245_000, "4 min 05 s"),
     (3_599_999, "59 min 59 s"), (12_000_000, "3 h 20 min"), (187_200_000, "2 d 4 h")],
)  # fmt: skip
def test_a_duration_is_told_in_its_two_largest_units(ms: int, text: str) -> None:
    """And a moment in the future counts as now."""
    assert words.duration(ms) == text


def test_a_fixed_span_leaves_empty_units_out() -> None:
    """A limit of ten minutes is ten minutes, not ten minutes and no seconds."""
    assert [words.span(ms) for ms in (600_000, 90_000, 7_200_000)] == ["10 min", "1 min 30 s", "2 h"]


def test_what_a_job_asks_for_in_short() -> None:
    """CPUs first, a count of tasks where there are several, the GPU's kind where it matters."""
    assert words.asked(some_resources(0.5, 4)) == "0.5 cpu, 4 GiB"
    assert words.asked(some_resources(2, 4, 1, "nvidia/A100"), 3) == "3 × 2 cpu, 4 GiB, 1 gpu nvidia/A100"


@pytest.mark.parametrize(
    ("url", "followed"),
    [("http://127.0.0.1:8888/lab?token=x", True), ("https://lab.example/", True), ("javascript:alert(1)", False),
     ("data:text/html,x", False), ("//elsewhere/x", False), ("http://[", False), ("", False)],
)  # fmt: skip
def test_only_web_addresses_become_links(url: str, followed: bool) -> None:
    """A hub's word for where its lab is must not become a script."""
    assert words.web_link(url) == (url if followed else "")


def test_events_become_sentences() -> None:
    """Variable parts are filled in; an event of a later version is shown by its name; broken payloads do no harm."""
    claimed = '{"hub_id":"cairo","victims":["lease-1"],"from":"QUEUED","to":"QUEUED"}'
    granted = '{"hub_id":"cairo","nodes":["n1","n1"],"attempt":"1-2"}'
    rows = [
        EventRow(1, "job", "j", "LeaseGranted", "round", "control", granted),
        EventRow(1, "job", "j", "RunFailed", "SyncHub", "agent:cairo/main", '{"code":"RUN_FAILED"}'),
        EventRow(1, "job", "j", "ClaimMade", "round", "control", claimed),
        EventRow(1, "job", "j", "PreemptRequested", "round", "control", '{"code":"PREEMPTED"}'),
        EventRow(1, "job", "j", "SomethingNew", "x", "control", "not json"),
        EventRow(1, "job", "j", "LeaseGranted", "round", "control", "[]"),
    ]
    assert [words.event_words(row) for row in rows] == [
        "Leased to cairo on n1, attempt 1-2", "Failed (RUN_FAILED)",
        "Machines of cairo are being freed for it: guests there were told to end",
        "Told to end: its hub's own users get their machines back (PREEMPTED)", "SomethingNew", "Leased to ? on ?, attempt ?",
    ]  # fmt: skip
    assert [words.actor_words(name) for name in ("control", "agent:cairo/main", "user:local/aisha@cairo")] == [
        "control", "agent cairo/main", "aisha@cairo",
    ]  # fmt: skip


@pytest.mark.parametrize("trigger", list(Trigger))
def test_whatever_can_happen_to_a_job_has_a_sentence(trigger: Trigger) -> None:
    """Also where the event of another version lacks its variable parts: a page must not fail for it."""
    row = EventRow(1, "job", "j", trigger, "round", "control", "{}")
    assert words.event_words(row) not in ("", str(trigger))


def test_a_release_by_force_says_whose_word_it_was_and_why() -> None:
    """As it was written down."""
    why = "released by force by admin:local/root@cairo: it burnt down"
    row = EventRow(1, "job", "j", "ReleaseForced", "ReleaseJob", "admin:local/root@cairo", json.dumps({"why": why}))
    assert words.event_words(row) == f"Attempt {why}"


def test_a_meter_says_leased_of_offered() -> None:
    """With one unit where both have it, and its level by how much is left."""
    cpu = Meter("cpu", "cpus", 1_500, 8_000, 12_000)
    memory = Meter("memory", "memory", 12 * GIB, 16 * GIB, 16 * GIB)
    assert (cpu.figures, cpu.percent, cpu.level) == ("1.5 / 8", 18.8, "low")
    assert (memory.figures, memory.level) == ("12 / 16 GiB", "high")
    assert Meter("memory", "memory", 512 * 2**20, 16 * GIB, 16 * GIB).figures == "512 MiB / 16 GiB"
    assert Meter("memory", "memory", 0, 16 * GIB, 16 * GIB).figures == "0 / 16 GiB"
    assert Meter("gpu", "gpus", 0, 0, 0).percent == 0
    assert Meter("gpu", "gpus", 2_000, 1_000, 1_000).level == "full"
    assert cpu.title == "cpus: 1.5 leased, 6.5 free, 8 offered of 12"


def test_a_hub_is_the_sum_of_its_nodes() -> None:
    """Leases count on the node of each task; the link is that of the agent that was heard of best."""
    busy = an_agent(nodes=(a_node("n1", 4, 8), a_node("n2", 4, 8)), last_sync_ms=NOON_MS)
    gone = an_agent(agent_id="old", link=LinkState.LOST, nodes=(), last_sync_ms=NOON_MS - 1)
    job = a_job("job-1", replicas=2, per_task=some_resources(1, 2))
    lease = a_lease(job, nodes=("n1", "n2"))
    row = hub_row(HubView(a_hub(state=HubState.DRAINING, note="new disks"), (busy, gone), (lease,)))
    assert (row.link, row.last_sync_ms, row.draining, row.leases) == ("ONLINE", NOON_MS, True, 1)
    assert [node.meters[0].figures for node in row.nodes] == ["1 / 4", "1 / 4"]
    assert [meter.figures for meter in row.meters] == ["2 / 8", "4 / 16 GiB", "0 / 0"]
    assert [node.tasks for node in row.nodes] == [1, 1]


def test_a_hub_without_an_agent_is_shown_as_that() -> None:
    """It has joined, and nothing has been heard of it."""
    row = hub_row(HubView(a_hub(), (), ()))
    assert (row.link, row.last_sync_ms, row.nodes) == ("NO_AGENT", 0, ())


def test_reasons_in_short_say_what_time_may_mend_first() -> None:
    """Then the most frequent; a reason for the whole federation stands for all."""
    by_hub = [Reason("SHAPE_NEVER_FITS", "too small", hub) for hub in ("a", "b")]
    by_hub += [Reason("ENGINE_MISSING", "no spark", "c"), Reason("CAPACITY", "2 cpus are free, 4 needed", "d")]
    short = in_short(by_hub)
    assert short.text == "no room now (1), too big (2), no such engine (1)"
    assert short.sentence == "d: 2 cpus are free, 4 needed"
    assert in_short([Reason("UNKNOWN_DATASET", "no hub announces x"), *by_hub]).text == "unknown dataset"
    assert in_short([]).text == ""
