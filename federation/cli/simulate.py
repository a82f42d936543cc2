"""`brhub simulate`: what a history of jobs would have looked like under another policy; `--export` records a history.

Deliberately not here: the replay (`federation/simulation`), the columns (`comparison.py`), faults by seed (`seeds.py`).
"""

from __future__ import annotations

import hashlib
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from federation.cli.session import Session, now_ms, say, session_of
from federation.errors import FederationError, invalid

if TYPE_CHECKING:
    from federation.app.policyfile import FederationPolicy
    from federation.scheduling.policy import Policy
    from federation.simulation.figures import Figures
    from federation.simulation.history import History
    from federation.simulation.replay import Progress

BAR_AFTER_S = 0.5
NAMES_TOLD_MAX = 5


def register(app: typer.Typer) -> None:
    """Add the command of this module."""
    app.command("simulate", short_help="Replay past jobs under another policy, or play faults.")(simulate)


def simulate(  # noqa: PLR0913  # one argument a flag
    context: typer.Context,
    *,
    policy: Annotated[
        Path | None, typer.Option(metavar="FILE", help="The policy to try; with --export: in force.")
    ] = None,
    history: Annotated[Path | None, typer.Option(metavar="FILE", help="What happened, as --export writes it.")] = None,
    export: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Write the federation's jobs and machines as a history.")
    ] = None,
    since: Annotated[str, typer.Option(help="With --export: jobs that came in the last so long.")] = "31d",
    names: Annotated[
        bool, typer.Option("--names", help="With --export: keep people's names; else each becomes a pseudonym.")
    ] = False,
    seed: Annotated[int | None, typer.Option(metavar="N", help="Simulate a federation with faults: one seed.")] = None,
    seeds: Annotated[str, typer.Option(metavar="A..B", help="The same with many seeds, on all cores.")] = "",
    hubs: Annotated[int, typer.Option(metavar="H", help="With seeds: so many hubs.")] = 3,
    hours: Annotated[float, typer.Option(metavar="T", help="With seeds: faults happen for so long.")] = 2.0,
    faults: Annotated[str, typer.Option(metavar="KIND,...|all|none", help="With seeds: which faults.")] = "all",
    workers: Annotated[int, typer.Option(help="With --seeds: processes; 0: one a core.")] = 0,
    results: Annotated[
        Path | None, typer.Option(metavar="FILE", help="With --seeds: keep results here, and go on from them.")
    ] = None,
    trace: Annotated[Path | None, typer.Option(metavar="FILE", help="With --seed: write its whole story.")] = None,
) -> None:
    """What would last month have looked like with this policy? And: does every promise hold when everything fails?

    \b
    brhub simulate --export month.jsonl
    brhub simulate --history month.jsonl --policy policy.yaml
    brhub simulate --seeds 1..50 --hubs 3 --hours 2 --faults all

    With seeds the whole federation runs in virtual time while links, disks, clocks, machines and processes fail; status 1
    and the seed when a promise is broken.

    Before is the policy that the history names, or everybody alike. The README says what both files hold.

    A job waits while it is queued: from its submission to its start, and after each preemption from then to the start that
    followed. Runs that were lost to preemption are no wait, but count in the slowdown. A retry is a job of its own.
    """  # noqa: D301  # \b is typer's mark for lines that stay as they are
    session = session_of(context)
    if seed is not None or seeds:
        from federation.cli.seeds import Wanted, run

        if history is not None or export is not None or policy is not None:
            raise invalid("seeds and histories do not go together", hint="Use one kind of simulation at a time.")
        run(session, Wanted(seed, seeds, hubs, hours, faults, workers, results, trace))
    elif export is not None:
        if history is not None:
            raise invalid("--export and --history do not go together", hint="First export, then simulate.")
        _export(session, export, since, names, policy)
    elif history is None or policy is None:
        missing = "--history" if history is None else "--policy"
        raise invalid(
            f"{missing} is missing, or --seeds",
            hint="Give --history FILE and --policy FILE (`brhub simulate --export FILE` records a history), or --seeds A..B "
            "to play faults.",
            field=missing,
        )
    else:
        _compare(session, history, policy)


# ---- before and after -------------------------------------------------------------------------------------------------
def _compare(session: Session, history_file: Path, policy_file: Path) -> None:
    from federation.app.policyfile import FederationPolicy, federation_policy, load_policy
    from federation.cli import comparison
    from federation.cli.show import print_one
    from federation.simulation.figures import recorded_waits
    from federation.simulation.history import read_history

    wanted = load_policy(policy_file)
    history = read_history(history_file)
    try:
        present = FederationPolicy() if history.policy is None else federation_policy(history.policy)
    except FederationError as error:
        raise invalid(f"line 1 of the history: {error.message}", hint=error.hint, code=error.code, line="1") from None
    before = _figures(history, present, "before")
    after = _figures(history, wanted, "after")
    seen = comparison.Seen(
        history,
        before,
        after,
        recorded_waits(history.jobs),
        tuple(_strangers(history, wanted)),
        history.policy is not None,
    )
    if session.for_people:
        comparison.show(seen)
    else:
        print_one({"id": _id_of(history_file, policy_file), **comparison.document(seen)}, session.form)


