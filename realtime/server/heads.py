"""The head of a request that asks for a WebSocket, and of the response to it."""

from __future__ import annotations

import base64
import binascii
import hashlib
import http
import re
from collections.abc import Iterable
from dataclasses import dataclass
from email.utils import formatdate
from urllib.parse import unquote

Headers = list[tuple[bytes, bytes]]

MAX_HEAD_BYTES = 16 * 1024
"""Longest request head that is looked at, in bytes: what Twisted takes as well."""
MAX_HEADERS = 128

_GUID = b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11"
_TOKEN = re.compile(rb"[!#$%&'*+\-.^_`|~0-9A-Za-z]+")
_FORBIDDEN_IN_VALUE = re.compile(rb"[\x00-\x08\x0a-\x1f\x7f]")
# All lines at once. Possessive: what does not match is not tried in other ways.
_HEADERS = re.compile(rb"(?:[!#$%&'*+\-.^_`|~0-9A-Za-z]++:[^\x00-\x08\x0a-\x1f\x7f]*+(?:\r\n|\Z))*+")
_TARGET = re.compile(rb"[\x21\x22\x24-\x7e]+")
_OURS = {
    b"connection",
    b"upgrade",
    b"sec-websocket-accept",
    b"sec-websocket-extensions",
    b"sec-websocket-protocol",
}


class MalformedHead(ValueError):
    """The bytes are not the head of an HTTP request."""


class HandshakeRefused(ValueError):
    """A request for a WebSocket that cannot be granted; the text says what the client should send instead."""

    def __init__(self, status: int, text: str, headers: Iterable[tuple[bytes, bytes]] = ()) -> None:
        super().__init__(text)
        self.status = status
        self.headers = list(headers)


@dataclass(frozen=True, slots=True)
class Head:
    """The head of one request. Names are in lower case, values without outer blanks, in the order they came."""

    method: bytes
    target: bytes
    version: bytes
    headers: Headers
    size: int
    """Length on the wire in bytes, with the empty line that ends it."""

    def values(self, name: bytes) -> list[bytes]:
        """Every value of one header."""
        return [value for key, value in self.headers if key == name]

    def tokens(self, name: bytes) -> list[bytes]:
        """The comma-separated elements of one header, over all of its lines, as they were written."""
        return [part for value in self.values(name) for part in map(bytes.strip, value.split(b",")) if part]

    @property
    def wants_websocket(self) -> bool:
        """Whether the client asks to leave HTTP for a WebSocket, well or badly."""
        return (
            self.method == b"GET"
            and self.version == b"HTTP/1.1"
            and b"websocket" in map(bytes.lower, self.tokens(b"upgrade"))
            and b"upgrade" in map(bytes.lower, self.tokens(b"connection"))
        )


@dataclass(frozen=True, slots=True)
class Handshake:
    """A request for a WebSocket that RFC 6455 lets us grant."""

    raw_path: bytes
    query_string: bytes
    headers: Headers
    """Without those whose name has an underscore: a proxy's own header could be imitated with one."""
    key: bytes
    subprotocols: tuple[str, ...]
    extensions: tuple[str, ...]

    @property
    def path(self) -> str:
        """The path with percent-encoding undone."""
        return unquote(self.raw_path.decode("ascii"))


def may_want_websocket(start: bytes) -> bool:
    """Whether a request that begins with ``start`` (any number of bytes) can still turn out to ask for a WebSocket."""
    return start[:4] == b"GET "[: len(start)]


def read_head(data: bytes) -> Head | None:
    """
    Return the head that ``data`` begins with, or ``None`` while it has not come whole.

    Raise :class:`MalformedHead` if it never can: not HTTP, or longer than ``MAX_HEAD_BYTES``.

    """
    end = data.find(b"\r\n\r\n")
    if end < 0 or end + 4 > MAX_HEAD_BYTES:
        if len(data) >= MAX_HEAD_BYTES:
            raise MalformedHead(f"a request head of more than {MAX_HEAD_BYTES} bytes")
        return None
    first, _, rest = data[:end].partition(b"\r\n")
    parts = first.split(b" ")
    if len(parts) != 3 or not _TOKEN.fullmatch(parts[0]) or not parts[2].startswith(b"HTTP/"):
        raise MalformedHead("the first line is not METHOD TARGET VERSION")
    if rest.count(b"\r\n") >= MAX_HEADERS:
        raise MalformedHead(f"more than {MAX_HEADERS} headers")
    # A line that begins with a blank continues the one before it; that is long forbidden (RFC 9112, 5.2).
    if not _HEADERS.fullmatch(rest):
        raise MalformedHead("a header line is not NAME: VALUE")
    lines = [line.partition(b":") for line in rest.split(b"\r\n")] if rest else []
    method, target, version = parts
    headers = [(name.lower(), value.strip(b" \t")) for name, _, value in lines]
    return Head(method, target, version, headers, end + 4)


