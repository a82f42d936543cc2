"""The spawner against a federation that follows a script: what students see, and what a silence means.

JupyterHub's own User, Hub and database are the real ones; a whole JupyterHub runs in the end-to-end tests.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import pytest
from jupyterhub import objects, orm
from jupyterhub.auth import DummyAuthenticator
from jupyterhub.spawner import SpawnException
from jupyterhub.user import User
from jupyterhub.utils import format_exception
from traitlets.config import Config

from courses.spawner import AWAY, FederationSpawner, LabError, job_name
from federation.client import draft_from_mapping
from federation.domain.ids import checked_name
from federation.errors import Code, Fault, FederationError
from federation.v1 import common_pb2, job_pb2

SILENCE = FederationError(Code.UNREACHABLE, "nobody answers", fault=Fault.NETWORK, hint="Wait.")
ABSENT = FederationError(Code.JOB_NOT_FOUND, "there is no job", fault=Fault.CALLER)


def job(state: str, **said: Any) -> job_pb2.Job:
    """A job in a state."""
    return job_pb2.Job(id="job-1", state=common_pb2.JobState.Value(f"JOB_STATE_{state}"), **said)


class ScriptedFederation:
    """Answers calls in the order that a test wrote down; an error in the script is raised."""

    def __init__(self) -> None:
        self.changes: list[job_pb2.Job | FederationError] = []
        self.state: job_pb2.Job | FederationError = job("RUNNING")
        self.submitted: list[tuple[dict[str, Any], str]] = []
        self.cancelled: list[str] = []
        self.refusal: FederationError | None = None

    async def submit(self, mapping: dict[str, Any], request_id: str) -> str:
        if self.refusal:
            raise self.refusal
        self.submitted.append((mapping, request_id))
        return "job-1"

    async def get(self, job_id: str) -> job_pb2.Job:
        if isinstance(self.state, FederationError):
            raise self.state
        return self.state

    async def cancel(self, job_id: str, note: str = "") -> job_pb2.Job:
        self.cancelled.append(job_id)
        return await self.get(job_id)

    async def wait(self, job_id: str, timeout_s: float) -> job_pb2.Job:
        return job("CANCELLED")

    async def watch(self, job_ids: list[str], timeout_s: float) -> AsyncIterator[job_pb2.Job]:
        while self.changes:
            change = self.changes.pop(0)
            if isinstance(change, FederationError):
                raise change
            yield change


class Spawner(FederationSpawner):
    """The real one, talking to the script."""

    federation: ScriptedFederation

    def _client(self) -> Any:
        return self.federation


@pytest.fixture
async def spawner(monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Spawner]:
    """Amina's, in a JupyterHub of its own."""
    monkeypatch.setattr("courses.spawner.ASK_AGAIN_S", 0.01)
    db = orm.new_session_factory(url="sqlite:///:memory:")()
    row = orm.User(name="amina")
    db.add(row)
    db.commit()
    hub = objects.Hub(ip="127.0.0.1", port=8081, base_url="/hub/")
    settings = {"spawner_class": Spawner, "config": Config(), "hub": hub, "base_url": "/", "internal_ssl": False}
    user = User(row, {**settings, "authenticator": DummyAuthenticator(), "trusted_alt_names": [], "cookie_options": {}})
    made = user.spawners[""]
    made.federation = ScriptedFederation()
    made.api_token = "a-token"
    made.environment = {"LANG": "ms_MY.UTF-8"}
    yield made
    db.close()
    db.get_bind().dispose()


async def test_a_lab_is_submitted_and_its_address_returned(spawner: Spawner) -> None:
    """The job is interactive, is kept over a cut, and tells the lab its JupyterHub in secret variables."""
    spawner.federation.changes = [
        job("QUEUED"),
        job("STAGING", hub_id="shenzhen"),
        job("RUNNING", url="http://127.0.0.1:1/user/amina/"),
    ]
    assert await spawner.start() == "http://127.0.0.1:1/user/amina/"
    mapping, request_id = spawner.federation.submitted[0]
    spec = draft_from_mapping(mapping).spec
    assert (spec.engine, spec.name, spec.entrypoint) == ("lab", "lab-flights-spark-amina", "flights-spark")
    assert spec.priority == common_pb2.PRIORITY_CLASS_INTERACTIVE
    assert spec.on_partition == common_pb2.ON_PARTITION_KEEP
    assert spec.environment.secret_variables["JUPYTERHUB_API_TOKEN"] == "a-token"
    assert spec.environment.secret_variables["LANG"] == "ms_MY.UTF-8"
    assert not spec.environment.variables
    assert not {"PATH", "JUPYTERHUB_SERVICE_URL"} & set(spec.environment.secret_variables)
    assert request_id == spawner.request_id


