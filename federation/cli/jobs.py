"""`brhub job ...` and its shortcut `brhub jobs`.

Deliberately not here: submitting (`submitting.py`), the columns (`tables.py`).
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from federation.cli.session import Session, now_ms, say, session_of, transfer_bar
from federation.errors import Code, FederationError

if TYPE_CHECKING:
    from federation.v1 import job_pb2

LIST_LIMIT = 100
_HAD_ENDED = {"CANCELLED": "been CANCELLED"}

JobId = Annotated[str, typer.Argument(metavar="ID", help="The job's id.")]
AllOwners = Annotated[bool, typer.Option("--all", help="Everyone's, as far as you may see them.")]
States = Annotated[list[str] | None, typer.Option("--state", help="Only this state (RUNNING); again for more.")]
OneHub = Annotated[str, typer.Option("--hub", help="Only at this hub.")]
Limit = Annotated[int, typer.Option(min=1, help="At most so many, newest first.")]


def register(app: typer.Typer) -> None:
    """Add the commands of this module."""
    noun = typer.Typer(no_args_is_help=True, help="Jobs: look, follow, end, fetch.")
    noun.command("list")(list_jobs)
    noun.command("show")(show)
    noun.command("logs")(logs)
    noun.command("cancel")(cancel)
    noun.command("retry")(retry)
    noun.command("release")(release)
    noun.command("explain")(explain)
    noun.command("fetch")(fetch)
    app.add_typer(noun, name="job")
    app.command("jobs", help="The same as `job list`.")(list_jobs)


def list_jobs(
    context: typer.Context,
    all_owners: AllOwners = False,
    state: States = None,
    hub: OneHub = "",
    limit: Limit = LIST_LIMIT,
) -> None:
    """List jobs, newest first."""
    from federation.cli import tables
    from federation.cli.show import document, print_many

    session = session_of(context)
    with session.client() as client:
        found = client.list(states=state or (), project=session.project, hub_id=hub, all_owners=all_owners, limit=limit)
    wide = session.form.value == "wide"
    table = tables.jobs(found, now_ms(), wide) if session.for_people else None
    print_many([document(job) for job in found], session.form, table)
    if session.for_people and not found:
        say("no jobs" + ("" if all_owners else " of yours; everyone's: brhub job list --all"))
    if session.for_people and any(tables.waits_without_a_word(job) for job in found):
        say("why a job waits: brhub job explain ID")


def show(context: typer.Context, job_id: JobId) -> None:
    """Show one job."""
    session = session_of(context)
    with session.client() as client:
        _print_job(session, client.get(job_id))


def logs(
    context: typer.Context,
    job_id: JobId,
    follow: Annotated[bool, typer.Option("--follow", "-f", help="Go on until the job has ended.")] = False,
    offset: Annotated[int, typer.Option("--from", min=0, help="First byte.")] = 0,
    attempt: Annotated[str, typer.Option(help="Of this attempt, as in `job show`; else the last.")] = "",
) -> None:
    """Print a job's log as it was written.

    Of a job that waits to run again, that of the attempt that ended.
    """
    from federation.cli.show import state_of

    with session_of(context).client() as client:
        if not attempt and state_of(job := client.get(job_id)) == "QUEUED":
            if job.attempt:
                say(f"attempt {job.attempt}, ended; the job waits to run again")
            else:
                say(f"nothing has run yet; why it waits: brhub job explain {job_id}")
        for piece in client.logs(job_id, follow, offset=offset, attempt=attempt):
            sys.stdout.buffer.write(piece)
            sys.stdout.buffer.flush()


def cancel(
    context: typer.Context,
    job_id: JobId,
    note: Annotated[str, typer.Option(help="Why, for the record.")] = "",
) -> None:
    """End a job. Repeating it is harmless."""
    from federation.cli.show import state_of
    from federation.client import TERMINAL

    session = session_of(context)
    with session.client() as client:
        before = client.get(job_id) if session.for_people else None
        job = client.cancel(job_id, note)
    if before is not None and before.state in TERMINAL:
        state = state_of(before)
        print(f"{job_id} had already {_HAD_ENDED.get(state, state)}; nothing to cancel")
    else:
        _print_job(session, job, short=True)


def retry(context: typer.Context, job_id: JobId) -> None:
    """Queue a finished job again."""
    session = session_of(context)
    with session.client() as client:
        _print_job(session, client.retry(job_id), short=True)


def release(
    context: typer.Context,
    job_id: JobId,
    reason: Annotated[str, typer.Option(help="Why, for the record.")],
    force: Annotated[bool, typer.Option("--force", help="Its program may still run: I know.")] = False,
) -> None:
    """For operators: give up an attempt that nobody can ask about.

    It must be UNKNOWN, or its hub LOST (not heard for 10 minutes).

    Nobody can say how it ended, and its program may still run there. From then on nothing that it reports or brings is
    taken, and its agent ends it when it is heard again. The job is queued again if it is idempotent, else it has FAILED.
    """
    session = session_of(context)
    with session.client() as client:
        job = client.release(job_id, reason, force=force)
    _print_job(session, job, short=True)
    if session.for_people:
        say(job.reason.message)


def explain(context: typer.Context, job_id: JobId) -> None:
    """Say why a job waits, hub by hub, and when it may start."""
    session = session_of(context)
    with session.client() as client:
        show_explanation(session, client.explain(job_id), job_id)


def fetch(
    context: typer.Context,
    job_id: JobId,
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="Where the files go.")],
) -> None:
    """Fetch a job's result, every file checked."""
    from federation.cli.show import print_many

    session = session_of(context)
    with session.client() as client, transfer_bar("fetching") as progress:
        try:
            paths = client.fetch(job_id, folder, progress=progress)
        except FederationError as error:
            raise _no_result(job_id, error) from None
    if session.for_people:
        for path in paths:
            print(path)
        if not paths:
            say("the job left no files")
    else:
        values = [
            {"id": path.relative_to(folder).as_posix(), "path": str(path), "size_bytes": path.stat().st_size}
            for path in paths
        ]
        print_many(values, session.form)


