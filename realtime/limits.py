"""Limits of one route: what a client may send, and how long it may be silent."""

from __future__ import annotations

from dataclasses import dataclass

from ratelimit.limits import Limits as RateLimits
from ratelimit.limits import is_number


@dataclass(frozen=True, kw_only=True)
class Limits(RateLimits):
    """
    What a route sets apart from the settings; ``None`` leaves the setting in force, 0 switches a limit off.

    Sizes, rates and budgets are those of :class:`ratelimit.limits.Limits`; these are times in seconds.

    """

    heartbeat_interval: float | None = None
    """A socket silent this long, or for half of its timeout, is pinged."""
    heartbeat_timeout: float | None = None
    """A socket silent this long is closed with 4408."""
    idle_timeout: float | None = None
    """A socket that sent no message of its own for this long is closed with 4408."""
    handler_timeout: float | None = None
    """A handler that takes longer is cancelled."""

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in ("heartbeat_interval", "heartbeat_timeout", "idle_timeout", "handler_timeout"):
            seconds = getattr(self, name)
            if seconds is not None and not (is_number(seconds) and seconds >= 0):
                raise ValueError(
                    f"{name} is {seconds!r}; it must be seconds from 0 up, or None for the setting."
                )
