"""The wire as another version knows it, from a descriptor baseline: its fields, its enum values, and no others.

`wire_before.json` is the baseline of the version before; `later` makes one of a version to come. Messages of such a wire
are made and read by that version's descriptors alone, as its programs do.
"""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

import grpc.aio
from google.protobuf import descriptor_pb2, descriptor_pool, message_factory

BEFORE = Path(__file__).parent / "wire_before.json"
TODAY = Path(__file__).parents[2] / "federation" / "v1" / "baseline.json"
FUTURE_FIELD, FUTURE_VALUE = 900, 90
_PACKAGE = "federation.v1"
Field = descriptor_pb2.FieldDescriptorProto
Shape = dict[str, Any]


def read(file: Path) -> Shape:
    """A baseline."""
    shape: Shape = json.loads(file.read_text("utf-8"))
    return shape


def later(shape: Shape) -> Shape:
    """A version to come: one more field in each message, one more value in each enum."""
    grown = copy.deepcopy(shape)
    for name, message in grown["messages"].items():
        if not name.endswith("Entry"):
            message["fields"][str(FUTURE_FIELD)] = "string from_the_future"
    for name, enum in grown["enums"].items():
        enum["values"][str(FUTURE_VALUE)] = f"{name.rpartition('.')[2].upper()}_FROM_THE_FUTURE"
    return grown


class Wire:
    """Messages by their short name: `wire.RunReport(lease_id="x")`."""

    def __init__(self, shape: Shape) -> None:
        file = descriptor_pb2.FileDescriptorProto(name="wire.proto", package=_PACKAGE, syntax="proto3")
        for name, enum in shape["enums"].items():
            made = file.enum_type.add(name=_short(name))
            for number, value in sorted(enum["values"].items(), key=lambda one: int(one[0])):
                made.value.add(name=value, number=int(number))
        for name in sorted(shape["messages"], key=lambda one: one.count(".")):
            _message(file, name, shape)
        pool = descriptor_pool.DescriptorPool()
        pool.Add(file)
        self._classes = {
            _short(name): message_factory.GetMessageClass(pool.FindMessageTypeByName(name))
            for name in shape["messages"]
        }
        self._methods: dict[str, str] = shape["methods"]

    def __getattr__(self, name: str) -> Any:
        return self._classes[name]

    def method(self, channel: grpc.aio.Channel, name: str) -> Any:
        """A unary call, "HubService.SyncHub", as this version's stub makes it."""
        asked, _, answer = self._methods[f"{_PACKAGE}.{name}"].partition(" -> ")
        service, _, method = name.partition(".")
        return channel.unary_unary(
            f"/{_PACKAGE}.{service}/{method}",
            request_serializer=self._classes[_short(asked)].SerializeToString,
            response_deserializer=self._classes[_short(answer)].FromString,
        )


def _short(name: str) -> str:
    return name.removeprefix(f"{_PACKAGE}.")


def _message(file: descriptor_pb2.FileDescriptorProto, name: str, shape: Shape) -> None:
    outer, dot, own = _short(name).rpartition(".")
    into = next(one for one in file.message_type if one.name == outer).nested_type if dot else file.message_type
    made = into.add(name=own)
    made.options.map_entry = bool(dot) and own.endswith("Entry")
    for number, said in sorted(shape["messages"][name]["fields"].items(), key=lambda one: int(one[0])):
        *modifiers, kind, field_name = said.split()
        label = Field.LABEL_REPEATED if "repeated" in modifiers else Field.LABEL_OPTIONAL
        field = made.field.add(name=field_name, number=int(number), label=label)
        if "optional" in modifiers:
            field.proto3_optional = True
            field.oneof_index = len(made.oneof_decl)
            made.oneof_decl.add(name=f"_{field_name}")
        if kind.startswith(_PACKAGE):
            field.type = Field.TYPE_ENUM if kind in shape["enums"] else Field.TYPE_MESSAGE
            field.type_name = f".{kind}"
        else:
            field.type = Field.Type.Value(f"TYPE_{kind.upper()}")
