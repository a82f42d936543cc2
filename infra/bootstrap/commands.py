"""What `./run COMMAND` does. Each command sets up what is missing first, then runs programs out of `.venv`.

Not here: the setting up itself (`environment`). Each command's help is its docstring.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path
from types import FrameType
from typing import Callable

from infra.bootstrap.environment import child_environment, setup, warm_kernels
from infra.bootstrap.places import ROOT, VENV
from infra.bootstrap.trouble import BootstrapError, say

Command = Callable[[list], int]  # type: ignore[type-arg] # Python 3.8 has no list[str] at run time
QUICK_ROOMS = ("tests/unit", "tests/property", "tests/tidy")
TYPED = ("federation", "hub_node", "courses", "infra/bootstrap", "benchmarks", "tests")
STATE_FOLDER = ".brhub"


def start(words: list[str], *, output: int | None = None, extra: dict[str, str] | None = None) -> int:
    """Run a program of `.venv` in the checkout and return its exit status (128 + signal where one ended it).

    Signals to end that reach us are handed on, and we wait: the child has things to stop.
    """
    program = VENV / "bin" / words[0]
    env = {**child_environment(), **(extra or {})}
    child = subprocess.Popen([str(program), *words[1:]], cwd=str(ROOT), env=env, stdout=output)

    def hand_on(number: int, _frame: FrameType | None) -> None:
        child.send_signal(number)

    previous = {number: signal.signal(number, hand_on) for number in (signal.SIGTERM, signal.SIGHUP)}
    previous[signal.SIGINT] = signal.signal(signal.SIGINT, lambda *_: None)  # the terminal signals the whole group
    try:
        status = child.wait()
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)
    return 128 - status if status < 0 else status


def run_setup(_arguments: list[str]) -> int:
    """Only the environment, in .venv; says first how many MB it fetches, and from where."""
    installed = setup()
    if not warm_kernels() and not installed:
        say("nothing to do")
    return 0


def run_demo(arguments: list[str]) -> int:
    """A three-hub federation and the tour on real data (KEEP=1 leaves it running, DEMO=core is the small one)."""
    if os.environ.get("DEMO", "") not in ("", "core"):
        raise BootstrapError(f"DEMO={os.environ['DEMO']!r} is not known; write DEMO=core, or leave it out")
    setup()
    warm_kernels()
    core = ["--core"] if os.environ.get("DEMO") == "core" else []
    keep = ["--keep"] if os.environ.get("KEEP", "0") not in ("", "0") else []
    return start(["brhub", "demo", *core, *keep, *arguments])


def run_test(arguments: list[str]) -> int:
    """The whole suite, but for what is marked long."""
    setup()
    warm_kernels()
    return start(["python", "-m", "pytest", "-m", "not long", *arguments])


def run_quick(arguments: list[str]) -> int:
    """unit, property and tidy rooms, under 60 s."""
    setup()
    warm_kernels()
    rooms = [room for room in QUICK_ROOMS if (ROOT / room).is_dir()]
    return start(["python", "-m", "pytest", "-q", "-m", "not long and not heavy", "-n", "4", *(arguments or rooms)])


def run_long(arguments: list[str]) -> int:
    """everything: many seeds, all courses, long fuzz."""
    setup()
    warm_kernels()
    return start(["python", "-m", "pytest", *arguments], extra={"BRHUB_LONG": "1"})


def run_check(arguments: list[str]) -> int:
    """format, lint, types, import contracts, wire rules, docs links, ratchets; --fix formats and repairs."""
    setup()
    if "--fix" in arguments:
        start(["ruff", "check", "--fix", "--quiet", "."])
        start(["ruff", "format", "--quiet", "."])
    typed = [folder for folder in TYPED if (ROOT / folder).is_dir()]
    steps = (
        ("format", ["ruff", "format", "--check", "--quiet", "--diff", "."]),
        ("lint", ["ruff", "check", "--quiet", "."]),
        ("types", ["mypy", "--no-error-summary", *typed]),
        ("import contracts", ["lint-imports", "--no-logo"]),
        (
            "wire, docs, ratchets",
            ["python", "-m", "pytest", "-q", "--no-header", "-m", "not heavy and not long", "tests/tidy"],
        ),
    )
    failed = []
    for name, words in steps:
        status = start(words)
        print(f"check: {name}: {'ok' if status == 0 else 'FAILED'}", flush=True)
        if status != 0:
            failed.append(name)
    if failed:
        print(f"check: failed: {', '.join(failed)} (./run check --fix repairs format and simple lint)")
    return 1 if failed else 0


def run_bench(arguments: list[str]) -> int:
    """[NAME] [OPTIONS]: every benchmark, or one; JSON lines into benchmarks/out/NAME.jsonl."""
    setup()
    warm_kernels()
    folder = ROOT / "benchmarks" / "out"
    folder.mkdir(parents=True, exist_ok=True)
    names = arguments[:1] if arguments and not arguments[0].startswith("-") else benchmark_names()
    options = [word for word in arguments if word not in names]
    worst = 0
    for name in names:
        partial = folder / f"{name}.jsonl.partial"
        say(f"benchmark {name}")
        with partial.open("wb") as output:
            status = start(["python", "-m", "benchmarks", name, *options], output=output.fileno())
        if status == 0:
            partial.replace(folder / f"{name}.jsonl")
            print((folder / f"{name}.jsonl").read_text(encoding="utf-8"), end="", flush=True)
        else:
            say(f"benchmark {name} failed with status {status}; what it printed is in {partial}")
        worst = max(worst, status)
    return worst


def benchmark_names() -> list[str]:
    """What `python -m benchmarks list` names: the first word of each line."""
    words = [str(VENV / "bin" / "python"), "-m", "benchmarks", "list"]
    done = subprocess.run(words, cwd=str(ROOT), env=child_environment(), stdout=subprocess.PIPE)
    if done.returncode != 0:
        raise BootstrapError("python -m benchmarks list failed")
    return [line.split()[0] for line in done.stdout.decode().splitlines() if line.strip()]


def run_up(arguments: list[str]) -> int:
    """A federation of three hubs that stays, in .brhub/."""
    setup()
    warm_kernels()
    words = ["brhub", "up", "--hubs", "3", "--dir", STATE_FOLDER, "--detach", "--sample-data"]
    return start([*words, *arguments])


def run_down(arguments: list[str]) -> int:
    """Ends what `up` started; leaves no process behind."""
    setup()
    return start(["brhub", "down", "--dir", STATE_FOLDER, *arguments])


def run_lock(arguments: list[str]) -> int:
    """Resolve pyproject.toml into infra/locks anew (--upgrade takes the newest versions)."""
    from infra.bootstrap.lock import lock

    lock(arguments)
    return 0


def run_generate(_arguments: list[str]) -> int:
    """Generate code from federation/v1/*.proto."""
    setup()
    return start(["python", "-m", "infra.bootstrap.proto", "generate"])


def run_baseline(_arguments: list[str]) -> int:
    """Accept additions to the wire into its committed baseline; breaking changes are refused."""
    setup()
    return start(["python", "-m", "infra.bootstrap.proto", "baseline"])


EVERYDAY: dict[str, Command] = {
    "setup": run_setup,
    "demo": run_demo,
    "test": run_test,
    "quick": run_quick,
    "long": run_long,
    "check": run_check,
    "bench": run_bench,
    "up": run_up,
    "down": run_down,
}
UPKEEP: dict[str, Command] = {"lock": run_lock, "generate": run_generate, "baseline": run_baseline}


def summary(command: Command) -> str:
    """A command's docstring as a line of the help."""
    return (command.__doc__ or "").rstrip(".")


def help_text() -> str:
    """What `./run help` prints."""
    lines = ["usage: ./run COMMAND [OPTIONS]", ""]
    lines += [f"  {name:<10}{summary(command)}" for name, command in EVERYDAY.items()]
    lines += ["", "for those who change the code:"]
    lines += [f"  {name:<10}{summary(command)}" for name, command in UPKEEP.items()]
    lines += [
        "",
        "Every command first sets up what is missing: packages by hash into .venv, caches in ~/.cache; never as root.",
        "Heeded: pip's configuration, UV_DEFAULT_INDEX, npm_config_registry, HTTPS_PROXY, SSL_CERT_FILE.",
    ]
    return "\n".join(lines)


def main(arguments: list[str]) -> int:
    """Run one command; the exit status. Wrong usage is 2, a bootstrap that cannot go on is 1."""
    name = arguments[0] if arguments else "help"
    if name in ("help", "-h", "--help"):
        print(help_text())
        return 0
    command = EVERYDAY.get(name) or UPKEEP.get(name)
    if command is None:
        print(f"./run: there is no command {name!r}\n\n{help_text()}", file=sys.stderr)
        return 2
    os.chdir(str(Path(ROOT)))
    try:
        return command(arguments[1:])
    except BootstrapError as error:
        print(f"setup: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 130
