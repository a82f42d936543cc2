"""What people, programs and packages do wrong, through the real front door.

Each is a clear error with a code, whose fault it is and what to do, while a job that was accepted before runs on to its
end. Full disks are in `test_full_disk.py`.
"""

from __future__ import annotations

import hashlib
import io
import os
import tarfile
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import grpc
import pytest
import yaml

from federation.client import Client
from federation.client.specfile import spec_from_mapping
from federation.errors import Code, FederationError, from_rpc_error
from federation.identity.tokens import bearer
from federation.v1 import common_pb2, job_pb2, job_pb2_grpc
from tests.support.embedded_federation import PATIENCE_S, EmbeddedFederation, Said, brhub, ended, when
from tests.support.spare_processes import Spare

pytestmark = pytest.mark.timeout(300)

MIB = 2**20
GOOD: dict[str, Any] = {
    "engine": "command", "entrypoint": "hello.py", "package": ".", "resources": {"cpus": 0.5, "memory": "128Mi"},
}  # fmt: skip
WITNESS = """\
import os, pathlib, threading
out = pathlib.Path(os.environ["BRHUB_OUTPUT_DIR"])
with (out / "starts.txt").open("a") as file:
    file.write("started\\n")
bell = pathlib.Path(os.environ["BELL"])
while not bell.exists():
    threading.Event().wait(0.1)
(out / "end.txt").write_text("rang\\n")
"""


class Wire:
    """JobService as any gRPC client may call it, with nothing of ours between."""

    def __init__(self, federation: EmbeddedFederation) -> None:
        self.channel = grpc.insecure_channel(federation.server)
        self._stub: Any = job_pb2_grpc.JobServiceStub(self.channel)
        self._metadata = (bearer(federation.plan.tokens["user"]),)

    def __call__(self, method: str, request: Any) -> Any:
        """The answer. Raises: FederationError as the server said it."""
        try:
            return getattr(self._stub, method)(request, metadata=self._metadata, timeout=60)
        except grpc.RpcError as problem:
            raise from_rpc_error(problem) from problem

    def submit(self, *members: tuple[str, bytes]) -> list[job_pb2.SubmitResult]:
        """Submit (request id, spec bytes) in one batch."""
        submissions = [job_pb2.Submission(request_id=request_id, spec=spec) for request_id, spec in members]
        return list(self("SubmitJobs", job_pb2.SubmitJobsRequest(submissions=submissions)).results)

    def upload(self, data: bytes) -> str:
        """Put any bytes where a package goes; their digest."""
        digest = hashlib.sha256(data).hexdigest()
        place = self("CreateUpload", job_pb2.CreateUploadRequest(digest=digest, size_bytes=len(data)))
        if place.put_url:
            request = urllib.request.Request(place.put_url, data, method="PUT")
            with urllib.request.urlopen(request, timeout=60) as answer:
                assert answer.status == 200
        return digest


@pytest.fixture(scope="module")
def wire(federation: EmbeddedFederation) -> Iterator[Wire]:
    """The bare wire."""
    found = Wire(federation)
    yield found
    found.channel.close()


