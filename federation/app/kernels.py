"""The planner's machine code on disk: thrown away when it is of other sources, and made before anybody waits for it.

Numba keeps what it compiled beside the source, or in the user's cache folder where it may not write there, and looks
at one file only: the one that a function is written in. A kernel that calls one of another file would go on with the
old one when that file changes. So a stamp lies beside the machine code: a digest of all sources that it may be made of
and of the versions of what made it; where it differs, all of the machine code goes. `./run setup`
calls `prepare`, which compiles everything once. Deliberately not here: kernels.
"""

from __future__ import annotations

import fcntl
import hashlib
import importlib
import sys
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numba
import numpy as np
from numba.core.dispatcher import Dispatcher

from federation.domain.hub import HubState, LinkState, Node
from federation.domain.ids import AgentId, AgentKey, HubId
from federation.domain.quantities import AMOUNT_MAX, GPU, Resources, resources
from federation.scheduling import Delta, PlannerState, Policy, explain, plan_round
from federation.scheduling.policy import Order
from federation.scheduling.rows import AgentRow, LeaseRow, QueuedJob

PLANNER = "federation.scheduling"
STAMP = "federation-kernels.stamp"
LATER_MS = 1_000_000_000
"""Everybody in the small federation has waited long enough for a promise."""
MACHINE_CODE = ("*.nbi", "*.nbc")
"""Numba's: indices first, so that whoever reads meanwhile finds nothing rather than half of it."""


def fresh_kernels(*others: str) -> bool:
    """Throw away machine code of other sources; whether there was any. Before the first kernel is called.

    `others`: packages with kernels that call the planner's (benchmarks), as far as they are imported by now. Another
    process that looks at the same time is waited for. Where nothing can be written there is nothing to throw away.
    """
    planner = importlib.import_module(PLANNER)
    sources = [Path(path) for path in planner.__path__]
    found = [_freshen(folder, digest_of(sources)) for folder in sorted(folders_of(PLANNER))]
    for name in others:
        if name in sys.modules:
            both = digest_of([*sources, *map(Path, sys.modules[name].__path__)])
            found += [_freshen(folder, both) for folder in sorted(folders_of(name))]
    return any(found)


def prepare() -> None:
    """Have all machine code on disk."""
    fresh_kernels()
    warm_up()


def digest_of(folders: Iterable[Path]) -> str:
    """SHA-256 of all sources below `folders`, by name, and of who compiles them."""
    makers = (numba.__version__, np.__version__, sys.version)
    total = hashlib.sha256(repr(makers).encode())
    for folder in folders:
        for path in sorted(folder.rglob("*.py")):
            name = path.relative_to(folder).as_posix()
            total.update(name.encode() + b"\0" + hashlib.sha256(path.read_bytes()).digest())
    return total.hexdigest()


def folders_of(package: str) -> set[Path]:
    """Where numba keeps the machine code of `package`'s imported kernels: the kernels themselves are asked."""
    kernels = [
        value
        for name, module in tuple(sys.modules.items())
        if name == package or name.startswith(f"{package}.")
        for value in vars(module).values()
        if isinstance(value, Dispatcher) and value.py_func.__module__ == name
    ]
    return {Path(kernel.stats.cache_path) for kernel in kernels if kernel.stats.cache_path}


def warm_up() -> None:
    """Compile, or load, everything that rounds and explanations call, with the types that they call it with."""
    for order in Order:
        policy, delta = Policy(order=order, quotas={("*",): {GPU: AMOUNT_MAX}}), _small_federation()
        state, _ = plan_round(PlannerState(), delta, policy, LATER_MS)
        for job in delta.queued:
            explain(state, policy, job, LATER_MS)


def _small_federation() -> Delta:
    """Two hubs whose own jobs find their machine taken by a guest, and one where gangs of all sorts start or wait."""
    here, there, yonder = ((HubId(hub), AgentId("1")) for hub in "abd")
    machine = resources(("cpu", "", 8_000), ("gpu", "", 4_000))
    cpu, share = resources(("cpu", "", 1_000)), resources(("cpu", "", 1_000), ("gpu", "", 500))
    whole, all_of_it = resources(("cpu", "", 1_000), ("gpu", "", 2_000)), resources(("cpu", "", 8_000))
    return Delta(
        agents=(_agent(here, machine, 1), _agent(there, machine, 3), _agent(yonder, machine, 1)),
        queued=(
            _job(1, "a", all_of_it, hubs_allow=("a",)),  # its hub's machine is taken: the guest is preempted
            _job(7, "d", all_of_it, hubs_allow=("d",), spread=True),
            _job(2, "b", cpu, replicas=2),
            _job(3, "b", share, replicas=2, spread=True),
            _job(4, "c", whole, replicas=2, hubs_allow=("b",)),
            _job(5, "c", all_of_it, replicas=3, hubs_allow=("b",)),  # waits for a promised start
            _job(6, "c", cpu, runtime_limit_ms=1_000, hubs_allow=("b",)),  # looks whether it delays that
        ),
        leases_started=(
            LeaseRow("l", "j", here, ("0",), share, "b", "p", "u", 2 * LATER_MS, 1, ((0,),), preemptible=True),
            LeaseRow("n", "i", yonder, ("0",), share, "b", "p", "u", 2 * LATER_MS, 1, ((0,),), preemptible=True),
            LeaseRow("m", "k", there, ("0",), cpu, "b", "p", "u", 2 * LATER_MS, 1),
        ),
    )


def _agent(key: AgentKey, offered: Resources, nodes: int) -> AgentRow:
    machines = tuple(Node(str(at), offered, offered) for at in range(nodes))
    return AgentRow(key, HubState.ACTIVE, LinkState.ONLINE, machines, ("command",))


def _job(seq: int, hub: str, per_task: Resources, **more: Any) -> QueuedJob:
    return QueuedJob(str(seq), seq, hub, "p", "u", "command", per_task, **more)


def _freshen(folder: Path, wanted: str) -> bool:
    """Empty one folder of machine code, unless its stamp says `wanted`; whether any went."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with _alone_in(folder) as stamp:
            if stamp.read_text("ascii") == wanted:
                return False
            gone = [path for pattern in MACHINE_CODE for path in folder.glob(pattern)]
            for path in gone:
                path.unlink(missing_ok=True)
            stamp.write_text(wanted, "ascii")
            return bool(gone)
    except OSError:  # numba writes nothing here either, and so reads nothing of other sources
        return False


@contextmanager
def _alone_in(folder: Path) -> Iterator[Path]:
    """The folder's stamp, while no other process looks at it."""
    stamp = folder / STAMP
    with stamp.open("a") as handle:
        fcntl.flock(handle, fcntl.LOCK_EX)
        yield stamp
