"""The files of an embedded federation: ports, tokens, control.toml, one agent.toml a hub, client.json.

Written anew by each `brhub up` from `federation.json`, which remembers what was asked for; ports, tokens and keys are
kept, and so is what an operator added to control.toml. Deliberately not here: processes (`processes.py`) and what the settings mean (`federation/app.py`, `hub_node/app.py`).
"""

from __future__ import annotations

import getpass
import importlib.util
import json
import re
import secrets
import shutil
import socket
import tomllib
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from federation.errors import Code, FederationError, invalid
from federation.identity.principal import LOCAL_ISSUER, OPERATOR, Principal, PrincipalKind
from federation.identity.tokens import TokenFile, mint_token

HUB_NAMES = ("kuala-lumpur", "cairo", "shenzhen")
SAMPLES = ("flights-ewr", "flights-jfk", "flights-lga")
"""By hub, in the order of HUB_NAMES."""
TITLES = {"kuala-lumpur": "Kuala Lumpur", "cairo": "Cairo", "shenzhen": "Shenzhen"}
HUBS_MAX = 50
STATE_FILE = "federation.json"
MIB = 2**20
MEMORY_KEPT_BYTES = 2**30
"""Of this machine's memory, for the control plane and whoever sits at it."""
PORTS = ("grpc", "admin", "console", "objects")
LOOPBACK = "127.0.0.1"
CONTROL_HEAD = (
    "# `brhub up` sets addresses, keys and paths anew; sections and keys that you add stay, and so does [tracking].\n"
    "# Comments do not.\n\n"
)
GUESSED = frozenset({("tracking", "enabled")})
"""What `up` only proposes in control.toml: what stands there already was perhaps an operator's choice, and stays."""
_BARE = re.compile(r"[A-Za-z0-9_-]+")
USER = "user"
"""The key of the starter's own token among the hubs' tokens."""


@dataclass(slots=True)
class Plan:
    """What an embedded federation is made of; saved between `up` and `up`."""

    hubs: int = 3
    sample_data: bool = False
    cpus: float = 2.0
    """What each hub offers, whatever the machine has: several hubs share it."""
    memory_bytes: int = 0
    """As above; 0 until it is known."""
    fake: bool = False
    ports: dict[str, int] = field(default_factory=dict)
    access_key: str = ""
    secret_key: str = ""
    tokens: dict[str, str] = field(default_factory=dict)
    """By hub id, and "user" for the one who started it."""

    @property
    def hub_ids(self) -> list[str]:
        """kuala-lumpur, cairo, shenzhen, hub-4, ..."""
        return [HUB_NAMES[n] if n < len(HUB_NAMES) else f"hub-{n + 1}" for n in range(self.hubs)]


def load_plan(folder: Path) -> Plan | None:
    """What was asked for before; None in a new folder. Raises: FederationError when the file is damaged."""
    path = folder / STATE_FILE
    try:
        return Plan(**json.loads(path.read_text(encoding="utf-8")))
    except FileNotFoundError:
        return None
    except (ValueError, TypeError) as problem:
        raise invalid(
            f"{str(path)!r} is damaged: {problem}",
            code=Code.CONFIGURATION_INVALID,
            hint="Remove that one file; the data stays.",
            path=str(path),
        ) from problem


