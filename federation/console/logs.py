"""A job's log on its page: the tail at first, then what is added, asked of the hub that has it."""

from __future__ import annotations

import asyncio
import codecs
from collections.abc import Awaitable, Callable
from dataclasses import dataclass

from federation.console.live import Message
from federation.domain.job import Job, JobState
from federation.errors import FederationError
from federation.service.desk import Desk
from federation.service.reading import read_log

TAIL_BYTES = 48 << 10
TAIL_S_MAX = 2.5
"""A page does not wait longer than this for a hub."""
FOLLOW_S = 1.0
AWAY_S = 5.0
STEP_BYTES = 128 << 10


@dataclass(frozen=True, slots=True)
class Tail:
    """The end of a log. `offset` is where the text that follows begins; `note` says why there is none."""

    attempt: str
    text: str
    skipped_bytes: int
    offset: int
    note: str = ""


async def tail_of(desk: Desk, job: Job) -> Tail:
    """The last `TAIL_BYTES` of the job's last attempt, or why they cannot be had."""
    attempt = str(job.epoch) if job.epoch is not None else ""
    if not attempt:
        return Tail("", "", 0, 0, "Nothing has run yet.")
    try:
        async with asyncio.timeout(TAIL_S_MAX):
            chunk = await read_log(desk, job, attempt, 0, TAIL_BYTES)
            begin = max(0, chunk.size_bytes - TAIL_BYTES)
            if begin:
                chunk = await read_log(desk, job, attempt, begin, TAIL_BYTES)
    except FederationError as error:
        return Tail(attempt, "", 0, 0, f"{error.message}. {error.hint}")
    except TimeoutError:
        return Tail(attempt, "", 0, 0, f"Hub {job.hub_id} has not sent the log yet.")
    data = chunk.data
    if begin:  # begin at a line, not inside one
        cut = data.find(b"\n") + 1
        begin, data = begin + cut, data[cut:]
    whole, text = _decoded(data)
    return Tail(attempt, text, begin, begin + whole, _heading(job))


def _heading(job: Job) -> str:
    """Above the log of a job that waits again: it is the one before that is shown."""
    return f"Attempt {job.epoch}, ended; the job waits to run again." if job.state is JobState.QUEUED else ""


def _decoded(data: bytes) -> tuple[int, str]:
    """(bytes used, text): a character that is cut at the end is left for the next piece."""
    decoder = codecs.getincrementaldecoder("utf-8")("replace")
    text = decoder.decode(data)
    return len(data) - len(decoder.getstate()[0]), text


async def follow(
    desk: Desk, look: Callable[[], Awaitable[Job]], begin: tuple[str, int], send: Callable[[Message], Awaitable[None]]
) -> None:
    """Send what is added to the log of the job that `look` tells of, from `begin` = (attempt, offset), until it is whole.

    A new attempt's log starts afresh; until then the one before stays, with a heading. A hub that cannot be asked is asked again.
    """
    (attempt, offset), told = begin, ""
    while True:
        pause_s = FOLLOW_S
        try:
            job = await look()
            present = str(job.epoch) if job.epoch is not None else ""
            if present != attempt:
                attempt, offset, told = present, 0, ""
                await send(("log-reset", {"attempt": attempt}))
            if present:
                chunk = await read_log(desk, job, attempt, offset, STEP_BYTES)
                used, text = _decoded(chunk.data)
                if chunk.data and not used:
                    used = len(chunk.data) if chunk.complete else 0
                offset += used
                heading = _heading(job) if present else ""
                if text or told != heading:
                    told = heading
                    await send(("log", {"text": text, "note": heading, "offset": offset}))
                behind = offset < chunk.size_bytes and used > 0
                pause_s = 0.0 if behind else FOLLOW_S
                if job.state.terminal and chunk.complete and not behind:
                    pause_s = AWAY_S  # it may be queued again
        except FederationError as error:
            if told != error.message:
                told = error.message
                await send(("log", {"text": "", "note": f"{error.message}. {error.hint}", "offset": offset}))
            pause_s = AWAY_S
        await asyncio.sleep(pause_s)
