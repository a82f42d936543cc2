"""The client against a real server on real sockets: retries, repeats, batches, pages, transfers, watches."""

from __future__ import annotations

import threading
from pathlib import Path
from typing import Any

import pytest

from federation.archive import unpack
from federation.client import AsyncClient, Client, Patience, Settings
from federation.errors import Code, Fault, FederationError, not_found
from federation.v1 import job_pb2
from tests.unit.client.conftest import HASTY
from tests.unit.client.small_federation import SmallFederation, number, unreachable

COMMAND = {"engine": "command", "entrypoint": "true"}


def overloaded() -> FederationError:
    """A server that has too much to do."""
    return FederationError(Code.OVERLOADED, "too much at once", fault=Fault.FEDERATION)


def test_submit_answers_the_id_of_a_job_that_is_then_there(client: Client) -> None:
    """A submitted mapping comes back as the job's spec."""
    job = client.get(client.submit({**COMMAND, "name": "my-job"}))
    assert (job.spec.name, job.spec.engine) == ("my-job", "command")


def test_an_answer_that_is_lost_does_not_submit_twice(client: Client, small: SmallFederation) -> None:
    """The retry carries the same request id, so the job exists once."""
    small.answer_lost.add("SubmitJobs")
    client.submit(COMMAND)
    assert (len(small.jobs), small.calls.count("SubmitJobs")) == (1, 2)


def test_one_request_id_with_two_bodies_is_refused(client: Client) -> None:
    """The error has the server's code, fault and hint."""
    client.submit(COMMAND, request_id="r-1")
    with pytest.raises(FederationError) as caught:
        client.submit({**COMMAND, "arguments": ["x"]}, request_id="r-1")
    assert (caught.value.code, caught.value.fault, caught.value.hint) == (
        Code.REQUEST_ID_REUSED, Fault.CALLER, "Draw anew.",
    )  # fmt: skip


def test_the_same_job_has_the_same_bytes_whatever_the_order_of_its_variables(client: Client) -> None:
    """A repeat built anew from equal parts is a repeat, not another job."""
    names = [f"NAME_{n}" for n in range(20)]
    first = client.submit({**COMMAND, "environment": {"variables": dict.fromkeys(names, "1")}}, "r-1")
    again = client.submit({**COMMAND, "environment": {"variables": dict.fromkeys(reversed(names), "1")}}, "r-1")
    assert first == again


def test_submit_many_answers_each_member_and_goes_in_batches(client: Client, small: SmallFederation) -> None:
    """A bad member does not keep the others out; more than 1,000 make two calls."""
    client.submit(COMMAND, request_id="taken")
    jobs: list[Any] = [({**COMMAND, "name": "other"}, "taken"), *[COMMAND] * 1_100]
    answers = client.submit_many(jobs)
    assert isinstance(answers[0], FederationError)
    assert len({answer for answer in answers if isinstance(answer, str)}) == 1_100
    assert small.calls.count("SubmitJobs") == 3


def test_a_package_is_uploaded_once_and_named_by_its_digest(
    client: Client, small: SmallFederation, tmp_path: Path
) -> None:
    """The job file's folder arrives whole; a second submit of the same bytes uploads nothing."""
    (tmp_path / "main.py").write_text("print(1)\n")
    (tmp_path / "job.yaml").write_text("version: 1\nengine: spark\nentrypoint: main.py\npackage: .\n")
    moved: list[tuple[int, int]] = []
    digest = client.get(
        client.submit(tmp_path / "job.yaml", progress=lambda *told: moved.append(told))
    ).spec.package_digest
    client.submit(tmp_path / "job.yaml", progress=lambda *told: pytest.fail(f"uploaded again {told}"))
    packed = tmp_path / "packed.tar.gz"
    packed.write_bytes(small.uploads[digest])
    assert unpack(packed, tmp_path / "out") == ("job.yaml", "main.py")
    assert moved[-1] == (len(small.uploads[digest]), len(small.uploads[digest]))


@pytest.mark.parametrize("verb", ["submit", "explain_spec"])
@pytest.mark.parametrize("package", ["", "."])
@pytest.mark.parametrize("entrypoint", ["tool.py", "tool.sh", "bin/tool"])
def test_a_command_whose_script_is_missing_is_refused_before_anything_is_sent(
    client: Client, small: SmallFederation, tmp_path: Path, entrypoint: str, package: str, verb: str
) -> None:
    """With and without a package, really and as a dry run: no hub could have that script."""
    (tmp_path / "job.yaml").write_text(f"engine: command\nentrypoint: {entrypoint}\npackage: '{package}'\n")
    with pytest.raises(FederationError) as caught:
        getattr(client, verb)(tmp_path / "job.yaml")
    assert (caught.value.code, caught.value.fault) == (Code.INVALID_ARGUMENT, Fault.CALLER)
    assert entrypoint in caught.value.message
    assert (small.jobs, small.calls) == ({}, [])
    (tmp_path / entrypoint).parent.mkdir(exist_ok=True)
    (tmp_path / entrypoint).write_text("true")
    getattr(client, verb)(tmp_path / "job.yaml")


