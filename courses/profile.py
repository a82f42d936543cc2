"""The spawn page: which course, with what it takes, as a plain HTML form that works without JavaScript.

Not here: JupyterHub (`spawner.py`) and where a course's text comes from (`catalog.py`).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from html import escape

from courses.catalog import Course
from federation.errors import Code, FederationError, not_found

FIELD = "course"
_STYLE = "<style>.brhub-courses .card:has(:checked) { border-color: #f37524 }</style>"
"""The rest of the look is the Bootstrap that JupyterHub's page has already."""


def options_form(courses: Sequence[Course]) -> str:
    """The inside of JupyterHub's spawn form: one choice a course, the first one made. Everything is escaped."""
    if not courses:
        return '<p class="alert alert-warning">This hub has no courses yet. Ask your instructor.</p>'
    return "\n".join(
        [
            f'<div class="brhub-courses">{_STYLE}',
            *(_choice(each, each is courses[0], len(courses) == 1) for each in courses),
            "</div>",
        ]
    )


def chosen(options: Mapping[str, object], courses: Sequence[Course]) -> Course:
    """The course that a form (lists of texts) or an API call (a text) names; the only one when none is named.

    Raises: FederationError COURSE_NOT_FOUND.
    """
    value = options.get(FIELD)
    if isinstance(value, list | tuple):
        value = value[0] if value else None
    if value is None and len(courses) == 1:
        return courses[0]
    for course in courses:
        if course.name == value:
            return course
    raise course_missing(str(value or "")[:80])


def course_missing(name: str) -> FederationError:
    """The error for a course that is not on the page."""
    return not_found(Code.COURSE_NOT_FOUND, "course", name, hint="Choose one on the spawn page.")


def _choice(course: Course, first: bool, alone: bool) -> str:
    """A card: all of it but the list of goals, which opens and closes, makes the choice. One that is alone starts open."""
    ident = f"course-{escape(course.name)}"
    data = ", ".join(escape(entry["dataset"]) for entry in course.inputs)
    takes = f"{escape(course.cpus)} CPU · {escape(course.memory)} memory" + (f" · data {data}" if data else "")
    labs = "".join(f"<li>{escape(lab.title)} ({lab.minutes} min)</li>" for lab in course.labs)
    several = f'<ul class="mb-2">{labs}</ul>' if len(course.labs) > 1 else ""
    goals = "".join(f"<li>{escape(goal)}</li>" for lab in course.labs for goal in lab.goals)
    learn = f'<summary>What you will learn</summary><ul class="mb-0">{goals}</ul>'
    return (
        f'<div class="card mb-3 shadow-sm" lang="{escape(course.language)}"><div class="card-body d-flex gap-3">'
        f'<input class="form-check-input flex-shrink-0" type="radio" name="{FIELD}" id="{ident}"'
        f' value="{escape(course.name)}" required{" checked" if first else ""}>'
        '<div class="flex-grow-1"><div class="d-flex flex-wrap justify-content-between column-gap-3 mb-2">'
        f'<label class="h5 mb-0 stretched-link" for="{ident}">{escape(course.title)}</label>'
        f'<span class="text-nowrap">{course.minutes} minutes</span></div>'
        f'<p class="mb-2">{escape(course.summary)}</p>{several}'
        + (f'<details class="position-relative z-2 mb-2"{" open" if alone else ""}>{learn}</details>' if goals else "")
        + f'<small class="text-body-secondary">{takes}</small></div></div></div>'
    )
