"""A port that is not what was expected: it takes connections, hears a little, and says what a test wants it to say."""

from __future__ import annotations

import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def a_listener(answer: bytes = b"", *, hangs_up: bool = False) -> Iterator[int]:
    """A port that takes a connection, hears something, says `answer`, and then hangs up or keeps silent; its number."""
    held = []
    listener = socket.create_server(("127.0.0.1", 0))

    def serve() -> None:
        try:
            while True:
                connection, _ = listener.accept()
                held.append(connection)
                if answer or hangs_up:
                    connection.recv(1)
                    connection.sendall(answer)
                if hangs_up:
                    connection.close()
        except OSError:
            return  # the test is over

    thread = threading.Thread(target=serve, daemon=True)
    thread.start()
    try:
        yield int(listener.getsockname()[1])
    finally:
        listener.shutdown(socket.SHUT_RDWR)
        listener.close()
        thread.join()
        for connection in held:
            connection.close()
