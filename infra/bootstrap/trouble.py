"""How the bootstrap speaks: progress lines, and errors that end with the one command to type."""

from __future__ import annotations

import sys


class BootstrapError(Exception):
    """Something is missing that the bootstrap cannot get by itself.

    Args:
        message: what is missing, and why it could not be had.
        command: the one command that helps, typed as it is.
    """

    def __init__(self, message: str, command: str = "") -> None:
        super().__init__(message)
        self.message = message
        self.command = command

    def __str__(self) -> str:
        return self.message + (f"\n  type:  {self.command}" if self.command else "")


def say(text: str) -> None:
    """One line of progress on standard error; standard output belongs to the command that runs afterwards."""
    print(f"setup: {text}", file=sys.stderr, flush=True)
