"""What nodes share: one contract, kept in this process's memory or in Redis."""

from __future__ import annotations

from realtime.conf import get_settings
from realtime.state import memory
from realtime.state.contract import (
    REVOKED,
    Appended,
    Entered,
    Entry,
    History,
    NodeRow,
    Position,
    Renewed,
    Revoked,
    State,
)
from realtime.state.memory import MemoryState
from realtime.state.redis import RedisState

__all__ = [
    "REVOKED",
    "Appended",
    "Entered",
    "Entry",
    "History",
    "MemoryState",
    "NodeRow",
    "Position",
    "RedisState",
    "Renewed",
    "Revoked",
    "State",
    "open_state",
]


def open_state(url: str) -> State:
    """
    Return the state that ``url`` names, for the running loop. Nothing is connected before the first call.

    ``memory://`` is one state for all loops of this process; ``redis://``, ``rediss://``, ``unix://``,
    ``sentinel://`` and ``sentinels://`` are a Redis. Raise ImproperlyConfigured for a URL that is neither.

    """
    if url == "memory://":
        return memory.shared()
    settings = get_settings()
    return RedisState(
        url, prefix=settings.state_prefix, timeout=settings.state_timeout, pool_size=settings.state_pool_size
    )
