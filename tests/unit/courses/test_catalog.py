"""Course manifests: ours load, wrong ones are refused by name, and strangers' never crash the reader."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from courses.catalog import LABS_MAX, Course, find_course, load_course, load_courses, parse_course
from courses.profile import chosen, options_form
from federation.archive import pack
from federation.client import draft_from_mapping
from federation.errors import Code, FederationError

MANIFEST: dict[str, Any] = {
    "version": 1,
    "title": "Late or not?",
    "summary": "Delays.",
    "labs": [{"notebook": "a.ipynb", "title": "One", "minutes": 90, "goals": ["see"], "solution": "solution/a.py"}],
    "inputs": [{"dataset": "flights-lga", "as": "flights"}],
    "resources": {"cpus": 1, "memory": "2Gi"},
}
FOLDER = Path("flights")


def changed(**said: object) -> dict[str, Any]:
    """The manifest above with some keys said otherwise."""
    return {**MANIFEST, **said}


def lab(**said: object) -> dict[str, Any]:
    """The manifest above with its lab said otherwise."""
    return changed(labs=[{**MANIFEST["labs"][0], **said}])


def test_every_course_that_ships_is_whole() -> None:
    """Manifest, notebook and solution are there, and its job is one that the client accepts."""
    courses = load_courses()
    assert "flights-spark" in [course.name for course in courses]
    for course in courses:
        for each in course.labs:
            assert (course.folder / each.notebook).is_file()
            assert (course.folder / each.solution).is_file()
        spec = draft_from_mapping(
            {
                "engine": "lab",
                "entrypoint": course.name,
                "resources": {"cpus": course.cpus, "memory": course.memory, "disk": course.disk},
                "inputs": [dict(entry) for entry in course.inputs],
                "runtime_limit": course.session_limit,
            }
        ).spec
        assert spec.runtime_limit_ms >= course.minutes * 60_000


def test_solutions_and_notes_for_instructors_are_never_sent() -> None:
    """What a student gets is the packed folder."""
    for course in load_courses():
        sent = pack(course.folder).files
        assert course.labs[0].notebook in sent
        assert not [name for name in sent if name.startswith("solution") or name == "README.md"]


def test_notebooks_ship_without_outputs() -> None:
    """Nobody's results, paths or user names travel with a course."""
    import json

    for course in load_courses():
        for each in course.labs:
            cells = json.loads((course.folder / each.notebook).read_text(encoding="utf-8"))["cells"]
            code = [cell for cell in cells if cell["cell_type"] == "code"]
            assert code
            assert not any(cell["outputs"] or cell["execution_count"] for cell in code)


def test_a_manifest_is_read_with_its_defaults() -> None:
    """What is not said has a value."""
    course = parse_course(MANIFEST, FOLDER)
    assert (course.name, course.cpus, course.memory, course.disk) == ("flights", "1", "2Gi", "1Gi")
    assert course.inputs == ({"dataset": "flights-lga", "version": "", "as": "flights"},)
    assert (course.minutes, course.language) == (90, "en")


