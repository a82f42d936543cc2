"""The house's floors: every room is named by an import contract, the contracts bite, and infra stands alone."""

from __future__ import annotations

import re
import sys
import tomllib

import pytest
from grimp import ImportGraph

from infra.bootstrap.contracts import find_breaches
from tests.tidy.repository import ROOT, all_files, imported_modules, name_of, python_files, tree_of

PACKAGES = ("federation", "hub_node", "courses")
IN_THE_ENVIRONMENT = {"infra/bootstrap/contracts.py", "infra/bootstrap/proto.py"}  # run inside .venv


def contracts() -> list[dict[str, object]]:
    """The import contracts of pyproject.toml."""
    settings = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    loaded: list[dict[str, object]] = settings["tool"]["importlinter"]["contracts"]
    return loaded


def named_rooms(package: str) -> set[str]:
    """The rooms that the layers contract of `package` names."""
    for contract in contracts():
        if contract.get("containers") == [package]:
            assert contract["exhaustive"] is True
            layers = contract["layers"]
            assert isinstance(layers, list)
            return {room for layer in layers for room in re.findall(r"\w+", layer)}
    raise AssertionError(f"no layers contract for {package}")


@pytest.mark.parametrize("package", PACKAGES)
def test_every_folder_is_named_by_a_contract(package: str) -> None:
    """Also folders without Python code: a room that no contract names does not belong into the house."""
    rooms = set()
    for path in all_files():
        parts = path.relative_to(ROOT).parts
        if parts[0] != package or len(parts) < 2:
            continue
        if len(parts) > 2:
            rooms.add(parts[1])
        elif parts[1].endswith(".py") and parts[1] != "__init__.py":
            rooms.add(parts[1][:-3])
    assert set() == rooms - named_rooms(package)


def test_nobody_imports_benchmarks_or_tests() -> None:
    """What measures and what checks stands outside; tests may use each other's builders."""
    found = [
        f"{name_of(path)}:{line}: {name}"
        for path in python_files(*PACKAGES, "infra")
        for line, name in imported_modules(tree_of(path))
        if name.split(".")[0] in {"benchmarks", "tests"}
    ]
    assert found == []


def test_infra_imports_nothing_from_the_rest() -> None:
    """Infrastructure must work while the packages do not."""
    found = [
        f"{name_of(path)}:{line}: {name}"
        for path in python_files("infra")
        for line, name in imported_modules(tree_of(path))
        if name.split(".")[0] in PACKAGES
    ]
    assert found == []


def test_the_bootstrap_uses_the_standard_library_only() -> None:
    """It runs before there is anything else; two modules that run inside the environment are named."""
    files = [path for path in python_files("infra") if name_of(path).startswith("infra/bootstrap/")]
    found = [
        f"{name_of(path)}:{line}: {name}"
        for path in files
        if name_of(path) not in IN_THE_ENVIRONMENT
        for line, name in imported_modules(tree_of(path))
        if name.split(".")[0] not in {*sys.stdlib_module_names, "infra"}
    ]
    assert found == []


def small_graph() -> ImportGraph:
    """a.door imports a.hall and outside `grpc`; a.hall imports outside `numpy`."""
    graph = ImportGraph()
    for module in ("a", "a.door", "a.hall"):
        graph.add_module(module)
    for module in ("grpc", "numpy"):
        graph.add_module(module, is_squashed=True)
    graph.add_import(importer="a.door", imported="a.hall")
    graph.add_import(importer="a.door", imported="grpc")
    graph.add_import(importer="a.hall", imported="numpy")
    return graph


def test_only_named_importers_may_import() -> None:
    """An importer that is not named is a breach; a named one, and rooms that do not exist yet, are none."""
    graph = small_graph()
    assert find_breaches(graph, {"a.hall"}, {"grpc"}) == [("a.door", "grpc")]
    assert find_breaches(graph, {"a.door", "a.later"}, {"grpc", "later"}) == []


def test_a_room_may_import_only_what_is_named() -> None:
    """What lies outside the allowed rooms is a breach; other importers are not looked at."""
    graph = small_graph()
    assert find_breaches(graph, {"a.door"}, {"a"}, allowed={"a.cellar"}) == [("a.door", "a.hall")]
    assert find_breaches(graph, {"a.door"}, {"a"}, allowed={"a.hall"}) == []


def test_contracts_name_no_room_twice() -> None:
    """A room stands on one floor."""
    for package in PACKAGES:
        contract = next(entry for entry in contracts() if entry.get("containers") == [package])
        names = re.findall(r"\w+", " ".join(str(layer) for layer in contract["layers"]))  # type: ignore[attr-defined]
        assert sorted(set(names)) == sorted(names)
