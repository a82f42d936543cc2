"""Live streams and metrics: what changes is sent, what does not is not."""

from __future__ import annotations

import asyncio
import contextlib
import json
import re
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from prometheus_client.parser import text_string_to_metric_families

from federation.console.live import Live, Watched
from federation.console.recent import KEPT_MAX, RecentlyEnded
from federation.domain.job import JobState
from federation.lifecycle.job import Trigger
from federation.service import jobs as service_jobs
from tests.support.builders import a_job
from tests.support.console import ADMIN, AISHA, CAIRO, OMAR, Console, a_console

Event = tuple[str, dict[str, Any]]


@pytest.fixture
async def console(tmp_path: Path) -> AsyncIterator[Console]:
    """A console with one hub."""
    async with a_console(tmp_path) as running:
        await asyncio.to_thread(running.hub)
        yield running


async def events(stream: httpx.Response) -> AsyncIterator[Event]:
    """The events of a stream as they come."""
    name = ""
    async for line in stream.aiter_lines():
        if line.startswith("event: "):
            name = line.removeprefix("event: ")
        elif line.startswith("data: "):
            yield name, json.loads(line.removeprefix("data: "))


async def until(stream: AsyncIterator[Event], name: str, words: str = "") -> list[Event]:
    """Everything up to the event of this name that says `words`."""
    seen: list[Event] = []
    async with asyncio.timeout(20):
        async for event in stream:
            seen.append(event)
            if event[0] == name and words in json.dumps(event[1]):
                return seen
    raise AssertionError(f"the stream ended without {name} {words}; seen {seen}")


async def test_a_change_reaches_the_page_and_only_its_regions(console: Console) -> None:
    """First all regions; after that a new job changes the queue, and the table of ended jobs is left alone."""
    async with console.client(AISHA) as browser, browser.stream("GET", "/events?page=overview") as stream:
        assert stream.headers["content-type"].startswith("text/event-stream")
        assert "content-encoding" not in stream.headers
        news = events(stream)
        first = [data["id"] for name, data in await until(news, "now") if name == "region"]
        assert first == ["summary", "hubs", "active", "queue", "ended"]
        await until(news, "now")  # a tick without news
        console.submit("r1", name="newcomer", hubs_deny=("cairo",))
        later = {data["id"] for name, data in await until(news, "region", "newcomer") if name == "region"}
        assert later <= {"summary", "queue"}
        assert "queue" in later


async def test_what_fails_beside_a_page_is_told_to_the_operator(
    console: Console, caplog: pytest.LogCaptureFixture
) -> None:
    """A log that nobody sends any more leaves its cause in the control plane's log when the page goes."""

    async def nothing() -> dict[str, str]:
        return {}

    async def broken() -> None:
        raise RuntimeError("of the test's making")

    stream = Live(console.desk).stream(Watched(nothing, lambda _: False, lambda _: broken()))
    async with contextlib.aclosing(stream) as frames:  # type: ignore[type-var]  # a generator, declared as an iterator
        for _ in range(3):
            await anext(frames)
    assert "of the test's making" in caplog.text


async def test_nobody_hears_of_other_peoples_jobs(console: Console) -> None:
    """The stream shows what the page shows."""
    async with console.client(OMAR) as browser, browser.stream("GET", "/events?page=overview") as stream:
        news = events(stream)
        await until(news, "now")
        console.submit("r1", AISHA, name="secret-study", hubs_deny=("cairo",))
        console.submit("r2", OMAR, name="own-work", hubs_deny=("cairo",))
        seen = await until(news, "region", "own-work")
        assert "secret-study" not in json.dumps(seen)


async def test_a_jobs_page_follows_its_life_and_its_log(console: Console) -> None:
    """States, then the log from where the page ended, then the next attempt's log from its beginning."""
    hub = console.hubs["cairo/main"]
    job_id = console.submit("r1")
    hub.logs[job_id] = b"one\ntwo\n"
    await asyncio.to_thread(hub.report, job_id, Trigger.RUN_STARTED)
    address = f"/events?page=job&name={job_id}&attempt=1-1&at=4"
    async with console.client(AISHA) as browser, browser.stream("GET", address) as stream:
        news = events(stream)
        seen = await until(news, "log", "two")
        assert [data["text"] for name, data in seen if name == "log"] == ["two\n"]
        hub.logs[job_id] += "drei – 三\n".encode()
        (said,) = [data for name, data in await until(news, "log") if name == "log"]
        assert said == {"text": "drei – 三\n", "note": "", "offset": len(hub.logs[job_id])}
        await asyncio.to_thread(hub.report, job_id, Trigger.RUN_FAILED, exit_code=4)
        await until(news, "region", "failed")


async def test_the_log_of_the_attempt_before_stays_while_a_job_waits_again(console: Console) -> None:
    """On its page and in the stream, with a heading: "nothing has run yet" would hide why it waits again."""
    hub = console.hubs["cairo/main"]
    job_id = console.submit("r1", hubs_allow=("cairo",))
    hub.logs[job_id] = b"one\n"
    await asyncio.to_thread(hub.report, job_id, Trigger.RUN_STARTED)
    await asyncio.to_thread(hub.report, job_id, Trigger.RUN_FAILED, exit_code=4)
    await asyncio.to_thread(console.drain, "cairo", "")
    job = console.job(job_id)
    await asyncio.to_thread(console.desk.writer.run, lambda unit: service_jobs.retry(unit, job, "aisha"))
    heading = "Attempt 1-1, ended; the job waits to run again."
    async with console.client(AISHA) as browser:
        page = (await browser.get(f"/jobs/{job_id}")).text
        assert heading in page
        assert re.search(r'data-attempt="1-1" data-offset="4">one\n</pre>', page)
        async with browser.stream("GET", f"/events?page=job&name={job_id}&attempt=1-1&at=4") as stream:
            seen = await until(events(stream), "log", heading)
    assert "log-reset" not in [name for name, _ in seen]


