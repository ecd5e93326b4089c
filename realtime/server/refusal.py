"""The HTTP answer that a WebSocket handshake gets instead of 101."""

from __future__ import annotations

import http
from collections.abc import Iterable
from email.utils import formatdate

Headers = Iterable[tuple[bytes, bytes]]


def head(status: int, headers: Headers, *, server: str, size: int | None) -> bytes:
    """
    Return status line and headers. ``size`` is the length of the body in bytes, ``None`` if it is not known yet.

    The connection ends with the answer, and says so. Raise ValueError for a header that would break out of its line.

    """
    own = {b"connection": b"close", b"date": formatdate(usegmt=True).encode()}
    if server:
        own[b"server"] = server.encode()
    if size is not None:
        own[b"content-length"] = str(size).encode()
    lines = [f"HTTP/1.1 {status} {_phrase(status)}".encode()]
    for name, value in headers:
        if is_unsafe(name) or is_unsafe(value):
            raise ValueError(f"Header {name!r}: {value!r} contains a line break or NUL.")
        if name.lower() != b"connection":
            own.pop(name.lower(), None)
            lines.append(name + b": " + value)
    lines.extend(name + b": " + value for name, value in own.items())
    return b"\r\n".join(lines) + b"\r\n\r\n"


def is_unsafe(text: bytes) -> bool:
    """Whether a header name or value would end its line early."""
    return any(byte in text for byte in (b"\r", b"\n", b"\0"))


def _phrase(status: int) -> str:
    try:
        return http.HTTPStatus(status).phrase
    except ValueError:
        return "Refused"
