"""Read a range of a job's log: the wish goes to the hub that has it, and the answer comes back within seconds."""

from __future__ import annotations

import asyncio
from dataclasses import replace

from federation.domain.hub import LinkState
from federation.domain.job import Epoch, Job, JobState
from federation.errors import Code, Fault, FederationError, invalid
from federation.service.desk import Desk
from federation.service.logs import LogChunk, LogRead

EPOCH_DIGITS_MAX = 18
"""So many decimal digits fit an int64: the wish must go out on the wire, in the answer to somebody else's call."""
ANSWER_S_MAX = 25.0
"""A held sync is at most 20 s old; a live one answers in milliseconds."""


async def read_log(desk: Desk, job: Job, attempt: str, offset: int, limit_bytes: int) -> LogChunk:
    """The range. Nothing yet while no attempt has started; LOGS_UNAVAILABLE when its hub cannot be asked.

    Of a job that waits again this is the attempt that ended; more comes with the next.
    """
    epoch = parsed_attempt(attempt) if attempt else job.epoch
    if epoch is None:
        return LogChunk(offset, b"", 0, complete=job.state.terminal)
    key = (job.hub_id, job.agent_id)
    agent = await desk.ask(lambda unit: unit.world.agents.get(key))
    if agent is None or agent.link is not LinkState.ONLINE:
        raise FederationError(
            Code.LOGS_UNAVAILABLE,
            f"hub {job.hub_id}, which has the log, cannot be asked at the moment",
            fault=Fault.HUB,
            hint="Try again when it is back; nothing is lost.",
            metadata={"hub_id": job.hub_id},
        )
    loop = asyncio.get_running_loop()
    answer: asyncio.Future[LogChunk] = loop.create_future()

    def settle(chunk: LogChunk) -> None:
        if not answer.done():
            answer.set_result(chunk)

    def deliver(chunk: LogChunk) -> None:
        loop.call_soon_threadsafe(settle, chunk)

    read = LogRead(desk.ids.new_id("read"), key, job.id, epoch, offset, limit_bytes)
    desk.logs.ask(read, deliver)
    desk.switchboard.agent_has_orders(key)
    try:
        chunk = await asyncio.wait_for(answer, ANSWER_S_MAX)
    except TimeoutError:
        raise FederationError(
            Code.LOGS_UNAVAILABLE,
            f"hub {job.hub_id} did not send the log in time",
            fault=Fault.HUB,
            hint="Try again; nothing is lost.",
            metadata={"hub_id": job.hub_id},
        ) from None
    finally:
        desk.logs.forget(read.read_id)
    if chunk.problem is not None:
        raise chunk.problem
    return replace(chunk, complete=False) if job.state is JobState.QUEUED and not attempt else chunk


def parsed_attempt(text: str) -> Epoch:
    """An epoch from "<incarnation>-<n>"."""
    incarnation, _, n = text.partition("-")
    if not (incarnation.isdecimal() and n.isdecimal() and max(len(incarnation), len(n)) <= EPOCH_DIGITS_MAX):
        raise invalid(
            f"attempt {text[:40]!r} is not <incarnation>-<n>",
            hint="`brhub job show` names the last one.",
            field="attempt",
        )
    return Epoch(int(incarnation), int(n))
