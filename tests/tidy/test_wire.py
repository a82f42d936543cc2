"""The wire's rules, on our .proto files and on small ones that break each rule."""

from __future__ import annotations

import copy
from pathlib import Path

import pytest
from google.protobuf import descriptor_pb2
from grpc_tools import protoc

from infra.bootstrap import proto

GOOD = """syntax = "proto3";
package federation.v1;
// What it is.
service S {
  // What it does.
  rpc Get(GetRequest) returns (GetResponse);
}
// Asks.
message GetRequest {
  // Which.
  string id = 1;
}
// Answers.
message GetResponse {
  // How it is.
  State state = 1;
}
// How things can be.
enum State {
  // Not said.
  STATE_UNSPECIFIED = 0;
}
"""


@pytest.fixture(scope="module")
def ours() -> list[descriptor_pb2.FileDescriptorProto]:
    """Our own .proto files."""
    return proto.load_descriptors()


def compiled(folder: Path, source: str) -> list[descriptor_pb2.FileDescriptorProto]:
    """One small .proto file as a descriptor with its comments."""
    (folder / "x.proto").write_text(source, encoding="utf-8")
    target = folder / "set"
    words = ["protoc", f"-I{folder}", f"--descriptor_set_out={target}", "--include_source_info", "x.proto"]
    assert protoc.main(words) == 0
    return list(descriptor_pb2.FileDescriptorSet.FromString(target.read_bytes()).file)


def test_our_wire_keeps_the_rules(ours: list[descriptor_pb2.FileDescriptorProto]) -> None:
    """Own request and response per method, _UNSPECIFIED = 0, a comment on everything, package federation.v1."""
    assert proto.rule_breaches(ours) == []


def test_our_wire_is_compatible_with_its_baseline(ours: list[descriptor_pb2.FileDescriptorProto]) -> None:
    """What deployed programs rely on is still there, under the same numbers."""
    assert proto.BASELINE.is_file()
    assert proto.breaking_changes(proto.read_baseline(), proto.shape_of(ours)) == []


def test_additions_are_in_the_baseline(ours: list[descriptor_pb2.FileDescriptorProto]) -> None:
    """An addition is accepted by `./run baseline`, so that the next change is held against it."""
    assert proto.read_baseline() == proto.shape_of(ours)


def test_generated_code_is_up_to_date() -> None:
    """The committed code is what the .proto files say, byte by byte; `./run generate` makes it so."""
    assert proto.stale_files() == []


def test_a_good_file_passes(tmp_path: Path) -> None:
    """The smallest file that keeps every rule."""
    assert proto.rule_breaches(compiled(tmp_path, GOOD)) == []


@pytest.mark.parametrize(
    ("before", "after", "complaint"),
    [
        ("package federation.v1", "package federation.v2", "package is federation.v2"),
        ("  // Which.\n", "", "GetRequest.id has no comment"),
        ("// Answers.\n", "", "message GetResponse has no comment"),
        ("  // What it does.\n", "", "S.Get has no comment"),
        ("// What it is.\n", "", "service S has no comment"),
        ("STATE_UNSPECIFIED", "STATE_READY", "enum State starts with STATE_READY"),
        ("returns (GetResponse)", "returns (GetRequest)", "not .federation.v1.GetResponse"),
    ],
)
def test_each_rule_bites(tmp_path: Path, before: str, after: str, complaint: str) -> None:
    """Breaking one rule gives a complaint that names the place."""
    assert before in GOOD
    assert any(complaint in line for line in proto.rule_breaches(compiled(tmp_path, GOOD.replace(before, after))))


@pytest.mark.parametrize(
    ("before", "after", "complaint"),
    [
        ("string id = 1", "string id = 2", "number 1 (string id) is gone and not reserved"),
        ("string id = 1", "int64 id = 1", "number 1: was (string id), is (int64 id)"),
        ("string id = 1", "repeated string id = 1", "is (repeated string id)"),
        ("State state = 1", "State shape = 1", "is (federation.v1.State shape)"),
        ("rpc Get(", "rpc Take(", "method federation.v1.S.Get is gone"),
        ("returns (Get", "returns (stream Get", "is (federation.v1.GetRequest -> stream federation.v1.GetResponse)"),
        ("STATE_UNSPECIFIED", "UNKNOWN", "number 0: was (STATE_UNSPECIFIED), is (UNKNOWN)"),
    ],
)
def test_each_breaking_change_is_found(tmp_path: Path, before: str, after: str, complaint: str) -> None:
    """Renumbering, retyping, renaming and removing are refused by name."""
    assert before in GOOD
    old = proto.shape_of(compiled(tmp_path, GOOD))
    new = proto.shape_of(compiled(tmp_path, GOOD.replace(before, after)))
    assert any(complaint in line for line in proto.breaking_changes(old, new))


def test_additions_and_reserved_removals_are_no_breaking_changes(tmp_path: Path) -> None:
    """A new field, a new method, and a field that left its number reserved are fine."""
    old = proto.shape_of(compiled(tmp_path, GOOD))
    grown = GOOD.replace("  // Which.\n  string id = 1;", "  reserved 1;\n  // More.\n  string more = 2;")
    new = proto.shape_of(compiled(tmp_path, grown))
    new["methods"]["federation.v1.S.Put"] = "federation.v1.PutRequest -> federation.v1.PutResponse"
    assert proto.breaking_changes(old, new) == []
    assert proto.breaking_changes(old, copy.deepcopy(old)) == []
