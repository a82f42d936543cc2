"""A course as its folder says it: `course.yaml` beside notebooks, read and checked. Unknown keys are refused by name.

A course folder is what a student gets, less what its `.brhubignore` names (solutions, notes for the instructor). Not here: the page on
which it is chosen (`profile.py`), starting it (`spawner.py`), timetables and grading (later).
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from federation.client.quantity import parse_bytes, parse_duration_ms, parse_milli
from federation.client.specfile import unknown_key
from federation.client.yamlfile import FILE_BYTES_MAX, load_mapping, read_text
from federation.errors import Code, invalid, not_found

MANIFEST = "course.yaml"
LABS_FOLDER = Path(__file__).parent / "labs"
COURSES_MAX = 1_000
LABS_MAX = 100
INPUTS_MAX = 16
TEXT_CHARACTERS_MAX = 2_000
MINUTES_MAX = 24 * 60

_COURSE_KEYS = (
    "version", "title", "summary", "language", "licence", "labs", "inputs", "resources", "requirements", "session_limit",
)  # fmt: skip
_LAB_KEYS = ("notebook", "title", "minutes", "goals", "solution")
_INPUT_KEYS = ("dataset", "version", "as", "licence")
_RESOURCE_KEYS = ("cpus", "memory", "disk")
_NAME = re.compile(r"[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?")


@dataclass(frozen=True, slots=True)
class Lab:
    """One session of a course. Paths are relative to the course's folder."""

    notebook: str
    title: str
    minutes: int
    goals: tuple[str, ...] = ()
    solution: str = ""
    """Runs headless; never sent to a student."""


@dataclass(frozen=True, slots=True)
class Course:
    """A course folder's manifest. The folder's name is the course's name."""

    name: str
    folder: Path
    title: str
    summary: str
    language: str
    licence: str
    labs: tuple[Lab, ...]
    cpus: str = "1"
    memory: str = "2Gi"
    disk: str = "1Gi"
    """As people write them in job.yaml."""
    requirements: str = ""
    """A requirements file, relative to the folder; empty when the hub's own packages are enough."""
    session_limit: str = "4h"
    inputs: tuple[Mapping[str, str], ...] = field(default=())
    """As in job.yaml: {dataset, version, as}."""

    @property
    def minutes(self) -> int:
        """All its labs together."""
        return sum(lab.minutes for lab in self.labs)


def load_courses(root: Path = LABS_FOLDER) -> tuple[Course, ...]:
    """Every course folder in `root`, by name. Raises: FederationError, naming the manifest that is wrong."""
    folders = sorted(path.parent for path in root.glob(f"*/{MANIFEST}"))
    if len(folders) > COURSES_MAX:
        raise invalid(f"{str(root)!r} holds more than {COURSES_MAX} courses", code=Code.LIMIT_EXCEEDED)
    return tuple(load_course(folder) for folder in folders)


def find_course(name: str, root: Path = LABS_FOLDER) -> Course:
    """One course. Raises: FederationError COURSE_NOT_FOUND, and what `load_course` raises."""
    if not _NAME.fullmatch(name) or not (root / name / MANIFEST).is_file():
        raise not_found(Code.COURSE_NOT_FOUND, "course", name[:80], hint="`brhub course list` shows what there is.")
    return load_course(root / name)


def load_course(folder: Path) -> Course:
    """The course in `folder`; its notebooks must be there. Raises: FederationError."""
    course = parse_course(load_mapping(read_text(folder / MANIFEST, FILE_BYTES_MAX, "the course manifest")), folder)
    for lab in course.labs:
        if not (folder / lab.notebook).is_file():
            raise _wrong("labs.notebook", f"the name of a file that is there; {lab.notebook!r} is not", folder)
    if course.requirements and not (folder / course.requirements).is_file():
        raise _wrong("requirements", f"the name of a file that is there; {course.requirements!r} is not", folder)
    return course


