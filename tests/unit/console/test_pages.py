"""What the pages say, as they leave the server: whole without JavaScript, safe, small."""

from __future__ import annotations

import asyncio
import gzip
import re
from collections.abc import AsyncIterator
from html import unescape
from pathlib import Path

import pytest

from federation.console.reading import NODE_ROWS_MAX, QUEUE_MAX
from federation.domain.ids import JobId
from federation.domain.job import JobState
from federation.lifecycle.job import Trigger
from federation.objects.checkpoints import Place, Saved, SavedFile, Shelf
from federation.objects.store import ObjectStore, StoreAddress
from federation.scheduling.plan import Plan, Preemption
from federation.scheduling.policy import Policy
from federation.service import jobs as service_jobs
from federation.service.checkpoints import Retention
from tests.support.builders import a_node, some_resources
from tests.support.console import ADMIN, AISHA, OMAR, Console, a_console
from tests.support.console_scene import furnish

MINUTE_MS = 60_000


@pytest.fixture
async def console(tmp_path: Path) -> AsyncIterator[Console]:
    """A console without hubs."""
    async with a_console(tmp_path) as running:
        yield running


def text_of(html: str) -> str:
    """What a person reads, blanks joined."""
    return unescape(re.sub(r"\s+", " ", re.sub(r"<[^>]*>", " ", html)).strip())


def row_of(html: str, key: str) -> str:
    """What stands in the row with this key."""
    found = re.search(rf'<tr data-key="{re.escape(key)}".*?</tr>', html, re.DOTALL)
    assert found, f"no row {key}"
    return text_of(found.group())


async def test_an_empty_federation_says_what_to_do(console: Console) -> None:
    """Nothing has joined, nothing waits, nothing runs: each table says so."""
    async with console.client(ADMIN) as browser:
        said = text_of((await browser.get("/")).text)
    for words in ("No hub has joined yet", "brhub agent", "Nothing runs.", "Nobody waits.", "Nothing has ended yet."):
        assert words in said


async def test_an_object_store_that_is_waited_for_is_told(console: Console) -> None:
    """On the first page, with why and what goes on, and as a figure; neither once it has answered."""
    store = ObjectStore(StoreAddress("http://127.0.0.1:1", "some-key", "some-secret"))
    console.desk.objects = store
    why, figure = "The object store cannot be reached.", "brhub_object_store_away"
    async with console.client(ADMIN) as browser:
        for store.away, value in ((why, 1.0), ("", 0.0)):
            said = text_of((await browser.get("/")).text)
            assert (why in said, "Jobs without a package" in said) == (bool(value), bool(value))
            assert f"{figure} {value}\n" in (await browser.get("/metrics")).text


async def test_the_overview_shows_hubs_queue_and_jobs(console: Console) -> None:
    """Capacity as numbers, links, drains, time in state, owners, and why each job waits."""
    ids = await asyncio.to_thread(furnish, console)
    async with console.client(ADMIN) as browser:
        html = (await browser.get("/")).text
    said = text_of(html)
    assert "3 of 4 online" in said
    assert re.search(r"CPUs leased 80 / 120 .*GPUs leased 2 / 2 ", said)
    assert re.search(r"Cairo online \d s 2 6 / 8 12 / 16 GiB", row_of(html, "cairo"))
    assert "draining" in row_of(html, "shenzhen")
    assert "lost" in row_of(html, "lanzhou")
    assert row_of(html, "kuala-lumpur/gpu/rack-2") == "rack-2 nvidia/A100 1 14 / 32 96 / 128 GiB 2 / 2"
    assert re.match(
        r"digits-tuning running trial 7 of 20 11 min \d\d s ray kuala-lumpur omar @cairo", row_of(html, ids["tune"])
    )
    assert re.match(r"whole-genome 4 min \d\d s too big \(3\), no such engine \(1\) spark", row_of(html, ids["huge"]))
    assert "draining (1), data elsewhere (2)" in row_of(html, ids["data"])
    assert re.match(r"clean-carriers failed 32 min \d\d s 1 min 30 s command", row_of(html, ids["failed"]))
    assert re.search(r'<time datetime="[0-9TZ:-]+" title="[0-9: -]+ UTC" data-ms="\d+">', html)
    assert '<noscript><meta http-equiv="refresh" content="5"></noscript>' in html


