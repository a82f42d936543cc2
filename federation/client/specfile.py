"""job.yaml, or the same mapping in Python, to a `federation.v1.JobSpec` and the files to send along.

Here are names, types and defaults; what is in range is checked by the control plane (`federation/domain/job.py`), so
that nobody's own client can get around it. Defaults: 1 replica, 1 cpu, 1Gi memory, no disk, 10m, batch,
`preemptible` as `idempotent`, tracking for ray only. Without `package` the entrypoint alone is sent, where it is a file.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from federation.client.quantity import parse_bytes, parse_duration_ms, parse_milli
from federation.client.yamlfile import FILE_BYTES_MAX, load_mapping, read_text
from federation.errors import Code, FederationError, invalid
from federation.v1 import common_pb2, job_pb2

ENGINES = ("spark", "ray", "lab", "command")
HIDDEN_ENGINES = ("fake",)
"""Only hubs set up for tests take it, so the hint does not offer it."""
PRIORITIES = ("class", "interactive", "batch", "scavenger")
ON_PARTITION = ("keep", "stop", "rerun")
PLACEMENTS = ("pack", "spread")
GPU_KINDS_MAX = 16
"""As in `federation/domain/job.py`: so many models of which any will do."""
REQUIREMENTS_BYTES_MAX = 128 * 1024
LIST_ENTRIES_MAX = 1_000
RUNTIME_LIMIT_MS = 600_000
MEMORY_BYTES = 2**30

_TOP = (
    "version", "name", "project", "engine", "entrypoint", "package", "arguments", "environment", "resources", "inputs",
    "runtime_limit", "priority", "preemptible", "idempotent", "on_partition", "tracking", "hubs",
)  # fmt: skip
_ENVIRONMENT = ("requirements", "variables", "secret_variables")
_RESOURCES = ("replicas", "cpus", "memory", "disk", "gpus", "gpu_model", "placement")
_INPUT = ("dataset", "version", "as")
_HUBS = ("allow", "deny", "prefer")


@dataclass(frozen=True, slots=True)
class Draft:
    """A spec, and what has to be sent before it can be submitted."""

    spec: job_pb2.JobSpec
    folder: Path
    """What relative paths in the mapping mean."""
    package: Path | None
    """The folder to pack; None when at most the entrypoint is sent."""

    @property
    def lone_file(self) -> Path | None:
        """The entrypoint as a file, when it alone is the package."""
        path = self.folder / self.spec.entrypoint
        return path if self.package is None and self.spec.engine != "lab" and path.is_file() else None


def load_spec(path: Path | str) -> Draft:
    """The job file at `path`; relative paths in it start at its folder. Raises: FederationError."""
    file = Path(path)
    return draft_from_mapping(
        load_mapping(read_text(file, FILE_BYTES_MAX, "the job file"), repr(str(file))), file.parent
    )


def draft_from_text(text: str, folder: Path | str = ".") -> Draft:
    """A job file's text, with `folder` as the start of its relative paths. Raises: FederationError."""
    return draft_from_mapping(load_mapping(text), folder)


def spec_from_mapping(mapping: Mapping[str, Any], folder: Path | str = ".") -> job_pb2.JobSpec:
    """The spec alone; `package_digest` is empty until the package is uploaded. Raises: FederationError."""
    return draft_from_mapping(mapping, folder).spec


def draft_from_mapping(mapping: Mapping[str, Any], folder: Path | str = ".") -> Draft:
    """The job that `mapping` (job.yaml's keys) asks for.

    Raises: FederationError UNKNOWN_KEY, INVALID_ARGUMENT or LIMIT_EXCEEDED, naming the field.
    """
    base = Path(folder)
    _only(mapping, _TOP, "")
    version = mapping.get("version", 1)
    if isinstance(version, bool) or version != 1:
        raise invalid(f"version {str(version)[:20]!r} is not known", hint="Write version: 1.", field="version")
    engine = _choice(mapping, "engine", (*ENGINES, *HIDDEN_ENGINES), None, shown=ENGINES)
    entrypoint = _text(mapping, "entrypoint")
    if not entrypoint:
        raise invalid(
            "the entrypoint is missing", hint="Name the program to run: entrypoint: main.py", field="entrypoint"
        )
    idempotent = _flag(mapping, "idempotent", False)
    spec = job_pb2.JobSpec(
        version=1,
        name=_text(mapping, "name") or name_from(entrypoint),
        project=_text(mapping, "project") or "default",
        engine=engine,
        entrypoint=entrypoint,
        arguments=_texts(mapping, "arguments", numbers=True),
        environment=_environment(_section(mapping, "environment"), base),
        demand=_demand(_section(mapping, "resources")),
        inputs=_inputs(mapping),
        runtime_limit_ms=parse_duration_ms(mapping["runtime_limit"], "runtime_limit")
        if mapping.get("runtime_limit") is not None
        else RUNTIME_LIMIT_MS,
        priority=_enum(common_pb2.PriorityClass, "PRIORITY_CLASS_", _choice(mapping, "priority", PRIORITIES, "batch")),
        preemptible=_flag(mapping, "preemptible", idempotent),
        idempotent=idempotent,
        on_partition=_enum(
            common_pb2.OnPartition, "ON_PARTITION_", _choice(mapping, "on_partition", ON_PARTITION, "keep")
        ),
        tracking=_flag(mapping, "tracking", engine == "ray"),
        hubs=_hubs(_section(mapping, "hubs")),
    )
    package = _text(mapping, "package")
    return Draft(spec=spec, folder=base, package=base / package if package else None)


