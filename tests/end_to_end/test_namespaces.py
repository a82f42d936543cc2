"""A hub of two machines, each in a network of its own, and a control plane in a third: TLS everywhere, real cuts."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import yaml

from federation.cli import layout
from federation.identity.principal import LOCAL_ISSUER, OPERATOR, Principal, PrincipalKind
from federation.identity.tokens import TokenFile
from federation.objects.embedded import find_rclone
from tests.support.certificates import CertificateAuthority
from tests.support.embedded_federation import PATIENCE_S, Said, environment
from tests.support.eventually import eventually
from tests.support.namespaces import Host, hosts
from tests.support.spare_processes import Spare

pytestmark = [
    pytest.mark.timeout(400),
    pytest.mark.root,
    pytest.mark.skipif(os.geteuid() != 0, reason="network namespaces need root"),
    pytest.mark.skipif(not shutil.which("ip") or not shutil.which("nft"), reason="needs the programs ip and nft"),
]

CUT_S = 10.0
WHERE = """\
import json, os, pathlib, subprocess, threading
address = subprocess.run(["ip", "-json", "address", "show", "dev", "out"], capture_output=True, check=True).stdout
(found,) = [entry["local"] for entry in json.loads(address)[0]["addr_info"] if entry["family"] == "inet"]
pathlib.Path(os.environ["BRHUB_OUTPUT_DIR"], "where.json").write_text(json.dumps(found))
print("at", found)
bell = os.environ.get("BELL")
while bell and not pathlib.Path(bell).exists():
    threading.Event().wait(0.1)
"""


@dataclass
class Site:
    """The control plane's host, the two agents' hosts, and how to call from the first."""

    control: Host
    agents: dict[str, Host]
    folder: Path
    env: dict[str, str]
    server: str

    def brhub(self, *words: object, **variables: str) -> Said:
        """`brhub WORDS` on the control plane's host."""
        command = self.control.inside(sys.executable, "-m", "federation.cli", *map(str, words))
        env = {**self.env, **variables}
        done = subprocess.run(command, env=env, capture_output=True, text=True, check=False, timeout=240)
        return Said(done.returncode, done.stdout, done.stderr)

    def submit(self, name: str, **changes: Any) -> str:
        """Submit the program that says where it runs; its id."""
        spec = {
            "name": name, "engine": "command", "entrypoint": "where.py", "package": str(self.folder / "package"),
            "resources": {"cpus": 2, "memory": "128Mi"}, **changes,
        }  # fmt: skip
        (self.folder / f"{name}.yaml").write_text(yaml.safe_dump(spec))
        said = self.brhub("submit", self.folder / f"{name}.yaml")
        assert said.status == 0, said.err
        return said.out.strip()

    def job(self, job_id: str) -> dict[str, Any]:
        """The job as it is."""
        said = self.brhub("job", "show", job_id, "-o", "json")
        assert said.status == 0, said.err
        return dict(said.document)

    def in_state(self, job_id: str, state: str) -> dict[str, Any]:
        """The job, once it is in this state."""

        def look() -> dict[str, Any]:
            job = self.job(job_id)
            assert job["state"] == state, job["reason"]
            return job

        return eventually(look, PATIENCE_S)

    def result(self, job_id: str) -> str:
        """Where the job found itself."""
        said = self.brhub("job", "fetch", job_id, self.folder / job_id)
        assert said.status == 0, said.err
        return str(json.loads((self.folder / job_id / "where.json").read_text()))


def plain_environment(**variables: str) -> dict[str, str]:
    """A person's environment, without proxies: from these networks there is no way to one."""
    return {name: text for name, text in environment(None).items() if not name.lower().endswith("_proxy")} | variables


def start_objects(folder: Path, host: Host, authority: CertificateAuthority) -> Spare:
    """The object store with TLS, on this host."""
    pair = authority.server(host.address, file="objects")
    (folder / "objects").mkdir()
    words = [str(find_rclone()), "serve", "s3", "--addr", f"{host.address}:9000"]
    words += ["--cert", str(pair.certificate), "--key", str(pair.key), str(folder / "objects")]
    env = plain_environment(RCLONE_AUTH_KEY='"namespaces,namespaces-secret"', RCLONE_CONFIG=os.devnull)
    return Spare(host.inside(*words), folder / "objects.log", env=env)


def control_file(folder: Path, host: Host, authority: CertificateAuthority) -> Path:
    """The control plane's settings: TLS for gRPC, and an object store that is reached by TLS."""
    pair = authority.server(host.address, file="control")
    file = folder / "control.toml"
    file.write_text(
        layout.toml(
            {
                "server": {
                    "listen": f"{host.address}:7460",
                    "data_dir": str(folder / "data"),
                    "tokens_file": str(folder / "tokens.json"),
                },
                "objects": {
                    "endpoint": f"https://{host.address}:9000",
                    "access_key": "namespaces",
                    "secret_key": "namespaces-secret",
                    "ca": str(authority.ca_file),
                },
                "tls": {"cert": str(pair.certificate), "key": str(pair.key)},
            }
        )
    )
    return file


