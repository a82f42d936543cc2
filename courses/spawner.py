"""A JupyterHub spawner whose servers are jobs of the federation: a student's lab runs on whichever hub has room.

`start` submits an engine-`lab` job and waits for its address; `poll` says "running" for as long as nobody has said that it ended,
silence included; `stop` cancels. The job's id is JupyterHub's state, so a restart of the hub finds its labs. In this version
the job belongs to the token's owner (the JupyterHub of this university); the student's name travels in the job's name and in
JUPYTERHUB_USER. Deliberately not here: what runs on the other hub (`hub_node/runners/lab.py`), and a tunnel to it: the address is
reached directly. In `jupyterhub_config.py`:

    c.JupyterHub.spawner_class = "federation"
    c.FederationSpawner.federation_server = "127.0.0.1:7000"     # or BRHUB_SERVER, or BRHUB_DIR
"""

from __future__ import annotations

import asyncio
import hashlib
import html
import re
import secrets
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path
from typing import Any, ClassVar

from jupyterhub.spawner import Spawner, SpawnException
from traitlets import Dict, Float, Integer, List, Unicode

from courses.catalog import LABS_FOLDER, Course, find_course, load_courses
from courses.profile import FIELD, chosen, options_form
from federation.client import TERMINAL, AsyncClient, Patience, Settings
from federation.client.settings import find_settings
from federation.errors import Code, FederationError
from federation.v1 import common_pb2, job_pb2

STOP_WAIT_S = 30.0
ASK_AGAIN_S = 1.0
WATCH_S = 60.0
"""A watch is opened anew this often, so that a link that died quietly is noticed."""
_SENT = "JUPYTERHUB_"
_NOT_SENT = frozenset({"JUPYTERHUB_SERVICE_URL"})
"""Where the server listens is decided where it runs."""
_PERCENT = {
    common_pb2.JOB_STATE_QUEUED: 10,
    common_pb2.JOB_STATE_LEASED: 25,
    common_pb2.JOB_STATE_STAGING: 40,
    common_pb2.JOB_STATE_RUNNING: 80,
}


AWAY = "The academy cannot be reached just now. It is not your fault: try again in a few minutes, or tell your teacher."
"""What a student reads when nothing that they did, or could do, is the reason."""
_NOT_FOR_STUDENTS = frozenset(
    {
        Code.UNREACHABLE,
        Code.TIMED_OUT,
        Code.OVERLOADED,
        Code.STORE_UNAVAILABLE,
        Code.CONFIGURATION_INVALID,
        Code.TLS_REQUIRED,
        Code.UNAUTHENTICATED,
        Code.PROTOCOL_UNSUPPORTED,
        Code.INTERNAL,
    }
)
"""Errors whose words are for those who run the academy."""


class LabError(SpawnException):
    """A lab could not be started or stopped. `jupyterhub_message` is what the student reads; the text is for the log.

    It is of JupyterHub's own kind, because of any other its page says "Unhandled error" and nothing else.
    """

    def __init__(self, said: str, jupyterhub_message: str) -> None:
        super().__init__(jupyterhub_message, reason="lab", log_message=said, status_code=503)
        self.said = said
        self.jupyterhub_message = jupyterhub_message
        self.jupyterhub_html_message = html.escape(jupyterhub_message)

    def __str__(self) -> str:
        return self.said


