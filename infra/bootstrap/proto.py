"""The wire's rules: generated code up to date, every method and field described, and no breaking change.

`python -m infra.bootstrap.proto generate | baseline | check`. Runs inside the environment (grpcio-tools). The baseline
is `federation/v1/baseline.json`: what deployed programs rely on, by number. Additions are free; what was there may not
change or go, unless its number and name are reserved.
"""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import tempfile
from importlib import resources
from pathlib import Path
from typing import Any

from google.protobuf import descriptor_pb2

from infra.bootstrap.places import ROOT, VENV

PACKAGE = "federation.v1"
FOLDER = ROOT / "federation" / "v1"
BASELINE = FOLDER / "baseline.json"
GENERATED = ("_pb2.py", "_pb2.pyi", "_pb2_grpc.py", "_pb2_grpc.pyi")
Field = descriptor_pb2.FieldDescriptorProto
Shape = dict[str, Any]


def run_protoc(arguments: list[str]) -> None:
    """Run the locked protoc on all our .proto files.

    Raises:
        ValueError: they do not compile; with its words.
    """
    google = str(resources.files("grpc_tools") / "_proto")
    plugins = [f"--plugin={name}={VENV / 'bin' / name}" for name in ("protoc-gen-mypy", "protoc-gen-mypy_grpc")]
    files = [str(path.relative_to(ROOT)) for path in sorted(FOLDER.glob("*.proto"))]
    command = [sys.executable, "-m", "grpc_tools.protoc", f"-I{ROOT}", f"-I{google}", *plugins, *arguments, *files]
    done = subprocess.run(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    if done.returncode != 0:
        raise ValueError(done.stdout)


def generate(target: Path) -> list[Path]:
    """Write the generated code of all .proto files under `target`; returns the files."""
    outputs = [f"--{kind}={target}" for kind in ("python_out", "grpc_python_out", "mypy_out")]
    run_protoc([*outputs, f"--mypy_grpc_out={target}"])
    return sorted(path for path in (target / "federation" / "v1").iterdir() if path.name.endswith(GENERATED))


def stale_files() -> list[str]:
    """Names of generated files in the checkout that are not what the .proto files say now."""
    with tempfile.TemporaryDirectory() as scratch:
        fresh = {path.name: path.read_bytes() for path in generate(Path(scratch))}
    here = {path.name: path.read_bytes() for path in FOLDER.iterdir() if path.name.endswith(GENERATED)}
    return sorted(name for name in fresh.keys() | here.keys() if fresh.get(name) != here.get(name))


def load_descriptors() -> list[descriptor_pb2.FileDescriptorProto]:
    """Our .proto files as descriptors, with comments."""
    with tempfile.TemporaryDirectory() as scratch:
        target = Path(scratch) / "set"
        run_protoc([f"--descriptor_set_out={target}", "--include_source_info"])
        found = descriptor_pb2.FileDescriptorSet.FromString(target.read_bytes())
    return list(found.file)


def field_shape(field: descriptor_pb2.FieldDescriptorProto) -> str:
    """What a peer relies on in a field: name, type, and whether it repeats."""
    kind = field.type_name.lstrip(".") or Field.Type.Name(field.type).removeprefix("TYPE_").lower()
    repeated = "repeated " if field.label == Field.LABEL_REPEATED else ""
    optional = "optional " if field.proto3_optional else ""
    group = f" oneof {field.oneof_index}" if field.HasField("oneof_index") and not field.proto3_optional else ""
    return f"{repeated}{optional}{kind} {field.name}{group}"


def shape_of(files: list[descriptor_pb2.FileDescriptorProto]) -> Shape:
    """What the wire is: messages, enums and methods by name and number."""
    shape: Shape = {"messages": {}, "enums": {}, "methods": {}}

    def add_enum(prefix: str, enum: descriptor_pb2.EnumDescriptorProto) -> None:
        values = {str(value.number): value.name for value in enum.value}
        shape["enums"][f"{prefix}.{enum.name}"] = {
            "values": values,
            "reserved": [[span.start, span.end] for span in enum.reserved_range],
        }

    def add_message(prefix: str, message: descriptor_pb2.DescriptorProto) -> None:
        name = f"{prefix}.{message.name}"
        shape["messages"][name] = {
            "fields": {str(field.number): field_shape(field) for field in message.field},
            "reserved": [[span.start, span.end] for span in message.reserved_range],
        }
        for inner in message.nested_type:
            add_message(name, inner)
        for enum in message.enum_type:
            add_enum(name, enum)

    for file in files:
        for message in file.message_type:
            add_message(file.package, message)
        for enum in file.enum_type:
            add_enum(file.package, enum)
        for service in file.service:
            for method in service.method:
                stream_in = "stream " if method.client_streaming else ""
                stream_out = "stream " if method.server_streaming else ""
                shape["methods"][f"{file.package}.{service.name}.{method.name}"] = (
                    f"{stream_in}{method.input_type.lstrip('.')} -> {stream_out}{method.output_type.lstrip('.')}"
                )
    return shape


def breaking_changes(old: Shape, new: Shape) -> list[str]:
    """What in `new` a program that knows `old` would stumble over; empty when there is nothing."""
    found = [f"method {name} is gone" for name in old["methods"] if name not in new["methods"]]
    found += [
        f"method {name}: was ({was}), is ({new['methods'][name]})"
        for name, was in old["methods"].items()
        if new["methods"].get(name, was) != was
    ]
    for kind, part in (("messages", "fields"), ("enums", "values")):
        for name, was in old[kind].items():
            now = new[kind].get(name)
            if now is None:
                found.append(f"{kind[:-1]} {name} is gone")
                continue
            found += [f"{name}: {line}" for line in changed_numbers(was[part], now[part], now["reserved"])]
    return sorted(found)


def changed_numbers(was: dict[str, str], now: dict[str, str], reserved: list[list[int]]) -> list[str]:
    """Numbers that changed their meaning, or went without being reserved."""
    lines = []
    for number, text in was.items():
        if number not in now:
            if not any(start <= int(number) < max(end, start + 1) for start, end in reserved):
                lines.append(f"number {number} ({text}) is gone and not reserved")
        elif now[number] != text:
            lines.append(f"number {number}: was ({text}), is ({now[number]})")
    return lines


def rule_breaches(files: list[descriptor_pb2.FileDescriptorProto]) -> list[str]:
    """Where our .proto files break the house's rules; empty when they keep them."""
    found = []
    for file in files:
        comments = {tuple(place.path) for place in file.source_code_info.location if place.leading_comments.strip()}
        if file.package != PACKAGE:
            found.append(f"{file.name}: package is {file.package}, not {PACKAGE}")
        used: set[str] = set()
        for index, service in enumerate(file.service):
            found += service_breaches(file.name, (6, index), service, comments, used)
        for index, message in enumerate(file.message_type):
            found += message_breaches(file.name, (4, index), message, comments)
        for index, enum in enumerate(file.enum_type):
            found += enum_breaches(file.name, (5, index), enum, comments)
    return found


def service_breaches(
    file: str,
    path: tuple[int, ...],
    service: descriptor_pb2.ServiceDescriptorProto,
    comments: set[tuple[int, ...]],
    used: set[str],
) -> list[str]:
    """Every method has a comment and a request and a response of its own, named after it."""
    found = [] if path in comments else [f"{file}: service {service.name} has no comment"]
    for index, method in enumerate(service.method):
        name = f"{file}: {service.name}.{method.name}"
        if (*path, 2, index) not in comments:
            found.append(f"{name} has no comment")
        for kind, message in (("Request", method.input_type), ("Response", method.output_type)):
            wanted = f".{PACKAGE}.{method.name}{kind}"
            if message != wanted:
                found.append(f"{name} takes or gives {message}, not {wanted}")
            if message in used:
                found.append(f"{name} shares {message} with another method")
            used.add(message)
    return found


def message_breaches(
    file: str, path: tuple[int, ...], message: descriptor_pb2.DescriptorProto, comments: set[tuple[int, ...]]
) -> list[str]:
    """Every message and field has a comment; nested ones too (a map's entry is protoc's own)."""
    if message.options.map_entry:
        return []
    found = [] if path in comments else [f"{file}: message {message.name} has no comment"]
    found += [
        f"{file}: {message.name}.{field.name} has no comment"
        for index, field in enumerate(message.field)
        if (*path, 2, index) not in comments
    ]
    for index, inner in enumerate(message.nested_type):
        found += message_breaches(file, (*path, 3, index), inner, comments)
    for index, enum in enumerate(message.enum_type):
        found += enum_breaches(file, (*path, 4, index), enum, comments)
    return found


def enum_breaches(
    file: str, path: tuple[int, ...], enum: descriptor_pb2.EnumDescriptorProto, comments: set[tuple[int, ...]]
) -> list[str]:
    """Every enum has a comment and starts with `<ENUM>_UNSPECIFIED = 0`."""
    found = [] if path in comments else [f"{file}: enum {enum.name} has no comment"]
    first = enum.value[0]
    if first.number != 0 or not first.name.endswith("_UNSPECIFIED"):
        found.append(f"{file}: enum {enum.name} starts with {first.name} = {first.number}, not with _UNSPECIFIED = 0")
    return found


def read_baseline() -> Shape:
    """The committed baseline; an empty one where none was committed yet."""
    if not BASELINE.exists():
        return {"messages": {}, "enums": {}, "methods": {}}
    loaded: Shape = json.loads(BASELINE.read_text(encoding="utf-8"))
    return loaded


def main(words: list[str]) -> int:
    """Run one of the three verbs; the exit status."""
    verb = words[0] if words else "check"
    files = load_descriptors()
    problems = rule_breaches(files) + breaking_changes(read_baseline(), shape_of(files))
    if verb == "generate":
        with tempfile.TemporaryDirectory() as scratch:
            for path in generate(Path(scratch)):
                shutil.copyfile(path, FOLDER / path.name)
        return 0
    if verb == "check":
        problems += [f"{name} is not what the .proto files say: ./run generate" for name in stale_files()]
    print("\n".join(problems), end="\n" if problems else "")
    if problems:
        return 1
    if verb == "baseline":
        BASELINE.write_text(json.dumps(shape_of(files), indent=1, sort_keys=True) + "\n", encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
