"""The engine `command`: any program. A .py file runs with the job's interpreter, a .sh with sh, others by themselves."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

from federation.errors import invalid
from hub_node.ports import Attempt
from hub_node.runners.process import ProcessRunner, Program


class CommandRunner(ProcessRunner):
    """One program under guard."""

    def program(self, attempt: Attempt) -> Program:
        """How the entrypoint is started. Raises: FederationError INVALID_ARGUMENT where it is no program."""
        work = attempt.run.lease.work
        return Program((*_words(attempt, work.entrypoint), *work.arguments), attempt.package, attempt.variables)


def _words(attempt: Attempt, entrypoint: str) -> tuple[str, ...]:
    file = attempt.package / entrypoint
    if file.is_file():
        if file.suffix == ".py":
            return (str(attempt.python), "-u", entrypoint)
        if os.access(file, os.X_OK):
            return (str(file),)
        if file.suffix == ".sh":
            return ("sh", entrypoint)
        raise invalid(
            f"{entrypoint!r} in the package is not a program.",
            hint="Name a .py or .sh file, or make it executable before it is packed.",
            entrypoint=entrypoint,
        )
    if "/" not in entrypoint:
        if entrypoint in ("python", "python3"):
            return (str(attempt.python),)
        if shutil.which(entrypoint, path=attempt.variables.get("PATH", os.defpath)) is not None:
            return (entrypoint,)
    raise invalid(
        f"There is no file {entrypoint!r} in the package and no such program at this hub.",
        hint=f"Is {str(Path(entrypoint))!r} relative to the folder that `package` names?",
        entrypoint=entrypoint,
    )
