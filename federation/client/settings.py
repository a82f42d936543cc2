"""How a program finds its federation: arguments, then environment variables, then the folder of `brhub up`.

`BRHUB_SERVER`, `BRHUB_TOKEN`, `BRHUB_CA` and `BRHUB_PROXY` name it outright; otherwise `client.json` in `BRHUB_DIR`
(default `.brhub`) does. Deliberately not here: opening anything (`transport.py`).
"""

from __future__ import annotations

import functools
import importlib.metadata
import json
import os
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from federation.errors import Code, Fault, FederationError, invalid

DISTRIBUTION = "digital-br"
CLIENT_FILE = "client.json"
FOLDER = ".brhub"
ADDRESSES_MAX = 16


@dataclass(frozen=True, slots=True)
class Settings:
    """Where the federation is, and who we are there."""

    server: str
    """"HOST:PORT" (plain on loopback, TLS elsewhere), "https://HOST:PORT" or "http://HOST:PORT".

    Several, with commas between, where one control plane leads and others stand by: whichever answers is asked.
    """
    token: str = field(default="", repr=False)
    ca: str = ""
    """A file with the certificates to trust; empty means the system's."""
    console: str = ""
    """The operator's page, for people; empty when nobody said."""
    project: str = "default"
    proxy: str = field(default="", repr=False)
    """An HTTP CONNECT proxy, http://HOST:PORT; `none`: no proxy; empty: what the environment says (`proxy.py`)."""

    def each(self) -> tuple[Settings, ...]:
        """The same for each address alone, in their order. Raises: FederationError INVALID_ARGUMENT, LIMIT_EXCEEDED."""
        return tuple(replace(self, server=address) for address in addresses(self.server))


def addresses(server: str) -> tuple[str, ...]:
    """The addresses in `server`, each once. Raises: FederationError INVALID_ARGUMENT, LIMIT_EXCEEDED."""
    found = tuple(dict.fromkeys(word for word in (part.strip() for part in server.split(",")) if word))
    if not found:
        raise invalid("no address of a control plane is given", hint="Write HOST:PORT, or several with commas between.")
    if len(found) > ADDRESSES_MAX:
        raise invalid(
            f"{len(found)} addresses of control planes are given",
            code=Code.LIMIT_EXCEEDED,
            hint=f"At most {ADDRESSES_MAX} are tried.",
            limit=str(ADDRESSES_MAX),
        )
    return found


def find_settings(
    server: str = "", folder: Path | str | None = None, environ: Mapping[str, str] | None = None
) -> Settings:
    """Where the federation is. `server` beats BRHUB_SERVER, which beats the folder's client.json.

    Raises: FederationError UNREACHABLE when nothing names one, CONFIGURATION_INVALID when client.json cannot be read.
    """
    env = os.environ if environ is None else environ
    path = Path(folder or env.get("BRHUB_DIR") or FOLDER) / CLIENT_FILE
    named = server or env.get("BRHUB_SERVER", "")
    saved = _read(path)
    if not named and not saved:
        raise FederationError(
            Code.UNREACHABLE,
            f"no federation is named, and none runs in {str(path.parent.absolute())!r} ({CLIENT_FILE} is not there)",
            fault=Fault.CALLER,
            hint="Start one with `brhub up`, or set BRHUB_SERVER, or say where it is with BRHUB_DIR.",
            metadata={"path": str(path.absolute())},
        )
    same = not named or (bool(saved) and set(addresses(named)) <= set(addresses(saved["server"])))
    return Settings(
        server=named or saved["server"],
        # a token is only ever sent to the server that it was saved for
        token=env.get("BRHUB_TOKEN") or (saved.get("token", "") if same else ""),
        ca=env.get("BRHUB_CA") or (saved.get("ca", "") if same else ""),
        console=saved.get("console", "") if same else "",
        project=env.get("BRHUB_PROJECT") or (saved.get("project", "") if same else "") or "default",
        proxy=env.get("BRHUB_PROXY") or (saved.get("proxy", "") if same else ""),
    )


def write_settings(folder: Path, settings: Settings) -> Path:
    """Leave `settings` in `folder` for `find_settings`; only the file's owner may read it."""
    path = folder / CLIENT_FILE
    texts = {name: getattr(settings, name) for name in ("server", "token", "ca", "console", "project", "proxy")}
    new = path.with_suffix(".new")
    new.touch(mode=0o600)
    new.write_text(json.dumps(texts, indent=2) + "\n", encoding="utf-8")
    new.replace(path)
    return path


@functools.cache
def installed_version() -> str:
    """This program's version; empty in a checkout that is not installed."""
    try:
        return importlib.metadata.version(DISTRIBUTION)
    except importlib.metadata.PackageNotFoundError:
        return ""


def _read(path: Path) -> dict[str, str]:
    try:
        value: Any = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return {}
    except (OSError, ValueError) as problem:
        raise _damaged(path, str(problem)) from problem
    if not isinstance(value, dict) or not value.get("server"):
        raise _damaged(path, "it names no server")
    if not all(isinstance(text, str) for text in value.values()):
        raise _damaged(path, "a value is not a text")
    return value


def _damaged(path: Path, why: str) -> FederationError:
    return invalid(
        f"{str(path)!r} cannot be used: {why}",
        code=Code.CONFIGURATION_INVALID,
        hint="`brhub up` writes it anew; or set BRHUB_SERVER and BRHUB_TOKEN.",
        path=str(path),
    )
