"""Jobs for a federation under real faults, and everything that a person does with them, each call noted with its times.

Calls run on threads, because under a fault they wait. What was asked for is a `Wish`; it is the measure of what must hold
in the end (`real_promises.py`).
"""

from __future__ import annotations

import json
import shutil
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from random import Random
from typing import Any

from federation.cli.show import state_of
from federation.client import Patience
from federation.errors import Code, FederationError
from tests.support import real_program
from tests.support.real_faults import Victim
from tests.support.real_site import HUBS, Site

CPUS = 0.2
CALL_S, RETRY_S = 10.0, 60.0
WAITED_OUT = frozenset({Code.UNREACHABLE, Code.TIMED_OUT, Code.STORE_UNAVAILABLE, Code.OVERLOADED})
"""What a person under a bad link is told, and then tries again."""


def now_ms() -> int:
    """The machine's wall clock, which all programs here share."""
    return time.time_ns() // 1_000_000


@dataclass(slots=True)
class Wish:
    """A job that somebody wants, and what became of the wish as its owner knows."""

    request_id: str
    hub: str
    spec: dict[str, Any]
    bell: Path
    exit_status: int
    job_id: str = ""
    answers: set[str] = field(default_factory=set)
    """Every job id that a submission with this request id was answered with."""
    lasts_s: float = 0
    """0: until its bell rings."""
    cancelled: bool = False
    struck: bool = False
    """A fault ended its program."""
    spared: bool = False
    """Nobody but its hub's silence is to end it."""
    retried: int = 0

    @property
    def goes_on(self) -> bool:
        """Whether it runs, or is to run, until somebody here ends it."""
        return not (self.lasts_s or self.cancelled or self.struck or self.spared or self.bell.exists())


@dataclass(slots=True)
class Done:
    """Something that was done: an operation at a hub, from its call to its answer."""

    operation: str
    hub: str
    job_id: str
    began_ms: int
    ended_ms: int = 0
    said: str = ""
    """The code of the error that it ended with."""