async def test_a_log_that_cannot_be_had_is_said_once(console: Console) -> None:
    """The note comes with the reason; the rest of the page goes on."""
    hub = console.hubs["cairo/main"]
    job_id = console.submit("r1")
    await asyncio.to_thread(hub.report, job_id, Trigger.RUN_STARTED)
    await asyncio.to_thread(console.silence, 120_000)
    await asyncio.to_thread(console.until_link, "SUSPECT")
    async with console.client(AISHA) as browser, browser.stream("GET", f"/events?page=job&name={job_id}") as stream:
        seen = await until(events(stream), "log", "cannot be asked")
        assert [name for name, _ in seen].count("log") == 1


async def test_a_hubs_page_follows_its_leases(console: Console) -> None:
    """What is leased there is there at once."""
    async with console.client(ADMIN) as browser, browser.stream("GET", "/events?page=hub&name=cairo") as stream:
        news = events(stream)
        await until(news, "now")
        console.submit("r1", name="here-it-runs")
        assert await until(news, "region", "here-it-runs")


async def test_stopping_ends_the_streams(tmp_path: Path) -> None:
    """A page that is open does not keep the server from ending."""
    async with a_console(tmp_path) as console, console.client(ADMIN) as browser:
        async with browser.stream("GET", "/events?page=overview") as stream:
            news = events(stream)
            await until(news, "now")
            assert console.server.site.live.streams == 1
            async with asyncio.timeout(3):
                await console.server.stop()
            assert {name async for name, _ in news} <= {"region", "now"}
        assert console.server.site.live.streams == 0


async def test_too_many_pages_are_refused(console: Console, monkeypatch: pytest.MonkeyPatch) -> None:
    """With a code that says so, and the ones that are open stay."""
    monkeypatch.setattr("federation.console.live.STREAMS_MAX", 1)
    async with console.client(ADMIN) as browser, browser.stream("GET", "/events?page=overview") as stream:
        news = events(stream)
        await until(news, "now")
        refused = await browser.get("/events?page=overview", headers={"accept": "text/event-stream"})
        assert (refused.status_code, refused.json()["code"]) == (429, "OVERLOADED")
        await until(news, "now")


async def test_metrics_tell_what_operators_alert_on(console: Console) -> None:
    """Jobs by state, queue age, waits, rounds, leases, capacity, links, batches; any member's token may scrape."""
    hub = console.hubs["cairo/main"]
    first, second = console.submit("r1"), console.submit("r2", hubs_deny=("cairo",))
    await asyncio.to_thread(hub.report, first, Trigger.RUN_STARTED, started_ms=console.clock.now_ms() - 30_000)
    console.clock.moved_ms = 5_000
    async with console.client(CAIRO) as script:
        answer = await script.get("/metrics", headers={"accept": "text/plain"})
    assert answer.headers["content-type"].startswith("text/plain; version=0.0.4")
    found = {
        (sample.name, *sorted(sample.labels.values())): sample.value
        for family in text_string_to_metric_families(answer.text)
        for sample in family.samples
    }
    expected = {
        ("brhub_jobs", "RUNNING"): 1, ("brhub_jobs", "QUEUED"): 1, ("brhub_jobs", "FAILED"): 0,
        ("brhub_jobs_queued", "command"): 1, ("brhub_jobs_submitted_total", "command"): 2,
        ("brhub_hub_leases", "cairo"): 1, ("brhub_agent_link", "ONLINE", "cairo", "main"): 1,
        ("brhub_node_offered", "cairo", "cpu", "main", "n1"): 4_000,
        ("brhub_node_leased", "cairo", "cpu", "main", "n1"): 1_000,
        ("brhub_placements_total",): 1, ("brhub_preemptions_total",): 0, ("brhub_job_wait_seconds_count",): 1, ("brhub_hub_draining", "cairo"): 0,
        ("brhub_events_keep_days",): 0, ("brhub_events_removed_total",): 0, ("brhub_events_swept_seconds",): 0,
    }  # fmt: skip
    assert {key: found.get(key) for key in expected} == expected
    assert found["brhub_queue_oldest_seconds",] >= 5
    assert found["brhub_agent_last_sync_seconds", "cairo", "main"] >= 5
    assert found["brhub_rounds_total",] >= 1
    assert found["brhub_writer_batch_commands_bucket", "+Inf"] == found["brhub_writer_batch_commands_count",] > 3
    assert second not in answer.text


def test_recently_ended_jobs_are_kept_up_to_a_limit() -> None:
    """The oldest give way; one that is queued again is no longer ended; owners hear of their own."""
    recent = RecentlyEnded()
    for number in range(KEPT_MAX + 1):
        recent.hear(a_job(f"job-{number}", JobState.SUCCEEDED))
    assert len(recent.jobs(None)) == KEPT_MAX
    assert recent.jobs(None)[0].id == "job-1"
    recent.hear(a_job("job-1", JobState.QUEUED))
    assert recent.jobs(("local", "aisha"))[0].id == "job-2"
    assert recent.jobs(("elsewhere", "aisha")) == []