@pytest.mark.parametrize(
    ("content", "code", "word"),
    [
        (changed(titel="x"), Code.UNKNOWN_KEY, "titel"),
        (lab(minuets=3), Code.UNKNOWN_KEY, "minuets"),
        (changed(resources={"gpus": 1}), Code.UNKNOWN_KEY, "gpus"),
        (changed(version=2), Code.INVALID_ARGUMENT, "version"),
        (changed(version=True), Code.INVALID_ARGUMENT, "version"),
        (changed(title=""), Code.INVALID_ARGUMENT, "title"),
        (changed(title=7), Code.INVALID_ARGUMENT, "title"),
        (changed(labs=[]), Code.INVALID_ARGUMENT, "labs"),
        (changed(labs=["a"]), Code.INVALID_ARGUMENT, "labs"),
        (changed(labs=MANIFEST["labs"] * (LABS_MAX + 1)), Code.LIMIT_EXCEEDED, "labs"),
        (lab(minutes=0), Code.INVALID_ARGUMENT, "minutes"),
        (lab(minutes=True), Code.INVALID_ARGUMENT, "minutes"),
        (lab(notebook="../a.ipynb"), Code.INVALID_ARGUMENT, "notebook"),
        (lab(notebook="/a.ipynb"), Code.INVALID_ARGUMENT, "notebook"),
        (changed(resources={"cpus": -1}), Code.INVALID_ARGUMENT, "cpus"),
        (changed(resources={"memory": "lots"}), Code.INVALID_ARGUMENT, "memory"),
        (changed(session_limit="soon"), Code.INVALID_ARGUMENT, "session_limit"),
    ],
)
def test_a_wrong_manifest_is_refused_by_the_name_of_its_key(content: dict[str, Any], code: Code, word: str) -> None:
    """One clear error for each way of being wrong."""
    with pytest.raises(FederationError) as caught:
        parse_course(content, FOLDER)
    assert caught.value.code is code
    assert word in str(caught.value)


def test_a_notebook_that_is_not_there_is_named(tmp_path: Path) -> None:
    """A manifest may not promise what the folder does not hold."""
    folder = tmp_path / "course"
    folder.mkdir()
    text = "version: 1\ntitle: T\nsummary: S\nlabs: [{notebook: gone.ipynb, title: One, minutes: 5}]\n"
    (folder / "course.yaml").write_text(text, encoding="utf-8")
    with pytest.raises(FederationError, match=r"gone\.ipynb"):
        load_course(folder)


@pytest.mark.parametrize("name", ["nobody", "../labs", "", "flights spark"])
def test_an_unknown_course_is_not_found(name: str) -> None:
    """A name is never a way out of the folder."""
    with pytest.raises(FederationError) as caught:
        find_course(name)
    assert caught.value.code is Code.COURSE_NOT_FOUND


VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=10,
)
MANIFESTS = st.fixed_dictionaries(
    {}, optional={key: VALUES | st.just(MANIFEST.get(key)) for key in (*MANIFEST, "language", "requirements", "other")}
)


@given(MANIFESTS)
def test_any_content_is_a_course_or_a_clear_error(content: dict[str, Any]) -> None:
    """Nothing but FederationError, whatever the file holds."""
    try:
        course = parse_course(content, FOLDER)
    except FederationError:
        return
    assert isinstance(course, Course)


@given(st.text(min_size=1, max_size=60).filter(str.strip), st.text(min_size=1, max_size=60).filter(str.strip))
def test_the_spawn_page_holds_a_course_text_and_no_markup_of_its_own(title: str, summary: str) -> None:
    """A manifest cannot put a tag into the page."""
    course = parse_course(changed(title=title, summary=summary), FOLDER)
    plain = options_form([parse_course(changed(title="t", summary="s"), FOLDER)])
    assert options_form([course]).count("<") == plain.count("<")


def test_the_spawn_page_offers_each_course_with_what_it_takes() -> None:
    """One choice each, the first one made; none at all says so."""
    courses = [parse_course(MANIFEST, Path(name)) for name in ("one", "two")]
    page = options_form(courses)
    assert page.count('type="radio"') == 2
    assert page.count(" checked") == 1
    assert "2Gi memory" in page
    assert "flights-lga" in page
    assert "no courses" in options_form([])


def test_a_choice_is_read_from_a_form_and_from_a_call() -> None:
    """Lists from forms, texts from calls; a single course needs no choice; another name is refused."""
    one, two = (parse_course(MANIFEST, Path(name)) for name in ("one", "two"))
    assert chosen({"course": ["two"]}, [one, two]) is two
    assert chosen({"course": "two"}, [one, two]) is two
    assert chosen({}, [one]) is one
    wrong: tuple[dict[str, object], ...] = ({}, {"course": "three"}, {"course": []}, {"course": 3})
    for options in wrong:
        with pytest.raises(FederationError) as caught:
            chosen(options, [one, two])
        assert caught.value.code is Code.COURSE_NOT_FOUND
