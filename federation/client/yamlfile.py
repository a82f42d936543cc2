"""Read a stranger's YAML as plain values, within limits: size, depth, no aliases, no doubled keys, no tags.

YAML can say one thing in a few bytes that fills a machine (aliases of aliases), or say a key twice and mean either.
A job file needs neither. Deliberately not here: what the values mean (`specfile.py`).
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import yaml

from federation.errors import Code, FederationError, invalid

FILE_BYTES_MAX = 256 * 1024
DEPTH_MAX = 16

_Base: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)  # the C one where PyYAML was built with it


class _Loader(_Base):  # type: ignore[misc]  # its base is chosen at run time
    """A safe loader that refuses a key said twice."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        seen: set[str] = set()
        for key, _ in node.value:
            if isinstance(key, yaml.ScalarNode):
                if key.value in seen:
                    raise invalid(
                        f"the key {key.value[:80]!r} is there twice",
                        hint=f"Keep one of them; the second is in line {key.start_mark.line + 1}.",
                        key=key.value[:80],
                    )
                seen.add(key.value)
        built: dict[Any, Any] = super().construct_mapping(node, deep=deep)
        return built


_Loader.add_constructor("tag:yaml.org,2002:map", lambda loader, node: loader.construct_mapping(node, deep=True))


def read_text(path: Path, bytes_max: int, what: str) -> str:
    """A text file of at most `bytes_max` bytes of UTF-8. Raises: FederationError, in words for whoever named it."""
    try:
        with path.open("rb") as file:
            data = file.read(bytes_max + 1)
    except OSError as problem:
        raise invalid(
            f"{what} {str(path)!r} cannot be read: {problem.strerror or problem}",
            hint="Check the path.",
            path=str(path),
        ) from problem
    if len(data) > bytes_max:
        raise invalid(
            f"{what} {str(path)!r} has more than {bytes_max} bytes",
            code=Code.LIMIT_EXCEEDED,
            hint="Send large data as a package or a dataset.",
            path=str(path),
            limit=str(bytes_max),
        )
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError:
        raise invalid(f"{what} {str(path)!r} is not text in UTF-8", hint="Save it as UTF-8.", path=str(path)) from None


def load_mapping(text: str, source: str = "the job file") -> dict[str, Any]:
    """The one mapping that `text` holds; `source` is what it is called in errors. Raises: FederationError."""
    if len(text.encode("utf-8", "surrogatepass")) > FILE_BYTES_MAX:
        raise invalid(
            f"the job file has more than {FILE_BYTES_MAX} bytes",
            code=Code.LIMIT_EXCEEDED,
            hint="Send large data as a package or a dataset.",
            limit=str(FILE_BYTES_MAX),
        )
    try:
        _check_events(text)
        value = yaml.load(text, Loader=_Loader)  # noqa: S506  # a SafeLoader, made stricter above
    except FederationError:
        raise
    except (yaml.YAMLError, ValueError, LookupError, TypeError, ArithmeticError, AttributeError) as problem:
        # Besides YAMLError PyYAML lets through what Python says of bad dates, numbers and tags.
        raise invalid(f"{source} is not YAML: {_one_line(problem)}", hint="Check the line that it names.") from None
    if not isinstance(value, dict):
        raise invalid("a job file is a mapping", hint="Begin with `version: 1`.")
    return value


def _check_events(text: str) -> None:
    depth = 0
    for event in yaml.parse(text, Loader=_Base):
        if isinstance(event, yaml.AliasEvent) or getattr(event, "anchor", None):
            raise invalid(
                "anchors and aliases are not allowed in a job file", hint="Write the value out where it is used."
            )
        if isinstance(event, yaml.MappingStartEvent | yaml.SequenceStartEvent):
            depth += 1
            if depth > DEPTH_MAX:
                raise invalid(
                    f"the job file is nested deeper than {DEPTH_MAX}",
                    hint="No key of a job file needs that.",
                    code=Code.LIMIT_EXCEEDED,
                )
        elif isinstance(event, yaml.MappingEndEvent | yaml.SequenceEndEvent):
            depth -= 1


def _one_line(problem: Exception) -> str:
    # PyYAML calls every text that it was given as text so; the message names the file already
    return " ".join(str(problem).replace('in "<unicode string>", ', "in ").split())[:300]
