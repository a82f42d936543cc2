"""A JupyterHub whose labs are jobs of the federation; it works as it is for a demonstration on one machine.

    BRHUB_DIR=.brhub BRHUB_LAB_PASSWORD=... jupyterhub -f infra/jupyterhub/jupyterhub_config.py

Read from the environment (all optional but the password):
    BRHUB_SERVER, BRHUB_TOKEN, BRHUB_CA, BRHUB_DIR   where the federation is (see `federation/client/settings.py`)
    BRHUB_JUPYTERHUB_DIR     where this hub keeps its state (default: jupyterhub/ in BRHUB_DIR)
    BRHUB_JUPYTERHUB_IP      where it listens (default 127.0.0.1)
    BRHUB_JUPYTERHUB_PORT    the students' door (default 8000); the API and the proxy's API take the two ports above it
    BRHUB_JUPYTERHUB_HUBS    hubs where labs may run, separated by commas (default: all)
    BRHUB_LAB_PASSWORD       the one password of the demonstration; with it everybody is who they say they are

At a university replace the authenticator (OAuth, LTI, LDAP), keep the rest, and put TLS in front.
"""

import ipaddress
import json
import os
import secrets
import shutil
import socket
import sys
from pathlib import Path

PASSWORD_LENGTH_MIN = 8


def stop(message):
    """Refuse to start, in words."""
    raise SystemExit(f"jupyterhub_config.py: {message}")


def kept_secret(path):
    """A random secret that survives restarts, readable by its owner alone."""
    if not path.exists():
        path.touch(mode=0o600)
        path.write_text(secrets.token_hex(32), encoding="ascii")
    return path.read_text(encoding="ascii").strip()


def loopback(address):
    """Whether an address stays on this machine."""
    try:
        return address == "localhost" or ipaddress.ip_address(address).is_loopback
    except ValueError:
        return False


def answers(address, at):
    """Whether somebody listens there."""
    try:
        with socket.create_connection((address, at), timeout=2):
            return True
    except OSError:
        return False


base = Path(os.environ.get("BRHUB_DIR") or ".brhub").absolute()
state = Path(os.environ.get("BRHUB_JUPYTERHUB_DIR") or base / "jupyterhub").absolute()
listen = os.environ.get("BRHUB_JUPYTERHUB_IP") or "127.0.0.1"
port = int(os.environ.get("BRHUB_JUPYTERHUB_PORT") or 8000)

# ---- who may come in: for a demonstration, anybody with the password, on this machine only ----------------------------
password = os.environ.get("BRHUB_LAB_PASSWORD", "")
if len(password) < PASSWORD_LENGTH_MIN:
    stop(f"set BRHUB_LAB_PASSWORD to at least {PASSWORD_LENGTH_MIN} characters, or configure a real authenticator here")
if not loopback(listen):
    stop(
        f"the one password of the demonstration is for this machine only, and {listen} is not it: "
        "configure a real authenticator and TLS, or leave BRHUB_JUPYTERHUB_IP out"
    )

# ---- what must be there, or must not, before anything is touched -------------------------------------------------------
named = base / "client.json"
if not os.environ.get("BRHUB_SERVER"):
    if not named.is_file():
        stop(f"no federation in {str(base)!r}: ./run up, or correct BRHUB_DIR")
    try:
        json.loads(named.read_text("utf-8"))
    except ValueError:
        stop(f"{str(named)!r} cannot be used: it is damaged. ./run up writes it anew")
# Without its hub, a proxy that left its pid here is what a hub that was killed left behind: JupyterHub ends it by itself.
orphan = (state / "proxy.pid").exists() and not answers("127.0.0.1", port + 1)
if answers(listen, port) and not orphan:
    stop(
        f"a JupyterHub (or something else) runs at http://{listen}:{port} already: "
        "end it first, or set BRHUB_JUPYTERHUB_PORT"
    )
state.mkdir(parents=True, exist_ok=True, mode=0o700)

c.JupyterHub.authenticator_class = "dummy"
c.DummyAuthenticator.password = password
c.Authenticator.allow_all = True

# ---- the hub itself ---------------------------------------------------------------------------------------------------
c.JupyterHub.bind_url = f"http://{listen}:{port}/"
c.JupyterHub.hub_ip = "127.0.0.1"
c.JupyterHub.hub_port = port + 1
c.ConfigurableHTTPProxy.api_url = f"http://127.0.0.1:{port + 2}"
c.ConfigurableHTTPProxy.auth_token = kept_secret(state / "proxy_token")
beside = Path(sys.prefix) / "bin" / "configurable-http-proxy"
proxy = str(beside) if beside.exists() else shutil.which("configurable-http-proxy")
if proxy is None:
    stop("configurable-http-proxy is not here; `./run setup` brings it")
c.ConfigurableHTTPProxy.command = [proxy]
c.JupyterHub.db_url = f"sqlite:///{state}/jupyterhub.sqlite"
c.JupyterHub.cookie_secret = bytes.fromhex(kept_secret(state / "cookie_secret"))
c.ConfigurableHTTPProxy.pid_file = str(state / "proxy.pid")
# A restart of the hub leaves the labs alone: they are somebody's work, and the federation's jobs.
c.JupyterHub.cleanup_servers = False
c.JupyterHub.last_activity_interval = 60
c.JupyterHub.concurrent_spawn_limit = 100
c.JupyterHub.template_paths = [str(Path(__file__).resolve().parent / "templates")]

# ---- labs: jobs of the federation -------------------------------------------------------------------------------------
c.JupyterHub.spawner_class = "courses.spawner.FederationSpawner"
hubs = [name.strip() for name in os.environ.get("BRHUB_JUPYTERHUB_HUBS", "").split(",") if name.strip()]
if hubs:
    c.FederationSpawner.hubs = {"allow": hubs}
c.Spawner.default_url = "/lab"
