"""Where everything lies: the checkout, its environment, and the cache in the user's home.

Not here: what is put there (`environment`, `uv`, `java`, `node`).
"""

from __future__ import annotations

import os
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
LOCKS = ROOT / "infra" / "locks"
VENV = ROOT / ".venv"
VENV_PYTHON = VENV / "bin" / "python"
STAMP = VENV / "digital-br-setup.json"
KERNELS_STAMP = VENV / "digital-br-kernels.txt"
KERNELS = ROOT / "federation" / "scheduling"


def cache_folder() -> Path:
    """The one folder outside the checkout that is written: `~/.cache/digital-br` (XDG_CACHE_HOME is honoured)."""
    base = os.environ.get("XDG_CACHE_HOME") or str(Path.home() / ".cache")
    return Path(base) / "digital-br"


def short(path: Path) -> str:
    """`path` as a person writes it: from the checkout, or from `~`."""
    for base, prefix in ((ROOT, ""), (Path.home(), "~/")):
        try:
            return prefix + str(path.relative_to(base))
        except ValueError:
            continue
    return str(path)