@pytest.fixture(scope="module", autouse=True)
def accepted_before(federation: EmbeddedFederation, tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """A job that runs all the while; when everything bad is over it must end well, started once, with its result."""
    folder = tmp_path_factory.mktemp("witness")
    (folder / "witness.py").write_text(WITNESS)
    bell = folder / "bell"
    with federation.client() as client:
        job_id = client.submit(
            {
                **GOOD,
                "entrypoint": "witness.py",
                "package": str(folder),
                "hubs": {"allow": ["cairo"]},
                "environment": {"variables": {"BELL": str(bell)}},
            }
        )
        when(client, job_id, "RUNNING")
        yield
        bell.touch()
        assert ended(client, job_id).attempts == 1
        files = {path.name: path.read_text() for path in client.fetch(job_id, folder / "result")}
        assert files == {"starts.txt": "started\n", "end.txt": "rang\n"}


@pytest.fixture
def package(tmp_path: Path) -> Path:
    """A folder with a good program."""
    (tmp_path / "hello.py").write_text("print('hello')\n")
    return tmp_path


@pytest.fixture
def submit(federation: EmbeddedFederation, package: Path) -> Callable[..., Said]:
    """`brhub submit job.yaml` of the good job with changes; None removes a key."""

    def call(**changes: Any) -> Said:
        mapping = {key: value for key, value in {**GOOD, **changes}.items() if value is not None}
        (package / "job.yaml").write_text(yaml.safe_dump(mapping))
        return federation.brhub("submit", "job.yaml", cwd=package)

    return call


def check_refused(said: Said, code: str, *words: str, status: int = 2, fault: str = "caller") -> None:
    """It printed nothing but a whole error: that code, that fault, something to do, and the words."""
    assert (said.status, said.out) == (status, ""), said.err
    assert (said.error["code"], said.error["fault"]) == (code, fault)
    assert said.error["hint"]
    for word in words:
        assert word in said.err


def check_problem(problem: job_pb2.Problem, code: str) -> None:
    """A member's problem is whole."""
    assert (problem.code, problem.fault) == (code, "caller")
    assert problem.message
    assert problem.hint


# ---- job files --------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("changes", "code", "word"),
    [
        ({"entripoint": "hello.py"}, "UNKNOWN_KEY", "entripoint"),
        ({"resources": {"cpu": 1}}, "UNKNOWN_KEY", "cpus"),
        ({"hubs": {"only": ["cairo"]}}, "UNKNOWN_KEY", "only"),
        ({"arguments": "--top 10"}, "INVALID_ARGUMENT", "arguments"),
        ({"idempotent": "yes"}, "INVALID_ARGUMENT", "idempotent"),
        ({"resources": [1, 2]}, "INVALID_ARGUMENT", "resources"),
        ({"resources": {"cpus": -1}}, "INVALID_ARGUMENT", "cpus"),
        ({"resources": {"cpus": float("inf")}}, "INVALID_ARGUMENT", "cpus"),
        ({"resources": {"memory": "-2Gi"}}, "INVALID_ARGUMENT", "memory"),
        ({"resources": {"memory": "900000Ti"}}, "LIMIT_EXCEEDED", "memory"),
        ({"resources": {"replicas": 10**9}}, "INVALID_ARGUMENT", "replicas"),
        ({"runtime_limit": "10 fortnights"}, "INVALID_ARGUMENT", "runtime_limit"),
        ({"runtime_limit": "900d"}, "INVALID_ARGUMENT", "runtime_limit"),
        ({"entrypoint": None}, "INVALID_ARGUMENT", "entrypoint"),
        ({"engine": "spark", "entrypoint": "nowhere.py"}, "INVALID_ARGUMENT", "nowhere.py"),
        ({"engine": "hadoop"}, "INVALID_ARGUMENT", "hadoop"),
        ({"version": 2}, "INVALID_ARGUMENT", "version"),
    ],
)
def test_a_job_file_that_makes_no_sense_names_what_is_wrong(
    submit: Callable[..., Said], changes: dict[str, Any], code: str, word: str
) -> None:
    """Unknown keys with the nearest known one, wrong types, absurd amounts, a missing program."""
    check_refused(submit(**changes), code, word)


def test_hubs_and_datasets_that_nobody_has_are_not_found(submit: Callable[..., Said]) -> None:
    """Before anything is queued; the hint says where to look."""
    check_refused(submit(hubs={"allow": ["atlantis"]}), "HUB_NOT_FOUND", "atlantis", "brhub hub list", status=3)
    check_refused(submit(inputs=[{"dataset": "moon"}]), "DATASET_NOT_FOUND", "moon", "brhub hub show", status=3)


def test_an_argument_of_ten_megabytes_is_too_long_in_a_file_and_on_the_wire(
    submit: Callable[..., Said], wire: Wire
) -> None:
    """A file is refused by its size; a client of one's own gets no further."""
    check_refused(submit(arguments=["x" * 10 * MIB]), "LIMIT_EXCEEDED", "package or a dataset")
    spec = spec_from_mapping({**GOOD, "package": None, "arguments": ["x" * 10 * MIB]})
    (result,) = wire.submit(("ten-megabytes", spec.SerializeToString()))
    check_problem(result.problem, "LIMIT_EXCEEDED")
    with pytest.raises(FederationError) as caught:
        wire.submit(*((f"seventy-megabytes-{n}", spec.SerializeToString()) for n in range(7)))
    assert caught.value.code is Code.LIMIT_EXCEEDED


@pytest.mark.parametrize(
    ("amounts", "replicas", "code"),
    [
        ([("cpu", -1000)], 1, "INVALID_ARGUMENT"),
        ([("cpu", 2**63 - 1)], 1, "INVALID_ARGUMENT"),
        ([("cpu", 1000), ("memory", -1)], 1, "INVALID_ARGUMENT"),
        ([("cpu", 1000), ("plutonium", 1)], 1, "INVALID_ARGUMENT"),
        ([("cpu", 1000)], -5, "INVALID_ARGUMENT"),
        ([("cpu", 1000)], 2**31 - 1, "INVALID_ARGUMENT"),
        ([("memory", 2**30)], 1, "INVALID_ARGUMENT"),
    ],
)
def test_absurd_amounts_on_the_wire_are_refused_by_the_server(
    wire: Wire, amounts: list[tuple[str, int]], replicas: int, code: str
) -> None:
    """Nobody's own client can get around the limits."""
    spec = spec_from_mapping({**GOOD, "package": None})
    spec.demand.CopyFrom(
        job_pb2.Demand(replicas=replicas, per_task=[common_pb2.Resource(name=name, amount=n) for name, n in amounts])
    )
    (result,) = wire.submit((f"absurd-{amounts}-{replicas}".replace(" ", ""), spec.SerializeToString()))
    problem = result.problem
    assert problem.code in (code, "LIMIT_EXCEEDED")
    assert (problem.fault, bool(problem.message), bool(problem.hint), result.job_id) == ("caller", True, True, "")