def test_a_command_that_the_hub_has_needs_no_file(client: Client, tmp_path: Path) -> None:
    """With a package beside it or without; whether the hub has it, only the hub knows."""
    for package in ("", str(tmp_path)):
        assert client.submit({"engine": "command", "entrypoint": "gcc", "package": package})


def test_without_a_package_the_entrypoint_alone_is_sent(client: Client, small: SmallFederation, tmp_path: Path) -> None:
    """What lies beside a script is not sent along unasked."""
    (tmp_path / "main.py").write_text("print(1)\n")
    (tmp_path / "secret.txt").write_text("mine\n")
    (tmp_path / "job.yaml").write_text("engine: ray\nentrypoint: main.py\n")
    digest = client.get(client.submit(tmp_path / "job.yaml")).spec.package_digest
    packed = tmp_path / "packed.tar.gz"
    packed.write_bytes(small.uploads[digest])
    assert unpack(packed, tmp_path / "out") == ("main.py",)


@pytest.mark.parametrize("package", ["", "package: .\n"])
def test_a_missing_entrypoint_is_the_callers_fault_before_anything_is_sent(
    client: Client, small: SmallFederation, tmp_path: Path, package: str
) -> None:
    """No call is made for a job that cannot start."""
    (tmp_path / "job.yaml").write_text(f"engine: spark\nentrypoint: nowhere.py\n{package}")
    with pytest.raises(FederationError, match=r"nowhere\.py"):
        client.submit(tmp_path / "job.yaml")
    assert small.calls == []


def test_an_upload_survives_a_store_that_stumbles(client: Client, small: SmallFederation, tmp_path: Path) -> None:
    """503 is tried again; the bytes are whole."""
    (tmp_path / "main.py").write_text("print(1)\n" * 1_000)
    small.http_statuses = [503, 500]
    client.submit({"engine": "spark", "entrypoint": "main.py", "package": str(tmp_path)})
    assert len(small.uploads) == 1


@pytest.mark.parametrize(("status", "code"), [(403, Code.STORE_UNAVAILABLE), (507, Code.STORE_FULL)])
def test_an_upload_that_is_refused_is_an_error_and_submits_nothing(
    client: Client, small: SmallFederation, tmp_path: Path, status: int, code: Code
) -> None:
    """A full store is told apart from a link that ran out."""
    (tmp_path / "main.py").write_text("print(1)\n")
    small.http_statuses = [status] * 10
    with pytest.raises(FederationError) as caught:
        client.submit({"engine": "spark", "entrypoint": "main.py", "package": str(tmp_path)})
    assert (caught.value.code, small.jobs) == (code, {})


def test_calls_are_repeated_while_the_link_is_down(client: Client, small: SmallFederation) -> None:
    """Two failures that smell of the network, one of load, then the answer."""
    small.add_job()
    small.fail_next("GetJob", unreachable(), overloaded(), unreachable())
    assert client.get("job-1").id == "job-1"
    assert small.calls.count("GetJob") == 4


def test_a_refusal_is_not_repeated(client: Client, small: SmallFederation) -> None:
    """What will not change by asking again is told at once."""
    with pytest.raises(FederationError) as caught:
        client.get("job-9")
    assert (caught.value.code, small.calls) == (Code.JOB_NOT_FOUND, ["GetJob"])


def test_nobody_there_is_said_after_the_patience_is_over() -> None:
    """A closed port is UNREACHABLE, the network's fault, with a hint."""
    nobody = Settings("127.0.0.1:1")
    with Client(nobody, Patience(call_s=1, retry_s=0.2)) as client, pytest.raises(FederationError) as caught:
        client.get("job-1")
    assert (caught.value.code, caught.value.fault) == (Code.UNREACHABLE, Fault.NETWORK)
    assert "doctor" in caught.value.hint


def test_a_wrong_token_is_refused(small: SmallFederation) -> None:
    """UNAUTHENTICATED, with what to do."""
    stranger = Settings(small.settings.server, token="other")
    with Client(stranger, HASTY) as client, pytest.raises(FederationError) as caught:
        client.list()
    assert caught.value.code is Code.UNAUTHENTICATED