def handshake(head: Head) -> Handshake:
    """Return what the client asks for. Raise :class:`HandshakeRefused` where RFC 6455, 4.2.1 forbids to grant it."""
    if head.values(b"sec-websocket-version") != [b"13"]:
        raise HandshakeRefused(426, "Send Sec-WebSocket-Version: 13.", [(b"sec-websocket-version", b"13")])
    if len(head.values(b"host")) != 1:
        raise HandshakeRefused(400, "Send one Host header.")
    if head.values(b"transfer-encoding") or head.values(b"content-length") not in ([], [b"0"]):
        raise HandshakeRefused(400, "A WebSocket request has no body.")
    keys = head.values(b"sec-websocket-key")
    if len(keys) != 1 or not _is_key(keys[0]):
        raise HandshakeRefused(400, "Send one Sec-WebSocket-Key of 16 bytes in base64.")
    path, _, query = _origin_form(head.target).partition(b"?")
    return Handshake(
        raw_path=path,
        query_string=query,
        headers=[(name, value) for name, value in head.headers if b"_" not in name],
        key=keys[0],
        subprotocols=tuple(token.decode("latin-1") for token in head.tokens(b"sec-websocket-protocol")),
        extensions=tuple(value.decode("latin-1") for value in head.values(b"sec-websocket-extensions")),
    )


def _is_key(value: bytes) -> bool:
    try:
        return len(value) == 24 and len(binascii.a2b_base64(value, strict_mode=True)) == 16
    except binascii.Error:
        return False


def _origin_form(target: bytes) -> bytes:
    """Return the path and query of a request target, which may be a whole address (RFC 9112, 3.2.2)."""
    if not _TARGET.fullmatch(target):
        raise HandshakeRefused(400, "The request target has characters that must be percent-encoded.")
    if target.startswith(b"/"):
        return target
    scheme, separator, rest = target.partition(b"://")
    if not separator or scheme.lower() not in (b"http", b"https", b"ws", b"wss"):
        raise HandshakeRefused(400, "The request target is not a path.")
    _, slash, path = rest.partition(b"/")
    return slash + path if slash else b"/"


def accept_key(key: bytes) -> bytes:
    """Return the answer to a ``Sec-WebSocket-Key`` (RFC 6455, 4.2.2)."""
    return base64.b64encode(hashlib.sha1(key + _GUID, usedforsecurity=False).digest())


def accepting_head(
    key: bytes,
    *,
    subprotocol: str | None = None,
    extension: str | None = None,
    headers: Iterable[tuple[bytes, bytes]] = (),
) -> bytes:
    """Return the response that opens the WebSocket. Raise ValueError for a header that cannot be part of it."""
    lines = [
        b"HTTP/1.1 101 Switching Protocols",
        b"Upgrade: websocket",
        b"Connection: Upgrade",
        b"Sec-WebSocket-Accept: " + accept_key(key),
    ]
    if subprotocol is not None:
        lines.append(_line(b"Sec-WebSocket-Protocol", subprotocol.encode("latin-1")))
    if extension is not None:
        lines.append(_line(b"Sec-WebSocket-Extensions", extension.encode("ascii")))
    for name, value in headers:
        if name.lower() in _OURS:
            raise ValueError(
                f"The server sends {name.decode('latin-1')} itself; leave it out of the accept headers."
            )
        lines.append(_line(name, value))
    return b"\r\n".join(lines) + b"\r\n\r\n"


def denying_head(status: int, headers: Iterable[tuple[bytes, bytes]], *, body_bytes: int | None) -> bytes:
    """
    Return the head of an HTTP response instead of a WebSocket; the connection ends with it.

    ``body_bytes`` is the length of the body, ``None`` where the end of the connection is to mark its end.

    """
    lines = [f"HTTP/1.1 {status} {_phrase(status)}".encode("ascii")]
    given = set()
    for name, value in headers:
        lowered = name.lower()
        if lowered in (b"connection", b"transfer-encoding"):
            continue
        given.add(lowered)
        lines.append(_line(name, value))
    if b"date" not in given:
        lines.append(b"Date: " + formatdate(usegmt=True).encode("ascii"))
    if b"content-length" not in given and body_bytes is not None:
        lines.append(b"Content-Length: %d" % body_bytes)
    lines.append(b"Connection: close")
    return b"\r\n".join(lines) + b"\r\n\r\n"


def _line(name: bytes, value: bytes) -> bytes:
    if not _TOKEN.fullmatch(name) or _FORBIDDEN_IN_VALUE.search(value):
        raise ValueError(f"A response header cannot be {name!r}: {value!r}.")
    return name + b": " + value


def _phrase(status: int) -> str:
    if not 200 <= status <= 599:
        raise ValueError(f"{status} is not the status of a response; use 200 to 599.")
    try:
        return http.HTTPStatus(status).phrase
    except ValueError:
        return "Unknown"