def test_bytes_that_are_no_spec_spoil_only_themselves(wire: Wire, client: Client) -> None:
    """The other members of the batch are accepted."""
    good = spec_from_mapping({**GOOD, "package": None, "entrypoint": "true"}).SerializeToString()
    results = wire.submit(("good-1", good), ("garbage", b"\xff" * 40), ("good-2", good), ("", good))
    assert [bool(result.job_id) for result in results] == [True, False, True, False]
    check_problem(results[1].problem, "INVALID_ARGUMENT")
    check_problem(results[3].problem, "INVALID_ARGUMENT")
    for result in (results[0], results[2]):
        ended(client, result.job_id)


# ---- request ids ------------------------------------------------------------------------------------------------------
def test_one_request_id_cannot_mean_two_jobs(
    federation: EmbeddedFederation, package: Path, client: Client, wire: Wire
) -> None:
    """The same id with the same job is the same job; with another job it is refused, in a later call and in one batch."""
    words = ("submit", "--engine", "command", "--memory", "128Mi", "--request-id", package.name)
    first = federation.brhub(*words, "hello.py", cwd=package)
    assert federation.brhub(*words, "hello.py", cwd=package).out == first.out
    check_refused(federation.brhub(*words, "hello.py", "--", "more", cwd=package), "REQUEST_ID_REUSED", package.name)
    one, two = (
        spec_from_mapping({**GOOD, "package": None, "entrypoint": "true", "name": name}).SerializeToString()
        for name in ("one", "two")
    )
    results = wire.submit(("same", one), ("same", two), ("same", one))
    assert results[0].job_id == results[2].job_id != ""
    check_problem(results[1].problem, "REQUEST_ID_REUSED")
    ended(client, results[0].job_id)
    ended(client, first.out.strip())


# ---- packages ---------------------------------------------------------------------------------------------------------
def test_a_folder_with_a_link_is_not_packed(submit: Callable[..., Said], package: Path) -> None:
    """Following it could send a secret, keeping it could lead outside over there."""
    (package / "passwords").symlink_to("/etc/passwd")
    check_refused(submit(), "UNSAFE_ARCHIVE", "passwords")


def test_a_folder_that_is_too_large_is_not_packed(submit: Callable[..., Said], package: Path) -> None:
    """The hint says how to leave files out."""
    with (package / "huge.bin").open("wb") as file:
        os.truncate(file.fileno(), 300 * MIB)  # a hole: it takes no room here
    check_refused(submit(), "LIMIT_EXCEEDED", ".brhubignore")


def a_tar(*members: tuple[tarfile.TarInfo, bytes]) -> bytes:
    """A packed archive of these members and a good program."""
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w:gz", format=tarfile.GNU_FORMAT) as archive:
        for member, data in ((tarfile.TarInfo("hello.py"), b"print('hello')\n"), *members):
            if data:
                member.size = len(data)
            archive.addfile(member, io.BytesIO(data))
    return packed.getvalue()


def a_link(kind: bytes, target: str) -> tarfile.TarInfo:
    """A member that leads elsewhere."""
    member = tarfile.TarInfo("innocent")
    member.type, member.linkname = kind, target
    return member


@pytest.mark.parametrize(
    ("make", "code"),
    [
        (lambda: a_tar((a_link(tarfile.SYMTYPE, "/etc/passwd"), b"")), "UNSAFE_ARCHIVE"),
        (lambda: a_tar((a_link(tarfile.LNKTYPE, "../../token"), b"")), "UNSAFE_ARCHIVE"),
        (lambda: a_tar((tarfile.TarInfo("../../escaped.py"), b"x")), "UNSAFE_ARCHIVE"),
        (lambda: a_tar((tarfile.TarInfo("/etc/escaped"), b"x")), "UNSAFE_ARCHIVE"),
        (lambda: a_tar((tarfile.TarInfo("bomb"), bytes(257 * MIB))), "LIMIT_EXCEEDED"),
        (lambda: b"this is no archive", "UNSAFE_ARCHIVE"),
    ],
    ids=["symbolic-link", "hard-link", "parent-path", "absolute-path", "bomb", "no-archive"],
)
def test_a_package_made_by_hand_is_refused_where_it_would_be_unpacked(
    wire: Wire, client: Client, federation: EmbeddedFederation, make: Callable[[], bytes], code: str
) -> None:
    """The hub writes nothing of it: the job has failed with the reason, and the hub goes on."""
    spec = spec_from_mapping({**GOOD, "package": None, "hubs": {"allow": ["shenzhen"]}})
    spec.package_digest = wire.upload(make())
    (result,) = wire.submit((f"package-{spec.package_digest[:16]}", spec.SerializeToString()))
    job = ended(client, result.job_id, "FAILED")
    assert (job.reason.code, job.attempts) == (code, 1)
    assert job.reason.message
    attempt = federation.folder / "hubs" / "shenzhen" / "state" / "attempts" / job.id / job.attempt
    assert not (attempt / "package").exists()
    assert "shenzhen" in federation.online()


