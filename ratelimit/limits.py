"""What one socket may still send: meters, and what is said to a socket that sends more."""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass
from typing import Final, Literal, TypeGuard

BudgetName = Literal["messages", "bytes", "system"]

_SLACK: Final = 1e-6
"""Seconds by which a unit may come early: more than floats lose, less than a clock shows."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Limits:
    """
    Limits of one route. What is ``None`` is left to the setting of the same name; 0 is off.

    Raise ValueError for a number that cannot be a limit.

    """

    max_message_bytes: int | None = None
    """Largest message, in bytes on the wire."""
    messages_per_window: int | None = None
    """Messages a connection may send in a window, sustained."""
    message_window: float | None = None
    """Length of the window for messages, bytes and system messages, in seconds."""
    bytes_per_window: int | None = None
    """Bytes a connection may send in a window, sustained."""
    system_messages_per_window: int | None = None
    """Messages of the protocol itself (``system.*``) a connection may send in a window."""
    burst_multiplier: float | None = None
    """How many windows' worth may come at once."""
    disconnect_after: int | None = None
    """Refused messages in a row after which the socket is closed."""

    def __post_init__(self) -> None:
        for field in dataclasses.fields(self):
            value = getattr(self, field.name)
            if value is not None and (problem := _problem(field.name, value)):
                raise ValueError(f"{field.name} is {value!r}; it must be {problem}, or None for the setting.")

    def filled(self, numbers: Numbers) -> Numbers:
        """Return ``numbers`` with what these limits say in place of what they say."""
        said = {name: value for name in _NAMES if (value := getattr(self, name)) is not None}
        return dataclasses.replace(numbers, **said) if said else numbers


@dataclass(frozen=True, kw_only=True, slots=True)
class Numbers:
    """Limits with nothing left open. 0 is off; made without arguments, everything is."""

    max_message_bytes: int = 0
    messages_per_window: int = 0
    message_window: float = 60.0
    bytes_per_window: int = 0
    system_messages_per_window: int = 0
    burst_multiplier: float = 1.0
    disconnect_after: int = 0


_NAMES: Final = tuple(field.name for field in dataclasses.fields(Numbers))


def _problem(name: str, value: object) -> str | None:
    """Return what ``value`` would have to be; fields that a subclass adds are the subclass's to judge."""
    if name == "message_window":
        return None if is_number(value) and value > 0 else "a number of seconds above 0"
    if name == "burst_multiplier":
        return None if is_number(value) and value >= 1 else "a number from 1 up"
    if name in _NAMES and not (isinstance(value, int) and is_number(value) and value >= 0):
        return "a whole number from 0 up"
    return None


def is_number(value: object) -> TypeGuard[float]:
    """Return whether ``value`` is a finite number; ``True`` is none."""
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


class Meter:
    """
    A token bucket kept as one number (the generic cell rate algorithm).

    ``arrival`` is the time at which the bucket will be full again, in seconds of the caller's clock.
    ``limit`` units may pass in each ``window`` seconds, and ``limit * multiplier`` at once.

    """

    __slots__ = ("arrival", "depth", "interval", "most")

    def __init__(self, limit: float, window: float, multiplier: float = 1.0) -> None:
        self.interval = window / limit if limit else 0.0
        """Seconds that one unit takes to come back."""
        self.depth = window * multiplier if limit else math.inf
        """Seconds that an empty bucket takes to become full."""
        self.most = self.depth + _SLACK
        """Seconds that ``arrival`` may be ahead."""
        self.arrival = -math.inf

    def wait(self, now: float, cost: float = 1.0) -> float:
        """
        Return 0 if ``cost`` units may pass at ``now``, else the seconds after which they may.

        Nothing is charged. A cost above what the bucket holds counts as a full bucket: it could never pass.

        """
        ahead = self._ahead(now) + self._length(cost)
        if ahead <= self.most:
            return 0.0
        return math.ceil((ahead - self.depth) * 1000) / 1000

    def charge(self, now: float, cost: float = 1.0) -> None:
        """Let ``cost`` units pass at ``now``; legal after :meth:`wait` returned 0 for them."""
        self.arrival = now + self._ahead(now) + self._length(cost)

    def take(self, now: float, cost: float = 1.0) -> float:
        """Charge ``cost`` units if they may pass at ``now``, and return what :meth:`wait` does."""
        wait = self.wait(now, cost)
        if not wait:
            self.charge(now, cost)
        return wait

    def remaining(self, now: float) -> int | None:
        """Return how many units may pass at ``now``; ``None`` if the meter is off."""
        if not self.interval:
            return None
        return max(0, math.floor((self.most - self._ahead(now)) / self.interval))

    def _ahead(self, now: float) -> float:
        return self.arrival - now if self.arrival > now else 0.0

    def _length(self, cost: float) -> float:
        return min(cost * self.interval, self.depth)