def name_from(entrypoint: str) -> str:
    """A job's name from its program: "My_Job.py" gives "my-job"."""
    stem = entrypoint.replace("\\", "/").rsplit("/", 1)[-1].split(".")[0].lower()
    return re.sub(r"[^a-z0-9]+", "-", stem).strip("-")[:63].strip("-") or "job"


def unknown_key(key: object, known: Sequence[str], where: str) -> FederationError:
    """The error for a key that nobody knows, with the nearest that somebody does."""
    text = str(key)[:80]
    close = difflib.get_close_matches(text, known, 1)
    hint = f"Did you mean {close[0]!r}?" if close else f"Known here: {', '.join(known)}."
    place = f" in {where}" if where else ""
    return invalid(f"unknown key {text!r}{place}", code=Code.UNKNOWN_KEY, hint=hint, key=text, where=where)


def _only(mapping: Mapping[str, Any], known: Sequence[str], where: str) -> None:
    for key in mapping:
        if key not in known:
            raise unknown_key(key, known, where)


def _wrong(field: str, wanted: str) -> FederationError:
    return invalid(
        f"{field} must be {wanted}", hint="Put texts in quotes where YAML might read them otherwise.", field=field
    )


def _text(mapping: Mapping[str, Any], key: str, where: str = "") -> str:
    value = mapping.get(key)
    if value is None:
        return ""
    if not isinstance(value, str):
        raise _wrong(where + key, "a text")
    return _sendable(value, where + key)


def _sendable(text: str, field: str) -> str:
    """Half a surrogate pair cannot travel: the wire is UTF-8."""
    if not text.isascii() and any("\ud800" <= char <= "\udfff" for char in text):
        raise _wrong(field, "text that UTF-8 can hold")
    return text


def _flag(mapping: Mapping[str, Any], key: str, default: bool) -> bool:
    value = mapping.get(key)
    if value is None:
        return default
    if not isinstance(value, bool):
        raise _wrong(key, "true or false")
    return value


def _choice(
    mapping: Mapping[str, Any],
    key: str,
    known: Sequence[str],
    default: str | None,
    *,
    shown: Sequence[str] = (),
    where: str = "",
) -> str:
    value, field = mapping.get(key, default), where + key
    hint = f"Use one of {', '.join(shown or known)}."
    if value is None:
        raise invalid(f"{field} is missing", hint=hint, field=field)
    if not isinstance(value, str) or value not in known:
        raise invalid(f"{field} {str(value)[:40]!r} is unknown", hint=hint, field=field)
    return value


def _enum(kind: Any, prefix: str, name: str) -> Any:
    return kind.Value(prefix + name.upper())


def _section(mapping: Mapping[str, Any], key: str) -> Mapping[str, Any]:
    value = mapping.get(key)
    if value is None:
        return {}
    if not isinstance(value, Mapping):
        raise _wrong(key, "a mapping")
    return value


def _texts(mapping: Mapping[str, Any], key: str, where: str = "", numbers: bool = False) -> list[str]:
    value = mapping.get(key)
    if value is None:
        return []
    if not isinstance(value, list | tuple):
        raise _wrong(where + key, "a list")
    if len(value) > LIST_ENTRIES_MAX:
        raise invalid(
            f"{where}{key} has {len(value)} entries; the limit is {LIST_ENTRIES_MAX}",
            code=Code.LIMIT_EXCEEDED,
            hint="Send large data as a package or a dataset.",
            field=where + key,
        )
    return [_scalar(entry, f"{where}{key}", numbers) for entry in value]


def _scalar(value: object, field: str, numbers: bool) -> str:
    if isinstance(value, str):
        return _sendable(value, field)
    if numbers and isinstance(value, int | float) and not isinstance(value, bool):
        try:
            return str(value)
        except ValueError:  # Python writes no integers beyond 4,300 digits
            raise _wrong(field, "texts of a sane length") from None
    raise _wrong(field, "made of texts" + (" and numbers" if numbers else ""))


