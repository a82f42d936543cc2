"""The suite's order and its one rule on skipping: on the machine that decides (`.ci/run`), nothing may skip unnoticed.

Fixtures live beside the rooms that use them. Not here: anything that starts a server.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Generator

import pytest
from hypothesis import HealthCheck, settings

ROOMS = (
    "unit", "property", "contract", "scenarios", "migration", "simulation", "tidy", "end_to_end",
)  # fmt: skip
STRICT = os.environ.get("BRHUB_CI") == "1"
# What no machine of ours can bring, each with the words that its skip must hold.
ALLOWED_SKIPS = (
    "BRHUB_S3_ENDPOINT",  # another S3 server, named by whoever has one
    "openb",  # published workloads, beside the repository where there are any
    "torch",  # the extra `deep`
    "GPU",  # no accelerator here
    "slurm",  # no cluster of its own here
)

# No deadline: two busy cores make any time limit of a single example a coin toss; pytest-timeout stays.
settings.register_profile("house", deadline=None, suppress_health_check=[HealthCheck.too_slow], print_blob=True)
settings.register_profile("long", settings.get_profile("house"), max_examples=2000)
settings.load_profile("long" if os.environ.get("BRHUB_LONG") == "1" else "house")


def room_of(path: str) -> int:
    """The place of a test file in the suite's order; unknown rooms come last."""
    parts = path.replace(os.sep, "/").split("/")
    room = parts[parts.index("tests") + 1] if "tests" in parts[:-1] else ""
    return ROOMS.index(room) if room in ROOMS else len(ROOMS)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Quick rooms first, whole federations last; inside a room the order stays."""
    items.sort(key=lambda item: room_of(str(item.path)))


def pytest_collection_finish() -> None:
    """The planner's machine code is of the sources that are tested."""
    if "federation.scheduling" in sys.modules:
        from federation.app.kernels import fresh_kernels

        fresh_kernels("benchmarks")


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item, call: pytest.CallInfo[None]
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """With BRHUB_CI=1 a skip is a failure, unless its reason is on the list."""
    report = yield
    if STRICT and report.skipped and not hasattr(report, "wasxfail"):
        reason = str(call.excinfo.value) if call.excinfo else ""
        if not any(word in reason for word in ALLOWED_SKIPS):
            report.outcome = "failed"
            report.longrepr = f"{item.nodeid} skipped where nothing may skip: {reason}"
    return report
