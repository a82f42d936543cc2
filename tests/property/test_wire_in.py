"""What comes over the wire is understood or refused with a code; no bytes bring the control plane to anything else."""

from __future__ import annotations

import contextlib

from hypothesis import given
from hypothesis import strategies as st

from federation.api.translate import agent_in, job_out, parsed_spec, report_in, spec_in, submission_in
from federation.domain.ids import JobId
from federation.domain.job import Job, JobSpec, check_spec
from federation.domain.quantities import AMOUNT_MAX
from federation.errors import FederationError
from federation.v1 import common_pb2, hub_pb2, job_pb2
from tests.support.builders import AISHA

amounts = st.one_of(st.integers(-(2**63), 2**63 - 1), st.sampled_from([0, 1, 1000, AMOUNT_MAX, AMOUNT_MAX + 1]))
names = st.one_of(st.text(max_size=70), st.sampled_from(["cpu", "memory", "gpu", "disk", "default", "a-job", ""]))
resources = st.builds(common_pb2.Resource, name=names, kind=names, amount=amounts)
small_ints = st.integers(-(2**31), 2**31 - 1)
specs = st.builds(
    job_pb2.JobSpec,
    version=st.sampled_from([0, 1, 2]),
    name=names,
    project=names,
    engine=st.sampled_from(["spark", "command", "fake", "", "quantum"]),
    entrypoint=st.one_of(st.text(max_size=20), st.just("run.py"), st.just("../../etc/passwd")),
    package_digest=st.one_of(st.just(""), st.just("a" * 64), names),
    arguments=st.lists(st.text(max_size=10), max_size=3),
    environment=st.builds(
        job_pb2.Environment, variables=st.dictionaries(names, st.text(max_size=5), max_size=2), requirements=st.text()
    ),
    demand=st.builds(job_pb2.Demand, replicas=small_ints, per_task=st.lists(resources, max_size=4)),
    inputs=st.lists(st.builds(job_pb2.Input, dataset=names, version=names), max_size=2),
    runtime_limit_ms=amounts,
    on_partition=st.sampled_from([0, 1, 2, 3]),
    idempotent=st.booleans(),
)


@given(specs)
def test_a_spec_is_checked_or_refused(message: job_pb2.JobSpec) -> None:
    """A spec that is taken passes its own check again, and its job can be shown; any other is a FederationError."""
    data = message.SerializeToString()
    try:
        spec = spec_in(parsed_spec(data))
    except FederationError:
        return
    assert check_spec(spec) == spec
    shown = job_out(Job(JobId("job-1"), AISHA, spec, data))
    assert shown.spec.name == message.name


@given(st.binary(max_size=300))
def test_any_bytes_are_a_submission_or_a_problem(data: bytes) -> None:
    """Garbage becomes the member's own problem, never the batch's."""
    member = submission_in(job_pb2.Submission(request_id="r1", spec=data), AISHA)
    assert isinstance(member.spec, JobSpec) != isinstance(member.problem, FederationError)


@given(st.binary(max_size=300))
def test_any_session_request_is_an_agent_or_refused(data: bytes) -> None:
    """An agent that introduces itself with nonsense is refused with a code."""
    message = hub_pb2.OpenSessionRequest()
    with contextlib.suppress(Exception):  # what protobuf itself refuses never reaches us
        message.ParseFromString(data)
    try:
        agent = agent_in(message, "session-1")
    except FederationError:
        return
    assert len({node.name for node in agent.nodes}) == len(agent.nodes)


@given(
    st.builds(
        hub_pb2.RunReport,
        state=st.sampled_from([*range(-1, 7), 90]),
        outcome=st.sampled_from([*range(-1, 6), 90]),
        job_id=names,
    )
)
def test_any_report_is_a_fact_or_refused(message: hub_pb2.RunReport) -> None:
    """State and outcome together mean one thing, or nothing."""
    try:
        report = report_in(message, "cairo")
    except FederationError:
        return
    assert report.ended == (message.state == hub_pb2.RUN_STATE_ENDED)


def test_secret_variables_are_never_shown() -> None:
    """What only the chosen hub is told is in the bytes it gets, and in no answer."""
    spec = job_pb2.JobSpec(version=1, name="lab", engine="lab", entrypoint="flights")
    spec.environment.secret_variables["JUPYTERHUB_API_TOKEN"] = "hunter2"
    spec.demand.per_task.add(name="cpu", amount=1000)
    data = spec.SerializeToString()
    job = Job(JobId("job-1"), AISHA, spec_in(parsed_spec(data)), data)
    assert b"hunter2" in job.spec_bytes
    assert "hunter2" not in str(job_out(job))
    assert "hunter2" not in repr(job)