async def test_a_running_lab_is_returned_only_with_its_address(spawner: Spawner) -> None:
    """RUNNING without an address is a server that does not answer yet."""
    spawner.federation.changes = [job("RUNNING"), job("RUNNING", url="http://127.0.0.1:2/")]
    assert await spawner.start() == "http://127.0.0.1:2/"


async def test_a_silence_during_the_start_is_waited_out(spawner: Spawner) -> None:
    """The lab keeps its place in the queue, and the student is told."""
    spawner.federation.changes = [job("QUEUED"), SILENCE, job("RUNNING", url="http://127.0.0.1:3/")]
    assert await spawner.start() == "http://127.0.0.1:3/"
    assert any("keeps its place" in message for _, message in spawner._notes)


async def test_a_lab_that_fails_says_why_to_the_student(spawner: Spawner) -> None:
    """JupyterHub shows `jupyterhub_message`."""
    reason = common_pb2.Reason(code="ENVIRONMENT_FAILED", message="The environment could not be built because of 'x'.")
    spawner.federation.changes = [job("STAGING"), job("FAILED", reason=reason)]
    with pytest.raises(LabError) as caught:
        await spawner.start()
    assert caught.value.jupyterhub_message == "The lab failed: The environment could not be built because of 'x'."


async def test_a_refused_submit_says_what_to_do(spawner: Spawner) -> None:
    """The federation's own words reach the student."""
    spawner.federation.refusal = FederationError(
        Code.QUOTA_EXCEEDED, "Too many labs.", fault=Fault.POLICY, hint="Stop one."
    )
    with pytest.raises(LabError) as caught:
        await spawner.start()
    assert caught.value.jupyterhub_message == "Too many labs. Stop one."
    assert spawner.get_state() == {}


@pytest.mark.parametrize("code", [Code.UNREACHABLE, Code.CONFIGURATION_INVALID, Code.UNAUTHENTICATED])
async def test_an_operators_trouble_is_kept_from_the_student_and_logged(spawner: Spawner, code: Code) -> None:
    """The student reads whose fault it is not; what JupyterHub logs is the error's text, its details and all."""
    spawner.federation.refusal = FederationError(code, "100% <wrong>", fault=Fault.CALLER, hint="Set BRHUB_SERVER.")
    with pytest.raises(SpawnException) as caught:  # of any other kind JupyterHub would say "Unhandled error"
        await spawner.start()
    assert format_exception(caught.value) == (AWAY, AWAY)
    assert "BRHUB" not in caught.value.message
    assert "100% <wrong> Set BRHUB_SERVER." in str(caught.value)
    assert caught.value.status_code == 503


