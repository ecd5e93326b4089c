"""A connection that is turned away before it is accepted."""

from __future__ import annotations

import asyncio
import json
import math
import time
from dataclasses import dataclass
from typing import Final

from ratelimit import counters
from ratelimit.asgi import Receive, Scope, Send
from ratelimit.close_codes import AT_CAPACITY, POLICY, RATE_LIMITED, CloseReason
from ratelimit.closing import send_close
from ratelimit.logs import log_limited
from ratelimit.signals import client_refused

_COME_BACK: Final = 5.0
"""Seconds to wait where nobody knows when a place will be free."""


@dataclass(frozen=True, slots=True)
class Refusal:
    """Why a connection is refused, as HTTP says it and as a close code says it."""

    status: int
    name: str
    """Short and stable: clients branch on it, metrics count it."""
    text: str
    close: CloseReason
    retry_after: float | None
    """Seconds after which it makes sense to try again; ``None``: do not."""


BANNED: Final = Refusal(403, "banned", "You are banned from here.", POLICY, None)
FULL: Final = Refusal(503, "at_capacity", "The server is full. Try again later.", AT_CAPACITY, _COME_BACK)
TOO_MANY_OF_ADDRESS: Final = Refusal(
    429, "address_connections", "Your address has too many open connections.", RATE_LIMITED, _COME_BACK
)
TOO_MANY_OF_USER: Final = Refusal(
    429, "user_connections", "You have too many open connections.", RATE_LIMITED, _COME_BACK
)


def too_fast(retry_after: float) -> Refusal:
    """Return the refusal of an address that connects too often; it may come back after ``retry_after`` seconds."""
    return Refusal(
        429, "address_rate", "Your address connects too often. Slow down.", RATE_LIMITED, retry_after
    )


async def refuse(refusal: Refusal, scope: Scope, receive: Receive, send: Send) -> None:
    """
    Answer a connection that was not accepted yet with ``refusal``; the application is done then.

    A server that can deny with an HTTP response gets one, with a JSON body and Retry-After. Any other is
    told to close, which before accept is a plain 403.

    """
    guard = scope.get("ratelimit")
    address = guard.address if guard is not None else "unknown"
    limited = refusal.close in (RATE_LIMITED, AT_CAPACITY)
    counters.process.count_refusal(refusal.name, address, time.time(), limited=limited)
    log_limited("connection refused", reason=refusal.name, address=address, status=refusal.status)
    if "websocket.http.response" in (scope.get("extensions") or {}):
        await _deny(refusal, send)
    else:
        await send_close(send, refusal.close)
    await client_refused.asend_robust(Refusal, scope=scope, refusal=refusal)


async def _deny(refusal: Refusal, send: Send) -> None:
    body = json.dumps(
        {"error": refusal.name, "message": refusal.text, "retry_after": refusal.retry_after}
    ).encode()
    headers = [
        (b"content-type", b"application/json"),
        (b"content-length", str(len(body)).encode()),
        (b"cache-control", b"no-store"),
    ]
    if refusal.retry_after is not None:
        # Whole seconds, rounded up: a client that waits as long as HTTP can say is served.
        headers.append((b"retry-after", str(math.ceil(refusal.retry_after)).encode()))
    try:
        await send({"type": "websocket.http.response.start", "status": refusal.status, "headers": headers})
        await send({"type": "websocket.http.response.body", "body": body})
        # uvicorn logs an error for an application that returns before the transport has noticed its end.
        await asyncio.sleep(0)
    except OSError:
        # The client did not wait for its answer (ASGI 2.4).
        return
