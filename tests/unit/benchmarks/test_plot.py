"""The charts of the benchmarks: well-formed, complete, and honest about their axes."""

from __future__ import annotations

import math
from pathlib import Path
from xml.etree import ElementTree as ET

import pytest

from benchmarks.apparatus.plot import Chart, Series, svg, write_chart

SVG = "{http://www.w3.org/2000/svg}"


def a_chart(*points: tuple[float, float], **changes: bool) -> Chart:
    """One line, with a name that needs escaping."""
    return Chart("Waits & 'loads'", "load", "wait, h", (Series("ours <new>", points),), **changes)


def texts(document: str) -> list[str]:
    """What can be read in a chart."""
    return [entry.text or "" for entry in ET.fromstring(document).iter(f"{SVG}text")]


def test_a_chart_names_its_axes_its_lines_and_itself(tmp_path: Path) -> None:
    """Title, labels, legend and round ticks are there, and whatever needs escaping is escaped."""
    write_chart(tmp_path / "chart.svg", a_chart((0, 0), (3, 7.3)))
    found = texts((tmp_path / "chart.svg").read_text(encoding="utf-8"))
    assert {"Waits & 'loads'", "load", "wait, h", "ours <new>"} <= set(found)
    assert {"0", "2", "4", "6", "8", "0.5", "3"} <= set(found)


def test_y_begins_at_zero() -> None:
    """Small differences are not made to look large."""
    assert "0" in texts(svg(a_chart((1, 100), (2, 101))))


def test_a_logarithmic_axis_has_powers_of_ten() -> None:
    """From the power below the least to the one above the largest."""
    found = texts(svg(a_chart((3, 20), (40, 5_000), x_log=True, y_log=True)))
    assert {"1", "10", "100", "1,000", "10,000"} <= set(found)


def test_one_point_is_a_chart() -> None:
    """Nothing divides by the width of nothing."""
    assert svg(a_chart((5, 5))).count("<circle") == 1


@pytest.mark.parametrize(
    "chart",
    [a_chart(), a_chart((1, math.nan)), a_chart((0, 1), x_log=True), a_chart((1, 0), y_log=True)],
    ids=["nothing", "no number", "log x of 0", "log y of 0"],
)
def test_what_cannot_be_drawn_is_refused(chart: Chart) -> None:
    """An error, rather than a chart that lies."""
    with pytest.raises(ValueError, match=r"chart|axis"):
        svg(chart)


def test_a_long_legend_has_its_room() -> None:
    """However many lines are named, the last name stands above the frame."""
    names = tuple(Series(f"a line with quite a long name, number {at}", ((1.0, 2.0), (3.0, 4.0))) for at in range(8))
    document = ET.fromstring(svg(Chart("Many", "x", "y", names)))
    lowest = max(float(entry.attrib["y"]) for entry in document.iter(f"{SVG}text") if "a line" in (entry.text or ""))
    frame = next(entry.attrib["d"] for entry in document.iter(f"{SVG}path") if "V" in entry.attrib["d"])
    assert lowest < float(frame.removeprefix("M72 ").split("V")[0])
