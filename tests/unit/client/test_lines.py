"""Several control planes, of which one leads: clients and agents find it by the same law, and a dead address costs little."""

from __future__ import annotations

import asyncio
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from federation.backoff import Rounds
from federation.client import AsyncClient, Client, Patience, Settings
from federation.client.lines import Lines
from federation.client.settings import ADDRESSES_MAX, addresses, find_settings, write_settings
from federation.client.transport import CONNECT_MS, Tries, moves_on
from federation.errors import Code, Fault, FederationError
from tests.unit.client.conftest import HASTY
from tests.unit.client.small_federation import TOKEN, SmallFederation

COMMAND = {"engine": "command", "entrypoint": "true"}
AWAY = FederationError(Code.UNREACHABLE, "away", fault=Fault.NETWORK)
BUSY = FederationError(Code.OVERLOADED, "busy", fault=Fault.FEDERATION)
STRANGER = FederationError(Code.UNAUTHENTICATED, "who are you", fault=Fault.CALLER)


@contextmanager
def a_closed_port() -> Iterator[str]:
    """An address at which nothing listens, kept for as long as it is used."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        yield f"127.0.0.1:{taken.getsockname()[1]}"


@contextmanager
def a_black_hole() -> Iterator[str]:
    """An address at which packets vanish: a listener whose queue is full."""
    with socket.socket() as full, socket.socket() as first, socket.socket() as second:
        full.bind(("127.0.0.1", 0))
        full.listen(0)
        for one in (first, second):
            one.setblocking(False)
            one.connect_ex(full.getsockname())
        yield f"127.0.0.1:{full.getsockname()[1]}"


@pytest.fixture
def second() -> Iterator[SmallFederation]:
    """Another small federation."""
    federation = SmallFederation()
    federation.start()
    yield federation
    federation.stop()


def between(*servers: str) -> Settings:
    """Settings that name all of these."""
    return Settings(",".join(servers), TOKEN)


# ---- the law ----------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize(("count", "expected"), [(1, [1, 2, 3, 4]), (2, [0, 1, 0, 2]), (3, [0, 0, 1, 0])])
def test_a_pause_follows_a_round_of_all_addresses(count: int, expected: list[int]) -> None:
    """The next address is tried at once; what grows is the number of rounds."""
    rounds = Rounds(count)
    assert [rounds.failed(moves=True) for _ in range(4)] == expected
    rounds.good()
    assert rounds.failed(moves=True) == expected[0]


def test_who_leads_and_is_busy_is_waited_for() -> None:
    """A failure that no other address would mend is followed by a pause each time."""
    rounds = Rounds(3)
    assert [rounds.failed(moves=False) for _ in range(3)] == [1, 2, 3]


@given(st.lists(st.booleans(), max_size=60), st.integers(1, 5))
def test_no_address_is_asked_twice_without_a_pause(moves: list[bool], count: int) -> None:
    """Whatever fails in whatever order: at most `count` - 1 tries in a row follow each other at once."""
    rounds = Rounds(count)
    in_a_row = 0
    for move in moves:
        in_a_row = 0 if rounds.failed(move) else in_a_row + 1
        assert in_a_row < count


def test_each_address_is_tried_however_long_the_first_took() -> None:
    """Patience that ended while a dead address was waited for does not spare the others."""
    tries = Tries(Patience(retry_s=1.0), 3, 0.0)
    assert [tries.failed(AWAY, 100.0), tries.failed(AWAY, 200.0)] == [0.0, 0.0]
    with pytest.raises(FederationError):
        tries.failed(AWAY, 201.0)


@pytest.mark.parametrize(
    ("error", "moves"),
    [
        (AWAY, True),
        (STRANGER, True),
        (BUSY, False),
        (FederationError(Code.TIMED_OUT, "no answer", fault=Fault.NETWORK), True),
        (FederationError(Code.TIMED_OUT, "its hub did not answer", fault=Fault.HUB), False),
        (FederationError(Code.PERMISSION_DENIED, "not yours", fault=Fault.POLICY), False),
        (FederationError(Code.STORE_UNAVAILABLE, "no store", fault=Fault.FEDERATION), False),
    ],
)
def test_what_another_address_may_know_better(error: FederationError, moves: bool) -> None:
    """Nobody there, or a stranger; not a word of the one that leads."""
    lines: Lines[str] = Lines(between("127.0.0.1:1", "127.0.0.1:2"), lambda settings: settings.server)
    assert moves_on(error) is moves
    first = lines.line
    assert lines.failed(first, error) == (first if moves else None)
    assert lines.line == ("127.0.0.1:2" if moves else "127.0.0.1:1")


def test_a_line_that_was_left_is_not_left_again() -> None:
    """Two threads whose calls broke together go to the next address once, not to the one after it."""
    lines: Lines[str] = Lines(between("127.0.0.1:1", "127.0.0.1:2"), lambda settings: settings.server)
    first = lines.line
    assert [lines.failed(first, AWAY), lines.failed(first, AWAY)] == [first, None]
    assert lines.address == "127.0.0.1:2"


# ---- how they are named -----------------------------------------------------------------------------------------------
@given(st.lists(st.sampled_from(["a:1", "b:2", "https://c:3", "[::1]:4"]), min_size=1, max_size=9), st.data())
def test_addresses_are_read_as_they_were_written(words: list[str], data: st.DataObject) -> None:
    """In their order, each once, whatever blanks and commas stand between."""
    gaps = data.draw(st.lists(st.sampled_from([",", " , ", ",,", ", ,\t"]), min_size=len(words), max_size=len(words)))
    text = "".join(word + gap for word, gap in zip(words, gaps, strict=True))
    assert addresses(text) == tuple(dict.fromkeys(words))


@given(st.text(max_size=60))
def test_any_text_is_addresses_or_is_refused(text: str) -> None:
    """Never anything but an answer or an error of ours."""
    words = {word.strip() for word in text.split(",")} - {""}
    if 0 < len(words) <= ADDRESSES_MAX:
        assert sorted(addresses(text)) == sorted(words)
        return
    with pytest.raises(FederationError) as caught:
        addresses(text)
    assert caught.value.code in (Code.INVALID_ARGUMENT, Code.LIMIT_EXCEEDED)


def test_there_is_a_limit_to_addresses() -> None:
    """As many as that, and not one more."""
    names = [f"host-{n}:1" for n in range(ADDRESSES_MAX + 1)]
    assert len(addresses(",".join(names[1:]))) == ADDRESSES_MAX
    with pytest.raises(FederationError) as caught:
        addresses(",".join(names))
    assert caught.value.code is Code.LIMIT_EXCEEDED


def test_a_wrong_address_among_several_is_named_at_once() -> None:
    """Not on the day on which it is needed."""
    with pytest.raises(FederationError) as caught:
        Client(between("127.0.0.1:1", "http://hub.example:80"))
    assert (caught.value.code, caught.value.metadata["server"]) == (Code.TLS_REQUIRED, "http://hub.example:80")


def test_a_saved_token_goes_to_each_of_the_servers_that_it_was_saved_for(tmp_path: Path) -> None:
    """One of them, or all in another order; not where a stranger is among them."""
    write_settings(tmp_path, Settings("127.0.0.1:1,127.0.0.1:2", "secret"))
    env = {"BRHUB_DIR": str(tmp_path)}
    named = ["127.0.0.1:2", "127.0.0.1:2, 127.0.0.1:1", "127.0.0.1:1,evil.example:443"]
    assert [find_settings(one, environ=env).token for one in named] == ["secret", "secret", ""]


# ---- for real ---------------------------------------------------------------------------------------------------------
def test_a_client_finds_the_one_that_answers_and_stays_there(small: SmallFederation) -> None:
    """The first address refuses; the second is asked at once, and first from then on."""
    with a_closed_port() as dead, Client(between(dead, small.settings.server), HASTY) as client:
        client.submit(COMMAND)
        began_s = time.monotonic()
        for _ in range(20):
            client.submit(COMMAND)
        assert time.monotonic() - began_s < 2
    assert len(small.jobs) == 21


def test_a_client_without_patience_asks_each_once(small: SmallFederation) -> None:
    """`retry_s` = 0 tries every address, and no address twice."""
    with a_closed_port() as dead, Client(between(dead, small.settings.server), Patience(retry_s=0.0)) as client:
        client.submit(COMMAND)
    with a_closed_port() as one, a_closed_port() as two:
        client = Client(between(one, two), Patience(retry_s=0.0))
        with client, pytest.raises(FederationError) as caught:
            client.submit(COMMAND)
    assert caught.value.code is Code.UNREACHABLE


def test_an_address_where_packets_vanish_costs_two_seconds(small: SmallFederation) -> None:
    """A machine without power says nothing; it is waited for as long as a lost packet would need."""
    with a_black_hole() as dead, Client(between(dead, small.settings.server), HASTY) as client:
        began_s = time.monotonic()
        client.submit(COMMAND)
        assert time.monotonic() - began_s < CONNECT_MS / 1000 + 1


def test_threads_of_one_client_go_over_together(small: SmallFederation, second: SmallFederation) -> None:
    """The first ends under eight threads' calls: every call has its answer, from the second, and none is lost on the way."""
    answers: list[str] = []

    def submit_some() -> None:
        answers.extend(client.submit(COMMAND) for _ in range(25))

    patient = Patience(call_s=5.0, retry_s=20.0, pause_s=0.01, pause_max_s=0.05)
    with Client(between(small.settings.server, second.settings.server), patient) as client:
        client.submit(COMMAND)
        threads = [threading.Thread(target=submit_some) for _ in range(8)]
        for thread in threads:
            thread.start()
        small._server.stop(None).wait()
        for thread in threads:
            thread.join(60)
        assert len(answers) == 200
    assert second.jobs


