"""job.yaml: the contract's own example, defaults, and what is refused with which words."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from federation.client.quantity import AMOUNT_MAX, parse_bytes, parse_duration_ms, parse_milli
from federation.client.specfile import draft_from_mapping, draft_from_text, load_spec, name_from, spec_from_mapping
from federation.client.yamlfile import FILE_BYTES_MAX
from federation.errors import Code, FederationError
from federation.v1 import common_pb2, job_pb2

CONTRACT = """\
version: 1
name: delays-by-carrier
project: default
engine: spark                 # spark | ray | lab | command
entrypoint: delays.py         # relative to package
package: .                    # folder sent along (limits apply)
arguments: ["--top", "10"]
environment: {requirements: requirements.txt, variables: {}}    # built once per hub by digest
resources: {replicas: 1, cpus: 2, memory: 2Gi, disk: 1Gi, gpus: 0, gpu_model: ""}
inputs: [{dataset: flights-jfk, version: "", as: flights}]      # path arrives as BRHUB_INPUT_FLIGHTS
runtime_limit: 10m
priority: batch               # class | interactive | batch | scavenger
preemptible: false            # default: the value of idempotent
idempotent: false
on_partition: keep            # keep | stop | rerun
tracking: true                # an MLflow run; default true for ray only
hubs: {allow: [], deny: [], prefer: []}
"""


def demand_of(spec: Any) -> list[tuple[str, str, int]]:
    """What one task needs, as tuples."""
    return [(entry.name, entry.kind, entry.amount) for entry in spec.demand.per_task]


def test_the_contracts_own_example_is_read(tmp_path: Path) -> None:
    """Every line of it arrives in the spec."""
    (tmp_path / "job.yaml").write_text(CONTRACT)
    (tmp_path / "requirements.txt").write_text("pandas\n")
    draft = load_spec(tmp_path / "job.yaml")
    spec = draft.spec
    assert (spec.version, spec.name, spec.engine, spec.entrypoint) == (1, "delays-by-carrier", "spark", "delays.py")
    assert list(spec.arguments) == ["--top", "10"]
    assert spec.environment.requirements == "pandas\n"
    assert demand_of(spec) == [("cpu", "", 2000), ("memory", "", 2 * 2**30), ("disk", "", 2**30)]
    assert [(i.dataset, i.version, getattr(i, "as")) for i in spec.inputs] == [("flights-jfk", "", "flights")]
    assert spec.runtime_limit_ms == 600_000
    assert spec.priority == common_pb2.PRIORITY_CLASS_BATCH
    assert spec.on_partition == common_pb2.ON_PARTITION_KEEP
    assert (spec.preemptible, spec.idempotent, spec.tracking) == (False, False, True)
    assert draft.package == tmp_path


def test_the_least_that_can_be_said_gets_the_defaults() -> None:
    """One replica of 1 cpu and 1Gi for 10m, batch, kept when cut off."""
    spec = spec_from_mapping({"engine": "command", "entrypoint": "My_Tool.v2.sh"})
    assert (spec.name, spec.project, spec.demand.replicas) == ("my-tool", "default", 1)
    assert demand_of(spec) == [("cpu", "", 1000), ("memory", "", 2**30)]
    assert (spec.runtime_limit_ms, spec.priority, spec.on_partition) == (600_000, 3, 1)


@pytest.mark.parametrize(("engine", "tracking"), [("ray", True), ("spark", False), ("command", False), ("lab", False)])
def test_tracking_is_on_for_ray_only(engine: str, tracking: bool) -> None:
    """Unless the job says otherwise."""
    mapping = {"engine": engine, "entrypoint": "x"}
    assert spec_from_mapping(mapping).tracking is tracking
    assert spec_from_mapping({**mapping, "tracking": not tracking}).tracking is not tracking


def test_tasks_are_packed_unless_they_are_to_be_spread() -> None:
    """What is the default is not sent, so that the same job is the same body to every version."""
    mapping = {"engine": "command", "entrypoint": "x"}
    styles = [spec_from_mapping({**mapping, "resources": asked}).demand.placement for asked in (
        {}, {"placement": "pack"}, {"placement": "spread"},
    )]  # fmt: skip
    assert styles == [job_pb2.PLACEMENT_UNSPECIFIED, job_pb2.PLACEMENT_UNSPECIFIED, job_pb2.PLACEMENT_SPREAD]


@pytest.mark.parametrize(
    ("resources", "field"),
    [
        ({"gpus": 1.5}, "resources.gpus"),
        ({"gpus": "2.001"}, "resources.gpus"),
        ({"gpus": 1, "gpu_model": "a|a"}, "resources.gpu_model"),
        ({"gpus": 1, "gpu_model": "a|"}, "resources.gpu_model"),
        ({"gpus": 1, "gpu_model": "|".join(map(str, range(17)))}, "resources.gpu_model"),
        ({"placement": "heap"}, "resources.placement"),
    ],
)
def test_gpus_that_no_machine_has_are_refused_at_once(resources: dict[str, Any], field: str) -> None:
    """A part of one device or whole ones, of one model or of either."""
    with pytest.raises(FederationError) as refused:
        spec_from_mapping({"engine": "command", "entrypoint": "x", "resources": resources})
    assert refused.value.metadata["field"] == field


@pytest.mark.parametrize(("gpus", "model"), [(0.5, ""), (1, "nvidia/A100"), (8, "nvidia/A100|nvidia/H100")])
def test_parts_and_whole_gpus_are_read(gpus: float, model: str) -> None:
    """In thousandths, with the models as written."""
    spec = spec_from_mapping({"engine": "command", "entrypoint": "x", "resources": {"gpus": gpus, "gpu_model": model}})
    assert demand_of(spec)[-1] == ("gpu", model, int(gpus * 1000))


def test_what_may_run_twice_may_be_put_aside() -> None:
    """The one follows the other, and can be said apart."""
    mapping = {"engine": "command", "entrypoint": "x", "idempotent": True}
    assert spec_from_mapping(mapping).preemptible is True
    assert spec_from_mapping({**mapping, "preemptible": False}).preemptible is False


def test_gpus_carry_their_model() -> None:
    """Half an A100."""
    spec = spec_from_mapping(
        {"engine": "ray", "entrypoint": "x", "resources": {"gpus": 0.5, "gpu_model": "nvidia/A100"}}
    )
    assert ("gpu", "nvidia/A100", 500) in demand_of(spec)


REFUSED: list[tuple[str, str, Code]] = [
    ("engin: spark", "engin", Code.UNKNOWN_KEY),
    ("resources: {cpu: 2}", "cpu", Code.UNKNOWN_KEY),
    ("environment: {requirement: x}", "requirement", Code.UNKNOWN_KEY),
    ("inputs: [{datset: x}]", "datset", Code.UNKNOWN_KEY),
    ("hubs: {alow: []}", "alow", Code.UNKNOWN_KEY),
    ("1: 2", "1", Code.UNKNOWN_KEY),
    ("version: 2", "version", Code.INVALID_ARGUMENT),
    ("version: true", "version", Code.INVALID_ARGUMENT),
    ("engine: hadoop", "engine", Code.INVALID_ARGUMENT),
    ("entrypoint: [a]", "entrypoint", Code.INVALID_ARGUMENT),
    ("entrypoint: ''", "entrypoint", Code.INVALID_ARGUMENT),
    ("name: 2024-01-01", "name", Code.INVALID_ARGUMENT),
    ("arguments: --top", "arguments", Code.INVALID_ARGUMENT),
    ("arguments: [true]", "arguments", Code.INVALID_ARGUMENT),
    ("environment: [x]", "environment", Code.INVALID_ARGUMENT),
    ("environment: {variables: {A: [1]}}", "variables", Code.INVALID_ARGUMENT),
    ("environment: {requirements: nowhere.txt}", "nowhere.txt", Code.INVALID_ARGUMENT),
    ("resources: {cpus: -1}", "cpus", Code.INVALID_ARGUMENT),
    ("resources: {cpus: .nan}", "cpus", Code.INVALID_ARGUMENT),
    ("resources: {cpus: 1e400}", "cpus", Code.INVALID_ARGUMENT),
    ("resources: {cpus: 0.0001}", "cpus", Code.INVALID_ARGUMENT),
    ("resources: {cpus: true}", "cpus", Code.INVALID_ARGUMENT),
    ("resources: {memory: lots}", "memory", Code.INVALID_ARGUMENT),
    ("resources: {memory: 99999Ti}", "memory", Code.LIMIT_EXCEEDED),
    ("resources: {memory: -1}", "memory", Code.INVALID_ARGUMENT),
    ("resources: {replicas: 0}", "replicas", Code.INVALID_ARGUMENT),
    ("resources: {replicas: 1.5}", "replicas", Code.INVALID_ARGUMENT),
    ("resources: {replicas: 99999999999}", "replicas", Code.INVALID_ARGUMENT),
    ("inputs: flights", "inputs", Code.INVALID_ARGUMENT),
    ("inputs: [{as: x}]", "dataset", Code.INVALID_ARGUMENT),
    ("runtime_limit: soon", "runtime_limit", Code.INVALID_ARGUMENT),
    ("runtime_limit: -5", "runtime_limit", Code.INVALID_ARGUMENT),
    ("priority: urgent", "priority", Code.INVALID_ARGUMENT),
    ("idempotent: 1", "idempotent", Code.INVALID_ARGUMENT),
    ("on_partition: hope", "on_partition", Code.INVALID_ARGUMENT),
    ("hubs: {allow: cairo}", "allow", Code.INVALID_ARGUMENT),
    ("name: x\nname: y", "twice", Code.INVALID_ARGUMENT),
    ("resources: {cpus: 1, cpus: 2}", "twice", Code.INVALID_ARGUMENT),
    ("name: &a x\nproject: *a", "aliases", Code.INVALID_ARGUMENT),
    ("name: !!python/object/apply:os.getcwd []", "YAML", Code.INVALID_ARGUMENT),
    ("name: 2024-99-99", "YAML", Code.INVALID_ARGUMENT),
    ("x: " + "[" * 17 + "]" * 17, "deeper", Code.LIMIT_EXCEEDED),
    ("name: " + "x" * FILE_BYTES_MAX, "bytes", Code.LIMIT_EXCEEDED),
    ("arguments: [" + "a," * 1_001 + "]", "entries", Code.LIMIT_EXCEEDED),
]


@pytest.mark.parametrize(("line", "word", "code"), REFUSED, ids=[line[:30] for line, _, _ in REFUSED])
def test_bad_job_files_are_refused_by_name(line: str, word: str, code: Code) -> None:
    """The error names what is wrong, has a code, and says what to do."""
    base = "" if line.startswith(("engine:", "entrypoint:")) else "engine: command\nentrypoint: x\n"
    rest = {"engine:": "\nentrypoint: x", "entrypoint:": "\nengine: command"}.get(line.split(" ", maxsplit=1)[0], "")
    with pytest.raises(FederationError) as caught:
        draft_from_text(base + line + rest)
    assert (caught.value.code, word in caught.value.message) == (code, True), str(caught.value)


@pytest.mark.parametrize("text", ["", "[1]", "just words", "- a\n- b", "null", "{", "\x00", "a: b: c", "\t"])
def test_what_is_no_mapping_is_refused(text: str) -> None:
    """Whatever it is, the answer is a FederationError."""
    with pytest.raises(FederationError):
        draft_from_text(text)


def test_an_unknown_key_gets_the_nearest_known_one() -> None:
    """Did you mean."""
    with pytest.raises(FederationError) as caught:
        draft_from_mapping({"entry_point": "x"})
    assert "'entrypoint'" in caught.value.hint


def test_files_that_cannot_be_read_are_the_callers_fault(tmp_path: Path) -> None:
    """Missing, not UTF-8, a folder."""
    (tmp_path / "latin.yaml").write_bytes(b"name: caf\xe9\n")
    for path in (tmp_path / "missing.yaml", tmp_path / "latin.yaml", tmp_path):
        with pytest.raises(FederationError) as caught:
            load_spec(path)
        assert caught.value.code is Code.INVALID_ARGUMENT


def test_a_name_is_made_from_the_program() -> None:
    """Always one that the federation takes."""
    names = [name_from(text) for text in ("a/b/My Job!.py", "___.py", "x" * 80, "π.py", "-a-.sh")]
    assert names == ["my-job", "job", "x" * 63, "job", "a"]


@pytest.mark.parametrize(
    ("text", "size"), [("0", 0), ("1k", 1000), ("512Mi", 2**29), ("1.5Gi", 3 * 2**29), (7, 7), (" 2G ", 2 * 10**9)]
)
def test_sizes(text: str | int, size: int) -> None:
    """Decimal and binary units, fractions, plain bytes."""
    assert parse_bytes(text, "memory") == size


def test_amounts_at_their_limit_and_just_past_it() -> None:
    """The largest size is a size; one more is not."""
    assert parse_bytes(AMOUNT_MAX, "memory") == parse_bytes(str(AMOUNT_MAX), "memory") == AMOUNT_MAX
    for text in (AMOUNT_MAX + 1, str(AMOUNT_MAX + 1), 10**5000):
        with pytest.raises(FederationError):
            parse_bytes(text, "memory")
    assert parse_milli(1_000_000, "cpus") == 10**9
    for value in (1_000_001, "1000000.001", "1e999999", "sNaN", "Infinity", ""):
        with pytest.raises(FederationError):
            parse_milli(value, "cpus")


@pytest.mark.parametrize(
    ("text", "length_ms"),
    [("90s", 90_000), ("1h30m", 5_400_000), ("2d", 172_800_000), (5, 5_000), ("250ms", 250), (0, 0)],
)
def test_durations(text: str | int, length_ms: int) -> None:
    """Units in any number, or whole seconds."""
    assert parse_duration_ms(text, "runtime_limit") == length_ms


@pytest.mark.parametrize("text", ["", "5", "5 m", "m", "1.5h", "-5s", "5m!", 1.5, True, None, 10**12, "9" * 70 + "s"])
def test_what_is_no_duration(text: object) -> None:
    """Refused with an example."""
    with pytest.raises(FederationError, match="runtime_limit"):
        parse_duration_ms(text, "runtime_limit")