def _no_result(job_id: str, error: FederationError) -> FederationError:
    """`error`, with where to look for why an ended job has no result."""
    if error.code is not Code.OBJECT_NOT_FOUND or error.metadata.get("state") not in ("FAILED", "CANCELLED"):
        return error
    hint = f"See `brhub job logs {job_id}`."
    return FederationError(error.code, error.message, fault=error.fault, hint=hint, metadata=error.metadata)


def show_explanation(session: Session, response: job_pb2.ExplainJobResponse, job_id: str) -> None:
    """Print why a job waits, or where a spec would run."""
    from federation.cli import tables
    from federation.cli.show import document, duration, print_one, state_of
    from federation.client import TERMINAL

    value = {"id": job_id, **document(response)}
    if not session.for_people:
        print_one(value, session.form)
        return
    table = tables.reasons(response) if response.reasons else None
    lines = []
    if response.HasField("job") and response.job.state in TERMINAL:
        why = f": {tables.readable(response.job.reason.message)}" if response.job.reason.message else ""
        print(f"{job_id} is {state_of(response.job)}{why.rstrip('.')}; see brhub job logs {job_id}")
        return
    if response.HasField("job"):
        lines.append(f"{job_id} is {state_of(response.job)}")
    if any(reason.code == "QUOTA_NEVER_FITS" for reason in response.reasons):
        lines.append("earliest start: never, under this quota")
    elif response.earliest_start_ms:
        away_ms = response.earliest_start_ms - now_ms()
        when = f"in about {duration(away_ms)}" if away_ms > 1000 else "now"
        where = f" at {response.earliest_hub_id}" if response.earliest_hub_id else ""
        lines.append(f"earliest start: {when}{where}")
    elif not response.HasField("job") or state_of(response.job) == "QUEUED":
        lines.append("earliest start: nobody can say")
    print_one(value, session.form, table, "\n".join(lines))


def _print_job(session: Session, job: job_pb2.Job, short: bool = False) -> None:
    from federation.cli import tables
    from federation.cli.show import document, print_one, state_of

    if short and session.for_people:
        print(f"{job.id} {state_of(job)}")
        return
    table = tables.job(job, now_ms()) if session.for_people else None
    print_one(document(job), session.form, table)
