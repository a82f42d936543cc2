"""Ray's Jobs API by plain HTTP with a token. Importing Ray would cost the agent 3 s and 150 MB, so nothing here does.

Not here: which head (`ray_head.py`), what a job means for a run (`ray.py`).
"""

from __future__ import annotations

import http.client
import json
import threading
import time
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Callable, Mapping

ANSWER_BYTES_MAX = 16 * 1024 * 1024
TERMINAL = frozenset({"SUCCEEDED", "FAILED", "STOPPED"})
_CALL_S = 30.0
_RETRY_S = 0.5
_OF_A_PROXY = frozenset({502, 503, 504})
"""What a proxy says when it has no answer of Ray's: what Ray did with the question nobody knows."""


class RaySilentError(Exception):
    """Ray did not answer, or not yet; that is no answer about any job. `sent`: it may have heard the question."""

    def __init__(self, text: str, sent: bool = True) -> None:
        super().__init__(text)
        self.sent = sent


class RayRefusedError(Exception):
    """Ray answered with an error; `status` is HTTP's."""

    def __init__(self, status: int, text: str) -> None:
        super().__init__(f"{status}: {text[-600:]}")
        self.status = status
        self.text = text


class RayApi:
    """One Ray head's dashboard. `url` has no path; `token` is sent with every call."""

    def __init__(self, url: str, token: str) -> None:
        self.url = url.rstrip("/")
        self._token = token
        # No proxy from the environment: a head is on this machine or in its own network.
        self._opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))

    def ready(self) -> bool:
        """Whether it answers."""
        try:
            return bool(self._call("GET", "/api/version", timeout_s=5))
        except (RaySilentError, RayRefusedError):
            return False

    def submit(
        self, submission_id: str, entrypoint: str, runtime_env: Mapping[str, object], wait_s: float,
        cancelled: Callable[[], bool],
    ) -> None:  # fmt: skip
        """Start a job; one that is there already under this id is fine.

        Just after a head's start Ray says that it has no agent to take a job: it is asked again until `wait_s` is over.

        Raises: RaySilentError (`sent`: it may have the job, or get it yet), RayRefusedError (it has none).
        """
        body = {"entrypoint": entrypoint, "submission_id": submission_id, "runtime_env": dict(runtime_env)}
        ends_s = time.monotonic() + wait_s
        perhaps = False
        while True:
            problem: RaySilentError | RayRefusedError
            try:
                self._submit_once(submission_id, body)
                return
            except RayRefusedError as refused:
                problem = refused
                passing = "No available agent" in refused.text or "Failed to connect" in refused.text
            except RaySilentError as silent:
                problem, passing = silent, True
                perhaps = perhaps or silent.sent
            if not passing or time.monotonic() > ends_s or cancelled():
                raise RaySilentError(str(problem)) if perhaps else problem
            threading.Event().wait(_RETRY_S)

    def _submit_once(self, submission_id: str, body: Mapping[str, object]) -> None:
        try:
            self._call("POST", "/api/jobs/", body)
        except RayRefusedError as refused:
            if refused.status not in (400, 500):
                raise
            try:
                known = self.job(submission_id) is not None
            except (RaySilentError, RayRefusedError) as problem:
                raise RaySilentError(str(problem)) from problem  # what it refused may have been a second one
            if not known:
                raise

    def job(self, submission_id: str) -> dict[str, object] | None:
        """What Ray knows of a job (`status`, `message`, `driver_exit_code`); None when it knows none.

        Raises: RaySilentError, RayRefusedError.
        """
        try:
            found = self._call("GET", f"/api/jobs/{urllib.parse.quote(submission_id, safe='')}")
        except RayRefusedError as refused:
            if refused.status == 404:
                return None
            raise
        return found if isinstance(found, dict) else None

    def stop(self, submission_id: str) -> None:
        """Ask a job to end; one that has ended or is unknown is fine. Raises: RaySilentError."""
        try:
            self._call("POST", f"/api/jobs/{urllib.parse.quote(submission_id, safe='')}/stop")
        except RayRefusedError:
            pass  # it has ended, or never began

    def busy(self) -> bool:
        """Whether any submitted job has not ended. Raises: RaySilentError, RayRefusedError."""
        found = self._call("GET", "/api/jobs/")
        jobs = found if isinstance(found, list) else []
        return any(isinstance(job, dict) and job.get("status") not in TERMINAL for job in jobs)

    def _call(self, method: str, path: str, body: object = None, timeout_s: float = 0.0) -> object:
        request = urllib.request.Request(  # noqa: S310 - an http(s) address of the hub's own configuration
            self.url + path,
            method=method,
            data=None if body is None else json.dumps(body).encode(),
            headers={"Authorization": f"Bearer {self._token}", "Content-Type": "application/json"},
        )
        try:
            with self._opener.open(request, timeout=timeout_s or _CALL_S) as answer:
                text = answer.read(ANSWER_BYTES_MAX)
        except urllib.error.HTTPError as refused:
            with refused:
                text = refused.read(65_536)
            if refused.code in _OF_A_PROXY:
                raise RaySilentError(f"{refused.code}: {text[-600:]!r}") from None
            raise RayRefusedError(refused.code, text.decode("utf-8", "replace")) from None
        except (OSError, http.client.HTTPException) as problem:
            # urllib makes a URLError of what fails before the whole request has gone out, and of nothing else
            raise RaySilentError(str(problem), sent=not isinstance(problem, urllib.error.URLError)) from problem
        try:
            return json.loads(text)
        except ValueError as problem:
            raise RaySilentError(f"not JSON: {text[:80]!r}") from problem
