"""The object store as servicers ask it: refused at once while it is waited for, and in threads of its own.

A store that hangs keeps a call for minutes. Whoever only reads jobs, or asks for orders, must not wait behind those.
"""

from __future__ import annotations

import asyncio
import functools
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import ParamSpec, TypeVar

from federation.errors import Code, Fault, FederationError
from federation.objects.store import ObjectStore
from federation.service.desk import Desk

THREADS_MAX = 16
"""As many as its connections (`federation/objects/transport.py`)."""
P = ParamSpec("P")
T = TypeVar("T")
_threads = ThreadPoolExecutor(THREADS_MAX, "object-store")


def objects_of(desk: Desk) -> ObjectStore:
    """The object store; STORE_UNAVAILABLE where the control plane has none, and at once while it waits for it."""
    if desk.objects is None:
        raise FederationError(
            Code.STORE_UNAVAILABLE,
            "this control plane has no object store",
            fault=Fault.FEDERATION,
            hint="Its operator sets [objects] in the configuration; jobs without packages and results run.",
        )
    return desk.objects.answering()


async def asked(call: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
    """What a call that asks the store gives. Raises: what it raises."""
    return await asyncio.get_running_loop().run_in_executor(_threads, functools.partial(call, *args, **kwargs))
