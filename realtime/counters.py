"""What one node has counted since it started: plain integers, added to where things happen, read by observers."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field


@dataclass(slots=True)
class Counters:
    """Totals of one node. Only the node's own loop writes them."""

    connections: int = 0
    messages_in: int = 0
    messages_out: int = 0
    messages_failed: int = 0
    bytes_in: int = 0
    bytes_out: int = 0
    queue_overflows: int = 0
    heartbeat_timeouts: int = 0
    handler_errors: int = 0
    task_restarts: int = 0
    evictions: int = 0
    disconnections: dict[str, int] = field(default_factory=dict)
    """By the name of the close code: as many keys as the table of close codes has, and two."""
    slow_consumers: dict[str, int] = field(default_factory=dict)
    """By policy."""

    def disconnected(self, name: str) -> None:
        """Count a closed connection under the name of its close code."""
        self.disconnections[name] = self.disconnections.get(name, 0) + 1

    def slow(self, policy: str, given_up: int) -> None:
        """Count messages given up because their reader was slow."""
        self.slow_consumers[policy] = self.slow_consumers.get(policy, 0) + given_up


@dataclass(frozen=True, slots=True)
class Sample:
    """The counters that have a rate, at one moment. ``at`` is seconds, monotonic."""

    at: float
    received: int
    sent: int
    failed: int


@dataclass(frozen=True, slots=True)
class Rates:
    """Messages per second over the last minute."""

    received_per_sec: float
    sent_per_sec: float
    failed_per_sec: float


class RateWindow:
    """The last minute of samples, one a second."""

    SECONDS = 60

    def __init__(self) -> None:
        self._samples: deque[Sample] = deque(maxlen=self.SECONDS + 1)

    def add(self, sample: Sample) -> None:
        """Take one sample in; the one that is older than a minute goes."""
        self._samples.append(sample)

    def rates(self) -> Rates:
        """Return the rates between the oldest and the newest sample; zero while there are not two."""
        if len(self._samples) < 2:
            return Rates(0.0, 0.0, 0.0)
        first, last = self._samples[0], self._samples[-1]
        seconds = max(last.at - first.at, 1e-9)
        return Rates(
            round((last.received - first.received) / seconds, 2),
            round((last.sent - first.sent) / seconds, 2),
            round((last.failed - first.failed) / seconds, 2),
        )