async def test_settings_that_name_no_federation_are_an_operators_trouble(
    spawner: Spawner, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whether the folder is empty or what it holds is damaged."""
    monkeypatch.delenv("BRHUB_SERVER", raising=False)
    monkeypatch.setenv("BRHUB_DIR", str(tmp_path))
    monkeypatch.setattr(Spawner, "_client", FederationSpawner._client)
    for text in ("", "{"):
        if text:
            (tmp_path / "client.json").write_text(text, encoding="utf-8")
        with pytest.raises(LabError, match=r"client\.json") as caught:
            await spawner.start()
        assert caught.value.jupyterhub_message == AWAY


async def test_an_unknown_course_is_refused_before_anything_is_submitted(spawner: Spawner) -> None:
    """From the form and from a call."""
    spawner.user_options = {"course": "nobody"}
    with pytest.raises(LabError, match="nobody"):
        await spawner.start()
    with pytest.raises(LabError, match="nobody"):
        spawner.options_from_form({"course": ["nobody"]})
    assert spawner.options_from_form({"course": ["flights-spark"]}) == {"course": "flights-spark"}
    assert spawner.federation.submitted == []


@pytest.mark.parametrize(
    ("state", "expected"),
    [
        (job("QUEUED"), None),
        (job("RUNNING"), None),
        (job("UNKNOWN"), None),
        (job("CANCELLING"), None),
        (SILENCE, None),
        (job("SUCCEEDED"), 0),
        (job("FAILED", exit_code=137), 137),
        (job("CANCELLED"), 1),
        (ABSENT, 1),
    ],
)
async def test_a_lab_runs_until_somebody_says_that_it_ended(
    spawner: Spawner, state: job_pb2.Job | FederationError, expected: int | None
) -> None:
    """None for everything that is not an end, silence and UNKNOWN included."""
    spawner.load_state({"job_id": "job-1", "request_id": "lab-1"})
    spawner.federation.state = state
    assert await spawner.poll() == expected


async def test_no_lab_is_an_ended_one(spawner: Spawner) -> None:
    """A fresh spawner, and one that was cleared."""
    assert await spawner.poll() == 0
    spawner.load_state({"job_id": "job-1"})
    spawner.clear_state()
    assert await spawner.poll() == 0
    await spawner.stop()
    assert spawner.federation.cancelled == []


async def test_stop_cancels_and_silence_is_not_an_end(spawner: Spawner) -> None:
    """A lab that is gone already is fine; a federation that does not answer is an error, since the lab may run on."""
    spawner.load_state({"job_id": "job-1"})
    await spawner.stop()
    spawner.federation.state = ABSENT
    await spawner.stop()
    assert spawner.federation.cancelled == ["job-1", "job-1"]
    spawner.federation.state = SILENCE
    with pytest.raises(LabError, match="nobody answers"):
        await spawner.stop()


async def test_the_job_is_remembered_before_the_start_is_over(spawner: Spawner) -> None:
    """A JupyterHub that dies while a lab starts finds it again, and ends it before it starts another."""
    spawner.federation.changes = [job("RUNNING", url="http://127.0.0.1:4/")]
    await spawner.start()
    assert spawner.orm_spawner.state["job_id"] == "job-1"
    first = spawner.request_id
    spawner.federation.changes = [job("RUNNING", url="http://127.0.0.1:5/")]
    await spawner.start()
    assert spawner.federation.cancelled == ["job-1"]
    assert spawner.request_id != first


async def test_the_spawn_page_follows_the_job(spawner: Spawner) -> None:
    """Each state once, with its hub and its reason, never going backwards."""
    reason = common_pb2.Reason(code="NO_ROOM", message="all 2 CPUs are taken")
    spawner.federation.changes = [
        job("QUEUED", reason=reason),
        job("QUEUED", reason=reason),
        job("STAGING", hub_id="shenzhen", progress="environment, 212 MB"),
        job("RUNNING", hub_id="shenzhen", url="http://127.0.0.1:6/"),
    ]
    await spawner.start()
    lines = spawner.progress()
    seen = [await asyncio.wait_for(anext(lines), 5) for _ in range(4)]
    await lines.aclose()  # type: ignore[attr-defined]  # an async generator, typed as its iterator
    assert [line["message"] for line in seen[1:]] == [
        "waiting for a free place: all 2 CPUs are taken",
        "Shenzhen is preparing your lab: environment, 212 MB",
        "your lab is starting at Shenzhen",
    ]
    percents = [line["progress"] for line in seen]
    assert percents == sorted(percents)


def names() -> Iterator[tuple[str, str, str]]:
    """Users as JupyterHub may know them."""
    yield "flights-spark", "amina", ""
    yield "flights-spark", "Åsa.Öberg@uni.example", "second server"
    yield "flights-spark", "x" * 300, ""
    yield "c" * 63, "李雷", ""


@pytest.mark.parametrize(("course", "user", "server"), list(names()))
def test_a_labs_name_is_always_a_jobs_name(course: str, user: str, server: str) -> None:
    """Whatever a person is called, the federation accepts it, and it is the same each time."""
    name = job_name(course, user, server)
    assert checked_name("name", name) == name
    assert job_name(course, user, server) == name
