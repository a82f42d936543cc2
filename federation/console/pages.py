"""Templates to HTML: whole pages, and the regions that a live stream replaces. The same files make both."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from pathlib import Path

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from federation.console import words
from federation.console.reading import EVENTS_MAX, HubPage, JobPage, Overview
from federation.domain.job import JobState
from federation.domain.lease import ends_by_ms, room_expected_ms

REGIONS: Mapping[str, tuple[str, ...]] = {
    "overview": ("summary", "hubs", "active", "queue", "ended"),
    "hub": ("hub-head", "hub-nodes", "hub-agents", "hub-leases", "hub-datasets"),
    "job": ("job-head", "job-facts", "job-reasons", "job-results", "job-events"),
}
"""Each is a template `regions/<name>.html`, the content of the element with that id."""
_CANCELLABLE = frozenset(JobState) - {JobState.SUCCEEDED, JobState.FAILED, JobState.CANCELLED, JobState.CANCELLING}


class Pages:
    """The templates, loaded once."""

    def __init__(self, static: Path) -> None:
        self._digests = {
            path.name: hashlib.sha256(path.read_bytes()).hexdigest()[:12] for path in static.iterdir() if path.is_file()
        }
        self._jinja = Environment(
            loader=PackageLoader("federation.console"),
            autoescape=True,
            undefined=StrictUndefined,
            trim_blocks=True,
            lstrip_blocks=True,
        )
        self._jinja.filters |= {
            "duration": words.duration,
            "span": words.span, "moment": words.moment, "iso": words.iso, "size": words.size,
            "reason": words.reason_words, "event": words.event_words, "actor": words.actor_words,
            "weblink": words.web_link, "plain": words.plain,
        }  # fmt: skip
        self._jinja.globals |= {
            "static": self._static, "asked": words.asked, "regions": REGIONS,
            "ends_by": ends_by_ms, "room_expected": room_expected_ms,
        }  # fmt: skip

    def page(self, name: str, shown: Mapping[str, object]) -> str:
        """A whole page."""
        return self._jinja.get_template(f"{name}.html").render(shown)

    def regions(self, name: str, shown: Mapping[str, object]) -> dict[str, str]:
        """The regions of a page, by id."""
        return {one: self._jinja.get_template(f"regions/{one}.html").render(shown) for one in REGIONS[name]}

    def overview(self, seen: Overview) -> dict[str, object]:
        """What the overview's templates name."""
        return {"see": seen, "at_ms": seen.at_ms}

    def hub(self, seen: HubPage) -> dict[str, object]:
        """What a hub's templates name."""
        return {"see": seen, "hub": seen.hub, "at_ms": seen.at_ms}

    def job(self, seen: JobPage) -> dict[str, object]:
        """What a job's templates name."""
        return {
            "see": seen, "job": seen.job, "spec": seen.job.spec, "at_ms": seen.at_ms,
            "cancellable": seen.job.state in _CANCELLABLE, "events_max": EVENTS_MAX,
        }  # fmt: skip

    def _static(self, name: str) -> Markup:
        return Markup(f"/static/{name}?v={self._digests[name]}")  # noqa: S704  # a file's name and our own digest