def test_a_list_goes_through_all_pages_and_stops_at_its_limit(client: Client, small: SmallFederation) -> None:
    """1,200 jobs are three pages; a limit of 3 is one call of 3."""
    for n in range(1_200):
        small.add_job(f"job-{n}")
    assert len(client.list(limit=5_000)) == 1_200
    assert [job.id for job in client.list(limit=3)] == ["job-0", "job-1", "job-2"]
    assert small.calls.count("ListJobs") == 4


def test_a_list_knows_states_by_name(client: Client, small: SmallFederation) -> None:
    """Unknown ones are refused with the known ones."""
    small.add_job("job-1", "RUNNING")
    small.add_job("job-2", "FAILED")
    assert [job.id for job in client.list(states=["failed"])] == ["job-2"]
    with pytest.raises(FederationError, match="no state 'DONE'"):
        client.list(states=["DONE"])


def test_wait_sees_every_change_up_to_the_end(client: Client, small: SmallFederation) -> None:
    """wait() answers the job in its last state, also when the stream breaks in between."""
    small.add_job()
    small.answer_lost.add("WatchJobs")

    def live() -> None:
        for state in ("STAGING", "RUNNING", "SUCCEEDED"):
            small.set_state("job-1", state)

    timer = threading.Timer(0.1, live)
    timer.start()
    job = client.wait("job-1", timeout_s=10)
    timer.join()
    assert job.state == number("SUCCEEDED")
    assert small.calls.count("WatchJobs") == 2


def test_wait_ends_with_its_time(client: Client, small: SmallFederation) -> None:
    """TIMED_OUT says that the job goes on."""
    small.add_job()
    with pytest.raises(FederationError) as caught:
        client.wait("job-1", timeout_s=0.2)
    assert caught.value.code is Code.TIMED_OUT


def test_a_watch_never_shows_a_revision_twice(client: Client, small: SmallFederation) -> None:
    """A stream opened anew starts with the present state; what was seen is left out."""
    small.add_job()
    small.answer_lost.add("WatchJobs")
    seen = client.watch(["job-1"], timeout_s=10)
    assert next(seen).revision == 1
    small.set_state("job-1", "RUNNING")
    assert next(seen).revision == 2


def test_logs_are_read_to_their_present_end(client: Client, small: SmallFederation) -> None:
    """In pieces, from an offset."""
    small.add_job(attempt="1-1")
    small.logs["job-1", "1-1"] = b"line\n" * 20
    assert b"".join(client.logs("job-1", offset=5)) == b"line\n" * 19


def test_following_a_log_goes_on_to_the_next_attempt(client: Client, small: SmallFederation) -> None:
    """A log that cannot be had yet is waited for; a second attempt starts at its first byte; the end is the job's."""
    small.add_job("job-1", "RUNNING", attempt="1-1")
    small.logs["job-1", "1-1"] = b"first\n"
    small.complete.add(("job-1", "1-1"))
    small.fail_next("ReadLogs", FederationError(Code.LOGS_UNAVAILABLE, "the hub is silent", fault=Fault.HUB))

    def retry() -> None:
        small.set_state("job-1", "RUNNING", attempt="1-2")
        small.logs["job-1", "1-2"] = b"second\n"
        small.complete.add(("job-1", "1-2"))
        small.set_state("job-1", "SUCCEEDED")

    timer = threading.Timer(0.3, retry)
    timer.start()
    assert b"".join(client.logs("job-1", follow=True)) == b"first\nsecond\n"
    timer.join()


def test_a_result_is_fetched_whole_and_checked(client: Client, small: SmallFederation, tmp_path: Path) -> None:
    """Files in folders, with the bytes that the hub reported; a stumbling store is tried again."""
    small.add_job()
    small.results["job-1"] = {"table.csv": b"a,b\n", "deep/er.bin": bytes(range(256)) * 4_000}
    small.http_statuses = [502]
    paths = client.fetch("job-1", tmp_path)
    assert {path.relative_to(tmp_path).as_posix(): path.read_bytes() for path in paths} == small.results["job-1"]