async def test_a_waiting_jobs_page_gives_every_hubs_reason(console: Console) -> None:
    """With its code, a sentence, and when it could start."""
    ids = await asyncio.to_thread(furnish, console)
    async with console.client(ADMIN) as browser:
        huge = (await browser.get(f"/jobs/{ids['huge']}")).text
        again = text_of((await browser.get(f"/jobs/{ids['again']}")).text)
    assert row_of(huge, "cairo/SHAPE_NEVER_FITS").startswith("cairo SHAPE_NEVER_FITS needs ")
    assert row_of(huge, "lanzhou/ENGINE_MISSING").startswith("lanzhou ENGINE_MISSING it does not run spark")
    assert "Nothing has run yet." in text_of(huge)
    assert re.search(r"It could start in \d h \d\d min at kuala-lumpur", again)


async def test_a_running_jobs_page_shows_its_log_and_story(console: Console) -> None:
    """The tail of the log, where it runs, what happened so far; the lease's end."""
    ids = await asyncio.to_thread(furnish, console)
    async with console.client(OMAR) as browser:
        html = (await browser.get(f"/jobs/{ids['tune']}")).text
        lab = (await browser.get(f"/jobs/{ids['early']}")).text
    said = text_of(html)
    assert "INFO stage 14: task 8 of 8 finished, 1664 rows" in html
    assert 'data-attempt="1-1"' in html
    assert "Leased to kuala-lumpur on rack-2, attempt 1-1 by control" in said
    assert "Started by agent kuala-lumpur/gpu" in said
    assert "Cancel this job" in said
    assert "Cancel this job" not in text_of(lab)


async def test_a_jobs_page_says_what_would_be_gone_on_from(console: Console) -> None:
    """Its newest checkpoint, how old and how large that is; nothing of it where none is known."""
    ids = await asyncio.to_thread(furnish, console)
    kept = console.desk.retention = Retention(
        Shelf(ObjectStore(StoreAddress("http://127.0.0.1:1", "some-key", "some-secret"))), lambda _: None, int
    )
    async with console.client(OMAR) as browser:
        assert "Checkpoint" not in text_of((await browser.get(f"/jobs/{ids['tune']}")).text)
        files = (SavedFile("state", 3 << 20, "0" * 64),)
        kept.saved(ids["tune"], Saved(Place(1, 1, 12), console.desk.clock.now_ms() - 2 * MINUTE_MS, files))
        said = text_of((await browser.get(f"/jobs/{ids['tune']}")).text)
    assert re.search(r"Checkpoint 1-1/12, saved 2 min \d?\d? ?s? ?ago, 3 MiB", said)


async def test_an_ended_jobs_page_links_its_files(console: Console) -> None:
    """By a route of ours that makes a fresh link; without an object store it says so; unlisted files do not exist."""
    ids = await asyncio.to_thread(furnish, console)
    async with console.client(AISHA) as browser:
        html = (await browser.get(f"/jobs/{ids['quick']}")).text
        assert f'href="/jobs/{ids["quick"]}/results/plots/delays%20by%20carrier.png"' in html
        answer = await browser.get(f"/jobs/{ids['quick']}/results/table.csv")
        assert (answer.status_code, "STORE_UNAVAILABLE" in answer.text) == (503, True)
        answer = await browser.get(f"/jobs/{ids['quick']}/results/../../../etc/passwd")
        assert answer.status_code == 404
        assert (await browser.get(f"/jobs/{ids['quick']}/results/other.csv")).status_code == 404


async def test_a_log_that_is_long_is_shown_from_a_line_near_its_end(console: Console) -> None:
    """And says how much is left out; characters cut at the end wait for the rest."""
    hub = await asyncio.to_thread(console.hub)
    job_id = console.submit("r1")
    lines = "".join(f"ligne numéro {n}\n" for n in range(10_000)).encode()
    hub.logs[job_id] = lines + "é".encode()[:1]
    await asyncio.to_thread(hub.report, job_id, Trigger.RUN_STARTED)
    async with console.client(AISHA) as browser:
        html = (await browser.get(f"/jobs/{job_id}")).text
    shown = html.split('role="log"')[1].split(">", 1)[1].split("</pre>")[0]
    assert shown.startswith("ligne numéro ")
    assert shown.endswith("ligne numéro 9999\n")
    assert f'data-offset="{len(lines)}"' in html
    assert re.search(r"The first \d+\.\d KiB are left out", html)


