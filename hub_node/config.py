"""What the operator says about this agent: one TOML file, read once, with BRHUB_AGENT_* on top.

Unknown keys are refused by name. Relative paths are relative to the file. Deliberately not here: what the machine has
(`probe.py`) and what the hub's policy says (`federation/policy`, `admission.py`). An example is `infra/agent.example.toml`;
each key's meaning is beside its field below.
"""

from __future__ import annotations

import os
import re
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any, get_type_hints

from federation.client import Settings
from federation.client.quantity import parse_bytes, parse_duration_ms, parse_milli
from federation.client.settings import addresses
from federation.errors import Code, Fault, FederationError

ENGINES = ("spark", "ray", "lab", "command")
DATASETS_MAX = 1_000
READERS_MAX = 1_000
POLICIES = ("open", "members", "hubs", "compute-to-data")
ENVIRONMENT_PREFIX = "BRHUB_AGENT_"
_NAME = re.compile(r"[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?")


@dataclass(frozen=True, slots=True)
class Offer:
    """What the federation may use of this machine, where the operator says so; 0 means: as measured, and the policy."""

    cpu_milli: int = 0
    memory_bytes: int = 0
    disk_bytes: int = 0


@dataclass(frozen=True, slots=True)
class DatasetConfig:
    """A dataset that lies here: a file or a folder, read only."""

    name: str
    path: Path
    version: str = "1"
    policy: str = "members"
    title: str = ""
    readers: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Saving:
    """How the checkpoints of runs here are saved."""

    every_ms: int = 60_000
    """While a run goes on, at most this often, and only what changed; 0: only when it is to end or has ended."""
    bytes_max: int = 1 << 30
    """Of one checkpoint. A larger one is not saved, and the job's log says so."""


@dataclass(frozen=True, slots=True)
class AgentConfig:
    """The whole file."""

    hub_id: str
    server: str
    """The control plane, HOST:PORT; plain text on loopback only. Several with commas between: whichever leads is found."""
    state_dir: Path
    agent_id: str = "main"
    """Unique within the hub; also the name of this machine's node."""
    title: str = ""
    """The hub's name for people."""
    token: str = field(default="", repr=False)
    ca: str = ""
    """A file with certificates to trust; empty means the system's."""
    proxy: str = field(default="", repr=False)
    """An HTTP CONNECT proxy on the way out, http://HOST:PORT; `none`: no proxy; empty: what the environment says."""
    engines: tuple[str, ...] = ("command",)
    fake: bool = False
    """Runs nothing, tells tales: for tests and benchmarks only."""
    offer: Offer = field(default_factory=Offer)
    policy_file: Path | None = None
    datasets: tuple[DatasetConfig, ...] = ()
    checkpoints: Saving = field(default_factory=Saving)
    spark: Mapping[str, Any] = field(default_factory=dict)
    """`master` and what else `runners/spark.py` takes."""
    ray: Mapping[str, Any] = field(default_factory=dict, repr=False)
    """`address`, `token` and what else `runners/ray.py` takes."""
    lab: Mapping[str, Any] = field(default_factory=dict)
    """What `runners/lab.py` takes."""

    @property
    def node_name(self) -> str:
        """This machine's name in the hub."""
        return self.agent_id

    @property
    def link(self) -> Settings:
        """How the control plane is reached."""
        return Settings(server=self.server, token=self.token, ca=self.ca, proxy=self.proxy)

    @property
    def offered_engines(self) -> tuple[str, ...]:
        """Engines that this agent announces."""
        return (*self.engines, "fake") if self.fake else self.engines


def load(path: Path | str, environ: Mapping[str, str] | None = None) -> AgentConfig:
    """Read the agent's file. Raises: FederationError CONFIGURATION_INVALID, UNKNOWN_KEY, naming file and key."""
    file = Path(path).absolute()
    try:
        with file.open("rb") as text:
            content = tomllib.load(text)
    except OSError as problem:
        raise _wrong(file, "", f"it cannot be read: {problem.strerror}") from problem
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as problem:
        raise _wrong(file, "", f"it is not TOML: {problem}") from problem
    return parse(content, file, os.environ if environ is None else environ)


def parse(content: Mapping[str, Any], file: Path, environ: Mapping[str, str]) -> AgentConfig:
    """A file's content, checked; `file` is named in errors and anchors relative paths."""
    reader = _Reader(file, {**content, **_from_environment(environ)})
    reader.refuse_unknown({one.name for one in fields(AgentConfig)}, content)
    engines = reader.texts("engines", ("command",))
    for engine in engines:
        if engine not in ENGINES:
            raise _wrong(file, "engines", f"{engine!r} is not one of {', '.join(ENGINES)} (`fake = true` is a key)")
    return AgentConfig(
        hub_id=reader.name("hub_id"),
        server=reader.server(),
        state_dir=reader.path("state_dir") or file.parent / "state",
        agent_id=reader.name("agent_id", "main"),
        title=reader.text("title", ""),
        token=reader.text("token", ""),
        ca=str(reader.path("ca") or ""),
        proxy=reader.text("proxy", ""),
        engines=engines,
        fake=reader.flag("fake"),
        offer=_offer(reader),
        policy_file=reader.path("policy_file"),
        datasets=_datasets(reader),
        checkpoints=_saving(reader),
        spark=reader.table("spark"),
        ray=reader.table("ray"),
        lab=reader.table("lab"),
    )


