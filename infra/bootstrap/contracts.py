"""Two kinds of import contract that import-linter does not bring: who may import a thing, and what a room may import.

Both look at direct imports only, and both accept names of rooms that do not exist yet, so that the contracts in
`pyproject.toml` can name the whole house from the first commit on. They run inside `lint-imports`.
"""

from __future__ import annotations

from grimp import ImportGraph
from importlinter import Contract, ContractCheck, fields, output


def inside(module: str, package: str) -> bool:
    """Whether `module` is `package` or lies in it."""
    return module == package or module.startswith(package + ".")


def find_breaches(
    graph: ImportGraph, importers: set[str] | None, targets: set[str], *, allowed: set[str] | None = None
) -> list[tuple[str, str]]:
    """Direct imports (importer, imported) of anything in `targets` that are not allowed.

    With `allowed` None, modules inside `importers` may import and all others may not. With `allowed` given, modules
    inside `importers` may import only what lies in `allowed`, and all others are not looked at.
    """
    breaches = []
    for imported in sorted(graph.modules):
        if not any(inside(imported, target) for target in targets):
            continue
        for importer in sorted(graph.find_modules_that_directly_import(imported)):
            named = any(inside(importer, room) for room in importers or ())
            if allowed is None:
                breach = not named and not any(inside(importer, target) for target in targets)
            else:
                breach = named and not any(inside(imported, room) for room in allowed)
            if breach:
                breaches.append((importer, imported))
    return breaches


class DirectContract(Contract):
    """What the two contracts share: how a breach is shown."""

    def render_broken_contract(self, check: ContractCheck) -> None:
        """Print each forbidden import on a line of its own."""
        for importer, imported in check.metadata["breaches"]:
            output.print_error(f"{importer} -> {imported}", bold=True)
        output.new_line()


class OnlyImporters(DirectContract):
    """Only `importers` may import `targets` (packages of ours or of others)."""

    type_name = "only_importers"

    targets = fields.SetField(subfield=fields.StringField())
    importers = fields.SetField(subfield=fields.StringField())

    def check(self, graph: ImportGraph, verbose: bool) -> ContractCheck:  # noqa: ARG002 - the base class's signature
        """Look for importers that are not named."""
        breaches = find_breaches(graph, self.importers, self.targets)
        return ContractCheck(kept=not breaches, metadata={"breaches": breaches})


class OnlyImports(DirectContract):
    """Of `target`, `importer` may import only what lies in `allowed`."""

    type_name = "only_imports"

    importer = fields.StringField()
    target = fields.StringField()
    allowed = fields.SetField(subfield=fields.StringField())

    def check(self, graph: ImportGraph, verbose: bool) -> ContractCheck:  # noqa: ARG002 - the base class's signature
        """Look for imports that are not named."""
        breaches = find_breaches(graph, {self.importer}, {self.target}, allowed=self.allowed)
        return ContractCheck(kept=not breaches, metadata={"breaches": breaches})
