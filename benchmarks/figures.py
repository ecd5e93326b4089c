"""The arithmetic of results: quantiles, medians, ratios, and whether a ratio is what was wanted."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

SATURATED = 0.95
"""Share of its core above which a load is taken for the limit of what was measured."""


def quantile_ms(nanoseconds: Sequence[int], share: float) -> float | None:
    """Return the milliseconds within which ``share`` of the times lie; None if there are none."""
    if not nanoseconds:
        return None
    ordered = sorted(nanoseconds)
    return round(ordered[int(share * (len(ordered) - 1))] / 1e6, 3)


def latencies(nanoseconds: Sequence[int]) -> dict[str, float | None]:
    """Return the quantiles that are reported, in milliseconds."""
    shares = {"p50_ms": 0.5, "p99_ms": 0.99, "p999_ms": 0.999}
    ordered = sorted(nanoseconds)
    return {name: quantile_ms(ordered, share) for name, share in shares.items()}


def median(turns: Sequence[dict[str, Any]], measure: str) -> float | None:
    """Return the median of a measure over the turns that have it; None if a turn failed or none has it."""
    if any(turn.get("problems") for turn in turns):
        return None
    values = [turn[measure] for turn in turns if turn.get(measure) is not None]
    return statistics.median(values) if values else None


def ratio(subject: Sequence[dict[str, Any]], against: Sequence[dict[str, Any]], measure: str) -> float | None:
    """Return the median of the turns' ratios; None if a turn failed or has no such measure."""
    pairs = list(zip(subject, against, strict=True))
    if not pairs or any(side.get("problems") or not side.get(measure) for pair in pairs for side in pair):
        return None
    return statistics.median(float(first[measure] / second[measure]) for first, second in pairs)


@dataclass(frozen=True, slots=True)
class Target:
    """What a ratio is wanted to be."""

    bound: float
    direction: Literal["at least", "at most"] = "at least"

    def is_met(self, value: float) -> bool:
        """Tell whether the ratio is as wanted."""
        return value >= self.bound if self.direction == "at least" else value <= self.bound

    def __str__(self) -> str:
        return (
            f"{self.direction} {self.bound:g}"
            if self.bound >= 0.2
            else f"{self.direction} {shown_ratio(self.bound)}"
        )


def shown_ratio(value: float | None) -> str:
    """Return a ratio as people say it: 12.3, or 1/12.3 where it is small."""
    if value is None:
        return "failed"
    if 0 < value < 0.2:
        return f"1/{1 / value:.3g}"
    return f"{value:.2f}" if value < 10 else f"{value:.1f}"