def _figures(history: History, policy: FederationPolicy, which: str) -> Figures:
    from federation.app.kernels import fresh_kernels
    from federation.scheduling.prediction import Runtimes
    from federation.simulation.figures import figures
    from federation.simulation.replay import Replay
    from federation.simulation.sharing import agents_under, jobs_under

    fresh_kernels()
    agents, jobs = agents_under(policy.hubs, history.agents), jobs_under(policy.hubs, history.jobs)
    with _bar(which) as progress:
        outcome = Replay(agents, policy.order, predictor=Runtimes, progress=progress).run(jobs)
    return figures(jobs, agents, outcome, history.begins_ms, history.ends_ms)


def _id_of(*files: Path) -> str:
    """The same for the same input."""
    digest = hashlib.sha256()
    for file in files:
        digest.update(hashlib.sha256(file.read_bytes()).digest())
    return f"replay-{digest.hexdigest()[:12]}"


def _strangers(history: History, policy: FederationPolicy) -> Iterator[str]:
    """What the policy names and the history does not know: perhaps a slip of the pen, perhaps pseudonyms."""
    owners = {job.row.owner for job in history.jobs}
    hubs = {row.key[0] for row in history.agents} | {owner[0] for owner in owners}
    order = policy.order
    named: tuple[tuple[str, set[Any], set[Any]], ...] = (
        ("hubs", {*policy.hubs, *order.hub_weights, *_limited(order, 1)}, hubs),
        ("projects", {*order.project_weights, *_limited(order, 2)}, {owner[:2] for owner in owners}),
        ("users", {*order.user_weights, *_limited(order, 3)}, owners),
    )
    for what, wanted, known in named:
        unknown = sorted("/".join(name) if isinstance(name, tuple) else name for name in wanted - known)
        if unknown:
            more = f" and {len(unknown) - NAMES_TOLD_MAX} more" if len(unknown) > NAMES_TOLD_MAX else ""
            hint = "; were people's names replaced? see --names" if what == "users" else ""
            yield f"the policy names {what} that the history does not: {', '.join(unknown[:NAMES_TOLD_MAX])}{more}{hint}"


def _limited(order: Policy, names: int) -> set[Any]:
    """Those of so many names that have quotas of their own."""
    return {level if names > 1 else level[0] for level in order.quotas if len(level) == names and "*" not in level}


@contextmanager
def _bar(which: str) -> Iterator[Progress | None]:
    """A bar on a terminal for a long replay; nothing in a pipe."""
    if not sys.stderr.isatty():
        yield None
        return
    from rich.console import Console
    from rich.progress import Progress as Bar

    began = time.monotonic()
    with Bar(console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task(which, total=None, visible=False)

        def ended(jobs: int, of: int) -> None:
            bar.update(task, completed=jobs, total=of, visible=time.monotonic() - began > BAR_AFTER_S)

        yield ended


# ---- recording --------------------------------------------------------------------------------------------------------
def _export(session: Session, file: Path, since: str, names: bool, policy_file: Path | None) -> None:
    from federation.cli.show import print_one
    from federation.client.quantity import parse_duration_ms
    from federation.simulation.history import JOBS_MAX
    from federation.simulation.recording import record
    from federation.simulation.writing import format_history

    since_ms, key = parse_duration_ms(since, "--since"), None if names else _key(session)
    policy = None if policy_file is None else _policy_document(policy_file)
    with session.client() as client:
        hubs, jobs = client.list_hubs(), client.list(all_owners=True, limit=JOBS_MAX, each_attempt=True)
    at_ms = now_ms()
    made = record(hubs, jobs, at_ms, since_ms=max(0, at_ms - since_ms), pseudonym_key=key, policy=policy)
    new = file.with_name(file.name + ".new")
    with new.open("w", encoding="utf-8", newline="\n") as out:
        out.writelines(format_history(made.history))
    new.replace(file)
    value = {
        "id": str(file),
        "jobs": len(made.history.jobs),
        "agents": len(made.history.agents),
        "never_ran": made.never_ran,
        "still_running": made.still_running,
    }
    text = f"{file}: jobs {value['jobs']}, agents {value['agents']}"
    if made.never_ran:
        text += (
            f"\nleft out: {made.never_ran} that were not started, or wait again; nobody knows how long they would run"
        )
    if made.still_running:
        text += f"\nstill running: {made.still_running}; what they have run so far counts"
    print_one(value, session.form, text=text)
    if len({(job.owner.issuer, job.owner.subject) for job in jobs}) == 1:  # the server does not say whose it left out
        say("all jobs in it are one person's: with a token that is not an administrator's, only your own are exported")
    if session.for_people and not names:
        say("people have pseudonyms in it; --names keeps their names")


def _key(session: Session) -> bytes:
    """What pseudonyms are made with: only who has this call's token can test a guess."""
    token = session.settings().token
    if not token:
        raise invalid(
            "without a token there is nothing to make pseudonyms with", hint="Set BRHUB_TOKEN, or use --names."
        )
    return hashlib.sha256(b"brhub pseudonyms\0" + token.encode()).digest()


def _policy_document(file: Path) -> Mapping[str, Any]:
    """The policy in force, checked, as the history keeps it."""
    from federation.app.policyfile import federation_policy, policy_document

    document = policy_document(file)
    federation_policy(document)
    return document