async def test_a_job_that_others_make_room_for_says_so(console: Console) -> None:
    """What is ending for it and until when it is waited for; that the guest is being ended; marks on the overview."""
    await asyncio.to_thread(console.hub)
    guest = console.submit("r1", per_task=some_resources(cpus=4), preemptible=True)
    await asyncio.to_thread(console.reaches, guest, JobState.LEASED)
    owner = console.submit("r2", per_task=some_resources(cpus=4))

    def decide() -> None:
        lease = console.desk.world.lease_for(JobId(guest))
        assert lease is not None
        wanted = Preemption(owner, lease.agent_key, lease.nodes, (lease.id,), lost_ms=1)
        assert console.desk.rounds.commit(Plan(0, preemptions=(wanted,))).preemptions == 1

    await asyncio.to_thread(decide)
    async with console.client(AISHA) as browser:
        waits = text_of((await browser.get(f"/jobs/{owner}")).text)
        ends = text_of((await browser.get(f"/jobs/{guest}")).text)
        overview = (await browser.get("/")).text
        at_hub = (await browser.get("/hubs/cairo")).text
    assert re.search(r"It starts when the machines .* at cairo are there: expected in (59 s|1 min 00 s) \.", waits)
    assert "if nobody came before it" not in waits
    assert re.search(
        r"CLAIM_HELD machines of cairo are being freed for it .* by \d\d:\d\d:\d\d UTC: 1 guest there", waits
    )
    assert re.search(r"Claim 1 ending at cairo , room expected in .*, given up in 2 min", waits)
    assert "Machines of cairo are being freed for it: guests there were told to end" in waits
    assert re.search(r"Being ended within (59 s|1 min 00 s) Hub cairo", ends)
    assert re.search(
        r"PREEMPTED being ended by \d\d:\d\d:\d\d UTC so that cairo's own users get their machines back", ends
    )
    assert re.search(r"Lease told to end, over in (59 s|1 min 00 s) at the latest", ends)
    assert "Told to end: its hub's own users get their machines back (PREEMPTED)" in ends
    said = text_of(overview)
    assert "1 · 1 being ended" in said
    assert "· machines being freed for 1" in said
    assert re.search(r"leased ends within (59 s|1 min 00 s)", row_of(overview, guest))
    assert re.search(r"machines freed at cairo in (59 s|1 min 00 s)", row_of(overview, owner))
    assert row_of(overview, "cairo").startswith("Cairo 1 ending online")
    lease = console.desk.world.lease_for(JobId(guest))
    assert lease is not None
    assert re.search(r"leased told to end \d+ s (59 s|1 min 00 s) ", row_of(at_hub, lease.id))


async def test_a_job_that_made_room_and_waits_again_says_where_it_ran(console: Console) -> None:
    """Not where it is: it is nowhere; and nobody is to blame."""
    hub = await asyncio.to_thread(console.hub)
    guest = console.submit("r1", per_task=some_resources(cpus=4), preemptible=True)
    await asyncio.to_thread(hub.report, guest, Trigger.RUN_STARTED)
    owner = console.submit("r2", per_task=some_resources(cpus=4))

    def make_room() -> None:
        lease = console.desk.world.lease_for(JobId(guest))
        assert lease is not None
        wanted = Preemption(owner, lease.agent_key, lease.nodes, (lease.id,), lost_ms=1)
        assert console.desk.rounds.commit(Plan(0, preemptions=(wanted,))).preemptions == 1
        hub.report(guest, Trigger.RUN_STOPPED)

    await asyncio.to_thread(make_room)
    async with console.client(AISHA) as browser:
        said = text_of((await browser.get(f"/jobs/{guest}")).text)
    assert "Last ran at cairo" in said
    assert "PREEMPTED made room for cairo's own users; waits to run again" in said


async def test_the_policy_in_force_has_a_page(console: Console) -> None:
    """The rules in words, what hubs give, and that nobody has a quota; from every page there is a way to it."""
    await asyncio.to_thread(console.hub, reclaim_ms=90_000, takes_back=True)
    async with console.client(AISHA) as browser:
        said = text_of((await browser.get("/policy")).text)
        assert '<a href="/policy">Policy</a>' in (await browser.get("/")).text
    assert "As shipped" in said
    assert "Backfill conservative Nobody who was promised a start is delayed" in said
    assert "Half-life 7 d Use of the past counts half" in said
    assert "Nobody is named: everybody has weight 1." in said
    assert "None: anybody may hold any amount." in said
    assert re.search(r"cairo main 4 of 4 cpus, 8 GiB of 8 GiB memory 1 min 30 s only preemptible ones", said)


