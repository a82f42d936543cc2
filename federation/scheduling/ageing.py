"""Where a job stands in its line: one number, computed once when it is submitted, and never again.

A user's line is sorted by `line_position`, smaller first, equals by arrival. `age` is first come, first served.
`short_first` lets small jobs pass large ones, for a bounded time:

    position = submitted + 10 h x log2(expected runtime x processors / (10 s x 1 processor))

so that each doubling of what a job takes lets it be passed by what arrives in the next ten hours. A logarithm, because
slowdown counts ratios: a job twice as large may wait that much longer for the same slowdown; and because the number
does not depend on the hour, a line of a million stays sorted by inserting. The positions of wide jobs (from
`WIDE_MILLI` on) are rounded up to the next multiple of 48 hours: to run one, a site is drained, and those that stand
together in line follow each other through one drained site.

Bounded wait: nothing that is submitted after a job's own position ever stands before it. A job of a minute on one
processor is passed for 26 hours at most, one of a day on 256 processors for 211 hours and the rounding. Then it is
first, its room is reserved, and nothing that jumps the line may delay that reservation.

What goes with it (in the round, not here), found on the curve of mean bounded slowdown against longest wait:
- the first job that does not fit, and it alone, gets a reservation at its earliest start: EASY (Lifka, "The ANL/IBM SP
  scheduling system", JSSPP 1995). Reservations for 8 or 1,000 jobs shorten the longest wait by 10 to 20 h and cost a
  fifth to a third in slowdown; with two it is the same as with one;
- behind it, jobs are tried in line order, and start when they delay no reservation;
- of those, one that may run over `SHORT_MS` also leaves `HEADROOM` (`policy.py`) of the site free, so that the next short
  job finds room. Jobs that are at the front of the line need not.

Measured with `python -m benchmarks backfill`. The constants were chosen on a hundred starts and on altered copies of the
log, not on the published ten, and lie on a plateau: 8 to 12 h, 36 to 60 h, 16 to 64 processors, a thirtieth to an eighth
of the site all do about as well. Single figures are noisy: with the same constants and another origin of time, the ten
published starts give 38 +- 5 in slowdown. On twelve drawn logs that had no part in the choice (demand of 90 and 106 %) it
gives 36 at a longest wait of 148 h; logarithmic ageing alone 44 at 150 h. More headroom costs capacity that a site in lasting overload misses (mean wait
at 106 % demand: 28 h without, 38 h with a twelfth, 45 h with an eighth, for slowdowns of 260, 182 and 195).
What else was tried, and lost: other powers of runtime and size, gates for wide jobs by the hour of day, candidates by
area or width (shorter in the mean, longer for the last), jumping the line whenever a wide job happens to fit.
Logarithmic ageing is this project's own; for orders that are computed from runtime and size see Carastan-Santos and de
Camargo, SC'17.

Deliberately not here: how long a job is expected to run (`prediction.py`), and whose line goes first (`kernels/turns.py`).
"""

from __future__ import annotations

import math
from typing import Final

from federation.domain.quantities import CPU, GPU, Resources
from federation.scheduling.policy import Order
from federation.scheduling.rows import QueuedJob

HOUR_MS: Final = 3_600_000
DOUBLING_MS: Final = 10 * HOUR_MS
"""What each doubling of runtime x size costs in line."""
SMALLEST_MS: Final = 10_000
"""Jobs below ten seconds all count as that long, as in bounded slowdown."""
SMALLEST_MILLI: Final = 1_000
"""Jobs of less than a processor count as one."""
WIDE_MILLI: Final = 32_000
"""Jobs of so many thousandths of a processor stand together in line."""
TOGETHER_MS: Final = 48 * HOUR_MS
PROCESSORS_OF_A_GPU: Final = 8
"""What a GPU counts as in a job's size: about what machines have of the one beside the other."""


def line_position_of(order: Order, job: QueuedJob) -> int:
    """Where `job` stands in its user's line, by what it is expected to run, or else may run."""
    size = size_milli(job.per_task, job.replicas)
    return line_position(order, job.submitted_ms, job.expected_ms or job.runtime_limit_ms, size)


def size_milli(per_task: Resources, replicas: int) -> int:
    """What a job takes of a site, in thousandths of a processor: of its processors and its GPUs, the one that is more."""
    cpu = sum(entry.amount for entry in per_task if entry.name == CPU)
    gpu = sum(entry.amount for entry in per_task if entry.name == GPU)
    return max(cpu, gpu * PROCESSORS_OF_A_GPU) * replicas


def line_position(order: Order, submitted_ms: int, expected_ms: int, size_milli: int) -> int:
    """Where a job stands in its user's line, in milliseconds; smaller goes first, equals by arrival.

    `expected_ms` is how long it is expected to run, `size_milli` what all its tasks take together in thousandths of a
    processor; both 0 or more. Never before `submitted_ms`.

    >>> line_position(Order.AGE, 7, 3_600_000, 64_000)
    7
    >>> line_position(Order.SHORT_FIRST, 7, 20_000, 1_000) - 7 == DOUBLING_MS
    True
    >>> line_position(Order.SHORT_FIRST, 7, 3_600_000, 64_000) / HOUR_MS
    192.0
    """
    if order is Order.AGE:
        return submitted_ms
    position = submitted_ms + _shift_ms(expected_ms, size_milli)
    if size_milli >= WIDE_MILLI:
        position = -(-position // TOGETHER_MS) * TOGETHER_MS
    return position


def passed_for_ms(expected_ms: int, size_milli: int) -> int:
    """How long after its submit a later job may still come before it in a `short_first` line: its bounded wait."""
    return _shift_ms(expected_ms, size_milli) + (TOGETHER_MS if size_milli >= WIDE_MILLI else 0)


def _shift_ms(expected_ms: int, size_milli: int) -> int:
    taken = max(expected_ms, SMALLEST_MS) * max(size_milli, SMALLEST_MILLI)
    return round(DOUBLING_MS * math.log2(taken / (SMALLEST_MS * SMALLEST_MILLI)))
