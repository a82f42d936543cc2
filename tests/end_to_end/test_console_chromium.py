"""The operator's page in a real browser: live while a job goes by, whole without scripts, quiet and small.

`BRHUB_SCREENSHOTS=folder` keeps pictures of every page, light and dark, wide and narrow.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from playwright.sync_api import Browser, BrowserContext, Page, expect

from federation.domain.job import JobState
from federation.lifecycle.job import Trigger
from tests.support.browser import NEEDS_CHROMIUM, chromium, keep_picture
from tests.support.console import ADMIN, AISHA, Console, console_beside
from tests.support.console_scene import furnish
from tests.support.eventually import eventually

pytestmark = NEEDS_CHROMIUM
WIDE = {"width": 1440, "height": 900}
NARROW = {"width": 390, "height": 844}


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    """One Chromium for all tests."""
    with chromium() as running:
        yield running


@pytest.fixture
def console(tmp_path: Path) -> Iterator[Console]:
    """A console of its own for each test."""
    with console_beside(tmp_path) as running:
        yield running


@pytest.fixture(scope="module")
def furnished(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Console, dict[str, str]]]:
    """A console that shows an afternoon, and the jobs on it by name."""
    with console_beside(tmp_path_factory.mktemp("furnished")) as running:
        yield running, furnish(running)


@pytest.fixture
def complaints() -> list[str]:
    """What browsers complained of: a script that failed, something that the policy blocked."""
    return []


@pytest.fixture
def page(browser: Browser, console: Console, complaints: list[str]) -> Iterator[Page]:
    """An operator's page, signed in by the printed link."""
    with browser.new_context(viewport=WIDE) as context:  # type: ignore[arg-type]  # a dictionary of two numbers
        page = signed_in(context, console, complaints)
        yield page
    assert complaints == []


def signed_in(context: BrowserContext, console: Console, complaints: list[str]) -> Page:
    """A page after the login link."""
    page = context.new_page()
    page.on("pageerror", lambda error: complaints.append(str(error)))
    page.on("console", lambda said: complaints.append(said.text) if said.type in ("error", "warning") else None)
    page.goto(f"{console.url}/login?token={console.tokens.issue(ADMIN)}")
    assert page.url == f"{console.url}/"
    return page


def addresses_of(page: Page) -> list[str]:
    """Everything that the page asks for from now on."""
    asked: list[str] = []
    page.on("request", lambda request: asked.append(request.url))
    return asked


def test_a_job_goes_by_on_the_open_page(console: Console, page: Page) -> None:
    """It waits with its reason, is leased, stages, runs, fills its hub's bar, and ends: without one reload."""
    expect(page.locator("#live")).to_have_text("live")
    expect(page.locator("#hubs")).to_contain_text("No hub has joined yet")
    page.evaluate("window.sameDocument = true")
    job_id = console.submit("r1", AISHA, name="delays-by-carrier")
    waiting = page.locator(f'#queue tr[data-key="{job_id}"]')
    expect(waiting).to_contain_text("no agent")
    hub = console.hub()
    expect(page.locator('#active tr[data-key="job-000001"]')).to_contain_text("leased")
    expect(waiting).to_have_count(0)
    hub.report(job_id, Trigger.RUN_STAGING, progress="environment, 41 of 63 MB")
    expect(page.locator(f'#active tr[data-key="{job_id}"]')).to_contain_text("environment, 41 of 63 MB")
    expect(page.locator('#hubs tr[data-key="cairo"]')).to_contain_text("1 / 4")
    hub.report(job_id, Trigger.RUN_STARTED)
    expect(page.locator(f'#active tr[data-key="{job_id}"]')).to_contain_text("running")
    hub.report(job_id, Trigger.RUN_SUCCEEDED)
    expect(page.locator(f'#ended tr[data-key="{job_id}"]')).to_contain_text("succeeded")
    expect(page.locator("#active")).to_contain_text("Nothing runs.")
    expect(page.locator('#hubs tr[data-key="cairo"]')).to_contain_text("0 / 4")
    assert page.evaluate("window.sameDocument")


def test_what_a_person_does_on_a_row_survives_news(console: Console, page: Page) -> None:
    """Rows that did not change stay the same elements, and the keyboard keeps its place in one that did."""
    hub = console.hub()
    first, second = console.submit("r1", name="first"), console.submit("r2", name="second")
    link = page.locator(f'#active tr[data-key="{first}"] a').first
    expect(link).to_be_visible()
    expect(page.locator(f'#active tr[data-key="{second}"]')).to_be_visible()
    page.evaluate(f"document.querySelector('#active tr[data-key=\"{second}\"]').mark = 1")
    link.focus()
    hub.report(first, Trigger.RUN_STARTED, progress="half way")
    expect(page.locator(f'#active tr[data-key="{first}"]')).to_contain_text("half way")
    assert page.evaluate("document.activeElement.textContent") == "first"
    assert page.evaluate(f"document.querySelector('#active tr[data-key=\"{second}\"]').mark") == 1


def test_seconds_count_on_between_news(console: Console, page: Page) -> None:
    """A job's time in state grows in the browser; the moment itself is in the title."""
    console.submit("r1", hubs_deny=())
    time = page.locator("#queue time").first
    expect(time).to_be_visible()
    before = time.text_content()
    eventually(lambda: time.text_content() != before, 10)
    assert "UTC" in (time.get_attribute("title") or "")


