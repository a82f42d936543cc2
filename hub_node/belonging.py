"""Which store an agent's runs belong to, and its operator's word that it leaves that one for another.

The word is a file in the state folder that names the other store: it holds for that one only, and is taken away once the
agent is there. Deliberately not here: who decides that an agent is not let in (`federation/service/sync.py`).
"""

from __future__ import annotations

import json
import sqlite3
from dataclasses import dataclass
from pathlib import Path

from federation.errors import Code, Fault, FederationError

JOIN_FILE = "join-store"
_NAME_CHARACTERS_MAX = 80


@dataclass(frozen=True, slots=True)
class Belonging:
    """What a journal says. `store_id` is empty where no store has said its name."""

    store_id: str = ""
    runs: int = 0
    """That no control plane has released."""


def read(state_dir: Path) -> Belonging:
    """As the journal in `state_dir` has it, also while an agent uses it; nothing where there is none that can be read."""
    file = state_dir / "journal.db"
    try:
        db = sqlite3.connect(f"{file.absolute().as_uri()}?mode=ro", uri=True, timeout=5)
        try:
            seen = db.execute("SELECT value FROM meta WHERE name = 'seen'").fetchone()
            (runs,) = db.execute("SELECT count(*) FROM runs").fetchone()
        finally:
            db.close()
        return Belonging("" if seen is None else str([*json.loads(seen[0]), ""][2]), int(runs))
    except (sqlite3.Error, ValueError, TypeError, LookupError):
        return Belonging()


def join(state_dir: Path, store_id: str) -> Path:
    """The operator's word: this agent leaves its store for that one. The file that says so."""
    file = state_dir / JOIN_FILE
    partial = file.with_suffix(".partial")
    partial.write_text(store_id, encoding="utf-8")
    partial.replace(file)
    return file


def joins(state_dir: Path) -> str:
    """The store that the agent was told to join; empty: none. Error: CONFIGURATION_INVALID for a word that cannot be read."""
    file = state_dir / JOIN_FILE
    try:
        return file.read_text(encoding="utf-8").strip()[:_NAME_CHARACTERS_MAX]
    except FileNotFoundError:
        return ""
    except (OSError, UnicodeDecodeError) as problem:
        raise FederationError(
            Code.CONFIGURATION_INVALID,
            f"which store this agent is to join cannot be read in {str(file)!r}: {problem}",
            fault=Fault.HUB,
            hint="Let the agent read it, or remove it and, if it is meant, say it again: brhub agent --config FILE --join-new-store.",
            metadata={"path": str(file)},
        ) from problem


def joined(state_dir: Path) -> None:
    """It is there: the word is used up."""
    (state_dir / JOIN_FILE).unlink(missing_ok=True)