def test_an_async_client_goes_over_too(small: SmallFederation, second: SmallFederation) -> None:
    """Also with a watch open, which is opened again at the second."""
    second.add_job("job-1", "SUCCEEDED", revision=7)
    small.add_job("job-1", "RUNNING", revision=2)

    async def walk() -> int:
        async with AsyncClient(between(small.settings.server, second.settings.server), HASTY) as client:
            await client.get("job-1")
            waiting = asyncio.ensure_future(client.wait("job-1", 20))
            await asyncio.to_thread(lambda: small._server.stop(None).wait())
            return (await waiting).revision

    assert asyncio.run(walk()) == 7


def test_a_watch_goes_over_too(small: SmallFederation, second: SmallFederation) -> None:
    """Whoever waits for a job hears its end from the one that took over."""
    second.add_job("job-1", "SUCCEEDED", revision=7)
    small.add_job("job-1", "RUNNING", revision=2)
    with Client(between(small.settings.server, second.settings.server), HASTY) as client:
        seen = client.watch(["job-1"], 20)
        assert next(seen).revision == 2
        small._server.stop(None).wait()
        assert next(seen).revision == 7


def test_a_stranger_is_not_asked_for_ever(small: SmallFederation) -> None:
    """Somebody else's control plane refuses the token: that is said, and the next call goes to the other address."""
    small.fail_next("GetJob", STRANGER)
    small.add_job("job-1")
    with a_closed_port() as dead, Client(between(small.settings.server, dead), HASTY) as client:
        with pytest.raises(FederationError) as caught:
            client.get("job-1")
        assert caught.value.code is Code.UNAUTHENTICATED
        assert client.get("job-1").id == "job-1"  # by way of the dead one, and round again