def complete(plan: Plan, memory_total_bytes: int) -> Plan:
    """Draw what is still missing: free ports, keys, tokens, memory. What is there is kept, where ports are free."""
    if not 1 <= plan.hubs <= HUBS_MAX:
        raise invalid(f"{plan.hubs} hubs are out of range", hint=f"Use 1 to {HUBS_MAX}.", field="hubs")
    if not plan.memory_bytes:
        each = (memory_total_bytes - MEMORY_KEPT_BYTES) // plan.hubs
        plan.memory_bytes = max(512 * MIB, each // (256 * MIB) * (256 * MIB))
    plan.access_key = plan.access_key or f"brhub{secrets.token_hex(6)}"
    plan.secret_key = plan.secret_key or secrets.token_hex(20)
    plan.tokens.setdefault(USER, mint_token(PrincipalKind.ADMIN))
    for hub_id in plan.hub_ids:
        plan.tokens.setdefault(hub_id, mint_token(PrincipalKind.HUB))
    plan.ports = _free_ports(plan.ports)
    return plan


def _free_ports(wanted: dict[str, int]) -> dict[str, int]:
    """One port for each name, the wanted one where it is free. All are held until all are chosen, so none repeats."""
    chosen, held = {}, []
    try:
        for name in PORTS:
            holder = socket.socket()
            held.append(holder)
            holder.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                holder.bind((LOOPBACK, wanted.get(name, 0)))
            except OSError:
                holder.bind((LOOPBACK, 0))
            chosen[name] = int(holder.getsockname()[1])
    finally:
        for holder in held:
            holder.close()
    return chosen


def write_files(folder: Path, plan: Plan, datasets: dict[str, tuple[str, Path]]) -> None:
    """All files. `datasets`: by hub id, (dataset name, its folder).

    Raises: FederationError CONFIGURATION_INVALID when control.toml holds what cannot be kept; it is left as it is.
    """
    _write(folder / STATE_FILE, json.dumps(asdict(plan), indent=2) + "\n")
    _enter_tokens(folder / "tokens.json", plan)
    control = folder / "control.toml"
    _write(control, CONTROL_HEAD + toml(_with_what_was_added(control, _control(folder, plan))))
    for hub_id in plan.hub_ids:
        home = folder / "hubs" / hub_id
        home.mkdir(parents=True, exist_ok=True)
        _write(home / "agent.toml", toml(_agent(home, plan, hub_id, datasets.get(hub_id))))


def _enter_tokens(path: Path, plan: Plan) -> None:
    """Let our tokens in; tokens that others issued here since stay."""
    tokens = TokenFile.create(path)
    # Whoever starts a federation on their own machine runs all of it.
    user = Principal(PrincipalKind.ADMIN, LOCAL_ISSUER, _user_name(), plan.hub_ids[0], ("default",), (OPERATOR,))
    tokens.enter(plan.tokens[USER], user)
    for hub_id in plan.hub_ids:
        tokens.enter(plan.tokens[hub_id], Principal(PrincipalKind.HUB, LOCAL_ISSUER, hub_id, hub_id))


def _user_name() -> str:
    try:
        return getpass.getuser()
    except (OSError, KeyError):  # an account without a name, in a container
        return "user"


def _control(folder: Path, plan: Plan) -> dict[str, Any]:
    return {
        "server": {
            "listen": f"{LOOPBACK}:{plan.ports['grpc']}",
            "admin_listen": f"{LOOPBACK}:{plan.ports['admin']}",
            "console_listen": f"{LOOPBACK}:{plan.ports['console']}",
            "data_dir": str(folder / "data"),
            "tokens_file": str(folder / "tokens.json"),
        },
        "store": {"url": f"sqlite:///{folder / 'data' / 'federation.db'}"},
        "objects": {
            "endpoint": f"http://{LOOPBACK}:{plan.ports['objects']}",
            "access_key": plan.access_key,
            "secret_key": plan.secret_key,
            "bucket": "federation",
            "ca": "",
        },
        "tracking": {"enabled": importlib.util.find_spec("mlflow") is not None},
    }


def _with_what_was_added(path: Path, written: dict[str, Any]) -> dict[str, Any]:
    """What is written now, with what stood in the file before: keys that somebody added, and those of `GUESSED`."""
    try:
        before = tomllib.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return written
    except (OSError, ValueError) as problem:
        raise _unkept(path, str(problem)) from problem
    merged = {name: dict(section) for name, section in written.items()}
    for name, section in before.items():
        if not _BARE.fullmatch(name) or not isinstance(section, dict):
            raise _unkept(path, f"{name} is no section with a plain name")
        for key, value in section.items():
            if not _BARE.fullmatch(key) or not isinstance(value, str | bool | int):
                raise _unkept(path, f"[{name}] {key} is neither text nor true, false or a whole number")
            section_now = merged.setdefault(name, {})
            if key not in section_now or (name, key) in GUESSED:
                section_now[key] = value
    return merged


def _unkept(path: Path, why: str) -> FederationError:
    return invalid(
        f"{str(path)!r} cannot be written anew without losing what is in it: {why}",
        code=Code.CONFIGURATION_INVALID,
        hint="Mend that file, or remove it: it is then made afresh.",
        path=str(path),
    )


def engines() -> list[str]:
    """The engines whose programs are installed here."""
    found = ["command"]
    if importlib.util.find_spec("pyspark"):
        found.append("spark")
    if importlib.util.find_spec("ray"):
        found.append("ray")
    if shutil.which("jupyterhub-singleuser") or importlib.util.find_spec("jupyterhub"):
        found.append("lab")
    return found


def _agent(home: Path, plan: Plan, hub_id: str, dataset: tuple[str, Path] | None) -> dict[str, Any]:
    value: dict[str, Any] = {
        "hub_id": hub_id,
        "title": TITLES.get(hub_id, hub_id),
        "agent_id": "main",
        "server": f"{LOOPBACK}:{plan.ports['grpc']}",
        "token": plan.tokens[hub_id],
        "ca": "",
        "state_dir": str(home / "state"),
        "engines": engines(),
        "fake": plan.fake,
        "offer": {"cpus": plan.cpus, "memory": plan.memory_bytes},
    }
    if dataset:
        name, path = dataset
        value["datasets"] = [
            {
                "name": name,
                "version": "1",
                "path": str(path),
                "policy": "members",
                "title": f"Flights of 2013 from {name.rpartition('-')[2].upper()}",
            }
        ]
    return value


def _write(path: Path, text: str) -> None:
    """Readable by its owner only (it may hold a secret), whole or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    new = path.with_name(path.name + ".new")
    new.touch(mode=0o600)
    new.write_text(text, encoding="utf-8")
    new.replace(path)


def toml(document: dict[str, Any]) -> str:
    """A document of texts, numbers, truths and lists of texts, with tables and lists of tables one level deep."""
    plain = {key: value for key, value in document.items() if not _is_table(value)}
    parts = [_lines(plain)] if plain else []
    for key, value in document.items():
        if isinstance(value, dict):
            parts.append(f"[{key}]\n{_lines(value)}")
        elif _is_table(value):
            parts += [f"[[{key}]]\n{_lines(entry)}" for entry in value]
    return "\n".join(parts)


def _is_table(value: object) -> bool:
    return isinstance(value, dict) or (isinstance(value, list) and bool(value) and isinstance(value[0], dict))


def _lines(table: dict[str, Any]) -> str:
    return "".join(f"{key} = {_value(value)}\n" for key, value in table.items())


def _value(value: object) -> str:
    if isinstance(value, list):
        return "[" + ", ".join(_value(entry) for entry in value) + "]"
    return json.dumps(value, ensure_ascii=False).replace(
        "\x7f", "\\u007f"
    )  # texts, numbers and truths are written alike
