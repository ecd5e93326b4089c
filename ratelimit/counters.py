"""What this process limited, as plain integers."""

from __future__ import annotations

import time
from collections import Counter, deque
from dataclasses import dataclass
from typing import Final

from ratelimit import bans
from ratelimit.limits import BudgetName
from ratelimit.toplist import Ranked, TopList

MINUTES: Final = 60
_TOP: Final = 20


@dataclass(frozen=True, slots=True)
class Minute:
    """One minute of the series."""

    started_at: int
    """Seconds since the epoch, a whole minute."""
    limited_messages: int
    limited_connections: int
    disconnects: int


@dataclass(frozen=True, slots=True)
class RateLimitSnapshot:
    """What this process limited since it started. Safe to keep, compare or send elsewhere."""

    taken_at: float
    """Seconds since the epoch."""
    limited_messages: dict[str, int]
    """Refused messages by budget: ``messages``, ``bytes``, ``system``."""
    limited_connections: int
    """Connections refused for a rate, a count or capacity."""
    disconnects: int
    """Sockets closed with 4429."""
    oversized: int
    """Sockets closed for a message that was too big."""
    refused: dict[str, int]
    """Connections refused before they were accepted, by reason."""
    bans: int
    """Bans in force."""
    top_addresses: tuple[Ranked, ...]
    """Addresses that were limited most often, connections and messages together."""
    top_clients: tuple[Ranked, ...]
    """Clients whose messages were limited most often."""
    minutes: tuple[Minute, ...]
    """The last sixty minutes, the oldest first and the running one last."""
    seconds_since_limiting: float | None
    """Since a message or connection was last limited; ``None`` if never."""
    seconds_since_disconnecting: float | None
    """Since a socket was last closed with 4429; ``None`` if never."""
    alone: str = ""
    """Why limits that should count over all nodes count in this process only, as a sentence; empty while they do not."""
    judged_alone: int = 0
    """Connections that were let in by the limits of this process, because the other nodes could not be reached."""


class _Tally:
    """The numbers of one minute."""

    __slots__ = ("connections", "disconnects", "messages", "minute")

    def __init__(self, minute: int) -> None:
        self.minute = minute
        self.messages = 0
        self.connections = 0
        self.disconnects = 0


class Counters:
    """
    The integers behind a snapshot. ``now`` is always seconds since the epoch.

    Counting is for loops, reading for any thread: a snapshot may miss what happens while it is taken.

    """

    def __init__(self) -> None:
        self.messages: dict[BudgetName, int] = {"messages": 0, "bytes": 0, "system": 0}
        self.connections = 0
        self.disconnects = 0
        self.oversized = 0
        self.refused: Counter[str] = Counter()
        self._addresses = TopList()
        self._clients = TopList()
        self._tallies: deque[_Tally] = deque(maxlen=MINUTES)
        self._limited_at: float | None = None
        self._disconnected_at: float | None = None
        self.alone = ""
        self.judged_alone = 0

    def count_message(self, budget: BudgetName, address: str, label: str, now: float) -> None:
        """A message was refused for a budget."""
        self.messages[budget] += 1
        self._tally(now).messages += 1
        self._limited_at = now
        self._addresses.add(address)
        self._clients.add(label)

    def count_refusal(self, name: str, address: str, now: float, *, limited: bool) -> None:
        """A connection was refused; ``limited`` says whether by a limit rather than by who it is."""
        self.refused[name] += 1
        if limited:
            self.connections += 1
            self._tally(now).connections += 1
            self._limited_at = now
            self._addresses.add(address)

    def count_disconnect(self, now: float) -> None:
        """A socket was closed for too many violations."""
        self.disconnects += 1
        self._tally(now).disconnects += 1
        self._disconnected_at = now

    def count_oversized(self) -> None:
        """A socket was closed for a message that was too big."""
        self.oversized += 1

    def snapshot(self, now: float, bans_in_force: int = 0) -> RateLimitSnapshot:
        """Return the state at ``now``, with so many bans in force."""
        return RateLimitSnapshot(
            taken_at=now,
            limited_messages={str(budget): count for budget, count in self.messages.items()},
            limited_connections=self.connections,
            disconnects=self.disconnects,
            oversized=self.oversized,
            refused=dict(self.refused),
            bans=bans_in_force,
            top_addresses=self._addresses.top(_TOP),
            top_clients=self._clients.top(_TOP),
            minutes=self._minutes(now),
            seconds_since_limiting=_since(self._limited_at, now),
            seconds_since_disconnecting=_since(self._disconnected_at, now),
            alone=self.alone,
            judged_alone=self.judged_alone,
        )

    def _tally(self, now: float) -> _Tally:
        minute = int(now // 60)
        if not self._tallies or self._tallies[-1].minute < minute:
            self._tallies.append(_Tally(minute))
        return self._tallies[-1]

    def _minutes(self, now: float) -> tuple[Minute, ...]:
        current = int(now // 60)
        # list() first: a loop may begin a new minute while another thread reads.
        by_minute = {tally.minute: tally for tally in list(self._tallies)}
        return tuple(
            Minute(minute * 60, tally.messages, tally.connections, tally.disconnects)
            for minute in range(current - MINUTES + 1, current + 1)
            for tally in (by_minute.get(minute) or _Tally(minute),)
        )


def _since(moment: float | None, now: float) -> float | None:
    return None if moment is None else max(0.0, now - moment)


process: Final = Counters()
"""The counters of this process."""


def snapshot() -> RateLimitSnapshot:
    """Return what this process limited so far. Callable from any thread."""
    now = time.time()
    return process.snapshot(now, bans.watch.table.count(now))
