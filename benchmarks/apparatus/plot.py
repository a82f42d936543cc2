"""A line chart as an SVG file: axes with round ticks, a legend, a title; readable at 720 pixels, on a light ground.

Nothing is asked of a chart but that a figure can be looked at, so there is one kind: lines of (x, y), with points where
there are few. A logarithmic axis has its ticks at powers of ten. Deliberately not here: what is drawn, and any style but
one.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple
from xml.sax.saxutils import escape

WIDTH, HEIGHT = 720, 440
LEFT, RIGHT, TOP, BOTTOM = 72, 24, 76, 56
COLOURS = ("#1b5fa8", "#c8502a", "#3b8a4a", "#7a4fa3", "#8a6d1c", "#4a4a4a", "#b3307f", "#17868c")
DASHES = ("", "7 4", "2 3", "9 3 2 3", "5 2", "1 3", "", "12 3")
ROOM_BELOW_LEGEND = 10
POINTS_MAX = 40
"""A line of more points is drawn without dots."""
TICKS = 6
FONT = "font-family='system-ui, -apple-system, Segoe UI, Helvetica, Arial, sans-serif'"


class Series(NamedTuple):
    """A line: its name in the legend, its points in order. `dots` leaves the line out."""

    name: str
    points: tuple[tuple[float, float], ...]
    dots: bool = False


class Chart(NamedTuple):
    """What is drawn. Log axes need values above 0; y begins at 0 unless it is logarithmic."""

    title: str
    x_label: str
    y_label: str
    series: tuple[Series, ...]
    x_log: bool = False
    y_log: bool = False


class _Axis(NamedTuple):
    """From values to pixels, and where the ticks are."""

    low: float
    high: float
    begin: float
    end: float
    log: bool
    ticks: tuple[float, ...]

    def at(self, value: float) -> float:
        """The pixel of `value`."""
        low, high, place = self.low, self.high, value
        if self.log:
            low, high, place = math.log10(low), math.log10(high), math.log10(value)
        return self.begin + (place - low) / (high - low) * (self.end - self.begin)


def write_chart(path: Path, chart: Chart) -> None:
    """Write `chart` to `path`. Raises: ValueError for no points, for values that are no numbers, or not above 0 on a log axis."""
    path.write_text(svg(chart), encoding="utf-8")


def svg(chart: Chart) -> str:
    """The SVG document of `chart`. Raises: as `write_chart`."""
    xs = [x for series in chart.series for x, _ in series.points]
    ys = [y for series in chart.series for _, y in series.points]
    if not xs:
        raise ValueError("a chart needs points")
    if not all(map(math.isfinite, xs + ys)):
        raise ValueError("a chart's points are numbers")
    if (chart.x_log and min(xs) <= 0) or (chart.y_log and min(ys) <= 0):
        raise ValueError("a logarithmic axis needs values above 0")
    x = _axis(min(xs), max(xs), LEFT, WIDTH - RIGHT, chart.x_log)
    legend, lowest = _legend(chart.series)
    top = max(TOP, lowest + ROOM_BELOW_LEGEND)
    y = _axis(min(ys) if chart.y_log else min(0.0, *ys), max(ys), HEIGHT - BOTTOM, top, chart.y_log)
    parts = [
        f"<svg xmlns='http://www.w3.org/2000/svg' viewBox='0 0 {WIDTH} {HEIGHT}' width='{WIDTH}' height='{HEIGHT}'",
        f"  role='img' aria-label='{_text(chart.title)}' {FONT} font-size='13' fill='#222'>",
        f"<rect width='{WIDTH}' height='{HEIGHT}' fill='#fdfdfc'/>",
        f"<text x='{LEFT}' y='26' font-size='16' font-weight='600'>{_text(chart.title)}</text>",
        *legend,
        *_frame(chart, x, y),
    ]
    for number, series in enumerate(chart.series):
        parts += _line(series, number, x, y)
    return "\n".join([*parts, "</svg>", ""])


def _axis(low: float, high: float, begin: float, end: float, log: bool) -> _Axis:
    """Round ends, and ticks at round values."""
    if log:
        first, last = math.floor(math.log10(low)), math.ceil(math.log10(high))
        last = max(last, first + 1)
        every = max(1, (last - first) // TICKS)
        ticks = tuple(10.0**power for power in range(first, last + 1, every))
        return _Axis(10.0**first, 10.0**last, begin, end, True, ticks)
    span = (high - low) or abs(high) or 1.0
    step = _round_step(span / TICKS)
    first_tick, last_tick = math.floor(low / step), math.ceil(high / step)
    last_tick = max(last_tick, first_tick + 1)
    ticks = tuple(at * step for at in range(first_tick, last_tick + 1))
    return _Axis(ticks[0], ticks[-1], begin, end, False, ticks)


def _round_step(step: float) -> float:
    """The next of 1, 2, 2.5, 5 times a power of ten."""
    power = 10.0 ** math.floor(math.log10(step))
    return next(factor * power for factor in (1.0, 2.0, 2.5, 5.0, 10.0) if factor * power >= step * (1 - 1e-9))


def _legend(series: Sequence[Series]) -> tuple[list[str], int]:
    """Names beside a stroke of their line, in one row, wrapped where the row is full; and where the last row is."""
    parts: list[str] = []
    across, down = LEFT, 48
    for number, one in enumerate(series):
        width = 44 + 7 * len(one.name)
        if across + width > WIDTH - RIGHT and across > LEFT:
            across, down = LEFT, down + 18
        colour = COLOURS[number % len(COLOURS)]
        if one.dots:
            parts.append(f"<circle cx='{across + 13}' cy='{down - 4}' r='3.2' fill='{colour}'/>")
        else:
            parts.append(_stroke(f"M{across} {down - 4}h26", number))
        parts.append(f"<text x='{across + 32}' y='{down}'>{_text(one.name)}</text>")
        across += width
    return parts, down


def _frame(chart: Chart, x: _Axis, y: _Axis) -> list[str]:
    """Grid, ticks and the names of the axes."""
    parts = []
    for tick in y.ticks:
        at = y.at(tick)
        parts.append(f"<path d='M{LEFT} {at:.1f}H{WIDTH - RIGHT}' stroke='#e3e3df'/>")
        parts.append(f"<text x='{LEFT - 8}' y='{at + 4:.1f}' text-anchor='end'>{_number(tick)}</text>")
    for tick in x.ticks:
        at = x.at(tick)
        parts.append(f"<path d='M{at:.1f} {HEIGHT - BOTTOM}v5' stroke='#555'/>")
        parts.append(f"<text x='{at:.1f}' y='{HEIGHT - BOTTOM + 20}' text-anchor='middle'>{_number(tick)}</text>")
    middle = (y.end + HEIGHT - BOTTOM) / 2
    parts += [
        f"<path d='M{LEFT} {y.end:g}V{HEIGHT - BOTTOM}H{WIDTH - RIGHT}' stroke='#555' fill='none'/>",
        f"<text x='{(LEFT + WIDTH - RIGHT) / 2}' y='{HEIGHT - 12}' text-anchor='middle'>{_text(chart.x_label)}</text>",
        f"<text transform='translate(18 {middle}) rotate(-90)' text-anchor='middle'>{_text(chart.y_label)}</text>",
    ]
    return parts


def _line(series: Series, number: int, x: _Axis, y: _Axis) -> list[str]:
    places = [(x.at(across), y.at(up)) for across, up in series.points]
    colour = COLOURS[number % len(COLOURS)]
    parts = []
    if not series.dots and len(places) > 1:
        parts.append(_stroke("M" + "L".join(f"{across:.1f} {up:.1f}" for across, up in places), number))
    if series.dots or len(places) <= POINTS_MAX:
        parts += [f"<circle cx='{across:.1f}' cy='{up:.1f}' r='3' fill='{colour}'/>" for across, up in places]
    return parts


def _stroke(path: str, number: int) -> str:
    dash = DASHES[number % len(DASHES)]
    dashed = f" stroke-dasharray='{dash}'" if dash else ""
    return f"<path d='{path}' fill='none' stroke='{COLOURS[number % len(COLOURS)]}' stroke-width='2'{dashed}/>"


def _number(value: float) -> str:
    if value == 0:
        return "0"
    if abs(value) >= 1_000_000 or abs(value) < 0.001:
        return f"{value:.3g}"
    return f"{value:,.3f}".rstrip("0").rstrip(".")


def _text(text: str) -> str:
    return escape(text, {"'": "&apos;", '"': "&quot;"})
