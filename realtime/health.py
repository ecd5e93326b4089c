"""Is this process well? A verdict with reasons, which gets better again when its causes are over."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from ratelimit.counters import RateLimitSnapshot
from ratelimit.counters import snapshot as ratelimit_snapshot
from realtime.nodes import NodeSnapshot, snapshot

Status = Literal["healthy", "warning", "critical"]

RECENT = 60.0
"""Seconds for which something that happened still counts."""


@dataclass(frozen=True, slots=True)
class Health:
    """How this process is, and why."""

    status: Status
    reasons: tuple[str, ...]


def judge(node: NodeSnapshot, limits: RateLimitSnapshot) -> Health:
    """Return the verdict on two snapshots: the worst of all that is found."""
    critical, warnings = [], []
    if node.draining:
        warnings.append("the server is draining")
    if node.queue_size >= node.queue_limit:
        critical.append(f"the publish queue is full ({node.queue_size})")
    elif node.queue_size * 5 >= node.queue_limit * 4:
        warnings.append(f"the publish queue is {100 * node.queue_size // node.queue_limit} % full")
    critical.extend(
        f"background task {task.name} is down: {task.last_error}" for task in node.tasks if not task.alive
    )
    if node.state_problem:
        warnings.append(f"what nodes share cannot be reached {node.state_problem}")
    if node.rooms_behind:
        warnings.append(f"{node.rooms_behind} rooms wait for messages that were lost on the way")
    if limits.alone:
        warnings.append(f"limits count in this process only: {limits.alone}")
    if _recent(limits.seconds_since_disconnecting):
        critical.append("clients were disconnected for sending too much in the last minute")
    elif _recent(limits.seconds_since_limiting):
        warnings.append("clients were rate limited in the last minute")
    status: Status = "critical" if critical else "warning" if warnings else "healthy"
    return Health(status, tuple(critical + warnings))


def health() -> Health:
    """Return the verdict on this process as it is now. Safe from any thread."""
    return judge(snapshot(), ratelimit_snapshot())


def _recent(seconds: float | None) -> bool:
    return seconds is not None and seconds < RECENT
