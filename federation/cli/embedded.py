"""`brhub up` and `down`: a whole federation on this machine, in one folder, that can be stopped and started again.

An object store, the control plane and one agent a hub, each a process group of its own. Deliberately not here: the
files (`layout.py`), the processes (`processes.py`), and anything that the same programs do elsewhere.
"""

from __future__ import annotations

import os
import socket
import sys
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from federation.cli import layout, processes
from federation.errors import Code, Fault, FederationError, invalid

if TYPE_CHECKING:
    from federation.client import Client, Settings

START_LIMIT_S = 90.0
POLL_S = 0.2
Say = Callable[[str], None]


@dataclass(frozen=True, slots=True)
class Wanted:
    """What the command line asked for; None means as before, or the default."""

    hubs: int | None = None
    sample_data: bool | None = None
    cpus: float | None = None
    memory_bytes: int | None = None
    fake: bool | None = None


def up(folder: Path, wanted: Wanted, say: Say) -> layout.Plan:
    """Start everything in `folder` and wait until every agent is online. On an error everything is stopped again.

    Raises: FederationError ILLEGAL_TRANSITION when it runs already, TIMED_OUT with the end of the log that matters.
    """
    import psutil

    folder = folder.resolve()
    if processes.noted(folder) or processes.marked(folder):
        raise FederationError(
            Code.ILLEGAL_TRANSITION,
            f"a federation runs in {str(folder)!r} already",
            fault=Fault.CALLER,
            hint=f"See `brhub up --dir {folder} --status`, or end it with `brhub down --dir {folder}`.",
            metadata={"folder": str(folder)},
        )
    _make(folder)
    plan = _plan(folder, wanted)
    plan = layout.complete(plan, psutil.virtual_memory().total)
    datasets = _sample_data(folder, plan, say) if plan.sample_data else {}
    layout.write_files(folder, plan, datasets)
    try:
        _start(folder, plan, say)
    except BaseException:
        processes.stop_all(folder, lambda _: None)
        raise
    return plan


def _make(folder: Path) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
        folder.chmod(0o700)  # tokens, journals and other people's outputs lie here
    except OSError as problem:
        raise invalid(
            f"{str(folder)!r} cannot be used: {problem.strerror}", hint="Choose another --dir.", folder=str(folder)
        ) from problem


def _plan(folder: Path, wanted: Wanted) -> layout.Plan:
    plan = layout.load_plan(folder) or layout.Plan()
    if wanted.hubs is not None and wanted.hubs != plan.hubs:
        plan.hubs = wanted.hubs
        plan.memory_bytes = 0  # shared anew
    if wanted.sample_data is not None:
        plan.sample_data = wanted.sample_data
    if wanted.cpus is not None:
        plan.cpus = wanted.cpus
    if wanted.memory_bytes is not None:
        plan.memory_bytes = wanted.memory_bytes
    if wanted.fake is not None:
        plan.fake = wanted.fake
    return plan


def _sample_data(folder: Path, plan: layout.Plan, say: Say) -> dict[str, tuple[str, Path]]:
    from federation.objects.samples import flights_by_airport

    say("laying out the sample data (336,776 flights)")
    folders = flights_by_airport(folder / "datasets")
    return {hub: (name, folders[name].absolute()) for hub, name in zip(plan.hub_ids, layout.SAMPLES, strict=False)}


def _start(folder: Path, plan: layout.Plan, say: Say) -> None:
    from federation.client import Client, Patience
    from federation.client.settings import write_settings

    began = time.monotonic()
    say("starting the object store")
    _start_objects(folder, plan)
    say("starting the control plane")
    _start_python("serve", ["serve", "--config", str(folder / "control.toml")], folder)
    settings = settings_of(plan)
    with Client(settings, Patience(call_s=5.0, retry_s=0.0)) as client:
        _until(lambda: _answers(client), folder, ["serve", "objects"], began, "the control plane does not answer")
        for hub_id in plan.hub_ids:
            say(f"starting the agent of {hub_id}")
            start_agent(folder, hub_id)
        online: set[str] = set()

        def all_online() -> bool:
            for hub_id in sorted(_online(client) - online):
                say(f"{hub_id} is online")
                online.add(hub_id)
            return online.issuperset(plan.hub_ids)

        names = ["serve", "objects", *(f"hub-{hub_id}" for hub_id in plan.hub_ids)]
        _until(
            all_online,
            folder,
            names,
            began,
            "not every agent came online",
            lambda: [hub_id for hub_id in plan.hub_ids if hub_id not in online],
        )
    # the page comes last: a control plane takes jobs before it has its queue in memory
    page = (layout.LOOPBACK, plan.ports["console"])
    _until(lambda: _listens(page), folder, ["serve"], began, "the operator's page does not answer")
    write_settings(folder, settings)


def settings_of(plan: layout.Plan) -> Settings:
    """How the one who started it reaches it."""
    from federation.client import Settings

    return Settings(
        server=f"{layout.LOOPBACK}:{plan.ports['grpc']}",
        token=plan.tokens[layout.USER],
        console=f"http://{layout.LOOPBACK}:{plan.ports['console']}",
    )