def test_a_package_that_was_never_sent_is_named(wire: Wire, client: Client) -> None:
    """Refused at once, or failed with that reason; never waiting for ever."""
    spec = spec_from_mapping({**GOOD, "package": None})
    spec.package_digest = hashlib.sha256(b"never sent").hexdigest()
    (result,) = wire.submit(("never-sent", spec.SerializeToString()))
    code = result.problem.code or ended(client, result.job_id, "FAILED").reason.code
    assert code in ("UPLOAD_NOT_FOUND", "OBJECT_NOT_FOUND")


def test_a_program_that_the_hub_has_not_fails_with_what_to_do(client: Client) -> None:
    """A command is looked for in the package, then at the hub."""
    job_id = client.submit({"engine": "command", "entrypoint": "no-such-program", "resources": {"memory": "128Mi"}})
    job = ended(client, job_id, "FAILED")
    assert (job.reason.code, "no-such-program" in job.reason.message) == ("INVALID_ARGUMENT", True)


# ---- logs -------------------------------------------------------------------------------------------------------------
def test_an_offset_past_a_log_s_end_is_out_of_range(federation: EmbeddedFederation, client: Client) -> None:
    """The error says how long the log is; its very end is no mistake."""
    job_id = client.submit({"engine": "command", "entrypoint": "echo", "arguments": ["hi"], "resources": {}})
    ended(client, job_id)
    said = federation.brhub("job", "logs", "--from", 4, job_id)
    check_refused(said, "OFFSET_OUT_OF_RANGE", "3 bytes")
    assert federation.brhub("job", "logs", "--from", 3, job_id).status == 0


# ---- agents and settings ----------------------------------------------------------------------------------------------
def test_a_second_machine_with_the_same_identity_is_refused(
    federation: EmbeddedFederation, client: Client, tmp_path: Path
) -> None:
    """A copied configuration with a journal of its own: told what to do in its log, given no work; the first goes on."""
    original = federation.folder / "hubs" / "cairo" / "agent.toml"
    copy = tmp_path / "agent.toml"
    state_dir = federation.folder / "hubs" / "cairo" / "state"
    copy.write_text(original.read_text().replace(str(state_dir), str(tmp_path / "state")))
    twin = Spare(["agent", "--config", copy], tmp_path / "twin.log")
    try:
        twin.says("IDENTITY_IN_USE")
        assert "agent_id of its own" in twin.log
        spec = {"engine": "command", "entrypoint": "true", "hubs": {"allow": ["cairo"]}}
        job = ended(client, client.submit({**spec, "resources": {"cpus": 0.5, "memory": "128Mi"}}))
        assert (federation.folder / "hubs" / "cairo" / "state" / "attempts" / job.id).is_dir()
        assert not (tmp_path / "state" / "attempts" / job.id).exists()
        hub = client.get_hub("cairo")
        assert len(hub.agents) == 1
    finally:
        assert twin.end() == 0


@pytest.mark.parametrize(
    ("name", "text", "words"),
    [
        ("control.toml", '[server]\nlisten = "127.0.0.1:0"\nport = 7\n', ("CONFIGURATION_INVALID", "port")),
        ("control.toml", '[server]\nlisten = "0.0.0.0:7460"\n', ("TLS_REQUIRED", "0.0.0.0")),
        ("agent.toml", 'hub_id = "cairo"\nserver = "127.0.0.1:1"\ncolour = "red"\n', ("UNKNOWN_KEY", "colour")),
        ("agent.toml", 'hub_id = "Cairo!"\nserver = "127.0.0.1:1"\n', ("CONFIGURATION_INVALID", "hub_id")),
    ],
)
def test_a_settings_file_that_cannot_be_meant_starts_nothing(
    tmp_path: Path, name: str, text: str, words: tuple[str, ...]
) -> None:
    """The key is named; the exit status is that of wrong usage."""
    file = tmp_path / name
    file.write_text(text)
    said = brhub("serve" if name == "control.toml" else "agent", "--config", file, cwd=tmp_path, timeout_s=PATIENCE_S)
    assert said.status == 2
    for word in words:
        assert word in said.err