@dataclass(frozen=True, slots=True)
class Violation:
    """A message that is over a budget."""

    budget: BudgetName
    retry_after: float
    """Seconds after which the same message will pass, rounded up to milliseconds."""
    limit: int
    window: float
    """Seconds."""
    violations_left: int | None
    """Violations until the socket is closed; 0: close it now; ``None``: it is never closed."""
    warn: bool
    """Whether the client has not been told yet."""


class Lane:
    """One kind of message: its meter, and how often in a row it was refused."""

    __slots__ = ("budget", "limit", "meter", "quiet_until", "violations")

    def __init__(self, budget: BudgetName, limit: int, numbers: Numbers) -> None:
        self.budget: BudgetName = budget
        self.limit = limit
        self.meter = Meter(limit, numbers.message_window, numbers.burst_multiplier)
        self.violations = 0
        self.quiet_until = -math.inf


class Allowance:
    """
    What one socket may still send.

    System messages have a lane of their own: they neither spend the ordinary budget nor end a row of
    ordinary violations. Every message spends bytes.

    """

    __slots__ = (
        "_bytes",
        "_bytes_meter",
        "_disconnect_after",
        "_ordinary",
        "_ordinary_meter",
        "_system",
        "_system_meter",
        "_violated",
        "_window",
    )

    def __init__(self, numbers: Numbers) -> None:
        self._window = numbers.message_window
        self._disconnect_after = numbers.disconnect_after
        self._ordinary = Lane("messages", numbers.messages_per_window, numbers)
        self._system = Lane("system", numbers.system_messages_per_window, numbers)
        self._bytes = Lane("bytes", numbers.bytes_per_window, numbers) if numbers.bytes_per_window else None
        # The way of a message that passes touches as little memory as can be.
        self._ordinary_meter = self._ordinary.meter
        self._system_meter = self._system.meter
        self._bytes_meter = self._bytes.meter if self._bytes is not None else None
        self._violated = False

    def spend(self, size: int, system: bool, now: float) -> Violation | None:
        """Charge a message of ``size`` bytes at ``now`` (seconds, monotonic), or say what it violates."""
        meter, flow = self._system_meter if system else self._ordinary_meter, self._bytes_meter
        # Written out rather than asked of the meter: every message of every socket comes through here.
        arrival = meter.arrival
        if arrival < now:
            arrival = now
        arrival += meter.interval
        if arrival - now > meter.most:
            return self._violation(self._system if system else self._ordinary, size, now)
        if flow is not None:
            full = flow.arrival
            if full < now:
                full = now
            length = size * flow.interval
            full += length if length < flow.depth else flow.depth  # noqa: FURB136 - min() is a call
            if full - now > flow.most:
                return self._violation(self._system if system else self._ordinary, size, now)
            flow.arrival = full
        meter.arrival = arrival
        if self._violated:
            self._forgive(self._system if system else self._ordinary)
        return None

    def _forgive(self, lane: Lane) -> None:
        """A processed message starts the count of its lane again."""
        lane.violations = 0
        self._violated = bool(self._ordinary.violations or self._system.violations)

    def remaining(self, now: float) -> int | None:
        """Return how many ordinary messages may be sent at ``now``; ``None`` if that is not limited."""
        return self._ordinary.meter.remaining(now)

    def _violation(self, lane: Lane, size: int, now: float) -> Violation:
        # The client must not be told of the shorter wait and then meet the longer one.
        over, wait = lane, lane.meter.wait(now)
        if self._bytes is not None and (longer := self._bytes.meter.wait(now, size)) > wait:
            over, wait = self._bytes, longer
        lane.violations += 1
        self._violated = True
        left = self._disconnect_after - lane.violations if self._disconnect_after else None
        return Violation(over.budget, wait, over.limit, self._window, left, self._warns(lane, wait, now))

    def _warns(self, lane: Lane, wait: float, now: float) -> bool:
        """Return whether to warn. A socket that is never closed is told once per wait, or it could make us talk for ever."""
        if not self._disconnect_after:
            if now < lane.quiet_until:
                return False
            lane.quiet_until = now + wait
        return True
