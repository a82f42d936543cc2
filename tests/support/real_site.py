"""A federation of real processes, a network of its own each: a control plane with its object store, and three hubs.

Programs as shipped but for the lengths of `shortened.py`; TLS everywhere. The third hub sits behind a campus proxy, which
can be slow; each hub's state lies on a small disk, which can be full. Here: starting, ending and finding the processes.
Not here: faults (`real_faults.py`), jobs (`real_load.py`), what must hold (`real_promises.py`).
"""

from __future__ import annotations

import json
import os
import signal
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from federation.cli import layout
from federation.client import Client, Patience, Settings
from federation.errors import FederationError
from federation.identity.principal import LOCAL_ISSUER, OPERATOR, Principal, PrincipalKind
from federation.identity.tokens import TokenFile
from federation.objects.embedded import find_rclone
from tests.support.certificates import CertificateAuthority
from tests.support.embedded_federation import PATIENCE_S, environment
from tests.support.eventually import eventually
from tests.support.namespaces import Host, hosts
from tests.support.proxy import Middlebox
from tests.support.spare_processes import Spare, small_disk

HUBS = ("cairo", "kuala-lumpur", "shenzhen")
BEHIND_PROXY = "shenzhen"
CPUS = 4
CONTROL, OBJECTS = "control", "objects"
KEY, SECRET = "real-faults", "real-faults-secret"


