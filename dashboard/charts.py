"""Bar charts of a minute-by-minute series: the geometry only, templates draw it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime

HEIGHT = 40
"""Height of the drawing in its own units; a bar is one unit wide."""
_SHORTEST_BAR = 1.5


@dataclass(frozen=True, slots=True)
class Bar:
    """One minute. ``x``, ``y`` and ``height`` are in the units of the drawing."""

    at: datetime
    value: int
    x: int
    y: float
    height: float


@dataclass(frozen=True, slots=True)
class Chart:
    """One series with its own scale: a count of three stays readable beside a count of thousands."""

    key: str
    title: str
    bars: tuple[Bar, ...]
    total: int
    peak: int
    peak_at: datetime | None

    @property
    def width(self) -> int:
        """Width of the drawing in its own units."""
        return len(self.bars)

    @property
    def height(self) -> int:
        """Height of the drawing in its own units."""
        return HEIGHT

    @property
    def description(self) -> str:
        """The chart in one sentence, for those who do not see it."""
        if self.peak_at is None:
            return f"None in the last {len(self.bars)} minutes."
        return f"{self.total:,} in the last {len(self.bars)} minutes; most at {self.peak_at:%H:%M}: {self.peak:,}."


def chart(key: str, title: str, series: Sequence[tuple[datetime, int]]) -> Chart:
    """Return the chart of ``series``: one value for each minute, the oldest first."""
    peak = max((value for _, value in series), default=0)
    bars = tuple(_bar(x, at, value, peak) for x, (at, value) in enumerate(series))
    peak_at = next((bar.at for bar in bars if peak and bar.value == peak), None)
    return Chart(key, title, bars, sum(bar.value for bar in bars), peak, peak_at)


def _bar(x: int, at: datetime, value: int, peak: int) -> Bar:
    # One message beside a thousand must not vanish.
    height = max(_SHORTEST_BAR, round(HEIGHT * value / peak, 2)) if value else 0.0
    return Bar(at, value, x, round(HEIGHT - height, 2), height)