def _start_objects(folder: Path, plan: layout.Plan) -> None:
    from federation.objects.embedded import EmbeddedSettings, start_embedded

    log = folder / "logs" / "objects.log"
    before = os.environ.get(processes.MARKER)
    os.environ[processes.MARKER] = str(folder)  # inherited by the store, so that `down` finds it
    try:
        store = start_embedded(
            EmbeddedSettings(
                data_dir=folder / "objects",
                log_file=log,
                access_key=plan.access_key,
                secret_key=plan.secret_key,
                port=plan.ports["objects"],
            )
        )
    finally:
        if before is None:
            del os.environ[processes.MARKER]
        else:
            os.environ[processes.MARKER] = before
    # It outlives us on purpose; while we live, somebody must take note of its end.
    threading.Thread(target=_reap, args=(store.running,), daemon=True, name="wait-objects").start()
    processes.note("objects", store.pid, folder, log)


def _reap(running: Callable[[], bool]) -> None:
    pause = threading.Event()
    while running():
        pause.wait(POLL_S)


def start_agent(folder: Path, hub_id: str) -> processes.Started:
    """Start one hub's agent of a federation whose files are written; also again, after it was killed."""
    config = folder.resolve() / "hubs" / hub_id / "agent.toml"
    return _start_python(f"hub-{hub_id}", ["agent", "--config", str(config)], folder.resolve())


def _start_python(name: str, arguments: list[str], folder: Path) -> processes.Started:
    return processes.start(name, [sys.executable, "-m", "federation.cli", *arguments], folder, _import_path())


def _import_path() -> Mapping[str, str]:
    """In a checkout that is not installed, children find the packages where we did."""
    import federation

    home = Path(federation.__path__[0]).parent
    if "site-packages" in home.parts:
        return {}
    given = os.environ.get("PYTHONPATH", "")
    return {"PYTHONPATH": os.pathsep.join([str(home), *([given] if given else [])])}


def _answers(client: Client) -> bool:
    try:
        client.list_hubs()
    except FederationError as error:
        if error.code in (Code.UNREACHABLE, Code.TIMED_OUT, Code.STORE_UNAVAILABLE):
            return False
        raise
    return True


def _listens(address: tuple[str, int]) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(address) == 0


def _online(client: Client) -> set[str]:
    from federation.cli.show import link_of

    try:
        return {hub.id for hub in client.list_hubs() if link_of(hub) == "ONLINE"}
    except FederationError as error:
        if error.code in (Code.UNREACHABLE, Code.TIMED_OUT):
            return set()
        raise


def _until(
    check: Callable[[], bool],
    folder: Path,
    names: list[str],
    began_s: float,
    what: str,
    who: Callable[[], list[str]] = list,
) -> None:
    """Poll `check`; a process that ended, or the limit, is an error with the log that tells why."""
    pause = threading.Event()
    while not check():
        alive = {started.name for started in processes.noted(folder)}
        dead = [name for name in names if name not in alive]
        late = time.monotonic() - began_s > START_LIMIT_S
        if dead or late:
            blamed = dead or [f"hub-{hub_id}" for hub_id in who()] or names
            log = folder / "logs" / f"{blamed[0]}.log"
            problem = (
                f"{', '.join(dead)} ended" if dead else f"{what} within {START_LIMIT_S:.0f} s: {', '.join(blamed)}"
            )
            raise FederationError(
                Code.INTERNAL if dead else Code.TIMED_OUT,
                f"{problem}\nthe end of {log}:\n{processes.log_tail(log)}",
                fault=Fault.FEDERATION,
                hint=f"The whole log is {log}; everything that was started has been stopped again.",
                metadata={"log": str(log)},
            )
        pause.wait(POLL_S)


def status(folder: Path) -> dict[str, Any]:
    """What runs in `folder`: a document for `up --status`."""
    folder = folder.resolve()
    plan = layout.load_plan(folder)
    running = processes.noted(folder)
    return {
        "id": str(folder),
        "running": bool(running),
        "processes": [{"id": started.name, "pid": started.pid, "log": started.log} for started in running],
        "ended": [{"id": started.name, "log": started.log} for started in processes.ended(folder)],
        "other_processes": max(0, len(processes.marked(folder)) - len(running)),
        **(addresses(folder, plan) if plan and running else {}),
    }


def addresses(folder: Path, plan: layout.Plan) -> dict[str, Any]:
    """Where everything of a running federation is."""
    return {
        "server": f"{layout.LOOPBACK}:{plan.ports['grpc']}",
        "console": f"http://{layout.LOOPBACK}:{plan.ports['console']}/",
        "sign_in": f"http://{layout.LOOPBACK}:{plan.ports['console']}/login?token={plan.tokens[layout.USER]}",
        "objects": f"http://{layout.LOOPBACK}:{plan.ports['objects']}/",
        "folder": str(folder),
        "hubs": plan.hub_ids,
    }


def down(folder: Path, say: Say) -> int:
    """End every process of the federation in `folder`, data kept; how many there were. Repeating it is harmless."""
    folder = folder.resolve()
    ended = processes.stop_all(folder, say)
    (folder / "client.json").unlink(missing_ok=True)
    return ended