def _environment(section: Mapping[str, Any], base: Path) -> job_pb2.Environment:
    _only(section, _ENVIRONMENT, "environment")
    path = _text(section, "requirements", "environment.")
    if "\0" in path:
        raise _wrong("environment.requirements", "the path of a file")
    return job_pb2.Environment(
        requirements=read_text(base / path, REQUIREMENTS_BYTES_MAX, "the requirements file") if path else "",
        variables=_variables(section, "variables"),
        secret_variables=_variables(section, "secret_variables"),
    )


def _variables(section: Mapping[str, Any], key: str) -> dict[str, str]:
    field = f"environment.{key}"
    texts = {}
    for name, value in _section(section, key).items():
        if not isinstance(name, str):
            raise _wrong(field, "made of names and texts")
        texts[_sendable(name, field)] = _scalar(value, f"{field}.{name[:80]}", numbers=True)
    return texts


def _demand(section: Mapping[str, Any]) -> job_pb2.Demand:
    _only(section, _RESOURCES, "resources")
    replicas = section.get("replicas", 1)
    if isinstance(replicas, bool) or not isinstance(replicas, int):
        raise _wrong("resources.replicas", "a whole number")
    if not 1 <= replicas <= 2**31 - 1:
        raise invalid("resources.replicas is out of range", hint="Use 1 to 1000.", field="resources.replicas")
    gpu_milli = parse_milli(section.get("gpus", 0), "resources.gpus")
    gpu_model = _text(section, "gpu_model", "resources.")
    _check_gpus(gpu_milli, gpu_model)
    amounts = [
        ("cpu", "", parse_milli(section.get("cpus", 1), "resources.cpus")),
        ("memory", "", parse_bytes(section.get("memory", MEMORY_BYTES), "resources.memory")),
        ("disk", "", parse_bytes(section.get("disk", 0), "resources.disk")),
        ("gpu", gpu_model, gpu_milli),
    ]
    spread = _choice(section, "placement", PLACEMENTS, "pack", where="resources.") == "spread"
    return job_pb2.Demand(
        replicas=replicas,
        per_task=[common_pb2.Resource(name=name, kind=kind, amount=n) for name, kind, n in amounts if n],
        placement=job_pb2.PLACEMENT_SPREAD if spread else job_pb2.PLACEMENT_UNSPECIFIED,
    )


def _check_gpus(milli: int, model: str) -> None:
    """What no machine could give is said before anything is sent; the control plane says the same."""
    if milli > 1_000 and milli % 1_000:
        raise invalid(
            f"resources.gpus of {milli / 1000:g} is neither a part of one device nor whole devices",
            hint="Below 1 it is a part of one device, such as 0.5; above 1 ask for whole ones.",
            field="resources.gpus",
        )
    models = model.split("|") if model else []
    if (
        len(models) > GPU_KINDS_MAX
        or len(set(models)) != len(models)
        or any(one.strip() != one or not one for one in models)
    ):
        raise invalid(
            f"resources.gpu_model {model[:80]!r} is not a list of different models",
            hint=f"Write nvidia/A100, or nvidia/A100|nvidia/H100 with at most {GPU_KINDS_MAX} models.",
            field="resources.gpu_model",
        )


def _inputs_meant(value: object) -> str:
    """What somebody who wrote `inputs: flights-jfk` or `inputs: [flights-jfk]` meant."""
    names = value if isinstance(value, list | tuple) else [value]
    meant = [name[:80] for name in names[:3] if isinstance(name, str) and name] or ["NAME"]
    return f"inputs: [{', '.join(f'{{dataset: {name}}}' for name in meant)}]"


def _inputs(mapping: Mapping[str, Any]) -> list[job_pb2.Input]:
    value = mapping.get("inputs")
    if value is None:
        return []
    if not isinstance(value, list | tuple) or not all(isinstance(entry, Mapping) for entry in value):
        raise invalid("inputs must be a list of mappings", hint=f"Write {_inputs_meant(value)}", field="inputs")
    if len(value) > LIST_ENTRIES_MAX:
        raise invalid(
            "inputs has too many entries",
            code=Code.LIMIT_EXCEEDED,
            hint="Join datasets that belong together.",
            field="inputs",
        )
    inputs = []
    for entry in value:
        _only(entry, _INPUT, "inputs")
        dataset = _text(entry, "dataset", "inputs.")
        if not dataset:
            raise invalid("inputs.dataset is missing", hint="Name the dataset: {dataset: NAME}", field="inputs.dataset")
        made = job_pb2.Input(dataset=dataset, version=_text(entry, "version", "inputs."))
        setattr(made, "as", _text(entry, "as", "inputs.") or dataset)  # a keyword in Python, a field on the wire
        inputs.append(made)
    return inputs


def _hubs(section: Mapping[str, Any]) -> job_pb2.HubConstraint:
    _only(section, _HUBS, "hubs")
    return job_pb2.HubConstraint(**{key: _texts(section, key, "hubs.") for key in _HUBS})
