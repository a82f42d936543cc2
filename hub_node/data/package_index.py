"""Which package index this hub uses, as its pip and uv were told: uv does not read pip's files, so this translates.

The hub's own settings are the only ones: a job's requirements may not name an index (see `environments.py`). Not here:
asking an index for anything. `infra/bootstrap/index.py` does the same for the set-up, which must not import this package.
"""

from __future__ import annotations

import configparser
import os
import re
import sys
from collections.abc import Mapping
from pathlib import Path

_SEPARATORS = re.compile(r"[\s,]+")


def pip_files(environ: Mapping[str, str], home: Path) -> list[Path]:
    """The configuration files of pip, later ones win. PIP_CONFIG_FILE set to the null device means none."""
    chosen = environ.get("PIP_CONFIG_FILE", "")
    if chosen == os.devnull:
        return []
    shared = [Path(base) / "pip" / "pip.conf" for base in environ.get("XDG_CONFIG_DIRS", "/etc/xdg").split(":") if base]
    own = Path(environ.get("XDG_CONFIG_HOME") or home / ".config") / "pip" / "pip.conf"
    files = [*reversed(shared), Path("/etc/pip.conf"), home / ".pip" / "pip.conf", own, Path(sys.prefix) / "pip.conf"]
    return [*files, Path(chosen)] if chosen else files


def pip_options(environ: Mapping[str, str], home: Path) -> dict[str, str]:
    """The options of pip by long name: [global], then [install] of each file, then `PIP_*`."""
    options: dict[str, str] = {}
    for section in ("global", "install"):
        for file in pip_files(environ, home):
            parser = configparser.RawConfigParser()
            try:
                parser.read(file, encoding="utf-8")
            except (configparser.Error, UnicodeDecodeError, OSError):
                continue  # pip itself complains about such a file; we only borrow from it
            if parser.has_section(section):
                options.update({name.replace("_", "-"): text for name, text in parser.items(section)})
    options.update(
        {name[4:].lower().replace("_", "-"): text for name, text in environ.items() if name.startswith("PIP_") and text}
    )
    return options


def uv_variables(environ: Mapping[str, str], home: Path) -> dict[str, str]:
    """`environ` with what makes uv use pip's index, links, certificates and proxy; what uv was told itself stays.

    Several indexes are searched for the best match, as pip does.
    """
    options = pip_options(environ, home)
    extra = " ".join(_split(options.get("extra-index-url", "")))
    wanted = {
        "UV_DEFAULT_INDEX": options.get("index-url", ""),
        "UV_INDEX": extra,
        "UV_FIND_LINKS": ",".join(_split(options.get("find-links", ""))),
        "UV_INSECURE_HOST": " ".join(_split(options.get("trusted-host", ""))),
        "UV_NO_INDEX": "true" if options.get("no-index", "").lower() in ("1", "true", "yes", "on") else "",
        "SSL_CERT_FILE": options.get("cert", ""),
        "HTTPS_PROXY": options.get("proxy", ""),
        "UV_INDEX_STRATEGY": "unsafe-best-match" if extra or environ.get("UV_INDEX") else "",
    }
    variables = dict(environ)
    for name, text in wanted.items():
        if text and not variables.get(name):
            variables[name] = text
    if environ.get("UV_INDEX_URL") and not environ.get("UV_DEFAULT_INDEX"):
        variables.pop("UV_DEFAULT_INDEX", None)  # the older name of the same setting, told to uv itself
    return variables


def constraint_files(environ: Mapping[str, str], home: Path) -> list[Path]:
    """The constraint files that pip and uv were told of, where they exist on this machine."""
    named = _split(pip_options(environ, home).get("constraint", "")) + _split(environ.get("UV_CONSTRAINT", ""))
    return [Path(name) for name in dict.fromkeys(named) if Path(name).is_file()]


def hide_passwords(text: str) -> str:
    """`text` with user and password of every address replaced by stars: uv's output quotes index addresses."""
    return re.sub(r"(?<=//)[^/@\s]+@", "***@", text)


def _split(text: str) -> list[str]:
    return [part for part in _SEPARATORS.split(text) if part]
