"""A start with an object store that is away, slow, not ready, or wrong: who is waited for, and what ends the start."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from federation.app import bucket
from federation.app.bucket import Bucket
from federation.errors import Code, FederationError
from federation.objects.embedded import EmbeddedSettings, start_embedded
from federation.objects.store import ObjectStore, StoreAddress
from tests.support.certificates import CertificateAuthority
from tests.support.eventually import eventually


@pytest.fixture(autouse=True)
def in_haste(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nobody is waited for as long as an operator would."""
    monkeypatch.setattr(bucket, "PAUSE_S", 0.01)
    monkeypatch.setattr(bucket, "START_S", 30.0)


class Door:
    """A server that answers every request with `status`, once `open` is set."""

    def __init__(self) -> None:
        self.status = 200
        self.open = threading.Event()
        self.open.set()


@contextmanager
def a_server(door: Door) -> Iterator[ObjectStore]:
    """A store that speaks HTTP and decides nothing."""

    class Answer(BaseHTTPRequestHandler):
        def do_HEAD(self) -> None:
            door.open.wait(30)
            self.send_response(door.status)
            self.end_headers()

        do_PUT = do_HEAD  # noqa: N815  # its name in http.server

        def log_message(self, *words: object) -> None:
            """Nothing."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Answer)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        yield ObjectStore(StoreAddress(f"http://127.0.0.1:{server.server_port}", "some-key", "some-secret"))
    finally:
        door.open.set()
        server.shutdown()
        thread.join()
        server.server_close()


def test_a_bucket_that_is_there_is_taken() -> None:
    """Nothing is away, and nothing is refused."""
    with a_server(Door()) as store:
        Bucket(store).start()
        assert (store.away, store.answering()) == ("", store)


def test_a_server_that_is_not_ready_is_waited_for(caplog: pytest.LogCaptureFixture) -> None:
    """A 503 is what one says that has just been started: refused until then, at once and with a code, and said once."""
    door = Door()
    door.status = 503
    with a_server(door) as store:
        waiting = Bucket(store)
        waiting.start()
        with pytest.raises(FederationError) as caught:
            store.answering()
        assert caught.value.code is Code.STORE_UNAVAILABLE
        door.status = 200
        eventually(lambda: not store.away)
        assert store.answering() is store
    assert len([line for line in caplog.messages if "Jobs without packages go on" in line]) == 1


def test_a_server_that_hangs_does_not_hold_the_start(monkeypatch: pytest.MonkeyPatch) -> None:
    """The start goes on after a while, and the store is used once it has answered."""
    monkeypatch.setattr(bucket, "START_S", 0.05)
    door = Door()
    door.open.clear()
    with a_server(door) as store:
        Bucket(store).start()
        with pytest.raises(FederationError, match="has not answered yet"):
            store.answering()
        door.open.set()
        eventually(lambda: not store.away)
        assert store.answering() is store


@pytest.mark.parametrize(("status", "code"), [(403, Code.PERMISSION_DENIED), (400, Code.STORE_UNAVAILABLE)])
def test_what_a_person_has_to_mend_ends_the_start(status: int, code: Code) -> None:
    """A key that is refused, and a server that is none: no waiting would help."""
    door = Door()
    door.status = status
    with a_server(door) as store, pytest.raises(FederationError) as caught:
        Bucket(store).start()
    assert caught.value.code is code


def test_a_wrong_key_that_is_found_later_is_told_and_tried_again(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """The control plane serves by then: it does not end, and whoever mends the store's keys needs not restart it."""
    monkeypatch.setattr(bucket, "START_S", 0.05)
    door = Door()
    door.open.clear()
    door.status = 403
    with a_server(door) as store:
        Bucket(store).start()
        door.open.set()
        eventually(lambda: "refused the access key" in store.away)
        door.status = 200
        eventually(lambda: not store.away)
        assert store.answering() is store
    assert len([line for line in caplog.messages if "[PERMISSION_DENIED]" in line]) == 1


def test_a_certificate_that_is_not_trusted_ends_the_start(tmp_path: Path) -> None:
    """It is not the network: a person has to name the authority, or the right address."""
    authority = CertificateAuthority(tmp_path)
    server = authority.server()
    settings = EmbeddedSettings(tmp_path / "data", tmp_path / "log", "root-key", "root-secret")
    running = start_embedded(
        replace(settings, certificate=server.certificate, key=server.key, ca_file=authority.ca_file)
    )
    try:
        plain = replace(running.address, endpoint=running.address.endpoint.replace("https", "http"))
        for address in (replace(running.address, ca_file=None), plain):
            with pytest.raises(FederationError):
                Bucket(ObjectStore(address)).start()
        Bucket(ObjectStore(running.address)).start()
    finally:
        running.stop()
