"""How long a job is expected to run, from what the same user's last two of the sort ran."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from federation.errors import FederationError
from federation.scheduling.prediction import STEPS_MS, Runtimes, corrected_ms
from federation.scheduling.rows import QueuedJob
from tests.unit.scheduling.builders import cpus, job

HOUR_MS = 3_600_000


def a_job(**changes: Any) -> QueuedJob:
    """Of ada, two processors, an hour at most."""
    return job("next", cpus(2), **({"runtime_limit_ms": HOUR_MS} | changes))


def after(*runtimes_ms: int, **changes: Any) -> Runtimes:
    """What is known after such jobs have ended one after the other."""
    seen = Runtimes()
    for runtime_ms in runtimes_ms:
        seen.ran(a_job(**changes), runtime_ms)
    return seen


def test_the_next_job_is_expected_to_run_like_the_last_two() -> None:
    """One counts for itself; of more, the last two, rounded up."""
    assert after(900).expected_ms(a_job()) == 900
    assert after(10**9, 900, 1_101).expected_ms(a_job()) == 1_001


def test_nothing_is_guessed_of_strangers() -> None:
    """Another user, engine, size or number of tasks tells nothing."""
    seen = after(900)
    others = ({"user": "bo"}, {"project": "p"}, {"home": "shenzhen"}, {"engine": "spark"}, {"replicas": 2})
    assert [seen.expected_ms(a_job(**other)) for other in others] == [0] * 5
    assert seen.expected_ms(job("wider", cpus(3))) == 0


def test_a_guess_is_at_most_the_limit_and_at_least_a_millisecond() -> None:
    """A job that may run for a second is not expected to run for two."""
    assert after(2_000, 2_000).expected_ms(a_job(runtime_limit_ms=1_000)) == 1_000
    assert after(0, 0).expected_ms(a_job()) == 1


def test_time_does_not_run_backwards() -> None:
    """A runtime below zero is refused and teaches nothing."""
    seen = after(900)
    with pytest.raises(FederationError, match="-1 ms"):
        seen.ran(a_job(), -1)
    assert seen.expected_ms(a_job()) == 900


def test_what_ended_longest_ago_is_forgotten_first() -> None:
    """At the limit nothing is; one past it, the kind whose last end is the oldest."""
    seen = Runtimes(known_max=2)
    for user in ("ada", "bo", "ada"):
        seen.ran(a_job(user=user), 500)
    assert [seen.expected_ms(a_job(user=user)) for user in ("ada", "bo", "cy")] == [500, 500, 0]
    seen.ran(a_job(user="cy"), 500)
    assert [seen.expected_ms(a_job(user=user)) for user in ("ada", "bo", "cy")] == [500, 0, 500]


def test_an_outlived_guess_grows_up_to_the_limit() -> None:
    """In steps, each after the last is over; never past the limit; nothing known is the limit."""
    assert corrected_ms(1_000, 999, HOUR_MS) == 1_000
    assert corrected_ms(1_000, 1_000, HOUR_MS) == 1_000 + STEPS_MS[0]
    assert corrected_ms(1_000, 1_000 + STEPS_MS[0], HOUR_MS) == 1_000 + STEPS_MS[1]
    assert corrected_ms(1_000, HOUR_MS - 1, HOUR_MS) == HOUR_MS
    assert corrected_ms(0, 5, HOUR_MS) == HOUR_MS
    assert corrected_ms(1_000, 10 * STEPS_MS[-1], 20 * STEPS_MS[-1]) == 20 * STEPS_MS[-1]


@given(st.integers(0, 10**9), st.integers(0, 10**10), st.integers(1, 10**10))
def test_a_correction_is_ahead_of_the_clock(expected_ms: int, ran_ms: int, limit_ms: int) -> None:
    """While a job may run on, it is expected to end later than now, and by its limit."""
    corrected = corrected_ms(expected_ms, ran_ms, limit_ms)
    assert corrected <= limit_ms
    assert corrected > ran_ms or corrected == limit_ms


ends = st.lists(
    st.tuples(st.sampled_from(["ada", "bo", "cy", "di"]), st.integers(1, 2), st.integers(0, 9)), max_size=30
)


@given(ends, ends, st.integers(1, 5))
def test_what_was_kept_knows_as_much_as_what_went_on(
    before: list[tuple[str, int, int]], later: list[tuple[str, int, int]], known_max: int
) -> None:
    """A new one made from the entries gives the same guesses, now and after whatever ends next."""
    seen = Runtimes(known_max=known_max)
    for user, replicas, runtime_ms in before:
        seen.ran(a_job(user=user, replicas=replicas), runtime_ms)
    again = Runtimes(seen.entries(), known_max)
    for user, replicas, runtime_ms in later:
        for one in (seen, again):
            one.ran(a_job(user=user, replicas=replicas), runtime_ms)
    assert again.entries() == seen.entries()
    assert len(seen.entries()) <= known_max


@given(ends)
def test_a_guess_is_the_mean_of_the_last_two(all_ends: list[tuple[str, int, int]]) -> None:
    """Against the whole list, read from its end."""
    seen = Runtimes()
    for user, replicas, runtime_ms in all_ends:
        seen.ran(a_job(user=user, replicas=replicas), runtime_ms)
    for user in ("ada", "bo"):
        last = [runtime_ms for who, replicas, runtime_ms in all_ends if (who, replicas) == (user, 1)][-2:]
        assert seen.expected_ms(a_job(user=user)) == (max(1, -(-sum(last) // len(last))) if last else 0)