def test_a_result_with_other_bytes_leaves_no_file(
    client: Client, small: SmallFederation, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """DIGEST_MISMATCH, and an older file of that name stays as it was."""
    small.add_job()
    small.results["job-1"] = {"table.csv": b"right"}
    (tmp_path / "table.csv").write_bytes(b"older")
    listed = client.results("job-1")
    small.results["job-1"]["table.csv"] = b"wrong"
    monkeypatch.setattr("federation.client.steps.results", lambda job_id: _answer(listed))
    with pytest.raises(FederationError) as caught:
        client.fetch("job-1", tmp_path)
    assert caught.value.code is Code.DIGEST_MISMATCH
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == {"table.csv": b"older"}


def _answer(listed: job_pb2.ListResultsResponse) -> Any:
    """A verb is a generator; this one asks for nothing."""
    yield from ()
    return listed


@pytest.mark.parametrize("path", ["../evil", "/etc/evil", "a/../../evil", "a\\b", ""])
def test_a_result_never_leaves_its_folder(client: Client, small: SmallFederation, tmp_path: Path, path: str) -> None:
    """A path that a hostile hub reports is refused."""
    small.add_job()
    small.results["job-1"] = {path: b"x"}
    with pytest.raises(FederationError) as caught:
        client.fetch("job-1", tmp_path / "out")
    assert caught.value.code is Code.UNSAFE_ARCHIVE


def test_a_result_does_not_follow_a_link_out_of_its_folder(
    client: Client, small: SmallFederation, tmp_path: Path
) -> None:
    """A link that was there before is not a way out."""
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "sub").symlink_to(tmp_path)
    small.add_job()
    small.results["job-1"] = {"sub/file": b"x"}
    with pytest.raises(FederationError) as caught:
        client.fetch("job-1", tmp_path / "out")
    assert caught.value.code is Code.UNSAFE_ARCHIVE
    assert not (tmp_path / "file").exists()


def test_the_other_verbs_reach_the_federation(client: Client, small: SmallFederation) -> None:
    """Cancel, retry, explain, hubs, drain: each is a call and its answer."""
    small.add_job()
    assert client.cancel("job-1", "enough").state == number("CANCELLED")
    assert client.retry("job-1").state == number("QUEUED")
    assert client.explain("job-1").earliest_hub_id == "cairo"
    assert not client.explain_spec(COMMAND).HasField("job")
    assert [hub.id for hub in client.list_hubs()] == ["cairo", "shenzhen"]
    assert client.drain_hub("cairo").state == 2
    assert client.drain_hub("cairo", undo=True).state == client.get_hub("cairo").state == 1


def test_an_operator_releases_what_they_may_not_read(client: Client, small: SmallFederation) -> None:
    """Which attempt it is they cannot say then; a job that is not there is still refused."""
    small.add_job(state="UNKNOWN", attempt="1-1")
    small.fail_next("GetJob", not_found(Code.JOB_NOT_FOUND, "job", "job-1"))
    assert client.release("job-1", "it burnt down", force=True).state == number("FAILED")
    with pytest.raises(FederationError) as caught:
        client.release("job-9", "it burnt down", force=True)
    assert caught.value.code is Code.JOB_NOT_FOUND


async def test_the_async_client_has_the_same_verbs(small: SmallFederation, tmp_path: Path) -> None:
    """Submit with a package, wait, logs, fetch, list, hubs, over a link that fails once."""
    (tmp_path / "main.py").write_text("print(1)\n")
    small.fail_next("SubmitJobs", unreachable())
    async with AsyncClient(small.settings, HASTY) as client:
        job_id = await client.submit({"engine": "spark", "entrypoint": "main.py", "package": str(tmp_path)})
        small.logs[job_id, "1-1"] = b"done\n"
        small.complete.add((job_id, "1-1"))
        small.results[job_id] = {"out.txt": b"1"}
        small.set_state(job_id, "SUCCEEDED", attempt="1-1")
        assert (await client.wait(job_id, 10)).id == job_id
        assert [piece async for piece in client.logs(job_id, follow=True)] == [b"done\n"]
        assert [path.read_bytes() for path in await client.fetch(job_id, tmp_path / "out")] == [b"1"]
        assert [job.id for job in await client.list()] == [job_id]
        assert (await client.cancel(job_id)).id == (await client.retry(job_id)).id == (await client.get(job_id)).id
        assert (await client.explain(job_id)).earliest_hub_id == "cairo"
        assert not (await client.explain_spec(COMMAND)).HasField("job")
        assert (await client.submit_many([COMMAND])) == ["job-2"]
        assert [hub.id for hub in await client.list_hubs()] == ["cairo", "shenzhen"]
        assert (await client.drain_hub("cairo")).state == (await client.get_hub("cairo")).state
        with pytest.raises(FederationError) as caught:
            await client.get("job-9")
    assert caught.value.code is Code.JOB_NOT_FOUND


def test_both_clients_have_the_same_verbs() -> None:
    """Whoever adds a verb to one adds it to the other."""
    public = {name for name in vars(Client) if not name.startswith("_")}
    assert public == {name for name in vars(AsyncClient) if not name.startswith("_")}