def agent_file(folder: Path, name: str, site: Site, token: str, ca: Path) -> Path:
    """The settings of one of the hub's agents."""
    (folder / name).mkdir()
    file = folder / name / "agent.toml"
    file.write_text(
        layout.toml(
            {
                "hub_id": "cairo",
                "agent_id": name,
                "server": site.server,
                "token": token,
                "ca": str(ca),
                "state_dir": str(folder / name / "state"),
                "engines": ["command"],
                "offer": {"cpus": 2, "memory": 2**30},
            }
        )
    )
    return file


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    """Up, with both agents online; everything ended and every namespace gone afterwards."""
    folder = tmp_path_factory.mktemp("namespaces")
    authority = CertificateAuthority(folder)
    (folder / "package").mkdir()
    (folder / "package" / "where.py").write_text(WHERE)
    tokens = TokenFile.create(folder / "tokens.json")
    admin = tokens.issue(Principal(PrincipalKind.ADMIN, LOCAL_ISSUER, "root", "cairo", ("default",), (OPERATOR,)))
    hub = tokens.issue(Principal(PrincipalKind.HUB, LOCAL_ISSUER, "cairo", "cairo"))
    started: list[Spare] = []
    with hosts(3) as (control, first, second):
        server = f"{control.address}:7460"
        env = plain_environment(BRHUB_SERVER=server, BRHUB_TOKEN=admin, BRHUB_CA=str(authority.ca_file))
        found = Site(control, {"node-a": first, "node-b": second}, folder, env, server)
        brhub = (sys.executable, "-m", "federation.cli")
        try:
            started.append(start_objects(folder, control, authority))
            config = control_file(folder, control, authority)
            words = control.inside(*brhub, "serve", "--config", str(config))
            started.append(Spare(words, folder / "serve.log", env=plain_environment()))
            started[-1].says("serving on")
            for name, host in found.agents.items():
                config = agent_file(folder, name, found, hub, authority.ca_file)
                words = host.inside(*brhub, "agent", "--config", str(config))
                started.append(Spare(words, folder / f"{name}.log", env=plain_environment()))
            for agent in started[2:]:
                agent.says("session open")
            yield found
        finally:
            statuses = [process.end() for process in reversed(started)]
        assert statuses[:2] == [0, 0]


def test_one_hub_shows_two_machines(site: Site) -> None:
    """Both are reached by their own address, over TLS."""
    hub = site.brhub("hub", "show", "cairo", "-o", "json").document
    assert sorted(agent["agent_id"] for agent in hub["agents"]) == ["node-a", "node-b"]
    assert site.brhub("node", "list", "-o", "name").out.split() == ["cairo/node-a", "cairo/node-b"]


def test_each_machine_runs_a_job_with_a_package_and_a_result(site: Site) -> None:
    """Bytes go straight between machine and object store, over TLS; each program ran on its own network."""
    bell = site.folder / "first-bell"
    variables = {"environment": {"variables": {"BELL": str(bell)}}}
    jobs = [site.submit(name, **variables) for name in ("one", "two")]
    running = {site.in_state(job_id, "RUNNING")["agent_id"]: job_id for job_id in jobs}
    assert sorted(running) == ["node-a", "node-b"]
    bell.touch()
    for agent_id, job_id in running.items():
        assert site.in_state(job_id, "SUCCEEDED")["attempts"] == 1
        assert site.result(job_id) == site.agents[agent_id].address
        assert site.brhub("job", "logs", job_id).out == f"at {site.agents[agent_id].address}\n"


def test_a_gang_does_not_span_two_agents(site: Site) -> None:
    """What fits the hub but no single agent never fits; what fits one agent runs there whole."""
    wide = site.submit("wide", resources={"replicas": 2, "cpus": 2, "memory": "64Mi"})
    reasons = site.brhub("job", "explain", wide, "-o", "json").document["reasons"]
    assert [reason["code"] for reason in reasons if reason["hub_id"] == "cairo"] == ["SHAPE_NEVER_FITS"]
    assert site.job(wide)["state"] == "QUEUED"
    narrow = site.submit("narrow", resources={"replicas": 2, "cpus": 1, "memory": "64Mi"})
    job = site.in_state(narrow, "SUCCEEDED")
    assert job["nodes"] == [job["agent_id"]] * 2
    assert site.brhub("job", "cancel", wide).status == 0


def test_nothing_is_served_or_said_in_the_clear(site: Site) -> None:
    """Without TLS the control plane does not listen there; without the right authority nobody sends it a token."""
    words = ("serve", "--set", f"server.listen={site.control.address}:7461", "--set", f"server.data_dir={site.folder}")
    said = site.brhub(*words)
    assert (said.status, said.error["code"], said.error["fault"]) == (2, "TLS_REQUIRED", "caller")
    plain = site.brhub("--server", f"http://{site.server}", "hub", "list")
    assert (plain.status, plain.error["code"]) == (2, "TLS_REQUIRED")
    stranger = site.brhub("hub", "list", BRHUB_CA="")
    assert (stranger.status, stranger.error["code"]) == (5, "UNREACHABLE")


def test_a_machine_that_was_cut_off_comes_back_and_its_run_is_unharmed(site: Site) -> None:
    """Its program ends while nobody can hear of it: nothing is believed meanwhile, and the result comes afterwards."""
    bell = site.folder / "second-bell"
    job_id = site.submit("cut-off", environment={"variables": {"BELL": str(bell)}})
    job = site.in_state(job_id, "RUNNING")
    host = site.agents[job["agent_id"]]
    with host.cut_off():
        bell.touch()
        began_s = time.monotonic()
        eventually(lambda: time.monotonic() - began_s > CUT_S, CUT_S + 5, "the cut to be long enough")
        assert site.job(job_id)["state"] == "RUNNING"
        other = site.submit("meanwhile")
        assert site.in_state(other, "SUCCEEDED")["agent_id"] != job["agent_id"]
    after = site.in_state(job_id, "SUCCEEDED")
    assert (after["attempts"], after["attempt"]) == (1, job["attempt"])
    assert site.result(job_id) == host.address
