"""`brhub up`, `down`, `serve`, `agent`, `demo`, `doctor`: to run a federation.

Deliberately not here: how they do it (`embedded.py`, `federation/app.py`, `hub_node/app.py`, `doctor.py`).
"""

from __future__ import annotations

import signal
import threading
from pathlib import Path
from typing import Annotated, Any

import typer

from federation.cli.session import Session, say, session_of
from federation.errors import Code, Fault, FederationError

Folder = Annotated[Path, typer.Option("--dir", envvar="BRHUB_DIR", help="Where it lives.")]
DEFAULT_FOLDER = Path(".brhub")


def register(app: typer.Typer) -> None:
    """Add the commands of this module."""
    app.command("up")(up)
    app.command("down")(down)
    app.command("demo")(demo)
    app.command("serve")(serve)
    app.command("agent")(agent)
    app.command("doctor")(doctor)


def up(  # noqa: PLR0913  # one argument a flag
    context: typer.Context,
    *,
    folder: Folder = DEFAULT_FOLDER,
    hubs: Annotated[int | None, typer.Option(min=1, max=50, help="How many hubs (3, or as before).")] = None,
    detach: Annotated[bool, typer.Option("--detach", help="Return once it runs; end it with `brhub down`.")] = False,
    sample_data: Annotated[
        bool | None,
        typer.Option(
            "--sample-data/--no-sample-data", help="Give the first three hubs the flights of one airport each."
        ),
    ] = None,
    cpus: Annotated[float | None, typer.Option(min=0.1, help="What each hub offers (2).")] = None,
    memory: Annotated[str | None, typer.Option(help="What each hub offers (this machine's, shared).")] = None,
    fake: Annotated[bool | None, typer.Option("--fake/--no-fake", hidden=True)] = None,
    status: Annotated[bool, typer.Option("--status", help="Only say what runs.")] = False,
) -> int:
    """Run a whole federation on this machine.

    Object store, control plane and hubs; what it was started with before stays as it was.
    """
    from federation.cli import embedded
    from federation.client.quantity import parse_bytes

    session, folder = session_of(context), folder.resolve()  # what is printed works from every other folder too
    if status:
        return _status(session, folder)
    wanted = embedded.Wanted(hubs, sample_data, cpus, parse_bytes(memory, "memory") if memory else None, fake)
    stop = threading.Event()
    if not detach:
        # from here on a signal ends what was started, whatever it interrupts
        for sign in (signal.SIGTERM, signal.SIGHUP):
            signal.signal(sign, _interrupt)
    try:
        plan = embedded.up(folder, wanted, say)
        value = {"id": str(folder), "running": True, **embedded.addresses(folder, plan)}
        _print_addresses(session, value, folder, detach)
        if not detach:
            stop.wait()
    except KeyboardInterrupt:
        say("ending it")
        embedded.down(folder, say)
    return 0


def _interrupt(signum: int, frame: object) -> None:  # noqa: ARG001  # the signature of a signal handler
    raise KeyboardInterrupt


def _status(session: Session, folder: Path) -> int:
    from federation.cli import embedded
    from federation.cli.show import print_one

    value = embedded.status(folder)
    if session.for_people:
        if value["running"]:
            _print_addresses(session, value, folder, detach=True)
            for process in value["processes"]:
                print(f"{process['id']:<24} pid {process['pid']}")
            for process in value["ended"]:
                print(f"{process['id']:<24} does not run any more; its log: {process['log']}")
        else:
            print(f"nothing runs in {value['id']}")
    else:
        print_one(value, session.form)
    return 0 if value["running"] else 1


def _print_addresses(session: Session, value: dict[str, Any], folder: Path, detach: bool) -> None:
    from federation.cli.show import print_one

    lines = [
        f"server   {value['server']}   (gRPC; BRHUB_DIR={folder} finds it)",
        f"console  {value['sign_in']}",
        f"objects  {value['objects']}   (S3)",
        f"hubs     {', '.join(value['hubs'])}",
        f"end it   brhub down --dir {folder}" if detach else "end it   Ctrl-C",
    ]
    print_one(value, session.form, text="\n".join(lines))


