"""`brhub submit`: a job file, or a script with flags; the flags overlay the file.

Deliberately not here: what a job file means (`federation/client/specfile.py`), and following it (`following.py`).
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from federation.cli.session import Session, say, session_of, transfer_bar
from federation.errors import Code, FederationError, invalid

if TYPE_CHECKING:
    from federation.client import Client, Draft

JOB_FILE_ENDINGS = (".yaml", ".yml")


def register(app: typer.Typer) -> None:
    """Add the commands of this module."""
    app.command("submit")(submit)


def submit(  # noqa: PLR0913  # one argument for each flag of the contract
    context: typer.Context,
    *,
    what: Annotated[Path, typer.Argument(metavar="JOB.YAML|SCRIPT", help="A job file, or a program with --engine.")],
    arguments: Annotated[list[str] | None, typer.Argument(metavar="-- ARGS", help="The program's arguments.")] = None,
    engine: Annotated[str | None, typer.Option(help="spark, ray or command.")] = None,
    name: Annotated[str | None, typer.Option(help="A name for people.")] = None,
    cpus: Annotated[str | None, typer.Option(help="CPUs of each task: 2, 0.5.")] = None,
    memory: Annotated[str | None, typer.Option(help="Memory of each task: 2Gi.")] = None,
    disk: Annotated[str | None, typer.Option(help="Disk of each task: 1Gi.")] = None,
    gpus: Annotated[str | None, typer.Option(help="GPUs of each task: 1, 0.5.")] = None,
    gpu_model: Annotated[str | None, typer.Option(help="Which GPU: nvidia/A100.")] = None,
    replicas: Annotated[int | None, typer.Option(help="How many equal tasks.")] = None,
    inputs: Annotated[
        list[str] | None,
        typer.Option("--input", metavar="[AS=]DATASET[@VERSION]", help="A dataset it reads; again for more."),
    ] = None,
    hub: Annotated[list[str] | None, typer.Option(help="Run only at this hub; again for more.")] = None,
    prefer: Annotated[list[str] | None, typer.Option(help="Rather at this hub; again for more.")] = None,
    runtime_limit: Annotated[str | None, typer.Option(help="Longest run: 90s, 10m, 2h.")] = None,
    priority: Annotated[str | None, typer.Option(help="class, interactive, batch or scavenger.")] = None,
    requirements: Annotated[Path | None, typer.Option(help="A requirements file; built once per hub.")] = None,
    env: Annotated[
        list[str] | None, typer.Option(metavar="NAME=TEXT", help="An environment variable; again for more.")
    ] = None,
    package: Annotated[Path | None, typer.Option(help="The folder to send along; else the script alone.")] = None,
    idempotent: Annotated[
        bool | None, typer.Option("--idempotent/--not-idempotent", help="Running it twice does no harm.")
    ] = None,
    preemptible: Annotated[
        bool | None, typer.Option("--preemptible/--not-preemptible", help="May be put aside for others.")
    ] = None,
    on_partition: Annotated[str | None, typer.Option(help="keep, stop or rerun, when its hub is cut off.")] = None,
    tracking: Annotated[bool | None, typer.Option("--tracking/--no-tracking", help="An MLflow run (ray: on).")] = None,
    request_id: Annotated[str | None, typer.Option(help="The same id with the same job is the same job.")] = None,
    wait: Annotated[bool, typer.Option("--wait", help="Follow it to its end; exit 1 when it fails.")] = False,
    timeout: Annotated[str | None, typer.Option(help="With --wait: how long; exit 6 after it.")] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only say where it would run, and why.")] = False,
) -> int:
    """Submit a job and print its id."""
    session = session_of(context)
    flags = {
        "engine": engine, "name": name, "arguments": arguments or None, "priority": priority,
        "runtime_limit": runtime_limit, "idempotent": idempotent, "preemptible": preemptible,
        "on_partition": on_partition, "tracking": tracking,
        "inputs": [_input(text) for text in inputs] if inputs else None,
    }  # fmt: skip
    sections: dict[str, dict[str, Any]] = {
        "resources": {
            "cpus": cpus, "memory": memory, "disk": disk, "gpus": gpus, "gpu_model": gpu_model, "replicas": replicas,
        },
        "environment": {
            "requirements": str(requirements.absolute()) if requirements else None,
            "variables": dict(_variable(text) for text in env) if env else None,
        },
        "hubs": {"allow": hub, "prefer": prefer},
    }  # fmt: skip
    draft = _draft(session, what, package, flags, sections)
    with session.client() as client:
        if dry_run:
            return _dry_run(session, client, draft)
        with transfer_bar("sending the package") as progress:
            job_id = client.submit(draft, request_id, progress=progress)
        return _after(session, client, job_id, wait, timeout)


def _draft(
    session: Session, what: Path, package: Path | None, flags: dict[str, Any], sections: dict[str, dict[str, Any]]
) -> Draft:
    """The job file or the script, under the flags."""
    from federation.client.specfile import draft_from_mapping
    from federation.client.yamlfile import FILE_BYTES_MAX, load_mapping, read_text

    if what.suffix in JOB_FILE_ENDINGS and flags["engine"] is None:
        mapping = load_mapping(read_text(what, FILE_BYTES_MAX, "the job file"), repr(str(what)))
        folder = what.parent
        if package is not None:
            mapping["package"] = str(package.absolute())
    else:
        mapping, folder = _from_script(what, package, flags["engine"])
    mapping.update({key: value for key, value in flags.items() if value is not None})
    for key, section in sections.items():
        given = {name: value for name, value in section.items() if value is not None}
        if given:
            before = mapping.get(key)
            mapping[key] = {**(before if isinstance(before, dict) else {}), **given}
    if session.project:
        mapping["project"] = session.project
    elif "project" not in mapping:
        try:
            mapping["project"] = session.settings().project
        except FederationError:
            pass  # the job's own mistakes are told first; that nothing can be reached is told by the call
    return draft_from_mapping(mapping, folder)


def _from_script(what: Path, package: Path | None, engine: str | None) -> tuple[dict[str, Any], Path]:
    if engine is None:
        raise invalid(
            f"{what.name!r} is no job file, and no engine is named",
            hint="Add --engine spark, ray or command; or give a file that ends in .yaml.",
            field="engine",
        )
    if package is not None:
        inside = what if not what.is_absolute() and (package / what).is_file() else what.absolute()
        if inside.is_absolute():
            root = package.resolve()
            if not inside.resolve().is_relative_to(root):
                raise invalid(f"{str(what)!r} is not in {str(package)!r}", hint="Name a program of the package.")
            inside = inside.resolve().relative_to(root)
        return {"entrypoint": inside.as_posix(), "package": "."}, package
    if not what.is_file() and (engine != "command" or len(what.parts) > 1):
        raise invalid(f"there is no file {str(what)!r}", hint="Check the path of the program.", field="entrypoint")
    return {"entrypoint": what.name}, what.parent


def _input(text: str) -> dict[str, str]:
    alias, found, rest = text.rpartition("=")
    dataset, _, version = rest.partition("@")
    return {"dataset": dataset, "version": version, **({"as": alias} if found else {})}


def _variable(text: str) -> tuple[str, str]:
    name, found, value = text.partition("=")
    if not found or not name:
        raise invalid(f"--env {text[:80]!r} has no name", hint="Write NAME=TEXT.", field="environment.variables")
    return name, value


def _dry_run(session: Session, client: Client, draft: Draft) -> int:
    from federation.cli.jobs import show_explanation

    show_explanation(session, client.explain_spec(draft), "")
    return 0


def _after(session: Session, client: Client, job_id: str, wait: bool, timeout: str | None) -> int:
    """Print what was submitted; with --wait follow it and answer the exit status that its end means."""
    from federation.cli.following import follow, log_tail
    from federation.cli.show import document, print_one, state_of
    from federation.client.quantity import parse_duration_ms

    if session.for_people or not wait:
        value = document(client.get(job_id)) if session.form.value in ("json", "yaml") else {"id": job_id}
        print_one(value, session.form, text=job_id)
    if not wait:
        return 0
    timeout_s = parse_duration_ms(timeout, "timeout") / 1000 if timeout else None
    try:
        job = follow(client, job_id, timeout_s, say)
    except FederationError as error:
        if error.code is Code.TIMED_OUT and not session.for_people:
            print_one({"id": job_id}, session.form)
        raise
    except KeyboardInterrupt:
        say(f"It goes on: brhub job show {job_id}, or end it with brhub job cancel {job_id}")
        raise
    if state_of(job) == "FAILED":
        for line in log_tail(client, job_id):
            say(f"  {line}")
        say(f"do: brhub job logs {job_id}")
    if not session.for_people:
        print_one(document(job), session.form)
    return 0 if state_of(job) == "SUCCEEDED" else 1
