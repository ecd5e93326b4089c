"""How many sockets each client has open, and how fast it opens them."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Hashable
from typing import Final, Generic, TypeVar

from ratelimit.limits import Meter

MAX_CLIENTS: Final = 100_000
"""Clients whose rate is remembered; beyond it the one that connected longest ago is forgotten."""


class ConnectionRates:
    """
    One meter per client for how fast it connects.

    A client is forgotten within a second of its meter being full again, for then it is like one never
    seen. Clients wait for that in buckets of one second, so nothing is ever searched.

    """

    def __init__(self, max_clients: int = MAX_CLIENTS) -> None:
        self.max_clients = max_clients
        self._arrivals: dict[str, float] = {}  # kept in the order of the last connection
        self._due: dict[int, set[str]] = {}
        self._swept = -math.inf

    def __len__(self) -> int:
        return len(self._arrivals)

    def take(self, network: str, now: float, limit: int, window: float) -> float:
        """Count a connection at ``now`` and return 0, or return the seconds after which one may come."""
        self._sweep(now)
        meter = Meter(limit, window)
        known = self._arrivals.get(network)
        if known is not None:
            meter.arrival = known
        wait = meter.take(now)
        if not wait and limit:
            self._forget(network)
            self._remember(network, meter.arrival)
        return wait

    def give_back(self, network: str, limit: int, window: float) -> None:
        """Forget one connection that was counted with this limit."""
        known = self._arrivals.get(network)
        if known is None or not limit:
            return
        self._forget(network)
        arrival = known - Meter(limit, window).interval
        # Below that it is full again, and nobody would ever look for it.
        if _bucket(arrival) >= self._swept:
            self._remember(network, arrival)

    def _remember(self, network: str, arrival: float) -> None:
        if len(self._arrivals) >= self.max_clients:
            self._forget(next(iter(self._arrivals)))
        self._arrivals[network] = arrival
        self._due.setdefault(_bucket(arrival), set()).add(network)

    def _forget(self, network: str) -> None:
        arrival = self._arrivals.pop(network, None)
        if arrival is not None:
            bucket = self._due[_bucket(arrival)]
            bucket.discard(network)
            if not bucket:
                del self._due[_bucket(arrival)]

    def _sweep(self, now: float) -> None:
        current = math.floor(now)
        if current <= self._swept:
            return
        # Whichever is fewer: the seconds that went by, or the seconds for which somebody waits.
        if current - self._swept < len(self._due):
            due = [second for second in range(int(self._swept), current) if second in self._due]
        else:
            due = [second for second in self._due if second < current]
        for second in due:
            for network in self._due.pop(second):
                del self._arrivals[network]
        self._swept = current


def _bucket(arrival: float) -> int:
    return math.floor(arrival)


T = TypeVar("T", bound=Hashable)


class OpenSockets(Generic[T]):
    """The open sockets of this process: all of them, by network, and by user in the order in which they came."""

    def __init__(self) -> None:
        self.total = 0
        self._by_network: Counter[str] = Counter()
        self._by_user: dict[str, dict[T, None]] = {}

    def of_network(self, network: str) -> int:
        """Return how many sockets a network has open."""
        return self._by_network[network]

    def of_user(self, user: str) -> list[T]:
        """Return the open sockets of a user, the oldest first."""
        return list(self._by_user.get(user, ()))

    def enter(self, network: str) -> None:
        """Count a socket."""
        self.total += 1
        self._by_network[network] += 1

    def leave(self, network: str) -> None:
        """Forget a socket that :meth:`enter` counted."""
        self.total -= 1
        self._by_network[network] -= 1
        if not self._by_network[network]:
            del self._by_network[network]

    def enter_user(self, user: str, socket: T) -> None:
        """Note whose socket this is."""
        self._by_user.setdefault(user, {})[socket] = None

    def leave_user(self, user: str, socket: T) -> None:
        """Forget whose socket this was; nothing happens if it is forgotten already."""
        sockets = self._by_user.get(user)
        if sockets is not None:
            sockets.pop(socket, None)
            if not sockets:
                del self._by_user[user]
