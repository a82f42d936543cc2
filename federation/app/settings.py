"""The control plane's settings: read once, from a file, then the environment, then flags; the later wins.

`BRHUB_CONTROL_<SECTION>_<KEY>` sets one key, e.g. BRHUB_CONTROL_SERVER_LISTEN. Unknown keys are refused by name.
"""

from __future__ import annotations

import dataclasses
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from federation.errors import Code, Fault, FederationError
from federation.identity.tls import TlsFiles, require_tls_or_loopback
from federation.objects.store import StoreAddress

PREFIX = "BRHUB_CONTROL_"
FILE_BYTES_MAX = 1 << 20
KEEP_DAYS_MAX = 36_500
DIGITS_MAX = 18


@dataclass(frozen=True, slots=True)
class Server:
    """Where it listens. An empty `admin_listen` or `console_listen` leaves that door out."""

    listen: str = "127.0.0.1:7460"
    admin_listen: str = ""
    console_listen: str = ""
    data_dir: str = ".brhub/data"
    tokens_file: str = ".brhub/tokens.json"


@dataclass(frozen=True, slots=True)
class Storage:
    """Where state is kept; empty: `federation.db` in the data folder.

    A "postgresql://..." may be named by several control planes: one leads, the others stand by.
    """

    url: str = field(default="", repr=False)  # it may hold a password
    keep_events_days: int = 400
    """How long facts of what is over are kept; 0: for ever."""


@dataclass(frozen=True, slots=True)
class Objects:
    """The object store; an empty endpoint: none, and packages and results are refused."""

    endpoint: str = ""
    access_key: str = ""
    secret_key: str = field(default="", repr=False)
    bucket: str = "federation"
    region: str = "us-east-1"
    ca: str = ""


@dataclass(frozen=True, slots=True)
class Scheduling:
    """The order of the queue."""

    policy: str = ""
    """A policy file (`federation/app/policyfile.py`), its path as from the folder of the settings' file.

    Empty: everybody has weight 1, and the planner's own settings.
    """


@dataclass(frozen=True, slots=True)
class TrackingSettings:
    """MLflow, started when the first job asks for it."""

    enabled: bool = False


@dataclass(frozen=True, slots=True)
class Tls:
    """Certificate chain and key, PEM; both empty: none, and then everything is on loopback."""

    cert: str = ""
    key: str = ""


@dataclass(frozen=True, slots=True)
class Settings:
    """All of it."""

    server: Server = Server()
    store: Storage = Storage()
    objects: Objects = Objects()
    scheduling: Scheduling = Scheduling()
    tracking: TrackingSettings = TrackingSettings()
    tls: Tls = Tls()

    @property
    def store_url(self) -> str:
        """Where state is kept."""
        return self.store.url or f"sqlite:///{Path(self.server.data_dir) / 'federation.db'}"

    @property
    def tls_files(self) -> TlsFiles | None:
        """The certificate, when there is one."""
        return TlsFiles(Path(self.tls.cert), Path(self.tls.key)) if self.tls.cert else None

    @property
    def store_address(self) -> StoreAddress | None:
        """The object store, when there is one."""
        chosen = self.objects
        if not chosen.endpoint:
            return None
        ca_file = Path(chosen.ca) if chosen.ca else None
        return StoreAddress(
            chosen.endpoint, chosen.access_key, chosen.secret_key, chosen.bucket, chosen.region, ca_file
        )


def read_settings(
    file: Path | None, environment: Mapping[str, str], overrides: Mapping[str, Mapping[str, Any]] | None = None
) -> Settings:
    """The settings, checked. Errors: CONFIGURATION_INVALID naming the key; TLS_REQUIRED off loopback without TLS."""
    document: dict[str, dict[str, Any]] = {}
    if file is not None:
        document = _document(file)
    _merge(document, _from_environment(environment), "the environment")
    _merge(document, overrides or {}, "the command line")
    sections = {}
    for section in dataclasses.fields(Settings):
        kind = type(section.default)
        sections[section.name] = _section(kind, section.name, document.pop(section.name, {}))
    if document:
        raise _wrong(f"section [{min(document)}] is unknown", section=min(document))
    settings = Settings(**sections)
    if not 0 <= settings.store.keep_events_days <= KEEP_DAYS_MAX:
        raise _wrong(f"store.keep_events_days must be 0 to {KEEP_DAYS_MAX}; 0 keeps all", key="store.keep_events_days")
    if bool(settings.tls.cert) != bool(settings.tls.key):
        raise _wrong("tls.cert and tls.key go together", key="tls.cert")
    for address in (settings.server.listen, settings.server.admin_listen, settings.server.console_listen):
        if address:
            require_tls_or_loopback(address, tls=settings.tls_files is not None)
    return settings


def _document(file: Path) -> dict[str, dict[str, Any]]:
    try:
        if file.stat().st_size > FILE_BYTES_MAX:
            raise _wrong(f"{file} is larger than {FILE_BYTES_MAX} bytes", path=str(file))
        document = tomllib.loads(file.read_text("utf-8"))
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as problem:
        raise _wrong(f"{file} cannot be read: {problem}", path=str(file)) from problem
    for name, section in document.items():
        if not isinstance(section, dict):
            raise _wrong(f"{name} stands outside any section in {file}", key=name)
    policy = document.get("scheduling", {}).get("policy")
    if isinstance(policy, str) and policy:
        document["scheduling"]["policy"] = str(file.absolute().parent / policy)
    return document


def _from_environment(environment: Mapping[str, str]) -> dict[str, dict[str, Any]]:
    found: dict[str, dict[str, Any]] = {}
    for name, value in environment.items():
        if name.startswith(PREFIX):
            section, _, key = name.removeprefix(PREFIX).lower().partition("_")
            found.setdefault(section, {})[key] = value
    return found


def _merge(into: dict[str, dict[str, Any]], more: Mapping[str, Mapping[str, Any]], where: str) -> None:
    for section, values in more.items():
        if not isinstance(values, Mapping):
            raise _wrong(f"{section} from {where} is no section", section=section)
        into.setdefault(section, {}).update(values)


def _section(kind: type[Any], name: str, values: Mapping[str, Any]) -> Any:
    known = {entry.name: entry for entry in dataclasses.fields(kind)}
    given: dict[str, Any] = {}
    for key, value in values.items():
        if key not in known:
            raise _wrong(f"[{name}] has no key {key!r}; it has {', '.join(known)}", key=f"{name}.{key}")
        given[key] = _value(f"{name}.{key}", type(known[key].default), value)
    return kind(**given)


def _value(key: str, kind: type[Any], value: Any) -> Any:
    if kind is bool and isinstance(value, str) and value.lower() in ("true", "false", "1", "0"):
        return value.lower() in ("true", "1")
    if kind is int and isinstance(value, str) and value.isdecimal() and len(value) <= DIGITS_MAX:
        return int(value)
    if not isinstance(value, kind) or (kind is int and isinstance(value, bool)):
        words = {bool: "true or false", int: "a whole number"}.get(kind, "text")
        raise _wrong(f"{key} must be {words}", key=key)
    return value


def _wrong(message: str, **metadata: str) -> FederationError:
    return FederationError(
        Code.CONFIGURATION_INVALID,
        message,
        fault=Fault.CALLER,
        hint="Mend the file or the variable; nothing was started.",
        metadata=metadata,
    )
