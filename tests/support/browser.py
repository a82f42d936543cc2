"""The browser of the suite: Debian's Chromium, headless, driven by Playwright, and quiet on the network.

`BRHUB_SCREENSHOTS=folder` keeps pictures of the pages that tests pass. Not here: any page of ours.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from playwright.sync_api import Browser, Page, sync_playwright

CHROMIUM = shutil.which("chromium") or ""
ARGUMENTS = (
    "--no-sandbox",
    "--disable-gpu",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--no-first-run",
    "--disable-quic",
)
"""The sandbox needs a user who is not root; the rest keeps it from looking for its maker's servers."""
NEEDS_CHROMIUM = [
    pytest.mark.chromium,
    pytest.mark.skipif(not CHROMIUM, reason="Chromium is not installed: apt-get install chromium"),
]


@contextmanager
def chromium() -> Iterator[Browser]:
    """One Chromium; a second may start in this thread only after it has ended."""
    with sync_playwright() as playwright:
        running = playwright.chromium.launch(executable_path=CHROMIUM, args=list(ARGUMENTS))
        try:
            yield running
        finally:
            running.close()


def keep_picture(page: Page, name: str, *, full_page: bool = False) -> None:
    """Save what the page looks like as NAME.png, where somebody wants pictures."""
    folder = os.environ.get("BRHUB_SCREENSHOTS", "")
    if folder:
        page.screenshot(path=Path(folder) / f"{name}.png", full_page=full_page)
