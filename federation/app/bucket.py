"""The object store's bucket at the start of a control plane, which does not wait for a store that is away.

What an operator has to mend (keys, a certificate, a name that somebody else has) ends the start. Who does not answer is
asked again for as long as it takes, by a thread that no end waits for: a store that hangs may hold a call for minutes.
Meanwhile `ObjectStore.away` says why, and what needs the store is refused at once. Deliberately not here: a store that
goes away later, which each call finds out by itself.
"""

from __future__ import annotations

import logging
import random
import threading
from concurrent.futures import Future, InvalidStateError

from federation.backoff import pause_s
from federation.errors import FederationError
from federation.objects.failures import passes
from federation.objects.store import ObjectStore

START_S = 3.0
"""The start waits so long for a store that may only be slow."""
PAUSE_S, PAUSE_S_MAX = 1.0, 10.0
_MEANWHILE = (
    "Jobs without packages go on. Packages, results and checkpoints wait; the store is asked again until it answers."
)
log = logging.getLogger(__name__)


class Bucket:
    """`start`, which may take `START_S`, then `stop`, which takes no time."""

    def __init__(self, store: ObjectStore) -> None:
        self._store = store
        self._first: Future[FederationError | None] = Future()
        """What came of the first try; cancelled where nobody waits for that any more."""
        self._ending = threading.Event()
        self._thread = threading.Thread(target=self._run, name="bucket", daemon=True)

    def start(self) -> None:
        """Back once the bucket is there, or its store is known to be away, or has not answered for `START_S`.

        Raises: the FederationError that a person has to mend.
        """
        self._store.away = f"The object store at {self._store.address.endpoint} has not answered yet."
        self._thread.start()
        try:
            wrong = self._first.result(START_S)
        except TimeoutError:
            if self._first.cancel():
                address = self._store.address.endpoint
                log.warning("the object store at %s has not answered for %.0f s. %s", address, START_S, _MEANWHILE)
                return
            wrong = self._first.result()  # it came between the two lines
        if wrong is None:
            return
        if not passes(wrong):
            self.stop()
            raise wrong
        log.warning("%s %s", wrong, _MEANWHILE)

    def stop(self) -> None:
        """No more tries."""
        self._ending.set()

    def _run(self) -> None:
        failures, told = 0, ""
        while not self._ending.is_set():
            wrong = self._tried()
            self._store.away = "" if wrong is None else wrong.message
            first = self._is_first(wrong)
            if wrong is None:
                if not first:
                    log.info("the object store at %s answers", self._store.address.endpoint)
                return
            if not first and told != wrong.code:  # once, and once more where it becomes something else
                log.warning("%s %s", wrong, _MEANWHILE)
            failures, told = failures + 1, wrong.code
            self._ending.wait(pause_s(failures, PAUSE_S, PAUSE_S_MAX, random.random()))

    def _tried(self) -> FederationError | None:
        try:
            self._store.ensure_bucket()
        except FederationError as error:
            return error
        return None

    def _is_first(self, wrong: FederationError | None) -> bool:
        """Whether the start takes this word, and does with it what is to be done."""
        try:
            self._first.set_result(wrong)
        except InvalidStateError:
            return False
        return True