@dataclass(slots=True)
class Site:
    """Where everything is, and what runs."""

    folder: Path
    hosts: dict[str, Host]
    """The control plane's as "control", and each hub's."""
    authority: CertificateAuthority
    proxy: Middlebox
    admin: str
    running: dict[str, Spare] = field(default_factory=dict)
    """By name: "control", "objects", and each hub's agent."""

    @property
    def server(self) -> str:
        """HOST:PORT of the control plane."""
        return f"{self.hosts[CONTROL].address}:7460"

    @property
    def trace(self) -> Path:
        """Where programs write what happened to them."""
        return self.folder / "trace"

    @property
    def store(self) -> Path:
        """The control plane's database."""
        return self.folder / "data" / "federation.db"

    def state(self, hub: str) -> Path:
        """An agent's own folder, on a small disk."""
        return self.folder / hub / "disk" / "state"

    def client(self, patience: Patience | None = None) -> Client:
        """A client of the administrator, from this machine."""
        settings = Settings(server=self.server, token=self.admin, ca=str(self.authority.ca_file), proxy="none")
        return Client(settings, patience)

    # ---- processes --------------------------------------------------------------------------------------------------
    def start(self, name: str) -> Spare:
        """Start "control", "objects", or a hub's agent; returns at once."""
        env = {key: text for key, text in environment(None).items() if not key.lower().endswith("_proxy")}
        if name == OBJECTS:
            host = self.hosts[CONTROL]
            words = [str(find_rclone()), "serve", "s3", "--addr", f"{host.address}:9000"]
            words += ["--cert", str(self.folder / "objects.pem"), "--key", str(self.folder / "objects.key")]
            words.append(str(self.folder / "objects"))
            env |= {"RCLONE_AUTH_KEY": f'"{KEY},{SECRET}"', "RCLONE_CONFIG": os.devnull}
        elif name == CONTROL:
            host = self.hosts[CONTROL]
            config = self.folder / "control.toml"
            words = [sys.executable, "-m", "tests.support.shortened", "serve", "--config", str(config)]
        else:
            host = self.hosts[name]
            words = [
                sys.executable,
                "-m",
                "federation.cli",
                "agent",
                "--config",
                str(self.folder / name / "agent.toml"),
            ]
        self.running[name] = Spare(host.inside(*words), self.folder / f"{name}.log", env=env)
        return self.running[name]

    def kill(self, name: str) -> None:
        """SIGKILL to that one process; returns when it is gone."""
        self.running[name].end(signal.SIGKILL)

    def end(self) -> None:
        """End all, also what a fault left stopped or dead; each of ours must go when it is asked to."""
        for process in self.running.values():
            if process.status is None:
                os.kill(process.pid, signal.SIGCONT)
        with ExitStack() as each:  # one that does not go must not keep the others
            for name, process in self.running.items():
                each.callback(self._ends_well, name, process)

    @staticmethod
    def _ends_well(name: str, process: Spare) -> None:
        status = process.end(signal.SIGUSR1 if name in HUBS else signal.SIGTERM)  # an agent ends with its runs
        assert name == OBJECTS or status == 0, f"{name} ended with status {status}"

    def answers(self) -> None:
        """Wait until the control plane answers."""

        def look() -> bool:
            control = self.running[CONTROL]
            assert control.status is None, control.log[-2000:]
            try:
                client.list_hubs()
            except FederationError as error:
                raise LookupError(str(error)) from error
            return True

        with self.client(Patience(call_s=2.0, retry_s=0.0)) as client:
            eventually(look, PATIENCE_S, "the control plane to answer")

    def pid(self, name: str) -> int:
        """The process itself: `ip netns exec` becomes what it starts."""
        return self.running[name].pid

    def guard_of(self, hub: str, job_id: str, attempt: str) -> int:
        """The pid of an attempt's guard. Raises: LookupError when there is none."""
        file = self.state(hub) / "attempts" / job_id / attempt / "guard.json"
        try:
            return int(json.loads(file.read_text())["pid"])
        except (OSError, ValueError) as problem:
            raise LookupError(str(file)) from problem

    # ---- files ------------------------------------------------------------------------------------------------------
    def write_files(self) -> None:
        """Tokens, certificates and settings of all."""
        control = self.hosts[CONTROL]
        pair = self.authority.server(control.address, file="control")
        self.authority.server(control.address, file="objects")
        for name in ("trace/locks", "bells", "objects"):
            (self.folder / name).mkdir(parents=True)
        tokens = TokenFile.create(self.folder / "tokens.json")
        self.admin = tokens.issue(
            Principal(PrincipalKind.ADMIN, LOCAL_ISSUER, "root", HUBS[0], ("default",), (OPERATOR,))
        )
        server = {
            "listen": self.server,
            "data_dir": str(self.store.parent),
            "tokens_file": f"{self.folder}/tokens.json",
        }
        objects = {"endpoint": f"https://{control.address}:9000", "access_key": KEY, "secret_key": SECRET}
        document = {
            "server": server,
            "objects": {**objects, "ca": str(self.authority.ca_file)},
            "tls": {"cert": str(pair.certificate), "key": str(pair.key)},
        }
        (self.folder / "control.toml").write_text(layout.toml(document))
        for hub in HUBS:
            agent = {
                "hub_id": hub,
                "server": self.server,
                "token": tokens.issue(Principal(PrincipalKind.HUB, LOCAL_ISSUER, hub, hub)),
                "ca": str(self.authority.ca_file),
                "state_dir": str(self.state(hub)),
                "engines": ["command"],
                "proxy": self.proxy.url if hub == BEHIND_PROXY else "none",
                "offer": {"cpus": CPUS, "memory": 2**31},
                "checkpoints": {"every": "2s"},
            }
            (self.folder / hub / "agent.toml").write_text(layout.toml(agent))


@contextmanager
def site(folder: Path) -> Iterator[Site]:
    """Up, with every agent's session open; everything ended, and every network and disk gone, afterwards."""
    with ExitStack() as stack:
        made = stack.enter_context(hosts(1 + len(HUBS), f"198.18.{os.getpid() % 250 + 1}", ours=True))
        by_name = dict(zip((CONTROL, *HUBS), made, strict=True))
        for hub in HUBS:
            (folder / hub).mkdir()
            stack.enter_context(small_disk(folder / hub / "disk", "24m"))
        proxy = stack.enter_context(Middlebox(place=by_name[BEHIND_PROXY].enter))
        found = Site(folder, by_name, CertificateAuthority(folder), proxy, "")
        found.write_files()
        stack.callback(found.end)
        for name in (OBJECTS, CONTROL):
            found.start(name)
        found.running[CONTROL].says("serving on")
        for hub in HUBS:
            found.start(hub)
        for hub in HUBS:
            found.running[hub].says("session open")
        yield found