class FederationSpawner(Spawner):
    """One student's lab as a job. The traits below are set in `jupyterhub_config.py`."""

    federation_server = Unicode(
        "", help="The federation, HOST:PORT; empty: BRHUB_SERVER, or what BRHUB_DIR holds."
    ).tag(config=True)
    federation_token = Unicode("", help="Our token there; empty: BRHUB_TOKEN, or what BRHUB_DIR holds.").tag(
        config=True
    )
    federation_ca = Unicode("", help="A file with certificates to trust; empty: BRHUB_CA, or the system's.").tag(
        config=True
    )
    project = Unicode("default", help="The project that labs are counted to.").tag(config=True)
    courses_dir = Unicode(str(LABS_FOLDER), help="The folder of course folders.").tag(config=True)
    hubs = Dict(help="Where labs may run, as in job.yaml: {'allow': [...], 'deny': [...], 'prefer': [...]}.").tag(
        config=True
    )
    cpus = Unicode("", help="CPUs of a lab; empty: as its course says.").tag(config=True)
    memory = Unicode("", help="Memory of a lab, for example 2Gi; empty: as its course says.").tag(config=True)
    courses_shown = List(Unicode(), help="Only these courses; empty: all in `courses_dir`.").tag(config=True)
    patience_s = Float(20.0, help="Seconds that one call is repeated while the federation is silent.").tag(config=True)

    start_timeout = Integer(600, help="Seconds: another campus may first build the course's environment.").tag(
        config=True
    )
    http_timeout = Integer(60, help="Seconds until the lab must answer once it has an address.").tag(config=True)
    env_keep = List(Unicode(), [], help="Of this machine's variables none: its PATH means nothing elsewhere.").tag(
        config=True
    )

    _clients: ClassVar[dict[tuple[Settings, int], AsyncClient]] = {}

    def __init__(self, **said: Any) -> None:
        super().__init__(**said)
        self.job_id = ""
        self.request_id = ""
        self._notes: list[tuple[int, str]] = []
        self._noted = asyncio.Event()

    def _options_form_default(self) -> Any:
        return lambda _spawner: options_form(self.courses())

    # ---- the spawn page -----------------------------------------------------------------------------------------------

    def courses(self) -> tuple[Course, ...]:
        """The courses that are offered here. Raises: FederationError when a manifest is wrong."""
        root = Path(self.courses_dir)
        if self.courses_shown:
            return tuple(find_course(name, root) for name in self.courses_shown)
        return load_courses(root)

    def options_from_form(self, formdata: dict[str, list[str]]) -> dict[str, str]:
        """What the form said, checked. Raises: LabError."""
        try:
            return {FIELD: chosen(formdata, self.courses()).name}
        except FederationError as error:
            raise _for_student(error) from error

    # ---- the Spawner contract -----------------------------------------------------------------------------------------

    async def start(self) -> str:
        """Submit the lab and wait until it can be reached; returns its address. Raises: LabError."""
        self._notes.clear()
        try:
            if self.job_id:
                # The hub went down during an earlier start: that lab holds a token which is no longer valid.
                await self._client().cancel(self.job_id, "its JupyterHub started anew")
        except FederationError as error:
            self.log.warning("an earlier lab %s of %s could not be ended: %s", self.job_id, self.user.name, error)
        self.request_id = f"lab-{secrets.token_hex(16)}"
        self.job_id = ""
        try:
            course = chosen(self.user_options, self.courses())
            self._note(5, f"{course.title}: asking the federation for a place")
            self.job_id = await self._client().submit(self.job(course), self.request_id)
            self._remember()
            return await self._reached()
        except FederationError as error:
            raise _for_student(error) from error

    async def poll(self) -> int | None:
        """None while it runs or nobody can say; its exit status once it has ended (0 when there is no lab)."""
        if not self.job_id:
            return 0
        try:
            job = await self._client().get(self.job_id)
        except FederationError as error:
            if error.code is Code.JOB_NOT_FOUND:
                return 1  # the federation has answered: it has no such job
            self.log.warning("lab %s of %s: %s; taken as running", self.job_id, self.user.name, error)
            return None
        if job.state not in TERMINAL:
            return None
        return 0 if job.state == common_pb2.JOB_STATE_SUCCEEDED else job.exit_code or 1

    async def stop(self, now: bool = False) -> None:
        """Cancel it, and wait for its end for a while unless `now`. Raises: LabError when the federation cannot be asked."""
        if not self.job_id:
            return
        try:
            job = await self._client().cancel(self.job_id, "the student or the hub stopped it")
            if not now and job.state not in TERMINAL:
                await self._client().wait(self.job_id, STOP_WAIT_S)
        except FederationError as error:
            if error.code in (Code.JOB_NOT_FOUND, Code.ILLEGAL_TRANSITION, Code.TIMED_OUT):
                return  # gone already, or on its way: the lab's own deadline stands behind it
            raise _for_student(error) from error

    async def progress(self) -> AsyncIterator[dict[str, Any]]:
        """What the spawn page shows while `start` waits."""
        shown = 0
        while True:
            self._noted.clear()
            for percent, message in self._notes[shown:]:
                yield {"progress": percent, "message": message}
            shown = len(self._notes)
            await self._noted.wait()

    def get_state(self) -> dict[str, Any]:
        """What finds the lab again after a restart of the hub."""
        state: dict[str, Any] = super().get_state()
        if self.job_id:
            state |= {"job_id": self.job_id, "request_id": self.request_id}
        return state

    def load_state(self, state: dict[str, Any]) -> None:
        """Take up the lab of an earlier process of the hub."""
        super().load_state(state)
        self.job_id, self.request_id = str(state.get("job_id", "")), str(state.get("request_id", ""))

    def clear_state(self) -> None:
        """There is no lab any more."""
        super().clear_state()
        self.job_id = self.request_id = ""

    # ---- inside -------------------------------------------------------------------------------------------------------

    def job(self, course: Course) -> dict[str, Any]:
        """The lab as job.yaml says it."""
        variables = {name: str(text) for name, text in self.get_env().items() if name.startswith(_SENT)}
        own = {name: str(text) for name, text in self.environment.items() if isinstance(text, str)}
        secret = {name: text for name, text in (variables | own).items() if name not in _NOT_SENT}
        environment: dict[str, Any] = {"secret_variables": secret}
        if course.requirements:
            environment["requirements"] = str(course.folder / course.requirements)
        return {
            "version": 1,
            "name": job_name(course.name, self.user.name, self.name),
            "project": self.project,
            "engine": "lab",
            "entrypoint": course.name,
            "package": str(course.folder),
            "environment": environment,
            "resources": {
                "cpus": self.cpus or course.cpus,
                "memory": self.memory or course.memory,
                "disk": course.disk,
            },
            "inputs": [dict(entry) for entry in course.inputs],
            "runtime_limit": course.session_limit,
            "priority": "interactive",
            "on_partition": "keep",
            "tracking": False,
            "hubs": dict(self.hubs),
        }

    async def _reached(self) -> str:
        """The lab's address, once it has one. JupyterHub's own start timeout ends the wait."""
        while True:
            try:
                async for job in self._client().watch([self.job_id], WATCH_S):
                    self._tell(job)
                    if job.state in TERMINAL:
                        raise _ended(job)
                    if job.state == common_pb2.JOB_STATE_RUNNING and job.url:
                        return str(job.url)
            except FederationError as error:
                if error.code not in (Code.TIMED_OUT, Code.UNREACHABLE, Code.STORE_UNAVAILABLE, Code.OVERLOADED):
                    raise
                if error.code is not Code.TIMED_OUT:
                    self._note(0, "The federation does not answer just now; the lab keeps its place.")
            await asyncio.sleep(ASK_AGAIN_S)

    def _tell(self, job: job_pb2.Job) -> None:
        self._note(_PERCENT.get(job.state, 0), told(job))

    def _note(self, percent: int, message: str) -> None:
        if self._notes and self._notes[-1][1] == message:
            return
        self._notes.append((percent or (self._notes[-1][0] if self._notes else 0), message))
        self._noted.set()

    def _remember(self) -> None:
        """Save the job's id now: JupyterHub itself saves it only after the start."""
        if self.orm_spawner is not None:
            self.orm_spawner.state = self.get_state()
            self.db.commit()

    def _client(self) -> AsyncClient:
        """The connection that all labs of this hub share."""
        found = find_settings(self.federation_server)
        settings = replace(found, token=self.federation_token or found.token, ca=self.federation_ca or found.ca)
        key = (settings, id(asyncio.get_running_loop()))
        if key not in self._clients:
            self._clients[key] = AsyncClient(settings, Patience(retry_s=self.patience_s))
        return self._clients[key]


