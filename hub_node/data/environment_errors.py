"""What uv says when an environment cannot be built, in our words: which package, and whose it is to mend.

Not here: building (`environments.py`).
"""

from __future__ import annotations

import re
from importlib import metadata

from federation.errors import Code, Fault, FederationError
from hub_node.data.package_index import hide_passwords

OUTPUT_CHARACTERS_MAX = 1_500
ENGINE_PACKAGES = ("pyspark", "ray", "mlflow", "mlflow-skinny")
"""Those that must be the hub's version, since the other side of the conversation is the hub's."""
_NAMING_PATTERNS = (
    r"[Ff]ailed to (?:build|download|install|prepare|fetch|extract)[^`]{0,40}`([^`]+)`",
    r"Because (?:only )?([A-Za-z0-9_.-]+?) was not found",
    r"there (?:is|are) no versions? of ([A-Za-z0-9_.\[\]-]+?[=<>!~]{1,2}\S+)",
    r"Because you require ([A-Za-z0-9_.\[\]-]+(?:[=<>!~]{1,2}\S+?)?)[ ,]",
    r"Because ([A-Za-z0-9_.\[\]-]+?)[ =<>!~]",
)
_NETWORK = re.compile(r"(?i)error sending request|dns error|connection refused|timed out|connect error|certificate")
_DISK = re.compile(r"(?i)no space left|disk quota|read-only file system|permission denied")


def explain(output: str) -> FederationError:
    """The error for what uv printed: which package, whose fault, and the end of the output."""
    kept = [line for line in hide_passwords(output).splitlines() if not line.startswith("Using ")]
    text = "\n".join(kept).strip()
    flat = " ".join(re.sub(r"[│╰─▶├×]", " ", text).split())
    unreadable = re.search(r"Couldn't parse requirement.*\n(?:.*\n)?\s*(.+)\n\s*\^", text)
    found = (match for pattern in _NAMING_PATTERNS if (match := re.search(pattern, flat)))
    first = unreadable or next(found, None)
    package = first.group(1).strip(" ,;") if first else ""
    facts = {"package": package, "output": _tail(text)}
    for pattern, what in ((_NETWORK, "reach its package index"), (_DISK, "write the environment to its disk")):
        if pattern.search(flat):
            hint = "The hub's operator can help; the job itself may be fine."
            return failed(f"This hub could not {what}.", Fault.HUB, hint, **facts)
    if unreadable:
        return failed(
            f"The requirement {package[:80]!r} cannot be read.", Fault.CALLER, "Write NAME==VERSION.", **facts
        )
    named = f" because of {package!r}" if package else ""
    theirs = [pin for pin in engine_pins() if pin.split("==")[0] == re.split(r"[=<>!~\[]", package)[0]]
    hint = (
        f"This hub's engine is {theirs[0]}: leave it out of the requirements."
        if theirs
        else "Change the requirements: names and versions must exist in the hub's package index."
    )
    return failed(f"The environment could not be built{named}: {_tail(flat, 300)}", Fault.CALLER, hint, **facts)


def engine_pins() -> list[str]:
    """The hub's engines with their versions, as constraints."""
    pins = []
    for name in ENGINE_PACKAGES:
        try:
            pins.append(f"{name}=={metadata.version(name)}")
        except metadata.PackageNotFoundError:
            continue
    return pins


def failed(message: str, fault: Fault, hint: str = "", **facts: str) -> FederationError:
    """ENVIRONMENT_FAILED; every keyword becomes metadata."""
    return FederationError(Code.ENVIRONMENT_FAILED, message, fault=fault, hint=hint, metadata=facts)


def _tail(text: str, most: int = OUTPUT_CHARACTERS_MAX) -> str:
    return text if len(text) <= most else "…" + text[-most:]