def test_a_jobs_page_follows_its_log_and_cancels(console: Console, page: Page) -> None:
    """New lines arrive at the end; the button, confirmed, ends the job through a form of ours."""
    hub = console.hub()
    job_id = console.submit("r1", AISHA, name="long-one")
    hub.logs[job_id] = b"first line\n"
    hub.report(job_id, Trigger.RUN_STARTED)
    page.goto(f"{console.url}/jobs/{job_id}")
    log = page.locator("#log")
    expect(log).to_have_text("first line\n")
    hub.logs[job_id] += b"second line <b>\n"
    expect(log).to_have_text("first line\nsecond line <b>\n")
    assert log.evaluate("one => one.children.length") == 0
    page.get_by_text("Cancel…").click()
    page.get_by_role("button", name="Cancel this job").click()
    expect(page.locator("#job-head")).to_contain_text("cancelling")
    assert console.job(job_id).state is JobState.CANCELLING
    hub.report(job_id, Trigger.RUN_STOPPED)
    expect(page.locator("#job-head")).to_contain_text("cancelled")
    expect(page.locator("#job-events")).to_contain_text("Cancel asked for")


def test_the_page_is_whole_without_javascript(furnished: tuple[Console, dict[str, str]], browser: Browser) -> None:
    """Sign-in by the form, overview, job, hub: all of it is there."""
    console, ids = furnished
    with browser.new_context(viewport=WIDE, java_script_enabled=False) as context:  # type: ignore[arg-type]  # as above
        page = context.new_page()
        page.goto(console.url)
        page.get_by_label("Token").fill(console.tokens.issue(ADMIN))
        page.get_by_role("button", name="Sign in").click()
        expect(page.locator("#hubs")).to_contain_text("Kuala Lumpur")
        expect(page.locator("#queue")).to_contain_text("too big (3)")
        page.get_by_role("link", name="digits-tuning", exact=True).click()
        expect(page.locator("#log")).to_contain_text("task 8 of 8 finished")
        page.goto(f"{console.url}/jobs/{ids['huge']}")
        expect(page.locator("#job-reasons")).to_contain_text("SHAPE_NEVER_FITS")
        page.goto(f"{console.url}/hubs/cairo")
        expect(page.locator("#hub-datasets")).to_contain_text("flights-jfk")


def test_the_policy_page_fits_wide_and_narrow(
    furnished: tuple[Console, dict[str, str]], browser: Browser, complaints: list[str]
) -> None:
    """It stands still, so it has no stream; its tables wrap rather than scroll sideways."""
    console, _ = furnished
    for viewport in (WIDE, NARROW):
        with browser.new_context(viewport=viewport) as context:  # type: ignore[arg-type]  # as above
            page = signed_in(context, console, complaints)
            page.goto(console.url + "/policy")
            expect(page.get_by_role("heading", name="Policy in force")).to_be_visible()
            wide = "[...document.querySelectorAll('html, .scroll')].every(one => one.scrollWidth <= one.clientWidth)"
            assert page.evaluate(wide)
            keep_picture(page, f"policy-{viewport['width']}", full_page=True)
    assert complaints == []


def test_a_session_that_ends_is_said_on_the_open_page(console: Console, browser: Browser) -> None:
    """An operator who looks at an old page must not take it for the truth."""
    with browser.new_context() as context:
        page = signed_in(context, console, [])
        expect(page.locator("#live")).to_have_text("live")
        console.tokens.revoke(ADMIN.kind, ADMIN.issuer, ADMIN.subject)
        expect(page.locator("#live")).to_have_class("live off", timeout=10_000)
        page.reload()
        expect(page.get_by_role("heading", name="Sign in")).to_be_visible()


@pytest.mark.parametrize("path", ["/", "/hubs/kuala-lumpur", "/jobs/{tune}", "/jobs/{huge}", "/jobs/{quick}"])
def test_pages_fit_wide_and_narrow_and_stay_small(
    furnished: tuple[Console, dict[str, str]], browser: Browser, complaints: list[str], path: str
) -> None:
    """Light and dark: the page never scrolls sideways, nothing comes from elsewhere, all of it is under 150 kB."""
    console, ids = furnished
    address = path.format(**ids)
    for scheme in ("light", "dark"):
        for viewport in (WIDE, NARROW):
            with browser.new_context(viewport=viewport, color_scheme=scheme) as context:  # type: ignore[arg-type]  # as above
                page = signed_in(context, console, complaints)
                asked = addresses_of(page)
                page.goto(console.url + address)
                expect(page.locator("#live")).to_have_text("live")
                sizes = page.evaluate(
                    "performance.getEntries().filter(one => one.encodedBodySize).map(one => one.encodedBodySize)"
                )
                assert sum(sizes) < 150_000
                assert all(url.startswith(console.url) for url in asked)
                assert page.evaluate("document.documentElement.scrollWidth <= window.innerWidth")
                name = address.strip("/").replace("/", "-") or "overview"
                keep_picture(page, f"{name}-{scheme}-{viewport['width']}", full_page=True)
    assert complaints == []