def told(job: job_pb2.Job) -> str:
    """What a job is doing, in a student's words."""
    place = job.hub_id.replace("-", " ").title() or "A university"
    why = job.progress or job.reason.message
    words = {
        common_pb2.JOB_STATE_QUEUED: "waiting for a free place",
        common_pb2.JOB_STATE_LEASED: f"{place} has a place for you",
        common_pb2.JOB_STATE_STAGING: f"{place} is preparing your lab",
        common_pb2.JOB_STATE_RUNNING: f"your lab is starting at {place}",
        common_pb2.JOB_STATE_UNKNOWN: f"{place} is not heard of just now; your lab keeps its place",
    }.get(job.state, "your lab has ended")
    return f"{words}: {why}" if why else words


def job_name(course: str, user: str, server: str = "") -> str:
    """A name for people: lab-COURSE-USER, within what a job's name may be; what does not fit becomes a digest."""
    words = "-".join(part for part in ("lab", course, user, server) if part)
    plain = re.sub(r"[^a-z0-9]+", "-", words.lower()).strip("-")
    if len(plain) <= 63:
        return plain
    return f"{plain[:52].rstrip('-')}-{hashlib.sha256(f'{course}/{user}/{server}'.encode()).hexdigest()[:10]}"


def _ended(job: job_pb2.Job) -> LabError:
    state = common_pb2.JobState.Name(job.state).removeprefix("JOB_STATE_").lower()
    why = job.reason.message or f"exit status {job.exit_code}"
    return LabError(f"lab {job.id} {state} before it could be reached: {why}", f"The lab {state}: {why}")


def _for_student(error: FederationError) -> LabError:
    own = f"{error.message} {error.hint}".strip()
    return LabError(f"{error.code}: {own}", AWAY if error.code in _NOT_FOR_STUDENTS else own)