def parse_course(content: Mapping[str, Any], folder: Path) -> Course:
    """A manifest's content, checked; touches no file.

    Raises: FederationError UNKNOWN_KEY, INVALID_ARGUMENT or LIMIT_EXCEEDED, naming the key.
    """
    if not _NAME.fullmatch(folder.name):
        raise _wrong("the course folder's name", "small letters, digits and hyphens", folder)
    _only(content, _COURSE_KEYS, "")
    if isinstance(content.get("version"), bool) or content.get("version") != 1:
        raise _wrong("version", "1", folder)
    resources = _mapping(content.get("resources", {}), "resources", folder)
    _only(resources, _RESOURCE_KEYS, "resources")
    amounts = {key: str(resources[key]) for key in _RESOURCE_KEYS if key in resources}
    session_limit = str(content.get("session_limit", "4h"))
    parse_duration_ms(session_limit, "session_limit")
    for key, text in amounts.items():
        (parse_milli if key == "cpus" else parse_bytes)(text, f"resources.{key}")
    labs = tuple(_lab(entry, folder) for entry in _list(content, "labs", LABS_MAX, folder))
    if not labs:
        raise _wrong("labs", "a list with at least one lab", folder)
    return Course(
        name=folder.name,
        folder=folder,
        title=_text(content, "title", folder),
        summary=_text(content, "summary", folder),
        language=_text(content, "language", folder, "en"),
        licence=_text(content, "licence", folder, ""),
        labs=labs,
        requirements=_path(content, "requirements", folder, ""),
        session_limit=session_limit,
        inputs=tuple(_input(entry, folder) for entry in _list(content, "inputs", INPUTS_MAX, folder)),
        **amounts,
    )


def _lab(entry: object, folder: Path) -> Lab:
    content = _mapping(entry, "labs", folder)
    _only(content, _LAB_KEYS, "labs")
    minutes = content.get("minutes")
    if isinstance(minutes, bool) or not isinstance(minutes, int) or not 1 <= minutes <= MINUTES_MAX:
        raise _wrong("labs.minutes", f"a whole number from 1 to {MINUTES_MAX}", folder)
    goals = _list(content, "goals", LABS_MAX, folder)
    if not all(isinstance(goal, str) and 0 < len(goal) <= TEXT_CHARACTERS_MAX for goal in goals):
        raise _wrong("labs.goals", "a list of texts", folder)
    return Lab(
        notebook=_path(content, "notebook", folder),
        title=_text(content, "title", folder),
        minutes=minutes,
        goals=tuple(goals),
        solution=_path(content, "solution", folder, ""),
    )


def _input(entry: object, folder: Path) -> Mapping[str, str]:
    content = _mapping(entry, "inputs", folder)
    _only(content, _INPUT_KEYS, "inputs")
    dataset = _text(content, "dataset", folder)
    return {
        "dataset": dataset,
        "version": _text(content, "version", folder, ""),
        "as": _text(content, "as", folder, dataset),
    }


def _only(content: Mapping[str, Any], known: tuple[str, ...], where: str) -> None:
    for key in content:
        if key not in known:
            raise unknown_key(key, known, where)


def _mapping(value: object, key: str, folder: Path) -> Mapping[str, Any]:
    if not isinstance(value, Mapping):
        raise _wrong(key, "a mapping", folder)
    return value


def _list(content: Mapping[str, Any], key: str, most: int, folder: Path) -> list[Any]:
    value = content.get(key, [])
    if not isinstance(value, list):
        raise _wrong(key, "a list", folder)
    if len(value) > most:
        raise invalid(f"{key} has {len(value)} entries; the limit is {most}", code=Code.LIMIT_EXCEEDED, field=key)
    return value


def _text(content: Mapping[str, Any], key: str, folder: Path, default: str | None = None) -> str:
    value = content.get(key, default)
    if not isinstance(value, str) or (default is None and not value.strip()) or len(value) > TEXT_CHARACTERS_MAX:
        raise _wrong(key, f"a text of at most {TEXT_CHARACTERS_MAX} characters", folder)
    return value.strip()


def _path(content: Mapping[str, Any], key: str, folder: Path, default: str | None = None) -> str:
    path = _text(content, key, folder, default)
    if path.startswith("/") or "\\" in path or any(part in ("..", "") for part in path.split("/") if path):
        raise _wrong(key, "a path inside the course folder", folder)
    return path


def _wrong(key: str, wanted: str, folder: Path) -> Exception:
    place = f"{folder.name}/{MANIFEST}"
    return invalid(f"{place}: {key} must be {wanted}", hint="Correct the manifest.", field=key, course=folder.name[:80])
