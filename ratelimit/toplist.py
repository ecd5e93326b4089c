"""The most frequent names of a stream, found in bounded memory (the space-saving algorithm)."""

from __future__ import annotations

from typing import NamedTuple


class Ranked(NamedTuple):
    """A name and how often it was seen; where names were displaced, at most that often."""

    name: str
    count: int  # type: ignore[assignment]  # hides tuple.count, which nobody asks a rank for


class TopList:
    """
    Counts of the most frequent names.

    With room for ``size`` names, every name seen more often than once in ``size`` is in the list.

    """

    def __init__(self, size: int = 100) -> None:
        self.size = size
        self._counts: dict[str, int] = {}

    def add(self, name: str) -> None:
        """Count ``name`` once. A new name in a full list takes the place and the count of the rarest."""
        counts = self._counts
        if name in counts:
            counts[name] += 1
        elif len(counts) < self.size:
            counts[name] = 1
        else:
            rarest = min(counts, key=counts.__getitem__)
            counts[name] = counts.pop(rarest) + 1

    def top(self, most: int) -> tuple[Ranked, ...]:
        """Return the ``most`` most frequent names, the most frequent first."""
        # A copy first: the snapshot may be taken by another thread while a name is added.
        ranked = sorted(self._counts.copy().items(), key=lambda item: (-item[1], item[0]))
        return tuple(Ranked(name, count) for name, count in ranked[:most])
