"""A figure: one JSON line on standard output, of the shape that `python -m benchmarks` promises.

Deliberately not here: how anything is measured. Whatever is said for people goes to standard error through `say`.
"""

from __future__ import annotations

import json
import math
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal, TextIO

MEASURED = "measured in this run"
Value = str | int | float | bool


@dataclass(frozen=True, slots=True)
class Baseline:
    """What a value is held against, in the value's unit, and where it comes from."""

    name: str
    value: float
    source: str = MEASURED


@dataclass(frozen=True, slots=True)
class Figure:
    """One measured value. `seconds` is how long measuring it took, with its baseline."""

    bench: str
    metric: str
    value: float
    unit: str
    better: Literal["lower", "higher"]
    baseline: Baseline
    seconds: float
    config: Mapping[str, Value] = field(default_factory=dict)

    @property
    def ratio(self) -> float | None:
        """The value in baselines; None against a baseline of nothing."""
        return self.value / self.baseline.value if self.baseline.value else None

    def line(self) -> str:
        """The JSON line, without its end. Raises: ValueError for a value that is no number."""
        if not math.isfinite(self.value) or not math.isfinite(self.baseline.value):
            raise ValueError(f"{self.bench} {self.metric}: {self.value} against {self.baseline.value} is no figure")
        ratio = self.ratio
        return json.dumps(
            {
                "bench": self.bench,
                "metric": self.metric,
                "value": rounded(self.value),
                "unit": self.unit,
                "better": self.better,
                "baseline": {
                    "name": self.baseline.name,
                    "value": rounded(self.baseline.value),
                    "source": self.baseline.source,
                },
                "ratio": None if ratio is None else rounded(ratio),
                "config": dict(self.config),
                "seconds": round(self.seconds, 1),
            },
            allow_nan=False,
        )


def rounded(value: float) -> float:
    """Four significant digits: more would claim what no repetition gives."""
    return float(f"{value:.4g}")


def percentile(values: Sequence[float], percent: float) -> float:
    """The smallest of `values` that is not exceeded by `percent` of them (nearest rank). `values` is not empty."""
    ordered = sorted(values)
    return ordered[max(0, math.ceil(len(ordered) * percent / 100) - 1)]


def median(values: Sequence[float]) -> float:
    """The middle one; the mean of two."""
    ordered = sorted(values)
    half = len(ordered) // 2
    return ordered[half] if len(ordered) % 2 else (ordered[half - 1] + ordered[half]) / 2


def emit(figure: Figure, to: TextIO | None = None) -> None:
    """Print one figure at once, so that a run that is cut off has told what it knows."""
    print(figure.line(), file=to or sys.stdout, flush=True)


def say(text: str) -> None:
    """A word for people."""
    print(text, file=sys.stderr, flush=True)