def down(context: typer.Context, folder: Folder = DEFAULT_FOLDER) -> None:
    """End the federation in a folder, and every process of it. Its data stays."""
    from federation.cli import embedded
    from federation.cli.show import print_one

    session, folder = session_of(context), folder.resolve()
    ended = embedded.down(folder, say)
    text = (
        f"ended {ended} {'process' if ended == 1 else 'processes'}; the data stays in {folder}"
        if ended
        else f"nothing ran in {folder}"
    )
    print_one({"id": str(folder), "ended": ended}, session.form, text=text)


def demo(
    core: Annotated[bool, typer.Option("--core", help="The small one: scheduling and Spark.")] = False,
    keep: Annotated[bool, typer.Option("--keep", help="Leave the federation running.")] = False,
) -> int:
    """Run the tour: three hubs, real jobs, each step checked."""
    from federation.cli.tour import run_tour

    return run_tour(core=core, keep=keep)


def serve(
    config: Annotated[Path | None, typer.Option(help="control.toml.")] = None,
    settings: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="SECTION.KEY=VALUE", help="Overrides one setting; again for more."),
    ] = None,
) -> int:
    """Run the control plane."""
    from federation.app import serve_main

    overrides: dict[str, dict[str, str]] = {}
    for text in settings or ():
        section, key, value = _setting(text)
        overrides.setdefault(section, {})[key] = value
    return int(serve_main(str(config) if config else None, overrides) or 0)


def _setting(text: str) -> tuple[str, str, str]:
    name, found, value = text.partition("=")
    section, dot, key = name.partition(".")
    if not found or not dot or not key:
        raise FederationError(
            Code.CONFIGURATION_INVALID,
            f"--set {text[:80]!r} sets nothing",
            fault=Fault.CALLER,
            hint="Write SECTION.KEY=VALUE.",
        )
    return section, key, value


def agent(
    context: typer.Context,
    config: Annotated[Path, typer.Option(help="agent.toml.")],
    join_new_store: Annotated[
        bool,
        typer.Option(
            "--join-new-store", help="Do not run: tell the agent to leave its store for the one it now meets."
        ),
    ] = False,
) -> int:
    """Run a hub's agent."""
    if join_new_store:
        return _join_new_store(session_of(context), config)
    from hub_node.app import agent_main

    return int(agent_main(str(config)) or 0)


def _join_new_store(session: Session, config: Path) -> int:
    """The operator's word that an agent's old store is gone for good."""
    from federation.cli.show import print_one
    from federation.client import Client
    from hub_node import belonging
    from hub_node.config import load

    settings = load(config)
    here = belonging.read(settings.state_dir)
    with Client(settings.link) as client:
        there = client.server_info().store_id
    if not there:
        raise FederationError(
            Code.PROTOCOL_UNSUPPORTED,
            "the control plane does not say which store it has: it is older, and lets the agent in as it is",
            fault=Fault.FEDERATION,
            hint="Nothing needs to be done.",
        )
    name = f"{settings.hub_id}/{settings.agent_id}"
    value: dict[str, Any] = {"id": name, "store": there, "store_before": here.store_id, "runs": here.runs}
    if here.store_id in ("", there):
        print_one({**value, "file": ""}, session.form, text=f"{name} belongs to the store {there} already")
        return 0
    file = belonging.join(settings.state_dir, there)
    text = (
        f"{name} leaves the store {here.store_id} for {there} when it next tries, within 20 s.\n"
        f"Its {here.runs} runs of before will be ended there. To take that back until then: rm {file}"
    )
    print_one({**value, "file": str(file)}, session.form, text=text)
    return 0


def doctor(
    context: typer.Context,
    agent_file: Annotated[
        Path | None, typer.Option("--agent", metavar="AGENT.TOML", help="Look as the agent of this file does.")
    ] = None,
) -> int:
    """Look for what breaks on the way to the federation.

    Name, TCP, proxy, TLS, gRPC, version, token, clock; then what this machine lacks: tools and disk.
    """
    from federation.cli.doctor import run

    return run(session_of(context), agent_file)