class Load:
    """See the module. Methods that call return a future; nothing here waits."""

    def __init__(self, site: Site, seed: int) -> None:
        self.site = site
        self.wishes: list[Wish] = []
        self.done: list[Done] = []
        self.problems: list[str] = []
        """What a person was told that nobody may be told."""
        self._chance = Random(f"load {seed}")
        self._client = site.client(Patience(call_s=CALL_S, retry_s=RETRY_S))
        self._pool = ThreadPoolExecutor(16, thread_name_prefix="person")
        self._package = site.folder / "package"
        self._package.mkdir(exist_ok=True)
        shutil.copy(real_program.__file__, self._package / "program.py")

    def close(self) -> None:
        """No more calls."""
        self._pool.shutdown(cancel_futures=True)
        self._client.close()

    # ---- what people do ---------------------------------------------------------------------------------------------
    def wish(self, hub: str, **changes: Any) -> Future[None]:
        """Somebody wants a job at this hub: its kind is drawn, but for what is given."""
        chance = self._chance
        on_partition = chance.choice(("keep", "keep", "stop", "rerun"))
        drawn: dict[str, Any] = {"lasts_s": chance.choice((0, 0, 0.3)), "exit_status": chance.choice((0, 0, 0, 3))}
        drawn |= {
            "packed": chance.random() < 0.5,
            "saves": chance.random() < 0.5,
            "on_partition": on_partition,
            **changes,
        }
        number = len(self.wishes)
        bell = self.site.folder / "bells" / str(number)
        variables = {
            "TRACE": str(self.site.trace),
            "BELL": str(bell),
            "LASTS": str(drawn["lasts_s"]),
            "EXIT": str(drawn["exit_status"]),
            "SAVES": "1" if drawn["saves"] else "0",
        }
        spec: dict[str, Any] = {
            "name": f"real-{number}", "engine": "command", "runtime_limit": "20m",
            "resources": {"cpus": CPUS, "memory": "32Mi"}, "hubs": {"allow": drawn.get("allow", [hub]), "prefer": [hub]},
            "on_partition": drawn["on_partition"], "idempotent": drawn["on_partition"] == "rerun",
            "environment": {"variables": variables},
        }  # fmt: skip
        if drawn["packed"]:
            spec |= {"entrypoint": "program.py", "package": str(self._package)}
        else:
            spec |= {"entrypoint": "python3", "arguments": ["-S", real_program.__file__]}
        wish = Wish(f"real-{number}", hub, spec, bell, drawn["exit_status"])
        wish.lasts_s, wish.spared = drawn["lasts_s"], drawn.get("spared", False)
        self.wishes.append(wish)
        return self._pool.submit(self._submit, wish, chance.random() < 0.25)

    def read_log(self, victim: Victim, hub: str) -> Future[None]:
        """Somebody reads what there is of its log."""
        return self._pool.submit(self._call, "log read", hub, victim.job_id, self._read)

    def cancel(self, victim: Victim, hub: str) -> Future[None]:
        """Its owner does not want it any more."""
        self.wish_of(victim.job_id).cancelled = True
        return self._pool.submit(self._call, "cancel", hub, victim.job_id, self._client.cancel)

    def retry(self, job_id: str) -> Future[None]:
        """Its owner wants it once more."""
        wish = self.wish_of(job_id)
        wish.retried += 1
        return self._pool.submit(self._call, "retry", wish.hub, job_id, self._client.retry)

    def ring(self, victim: Victim) -> None:
        """It ends by itself now."""
        self.wish_of(victim.job_id).bell.touch()

    # ---- what is known ----------------------------------------------------------------------------------------------
    def wish_of(self, job_id: str) -> Wish:
        """Whose job that is."""
        return next(wish for wish in self.wishes if wish.job_id == job_id)

    def states(self) -> dict[str, str]:
        """Every job's state, as the control plane says it."""
        return {job.id: state_of(job) for job in self._client.list(limit=100_000)}

    def log_of(self, job_id: str) -> str:
        """The whole log of its last attempt. Raises: LookupError while its hub cannot be asked."""
        try:
            return b"".join(self._client.logs(job_id)).decode()
        except FederationError as error:
            if error.code is not Code.LOGS_UNAVAILABLE:
                raise
            raise LookupError(str(error)) from error

    # ---- inside -----------------------------------------------------------------------------------------------------
    def _submit(self, wish: Wish, again: bool) -> None:
        def submit(_: str) -> str:
            return self._client.submit(wish.spec, wish.request_id)

        for _ in range(1 + again):
            answer = self._call("submit", wish.hub, "", submit)
            if answer is not None:
                wish.answers.add(answer)
                wish.job_id = answer

    def _read(self, job_id: str) -> None:
        lines = b"".join(self._client.logs(job_id)).decode().splitlines()
        said = [line for line in lines if not line.startswith("brhub: ")]
        if said and not said[0].startswith(("it runs", "step ")):  # a full disk took the first words
            self.problems.append(f"the log of job {job_id} begins with {said[:3]}")

    def _call(self, operation: str, hub: str, job_id: str, call: Callable[[str], Any]) -> Any:
        """Do it, and note it; what smells of a bad link is done again, for as long as a patient person would."""
        done = Done(operation, hub, job_id, now_ms())
        until_s = time.monotonic() + RETRY_S
        while True:
            try:
                answer = call(job_id)
            except FederationError as error:
                done.said = error.code.value
                if error.code in WAITED_OUT and operation != "log read" and time.monotonic() < until_s:
                    continue
                if error.code not in _MAY_BE_SAID.get(operation, ()):
                    self.problems.append(f"{operation} of {job_id or hub}: {error}")
                answer = None
            except Exception as problem:
                self.problems.append(f"{operation} of {job_id or hub}: {problem!r}")
                raise
            done.ended_ms = now_ms()
            done.job_id = done.job_id or answer or ""
            self.done.append(done)
            return answer


_MAY_BE_SAID = {
    "log read": {Code.LOGS_UNAVAILABLE, *WAITED_OUT},
    "cancel": {Code.ILLEGAL_TRANSITION},
    "retry": {Code.ILLEGAL_TRANSITION},
}


@dataclass(frozen=True, slots=True)
class Line:
    """A fact that a program wrote down."""

    what: str
    hub: str
    job_id: str
    attempt: str
    pid: int
    wall_ms: int
    boot_ms: int
    status: int = 0
    steps: int = 0


def lines_of(site: Site) -> list[Line]:
    """All facts of all programs, by time."""
    found = []
    for hub in HUBS:
        file = site.trace / f"{hub}.jsonl"
        if file.exists():
            found += [Line(**json.loads(line)) for line in file.read_text().splitlines()]
    return sorted(found, key=lambda line: line.boot_ms)


def running_at(lines: Sequence[Line], hub: str) -> list[Victim]:
    """Attempts whose programs began there, and have written no end."""
    over = {(line.job_id, line.attempt) for line in lines if line.what in ("term", "end")}
    begun = [line for line in lines if line.what == "begin" and line.hub == hub]
    return [Victim(line.job_id, line.attempt, line.pid) for line in begun if (line.job_id, line.attempt) not in over]