async def test_of_other_people_the_policys_page_tells_an_administrator_alone(console: Console) -> None:
    """A quota or weight of a person is theirs to see; those of hubs, projects and of everybody are all people's."""
    quotas: dict[tuple[str, ...], dict[str, int]] = {
        ("*", "*", "*"): {"cpu": 64_000},
        ("cairo", "default", "omar"): {"gpu": 2_000},
    }
    weights = {("kuala-lumpur", "default", "aisha"): 2.5}
    console.desk.policy = Policy(quotas=quotas, user_weights=weights, hub_weights={"cairo": 3.0})
    seen = {}
    for who in (AISHA, OMAR, ADMIN):
        async with console.client(who) as browser:
            seen[who.subject] = text_of((await browser.get("/policy")).text)
    assert all("As shipped" not in said and "* * * 64 cpu" in said and "cairo – – 3" in said for said in seen.values())
    assert {who: "omar 2 gpu" in said for who, said in seen.items()} == {"aisha": False, "omar": True, "root": True}
    assert {who: "aisha 2.5" in said for who, said in seen.items()} == {"aisha": True, "omar": False, "root": True}


async def test_a_page_does_not_wait_for_a_hub_that_does_not_answer(
    console: Console, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The rest of the page is there; the log's place says what is missing."""
    monkeypatch.setattr("federation.console.logs.TAIL_S_MAX", 0.05)
    hub = await asyncio.to_thread(console.hub)
    hub.silent = True
    job_id = console.submit("r1")
    await asyncio.to_thread(hub.report, job_id, Trigger.RUN_STARTED)
    async with console.client(AISHA) as browser:
        said = text_of((await browser.get(f"/jobs/{job_id}")).text)
    assert "Hub cairo has not sent the log yet." in said
    assert "Started by agent cairo/main" in said


async def test_a_job_at_a_lost_hub_says_so_and_that_it_was_released_by_force(console: Console) -> None:
    """How its hub is heard, beside the hub; then whose word it was, and why. No exit status: nobody knows one."""
    hub = await asyncio.to_thread(console.hub)
    job_id = console.submit("r1")
    await asyncio.to_thread(hub.report, job_id, Trigger.RUN_STARTED)
    async with console.client(AISHA) as browser:
        heard = text_of((await browser.get(f"/jobs/{job_id}")).text)
        console.silence(11 * MINUTE_MS)
        await asyncio.to_thread(console.until_link, "LOST")
        lost = text_of((await browser.get(f"/jobs/{job_id}")).text)
        job = console.job(job_id)
        console.desk.writer.run(lambda unit: service_jobs.release(unit, job, "it burnt down", "admin:local/eva", True))
        released = text_of((await browser.get(f"/jobs/{job_id}")).text)
    assert re.search(r" Hub cairo n1 (Running|Log) ", heard)
    assert re.search(r" Hub cairo n1 lost (Running|Log) ", lost)
    assert released.count("released by force by admin:local/eva: it burnt down") == 2
    assert "Exit status" not in released


async def test_what_people_and_hubs_wrote_is_never_markup(console: Console) -> None:
    """Titles, notes, progress, logs, addresses and file names are text."""
    evil = "<script>alert(1)</script>"
    hub = await asyncio.to_thread(console.hub, title=evil, version=evil)
    job_id = console.submit("r1", arguments=(evil,))
    hub.logs[job_id] = f"</pre>{evil}".encode()
    await asyncio.to_thread(hub.report, job_id, Trigger.RUN_STARTED, progress=evil, url="javascript:alert(1)")
    console.drain("cairo", f'"{evil}')
    async with console.client(ADMIN) as browser:
        for path in ("/", "/hubs/cairo", f"/jobs/{job_id}", f"/jobs/{evil}", "/login?next=%22" + evil):
            html = (await browser.get(path)).text
            assert "<script>" not in html
            assert "javascript:" not in html
            assert "<pre></pre>" not in html
        assert "&lt;script&gt;" in (await browser.get("/")).text


async def test_every_answer_forbids_what_pages_do_not_need(console: Console) -> None:
    """No script but ours and none inline, no frames, nothing kept; static files may be kept for good."""
    async with console.client(ADMIN) as browser:
        answers = [await browser.get(path) for path in ("/", "/login", "/nowhere", "/metrics", "/healthz")]
        static = await browser.get("/static/console.js")
    for answer in answers:
        policy = answer.headers["content-security-policy"]
        assert "default-src 'none'" in policy
        assert "unsafe" not in policy
        assert "frame-ancestors 'none'" in policy
        assert answer.headers["cache-control"] == "no-store"
        assert answer.headers["x-content-type-options"] == "nosniff"
        assert " style=" not in answer.text
        assert not re.search(r"<script(?![^>]* src=)|\son\w+=", answer.text)
        assert not re.search(r'(?:src|href|action)="(?:https?:)?//', answer.text)
    assert "immutable" in static.headers["cache-control"]
    assert answers[2].status_code == 404


async def test_a_page_with_all_it_needs_stays_under_150_kb(console: Console) -> None:
    """Compressed, for a full federation: 60 hubs and a queue as long as it is shown."""
    for number in range(60):
        await asyncio.to_thread(console.hub, f"hub-{number}", nodes=(a_node("n1"), a_node("n2")), engines=("spark",))
    for number in range(QUEUE_MAX + 20):
        console.submit(f"r{number}", name=f"job-number-{number}", per_task=some_resources(1 + number % 7))
    async with console.client(ADMIN) as browser:
        page = await browser.get("/", headers={"accept-encoding": "gzip"})
        static = re.findall(r'(?:src|href)="(/static/[^"]+)"', page.text)
        others = [await browser.get(path, headers={"accept-encoding": "gzip"}) for path in static]
    assert page.headers["content-encoding"] == "gzip"
    assert len(static) == 3
    total = sum(len(gzip.compress(answer.content, 6)) for answer in (page, *others))
    assert total < 150_000
    assert f"{QUEUE_MAX} of {QUEUE_MAX + 20} are shown." in text_of(page.text)
    assert NODE_ROWS_MAX == 120
    assert page.text.count('class="node') == 120


async def test_a_large_federation_shows_its_nodes_on_each_hubs_page(console: Console) -> None:
    """The overview keeps to hubs when nodes are too many."""
    await asyncio.to_thread(console.hub, nodes=tuple(a_node(f"n{n}") for n in range(NODE_ROWS_MAX + 1)))
    async with console.client(ADMIN) as browser:
        assert 'class="node' not in (await browser.get("/")).text
        assert (await browser.get("/hubs/cairo")).text.count('<tr data-key="main/n') == NODE_ROWS_MAX + 1


async def test_a_long_job_that_ends_is_seen_though_many_came_after_it(console: Console) -> None:
    """The list is by end, not by arrival."""
    hub = await asyncio.to_thread(console.hub, nodes=(a_node("n1", 64, 64),))
    old = console.submit("old", name="the-long-one")
    hub.wait_for_lease(old)
    for number in range(40):
        console.cancel(console.submit(f"r{number}", hubs_deny=("cairo",)))
    await asyncio.to_thread(hub.report, old, Trigger.RUN_SUCCEEDED)
    async with console.client(AISHA) as browser:
        html = (await browser.get("/")).text
    rows = re.findall(r'<tr data-key="(job-\d+)"', html.split('id="ended"')[1])
    assert old in rows
    assert len(rows) == 30
    assert console.job(old).state is JobState.SUCCEEDED


async def test_refusals_are_pages_for_people_and_json_for_programs(console: Console) -> None:
    """With the code, whose fault it is, and what to do."""
    async with console.client(AISHA) as browser:
        page = await browser.get("/hubs/nowhere")
        told = await browser.get("/hubs/nowhere", headers={"accept": "application/json"})
        bad = await browser.get("/events?page=other", headers={"accept": "*/*"})
    assert (page.status_code, "HUB_NOT_FOUND" in page.text) == (404, True)
    assert (told.status_code, told.json()["code"], told.json()["fault"]) == (404, "HUB_NOT_FOUND", "caller")
    assert (bad.status_code, bad.json()["code"]) == (400, "INVALID_ARGUMENT")
