"""The spawn page: which course, with what it takes, as a plain HTML form that works without JavaScript.

Not here: JupyterHub (`spawner.py`) and where a course's text comes from (`catalog.py`).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from html import escape

from courses.catalog import Course
from federation.errors import Code, FederationError, not_found

FIELD = "course"


def options_form(courses: Sequence[Course]) -> str:
    """The inside of JupyterHub's spawn form: one choice a course, the first one made. Everything is escaped."""
    if not courses:
        return '<p class="alert alert-warning">This hub has no courses yet. Ask your instructor.</p>'
    return "\n".join(
        ['<div class="brhub-courses">', *(_choice(each, each is courses[0]) for each in courses), "</div>"]
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


def _choice(course: Course, first: bool) -> str:
    labs = "".join(f"<li>{escape(lab.title)} ({lab.minutes} min)</li>" for lab in course.labs)
    data = ", ".join(escape(entry["dataset"]) for entry in course.inputs)
    takes = f"{escape(course.cpus)} CPU, {escape(course.memory)} memory" + (f", data {data}" if data else "")
    box = f'<input class="form-check-input" type="radio" name="{FIELD}" id="course-{escape(course.name)}"'
    return (
        f'<div class="form-check mb-3" lang="{escape(course.language)}">{box} value="{escape(course.name)}" required'
        f"{' checked' if first else ''}>"
        f'<label class="form-check-label" for="course-{escape(course.name)}"><strong>{escape(course.title)}</strong>'
        f"<br>{escape(course.summary)}<ul>{labs}</ul><small>{takes}</small></label></div>"
    )
