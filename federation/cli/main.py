"""`brhub`: global options, the nouns, exit statuses, and how an error looks.

Exit status: 0 done; 1 it failed over there; 2 wrong usage; 3 not found; 4 refused; 5 cannot reach; 6 timed out waiting.
Deliberately not here: the commands themselves, one module a noun. `--help` must take under 0.3 s: this module and those
that it imports import typer and the standard library only.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from typing import Annotated

import typer
from typer.exceptions import TyperException

from federation.cli import database, hubs, jobs, operating, policies, simulate, submitting, tokens
from federation.cli.format import Format
from federation.cli.session import Session
from federation.errors import FederationError

FAILED = 1
INTERRUPTED = 130
BROKEN_PIPE = 141
_GLOBAL_OPTIONS = ("-o", "--output", "--server", "--project")

app = typer.Typer(
    name="brhub",
    help="One shared academy of many universities' hubs: submit jobs, look after hubs, run a federation.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
    rich_markup_mode=None,
)


@app.callback()
def root(
    context: typer.Context,
    server: Annotated[str, typer.Option(help="HOST:PORT, or several with commas (else BRHUB_SERVER, BRHUB_DIR).")] = "",
    project: Annotated[str, typer.Option(help="The project that use is counted to.")] = "",
    output: Annotated[Format, typer.Option("--output", "-o", help="How to print.")] = Format.TABLE,
) -> None:
    """Global options; they may stand anywhere before a `--`."""
    context.obj = Session(server=server, project=project, form=output)


submitting.register(app)
jobs.register(app)
hubs.register(app)
policies.register(app)
operating.register(app)
tokens.register(app)
database.register(app)
simulate.register(app)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; its exit status."""
    given = _options_first(list(sys.argv[1:] if arguments is None else arguments))
    try:
        # typer answers what a command returned, or the status that it asked to leave with
        status = app(args=given, prog_name="brhub", standalone_mode=False)
        sys.stdout.flush()
        return status if isinstance(status, int) else 0
    except FederationError as error:
        print_error(error)
        return error.kind.exit
    except TyperException as problem:
        print(f"error: {_usage(problem)}\nfault: caller; do: see `{_help_of(problem)}`", file=sys.stderr)
        return problem.exit_code
    except (KeyboardInterrupt, typer.Abort):
        return INTERRUPTED
    except BrokenPipeError:
        # `brhub job list | head`: whoever read us has enough; Python must not complain about it once more
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return BROKEN_PIPE
    except OSError as problem:
        # what no command foresaw of this machine's files and sockets: still no traceback for a person
        place = f"{str(problem.filename)!r}: " if problem.filename else ""
        print(f"error: {place}{problem.strerror if place else problem}", file=sys.stderr)
        print("fault: caller; do: Look at that path, its rights, and the room on its disk.", file=sys.stderr)
        return FAILED


def _usage(problem: TyperException) -> str:
    """What was wrong, without the words of the library that checked it."""
    return problem.format_message().replace("Value error, ", "")


def _help_of(problem: TyperException) -> str:
    """The help of the command that was used wrongly, where that is known."""
    context = getattr(problem, "ctx", None)
    return f"{context.command_path if context else 'brhub'} --help"


def print_error(error: FederationError) -> None:
    """What went wrong, whose fault it is, what to do now, and the code."""
    print(f"error: {error.message}", file=sys.stderr)
    print(f"fault: {error.fault}" + (f"; do: {error.hint}" if error.hint else ""), file=sys.stderr)
    print(f"code: {error.code}", file=sys.stderr)


def _options_first(arguments: list[str]) -> list[str]:
    """Move the global options to the front, so that `brhub job list -o json` is understood too."""
    front: list[str] = []
    rest: list[str] = []
    at = 0
    while at < len(arguments):
        word = arguments[at]
        if word == "--":
            rest += arguments[at:]
            break
        if word in _GLOBAL_OPTIONS and at + 1 < len(arguments):
            front += arguments[at : at + 2]
            at += 2
            continue
        joined = any(word.startswith(f"{name}=") for name in _GLOBAL_OPTIONS[1:])
        (front if joined else rest).append(word)
        at += 1
    return front + rest


if __name__ == "__main__":
    sys.exit(main())
