"""How long a job will run, from what the same user's last two jobs of the same sort ran.

People ask for far more time than their jobs take, and their next job is much like their last two. The mean of those is
as good a guess as any that is known (Tsafrir, Etsion and Feitelson, "Backfilling using system-generated predictions
rather than user runtime estimates", IEEE TPDS 2007; they do not part a user's jobs by sort). A guess is for the order
of a line and for what people are told; reservations go by the limit, which no job outlives. A guess that a running job
has outlived is corrected upward in growing steps, as there. Whole milliseconds only.

Bounded: the `KNOWN_MAX` pairs of user and sort that ended last are known. The same ends in the same order give the same
guesses, and so does `entries`, from which a new one is made after a restart. Deliberately not here: where runtimes are
kept, and who feeds them in.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final, NamedTuple

from federation.domain.quantities import Resources
from federation.errors import invalid
from federation.scheduling.rows import OwnerKey, QueuedJob

KNOWN_MAX: Final = 20_000
MINUTE_MS: Final = 60_000
STEPS_MS: Final = tuple(minutes * MINUTE_MS for minutes in (1, 5, 15, 30, 60, 120, 300, 600, 1_200, 3_000, 6_000))
"""What is added to a guess that was outlived, the first that is enough."""


class Kind(NamedTuple):
    """Whose job, and of what sort: what is taken to run alike."""

    owner: OwnerKey
    engine: str
    per_task: Resources
    replicas: int


class Known(NamedTuple):
    """What was seen of a kind."""

    kind: Kind
    runtimes_ms: tuple[int, ...]
    """One or two, the latest last."""


def kind_of(job: QueuedJob) -> Kind:
    """The kind that `job` is of."""
    return Kind(job.owner, job.engine, job.per_task, job.replicas)


class Runtimes:
    """What jobs ran lately.

    >>> from federation.domain.quantities import resources
    >>> job = QueuedJob("a", 0, "cairo", "default", "ada", "command", resources(("cpu", "", 1000)))
    >>> seen = Runtimes()
    >>> seen.expected_ms(job)
    0
    >>> seen.ran(job, 4_000)
    >>> seen.ran(job, 7_001)
    >>> seen.expected_ms(job)
    5501
    """

    def __init__(self, entries: Iterable[Known] = (), known_max: int = KNOWN_MAX) -> None:
        """As one with these `entries` left off."""
        self._known_max = known_max
        self._runtimes: dict[Kind, tuple[int, ...]] = {}
        for kind, runtimes_ms in entries:
            for runtime_ms in runtimes_ms:
                self._see(kind, runtime_ms)

    def expected_ms(self, job: QueuedJob) -> int:
        """How long a job that waits is expected to run: at most its limit, at least 1; 0: nothing is known of its kind."""
        seen = self._runtimes.get(kind_of(job))
        if seen is None:
            return 0
        return max(1, min(-(-sum(seen) // len(seen)), job.runtime_limit_ms))

    def ran(self, job: QueuedJob, runtime_ms: int) -> None:
        """A job ended by itself after so long. Errors: INVALID_ARGUMENT below 0; nothing is learned then."""
        if runtime_ms < 0:
            raise invalid(f"a runtime of {runtime_ms} ms", hint="Use 0 or more.", field="runtime_ms")
        self._see(kind_of(job), runtime_ms)

    def entries(self) -> tuple[Known, ...]:
        """All that is known, the kind that ended last at the end."""
        return tuple(Known(kind, runtimes_ms) for kind, runtimes_ms in self._runtimes.items())

    def _see(self, kind: Kind, runtime_ms: int) -> None:
        before = self._runtimes.pop(kind, ())
        self._runtimes[kind] = (*before[-1:], runtime_ms)
        if len(self._runtimes) > self._known_max:
            del self._runtimes[next(iter(self._runtimes))]


def corrected_ms(expected_ms: int, ran_ms: int, limit_ms: int) -> int:
    """The guess for a job that has run for `ran_ms` and still runs: `expected_ms` while that is ahead, then more, up to its limit.

    Nothing expected (0) is the limit.

    >>> [corrected_ms(600_000, ran * MINUTE_MS, 86_400_000) // MINUTE_MS for ran in (9, 10, 11, 60)]
    [10, 11, 15, 70]
    """
    if expected_ms == 0 or expected_ms >= limit_ms:
        return limit_ms
    if ran_ms < expected_ms:
        return expected_ms
    return min(limit_ms, next((expected_ms + step for step in STEPS_MS if expected_ms + step > ran_ms), limit_ms))
