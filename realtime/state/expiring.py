"""A mapping whose entries go away by themselves."""

from __future__ import annotations

import heapq
import math
from collections.abc import Iterator
from typing import Generic, TypeVar

K = TypeVar("K")
V = TypeVar("V")

_AT_ONCE = 4
"""Expired entries that one new entry removes: more than it adds, so that what is expired cannot pile up."""


class Expiring(Generic[K, V]):
    """
    Values with a time to live. The time (seconds, of the caller's clock) is an argument everywhere.

    An expired entry is never returned; its memory is given back as others come, or by :meth:`expire`.

    """

    __slots__ = ("_due", "_items", "_number")

    def __init__(self) -> None:
        self._items: dict[K, tuple[float, V | None]] = {}
        self._due: list[tuple[float, int, K]] = []
        """A heap with one row for each entry; where an entry was renewed, its row is too early and is set right later."""
        self._number = 0

    def __len__(self) -> int:
        return len(self._items)

    def get(self, key: K, now: float) -> V | None:
        """Return the value of ``key``, or ``None``."""
        item = self._items.get(key)
        return item[1] if item is not None and item[0] > now else None

    def put(self, key: K, value: V, now: float, ttl: float) -> None:
        """Keep ``value`` for ``ttl`` seconds."""
        expires = now + ttl
        if key not in self._items:
            self.expire(now, _AT_ONCE)
            self._number += 1
            heapq.heappush(self._due, (expires, self._number, key))
        self._items[key] = (expires, value)

    def keep(self, key: K, now: float, ttl: float) -> None:
        """Let an entry stay for at least ``ttl`` seconds more."""
        expires, value = self._items[key]
        self._items[key] = (max(expires, now + ttl), value)

    def drop(self, key: K) -> None:
        """Forget ``key``, if it is here."""
        if key in self._items:
            # Its row in the heap stays until it is due, and the key with it.
            self._items[key] = (-math.inf, None)

    def items(self, now: float) -> Iterator[tuple[K, V]]:
        """Yield what has not expired."""
        for key, (expires, value) in list(self._items.items()):
            if value is not None and expires > now:
                yield key, value

    def expire(self, now: float, most: int | None = None) -> None:
        """Give back the memory of what has expired: all of it, or of ``most`` entries."""
        due = self._due
        while due and due[0][0] <= now and most != 0:
            most = None if most is None else most - 1
            _, number, key = heapq.heappop(due)
            expires = self._items[key][0]
            if expires > now:
                heapq.heappush(due, (expires, number, key))
            else:
                del self._items[key]
