"""Which package index this machine uses, as pip and uv were told, so that no host name stands in the repository.

Read from pip's configuration files, `PIP_*` and `UV_*`. uv does not read pip's files, so `uv_environment` translates.
Not here: asking an index for anything (`simple_api`), or running uv (`uv`).
"""

from __future__ import annotations

import configparser
import os
import re
import ssl
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

CA_VARIABLES = ("SSL_CERT_FILE", "PIP_CERT", "REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE")


class IndexSettings(NamedTuple):
    """How packages are reached. Empty means: not configured, each tool uses its own default."""

    default: str = ""
    extra: tuple[str, ...] = ()
    find_links: tuple[str, ...] = ()
    ca_file: str = ""
    proxy: str = ""
    trusted_hosts: tuple[str, ...] = ()

    @property
    def name(self) -> str:
        """The address for people, without the password that may stand in it."""
        return hide_password(self.default) if self.default else "the default package index"


def hide_password(url: str) -> str:
    """`url` with user and password replaced by stars."""
    return re.sub(r"(?<=//)[^/@]+@", "***@", url)


def pip_files(environ: Mapping[str, str], home: Path, prefix: Path, system: Path) -> list[Path]:
    """Pip's configuration files in the order in which later ones win."""
    chosen = environ.get("PIP_CONFIG_FILE")
    if chosen == os.devnull:
        return []
    shared = [Path(base) / "pip" / "pip.conf" for base in environ.get("XDG_CONFIG_DIRS", "/etc/xdg").split(":") if base]
    config_home = Path(environ.get("XDG_CONFIG_HOME") or home / ".config")
    files = [
        *reversed(shared),
        system / "Library" / "Application Support" / "pip" / "pip.conf",
        system / "etc" / "pip.conf",
        home / ".pip" / "pip.conf",
        home / "Library" / "Application Support" / "pip" / "pip.conf",
        config_home / "pip" / "pip.conf",
        prefix / "pip.conf",
    ]
    return files + ([Path(chosen)] if chosen else [])


def pip_options(files: list[Path], environ: Mapping[str, str]) -> dict[str, str]:
    """Pip's options by their long name: [global], then [install] of each file, then `PIP_*`."""
    options: dict[str, str] = {}
    for section in ("global", "install"):
        for file in files:
            parser = configparser.RawConfigParser()
            try:
                parser.read(str(file), encoding="utf-8")
            except (configparser.Error, UnicodeDecodeError, OSError):
                continue  # pip itself complains about such a file; we only borrow from it
            if parser.has_section(section):
                options.update({key.replace("_", "-"): value for key, value in parser.items(section)})
    for key, value in environ.items():
        if key.startswith("PIP_") and value:
            options[key[4:].lower().replace("_", "-")] = value
    return options


def read_settings(
    environ: Mapping[str, str] | None = None,
    home: Path | None = None,
    prefix: Path | None = None,
    system: Path = Path("/"),
) -> IndexSettings:
    """What this machine was told. uv's own variables win over pip's, since uv does the work."""
    env = os.environ if environ is None else environ
    files = pip_files(env, home or Path.home(), prefix or Path(sys.prefix), system)
    options = pip_options(files, env)
    ca_file = next((env[name] for name in CA_VARIABLES if env.get(name)), "") or options.get("cert", "")
    return IndexSettings(
        default=env.get("UV_DEFAULT_INDEX") or env.get("UV_INDEX_URL") or options.get("index-url", ""),
        extra=tuple(
            (env.get("UV_INDEX") or env.get("UV_EXTRA_INDEX_URL") or options.get("extra-index-url", "")).split()
        ),
        find_links=tuple(re.split(r"[\s,]+", env.get("UV_FIND_LINKS") or options.get("find-links", "")))
        if env.get("UV_FIND_LINKS") or options.get("find-links")
        else (),
        ca_file=ca_file,
        proxy=env.get("HTTPS_PROXY") or env.get("https_proxy") or options.get("proxy", ""),
        trusted_hosts=tuple(options.get("trusted-host", "").split()),
    )


def uv_environment(settings: IndexSettings, environ: Mapping[str, str], cache: Path) -> dict[str, str]:
    """The variables that make uv (and npm, for proxies and certificates) use `settings`.

    What the user already told them stays as it is. Several indexes are searched for the best match, as pip does: every file is pinned by its hash, so an index cannot
    slip in another one.
    """
    wanted = {
        "UV_DEFAULT_INDEX": settings.default,
        "UV_INDEX": " ".join(settings.extra),
        "UV_FIND_LINKS": ",".join(settings.find_links),
        "UV_INDEX_STRATEGY": "unsafe-best-match" if settings.extra else "",
        "UV_INSECURE_HOST": " ".join(settings.trusted_hosts),
        "SSL_CERT_FILE": settings.ca_file,
        "HTTPS_PROXY": settings.proxy,
        "UV_SYSTEM_CERTS": "true" if not settings.ca_file and system_ca_file() else "",
        "UV_PYTHON_INSTALL_DIR": str(cache / "python"),
        "UV_NO_PROGRESS": "" if sys.stderr.isatty() else "1",
        "NODE_EXTRA_CA_CERTS": settings.ca_file or system_ca_file(),
    }
    env = dict(environ)
    for key, value in wanted.items():
        if value and not env.get(key):
            env[key] = value
    if env.get("UV_INDEX_URL"):
        env.pop("UV_DEFAULT_INDEX", None)  # the older name of the same thing, set by the user
    return env


def system_ca_file() -> str:
    """This machine's own bundle of certificate authorities; empty where it has none (a bare container)."""
    paths = ssl.get_default_verify_paths()
    candidates = [paths.cafile, paths.openssl_cafile]
    candidates += [
        str(Path(folder) / "ca-certificates.crt") for folder in (paths.capath, paths.openssl_capath) if folder
    ]
    candidates += ["/etc/ssl/certs/ca-certificates.crt", "/etc/pki/tls/certs/ca-bundle.crt", "/etc/ssl/cert.pem"]
    return next((path for path in candidates if path and Path(path).is_file()), "")
