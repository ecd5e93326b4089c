"""The one table of close codes: code, name, text, and whether the client should come back."""

from __future__ import annotations

from ratelimit.close_codes import AT_CAPACITY, POLICY, RATE_LIMITED, REPLACED, TOO_BIG, CloseReason

__all__ = [
    "AT_CAPACITY",
    "BAD_MESSAGES",
    "DONE",
    "EVICTED",
    "FORBIDDEN",
    "GOING_AWAY",
    "HEARTBEAT_TIMEOUT",
    "INVALID_DATA",
    "KICKED",
    "POLICY",
    "RATE_LIMITED",
    "REASONS",
    "REPLACED",
    "RESTART",
    "SERVER_ERROR",
    "TOO_BIG",
    "TOO_SLOW",
    "UNAUTHENTICATED",
    "CloseReason",
    "name_of",
    "should_retry",
]

DONE = CloseReason(1000, "done", "done", retry=False)
GOING_AWAY = CloseReason(1001, "going_away", "the server is going away", retry=True)
INVALID_DATA = CloseReason(1007, "invalid_data", "text that is not UTF-8", retry=False)
SERVER_ERROR = CloseReason(1011, "server_error", "the server failed: try again with a delay", retry=True)
RESTART = CloseReason(1012, "restart", "the server is restarting: reconnect after the delay", retry=True)
BAD_MESSAGES = CloseReason(4400, "bad_messages", "too many bad messages", retry=False)
UNAUTHENTICATED = CloseReason(4401, "unauthenticated", "not, or no longer, authenticated", retry=False)
FORBIDDEN = CloseReason(4403, "forbidden", "not allowed", retry=False)
HEARTBEAT_TIMEOUT = CloseReason(4408, "timeout", "nothing heard for too long", retry=True)
KICKED = CloseReason(4410, "disconnected", "disconnected by an operator", retry=False)
TOO_SLOW = CloseReason(4413, "too_slow", "reading too slowly: reconnect and recover", retry=True)
EVICTED = CloseReason(4503, "evicted", "closed to save memory: reconnect after the delay", retry=True)

REASONS = (
    DONE,
    GOING_AWAY,
    INVALID_DATA,
    POLICY,
    TOO_BIG,
    SERVER_ERROR,
    RESTART,
    AT_CAPACITY,
    BAD_MESSAGES,
    UNAUTHENTICATED,
    FORBIDDEN,
    HEARTBEAT_TIMEOUT,
    REPLACED,
    KICKED,
    TOO_SLOW,
    RATE_LIMITED,
    EVICTED,
)

_BY_CODE = {reason.code: reason for reason in REASONS}


def should_retry(code: int) -> bool:
    """Whether a client that is closed with ``code`` should come back: not with one the table does not have."""
    reason = _BY_CODE.get(code)
    return reason is not None and reason.retry


def name_of(code: int | None) -> str:
    """Return the name of a code, for metrics: ``other`` where the table has none, so that labels stay bounded."""
    if code in (None, 1005, 1006):
        return "lost" if code != 1005 else "done"
    reason = _BY_CODE.get(code)
    return reason.name if reason else "other"
