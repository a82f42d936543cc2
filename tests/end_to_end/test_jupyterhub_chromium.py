"""A student's way in a real browser: JupyterHub's door, the spawn page, a lab at another hub, the first cells, and out.

The same walk by plain HTTP is the tour's (`federation/cli/tour/lab.py`); here is what a person sees and types.
"""

from __future__ import annotations

import re
from collections.abc import Iterator

import pytest
from playwright.sync_api import Browser, Locator, Page, expect

from courses.catalog import find_course
from federation.cli.show import state_of
from federation.cli.tour.lab import COURSE, NOTEBOOK, STUDENT, jupyterhub_at
from federation.client import Client
from federation.v1 import job_pb2
from tests.support.browser import NEEDS_CHROMIUM, chromium, keep_picture
from tests.support.embedded_federation import EmbeddedFederation, ended, processes_of
from tests.support.eventually import eventually

pytestmark = [*NEEDS_CHROMIUM, pytest.mark.heavy]
PATIENCE_MS = 180_000
PATIENCE_S = PATIENCE_MS / 1000
CELLS = 8
"""The notebook's first cells, down to the first rows of the data; half of them are text."""


@pytest.fixture
def jupyterhub(federation: EmbeddedFederation) -> Iterator[tuple[str, str]]:
    """Kuala Lumpur's JupyterHub as it is configured for a demonstration: its address, and the password."""
    with jupyterhub_at(federation.folder) as running:
        yield running


@pytest.fixture
def browser() -> Iterator[Browser]:
    """A Chromium."""
    with chromium() as running:
        yield running


@pytest.fixture
def asked() -> list[str]:
    """Every address that the browser asked for."""
    return []


@pytest.fixture
def page(browser: Browser, asked: list[str]) -> Iterator[Page]:
    """The student's window. Whatever is waited for may take long beside others."""
    with browser.new_context(viewport={"width": 1280, "height": 800}) as context:
        context.set_default_timeout(PATIENCE_MS)
        context.on("request", lambda request: asked.append(request.url))
        yield context.new_page()


@pytest.mark.timeout(900)
def test_a_student_opens_a_lab_at_another_hub_and_leaves_nothing_there(
    federation: EmbeddedFederation, client: Client, jupyterhub: tuple[str, str], page: Page, asked: list[str]
) -> None:
    """Log in, choose the course, see it start, run cells by keyboard at Shenzhen, stop from the control panel."""
    base, password = jupyterhub
    log_in(page, base, password)
    choose_course(page)
    see_it_start(page)
    expect(page.locator("#jp-main-dock-panel")).to_be_visible(timeout=PATIENCE_MS)
    job = the_lab(client)
    assert (job.hub_id, job.spec.name) == ("shenzhen", f"lab-{COURSE}-{STUDENT}")
    run_first_cells(page)
    # the server, its kernel, and the Java of Spark: what must be gone in the end
    assert len(processes_of(job.id)) >= 3
    stop_from_the_control_panel(page, base)
    ended(client, job.id, "CANCELLED", PATIENCE_S)
    eventually(lambda: processes_of(job.id) == [], PATIENCE_S, "no process of the lab")
    assert [url for url in asked if not url.startswith((f"{base}/", "data:", "blob:"))] == []


def log_in(page: Page, base: str, password: str) -> None:
    """By the form."""
    page.goto(f"{base}/")
    page.get_by_label("Username").fill(STUDENT)
    page.get_by_label("Password").fill(password)
    page.get_by_role("button", name="Sign in").click()


def choose_course(page: Page) -> None:
    """The spawn page names the course, its minutes and what one learns; a click anywhere on its card chooses it."""
    course = find_course(COURSE)
    card = page.locator(".card", has_text=course.title)
    expect(card).to_contain_text(f"{course.minutes} minutes", timeout=PATIENCE_MS)
    expect(card).to_contain_text(course.labs[0].goals[0])
    expect(card).to_contain_text("flights-lga")
    keep_picture(page, "jupyterhub-spawn")
    card.click()
    expect(page.get_by_role("radio", name=course.title)).to_be_checked()
    page.get_by_role("button", name="Start").click()


def see_it_start(page: Page) -> None:
    """The progress page says what the federation says, and leads to the lab by itself."""
    log = page.locator("#progress-log")
    page.get_by_text("Event log").click()
    expect(log).to_contain_text("asking the federation for a place", timeout=PATIENCE_MS)
    expect(log).to_contain_text(
        re.compile("Shenzhen (has a place|is preparing)|starting at Shenzhen"), timeout=PATIENCE_MS
    )
    keep_picture(page, "jupyterhub-progress")
    page.wait_for_url(f"**/user/{STUDENT}/lab**", timeout=PATIENCE_MS)


def the_lab(client: Client) -> job_pb2.Job:
    """The one lab that runs, as the federation knows it."""
    (job,) = [job for job in client.list() if job.spec.engine == "lab" and state_of(job) == "RUNNING"]
    return job


def run_first_cells(page: Page) -> None:
    """Open the course's notebook, and go down it with Shift+Enter until the data's first rows are there."""
    page.locator(".jp-DirListing-item", has_text=NOTEBOOK).dblclick()
    notebook = page.locator(".jp-NotebookPanel:visible")
    # the notebook's own sign is idle too while there is no kernel yet, and drops what is run then; this one is not
    expect(page.locator("#jp-bottom-panel")).to_contain_text("Python 3 | Idle", timeout=PATIENCE_MS)
    cells = notebook.locator(".jp-Notebook .jp-Cell")
    cells.first.click()
    for place in range(CELLS):
        expect(cells.nth(place)).to_have_class(re.compile(r"\bjp-mod-selected\b"))
        page.keyboard.press("Shift+Enter")
    expect(printed_by(cells.nth(2))).to_contain_text("at shenzhen", timeout=PATIENCE_MS)
    expect(printed_by(cells.nth(6))).to_contain_text("dep_delay: integer", timeout=PATIENCE_MS)
    expect(printed_by(cells.nth(7))).to_contain_text("only showing top 5 rows", timeout=PATIENCE_MS)
    # no question about news, which would lead to servers elsewhere
    expect(page.locator(".Toastify__toast")).to_have_count(0)
    cells.nth(1).evaluate("cell => cell.scrollIntoView()")
    keep_picture(page, "jupyterhub-lab")


def printed_by(cell: Locator) -> Locator:
    """A cell's output."""
    return cell.locator(".jp-OutputArea")


def stop_from_the_control_panel(page: Page, base: str) -> None:
    """File, Hub Control Panel, which opens beside the lab; Stop My Server."""
    page.get_by_role("menuitem", name="File", exact=True).click()
    with page.expect_popup() as opened:
        page.get_by_role("menuitem", name="Hub Control Panel").click()
    panel = opened.value
    assert panel.url == f"{base}/hub/home"
    panel.wait_for_function("window._jupyterhub_page_loaded")  # until then its button is deaf
    panel.get_by_role("button", name="Stop My Server").click()
    expect(panel.get_by_role("button", name="Start My Server")).to_be_visible(timeout=PATIENCE_MS)
    keep_picture(panel, "jupyterhub-stopped")
