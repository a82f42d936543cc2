"""`python -m benchmarks list` and `python -m benchmarks NAME [--quick] [options]`.

Exit status: 0 measured; 1 it failed; 2 wrong usage. Standard output carries JSON lines and nothing else.
"""

from __future__ import annotations

import argparse
import importlib
import pkgutil
import sys
from collections.abc import Sequence
from types import ModuleType

import benchmarks

NOT_QUESTIONS = frozenset({"__main__", "figures"})


def names() -> list[str]:
    """Every benchmark: the modules of this folder."""
    found = pkgutil.iter_modules(benchmarks.__path__)
    return sorted(entry.name for entry in found if not entry.ispkg and entry.name not in NOT_QUESTIONS)


def load(name: str) -> ModuleType:
    """A benchmark's module: `options(parser)` adds its options, `measure(chosen)` prints its figures."""
    return importlib.import_module(f"benchmarks.{name}")


def _fresh_kernels() -> None:
    """Measure what the sources say, not what they said: see `federation/app/kernels.py`."""
    if "federation.scheduling" in sys.modules:
        from federation.app.kernels import fresh_kernels

        fresh_kernels("benchmarks")


def main(arguments: Sequence[str]) -> int:
    """The exit status."""
    if arguments[:1] == ["list"]:
        for name in names():
            print(f"{name}  {(load(name).__doc__ or '').splitlines()[0]}")
        return 0
    if not arguments or arguments[0] not in names():
        print(
            f"usage: python -m benchmarks list | NAME [--quick] [options]; NAME: {', '.join(names())}", file=sys.stderr
        )
        return 2
    module = load(arguments[0])
    parser = argparse.ArgumentParser(f"python -m benchmarks {arguments[0]}", description=module.__doc__)
    parser.add_argument("--quick", action="store_true", help="fewer repetitions: ends within 50 s on two cores")
    module.options(parser)
    chosen = parser.parse_args(arguments[1:])
    _fresh_kernels()
    module.measure(chosen)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
