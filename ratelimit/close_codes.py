"""Every reason this app closes a socket for, as a named value: code, text, and whether to come back."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class CloseReason:
    """Why a socket is closed. Clients branch on ``code``, people read ``text``, metrics count ``name``."""

    code: int
    name: str
    text: str
    """At most 123 bytes: a close frame carries 125, two of them the code (RFC 6455, 5.5)."""
    retry: bool
    """Whether the client should connect again."""


POLICY = CloseReason(1008, "policy", "not allowed here", retry=False)
TOO_BIG = CloseReason(1009, "too_big", "message larger than the server accepts", retry=False)
AT_CAPACITY = CloseReason(1013, "at_capacity", "the server is full: try again later", retry=True)
REPLACED = CloseReason(
    4409, "replaced", "replaced by a newer connection of the same session or user", retry=False
)
RATE_LIMITED = CloseReason(4429, "rate_limited", "too many messages: slow down, then reconnect", retry=True)