def _from_environment(environ: Mapping[str, str]) -> dict[str, Any]:
    """BRHUB_AGENT_<KEY> for the keys that are one value or a list of words."""
    kinds = get_type_hints(AgentConfig)
    found: dict[str, Any] = {}
    for key in (
        "hub_id",
        "server",
        "state_dir",
        "agent_id",
        "title",
        "token",
        "ca",
        "proxy",
        "engines",
        "fake",
        "policy_file",
    ):
        text = environ.get(ENVIRONMENT_PREFIX + key.upper())
        if text is None:
            continue
        if kinds[key] is bool:
            found[key] = text.strip().lower() in ("1", "true", "yes")
        elif key == "engines":
            found[key] = [word.strip() for word in text.split(",") if word.strip()]
        else:
            found[key] = text
    return found


def _offer(reader: _Reader) -> Offer:
    table = reader.table("offer")
    below = _Reader(reader.file, table, "offer.")
    below.refuse_unknown({"cpus", "memory", "disk"}, table)
    return Offer(
        cpu_milli=parse_milli(table.get("cpus", 0), "offer.cpus"),
        memory_bytes=parse_bytes(table.get("memory", 0), "offer.memory"),
        disk_bytes=parse_bytes(table.get("disk", 0), "offer.disk"),
    )


def _saving(reader: _Reader) -> Saving:
    table = reader.table("checkpoints")
    below = _Reader(reader.file, table, "checkpoints.")
    below.refuse_unknown({"every", "size"}, table)
    shipped = Saving()
    return Saving(
        every_ms=parse_duration_ms(table["every"], "checkpoints.every") if "every" in table else shipped.every_ms,
        bytes_max=parse_bytes(table["size"], "checkpoints.size") if "size" in table else shipped.bytes_max,
    )


def _datasets(reader: _Reader) -> tuple[DatasetConfig, ...]:
    tables = reader.values.get("datasets", [])
    if not isinstance(tables, list) or not all(isinstance(table, dict) for table in tables):
        raise _wrong(reader.file, "datasets", "write it as [[datasets]] tables")
    if len(tables) > DATASETS_MAX:
        raise _wrong(reader.file, "datasets", f"there are {len(tables)}; the limit is {DATASETS_MAX}")
    found: dict[tuple[str, str], DatasetConfig] = {}
    for index, table in enumerate(tables):
        below = _Reader(reader.file, table, f"datasets[{index}].")
        below.refuse_unknown({one.name for one in fields(DatasetConfig)}, table)
        path = below.path("path")
        if path is None or not path.exists():
            raise _wrong(reader.file, f"datasets[{index}].path", f"there is nothing at {str(path or '')!r}")
        readers = below.texts("readers", ())
        policy = below.text("policy", "members")
        if policy not in POLICIES:
            raise _wrong(reader.file, f"datasets[{index}].policy", f"{policy!r} is not one of {', '.join(POLICIES)}")
        if len(readers) > READERS_MAX:
            raise _wrong(reader.file, f"datasets[{index}].readers", f"the limit is {READERS_MAX}")
        one = DatasetConfig(
            name=below.name("name"),
            path=path,
            version=below.text("version", "1"),
            policy=policy,
            title=below.text("title", ""),
            readers=readers,
        )
        if (one.name, one.version) in found:
            raise _wrong(reader.file, f"datasets[{index}].name", f"{one.name!r} version {one.version!r} is there twice")
        found[one.name, one.version] = one
    return tuple(found.values())


class _Reader:
    """Typed reads that name the key in every error."""

    def __init__(self, file: Path, values: Mapping[str, Any], prefix: str = "") -> None:
        self.file = file
        self.values = values
        self._prefix = prefix

    def refuse_unknown(self, known: set[str], given: Mapping[str, Any]) -> None:
        for key in given:
            if key not in known:
                raise FederationError(
                    Code.UNKNOWN_KEY,
                    f"{self.file.name} has the unknown key {self._prefix + key!r}.",
                    fault=Fault.CALLER,
                    hint=f"Known here: {', '.join(sorted(known))}.",
                    metadata={"file": str(self.file), "key": self._prefix + key},
                )

    def text(self, key: str, default: str | None = None) -> str:
        value = self.values.get(key, default)
        if not isinstance(value, str) or (default is None and not value) or "\0" in value or len(value) > 4_096:
            raise _wrong(self.file, self._prefix + key, "it is missing, or not a text")
        return value

    def server(self) -> str:
        """One address or several, as a text or a list; with commas between."""
        if isinstance(self.values.get("server"), list):
            return ",".join(addresses(",".join(self.texts("server", ()))))
        return self.text("server")

    def name(self, key: str, default: str | None = None) -> str:
        value = self.text(key, default)
        if not _NAME.fullmatch(value):
            raise _wrong(
                self.file, self._prefix + key, f"{value[:80]!r} is not a name of lower-case letters, digits and dashes"
            )
        return value

    def flag(self, key: str) -> bool:
        value = self.values.get(key, False)
        if not isinstance(value, bool):
            raise _wrong(self.file, self._prefix + key, "write true or false")
        return value

    def texts(self, key: str, default: tuple[str, ...]) -> tuple[str, ...]:
        value = self.values.get(key, list(default))
        if not isinstance(value, list) or not all(isinstance(word, str) for word in value):
            raise _wrong(self.file, self._prefix + key, "write a list of texts")
        return tuple(value)

    def path(self, key: str) -> Path | None:
        value = self.text(key, "")
        return self.file.parent / Path(value).expanduser() if value else None

    def table(self, key: str) -> Mapping[str, Any]:
        value = self.values.get(key, {})
        if not isinstance(value, dict):
            raise _wrong(self.file, self._prefix + key, f"write it as a [{key}] table")
        return value


def _wrong(file: Path, key: str, what: str) -> FederationError:
    where = f"{file.name}: {key}" if key else file.name
    return FederationError(
        Code.CONFIGURATION_INVALID,
        f"{where}: {what}.",
        fault=Fault.CALLER,
        hint=f"Change {str(file)!r}.",
        metadata={"file": str(file), "key": key},
    )
