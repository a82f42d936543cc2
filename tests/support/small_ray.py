"""A stand-in for a Ray head: its Jobs API over HTTP, without Ray."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

TOKEN = "a-token"


class SmallRay:
    """As much of Ray's Jobs API as we call: jobs with a status that the test sets."""

    def __init__(self) -> None:
        self.jobs: dict[str, dict[str, Any]] = {}
        self.submits_refused = 0
        self.refusal = (500, "No available agent to submit job, please try again later.")
        self.submits_lost: list[dict[str, Any]] = []
        """What was on its way when it went away: it has not come here, and may come."""
        self.goes_away_before = self.goes_away_after = False
        """With the next submission: without, or with, the job."""
        self.stopped: list[str] = []
        self.away = False
        """Nothing is heard, and no answer comes."""
        self.stops_answered = threading.Event()
        """Until then whoever asks for an end waits."""
        self.stops_answered.set()
        ray = self

        class Handler(BaseHTTPRequestHandler):
            def log_message(self, *words: object) -> None:
                """Quiet."""

            def parse_request(self) -> bool:
                return super().parse_request() and not ray.away

            def answer(self, status: int, content: object) -> None:
                body = content.encode() if isinstance(content, str) else json.dumps(content).encode()
                self.send_response(status)
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def do_GET(self) -> None:
                if self.headers.get("Authorization") != f"Bearer {TOKEN}":
                    return self.answer(401, "Unauthorized")
                if self.path == "/api/version":
                    return self.answer(200, {"version": "4"})
                if self.path == "/api/jobs/":
                    return self.answer(200, list(ray.jobs.values()))
                job = ray.jobs.get(self.path.rsplit("/", 1)[1])
                return self.answer(200, job) if job else self.answer(404, "does not exist")

            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
                if self.path.endswith("/stop"):
                    ray.stopped.append(self.path.split("/")[3])
                    ray.stops_answered.wait(120)
                    return self.answer(200, {"stopped": True})
                said = ray.submitted(json.loads(body))
                return self.answer(*said) if said else None

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_port}"

    def submitted(self, said: dict[str, Any]) -> tuple[int, object] | None:
        """The answer to a submission; None for none."""
        if self.submits_refused:
            self.submits_refused -= 1
            return self.refusal
        self.away = self.goes_away_before or self.goes_away_after
        if self.goes_away_before:
            self.submits_lost.append(said)
            return None
        if said["submission_id"] in self.jobs:
            return 500, "Job with submission_id already exists"
        self.jobs[said["submission_id"]] = {**said, "status": "PENDING"}
        return None if self.goes_away_after else (200, {"submission_id": said["submission_id"]})


@contextmanager
def serving() -> Iterator[SmallRay]:
    """A SmallRay while the block lasts."""
    ray = SmallRay()
    thread = threading.Thread(target=ray.server.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    try:
        yield ray
    finally:
        ray.stops_answered.set()
        ray.server.shutdown()
        ray.server.server_close()
        thread.join()
