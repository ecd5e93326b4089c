"""The wire format of Redis, RESP2: requests to bytes, bytes to replies."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

Reply = Any
"""``bytes``, ``int``, ``None``, a list of replies, or a :class:`Refusal`."""

_CRLF = b"\r\n"


class Refusal(Exception):
    """An error that Redis replied with. It is a value here: nothing raises it."""

    @property
    def code(self) -> str:
        """The first word, which programs go by."""
        return str(self).split(" ", 1)[0]


class ProtocolError(Exception):
    """What came is not RESP2."""


def encode(*words: bytes) -> bytes:
    """Return one request."""
    return b"*%d\r\n" % len(words) + arguments(words)


def arguments(words: Iterable[bytes]) -> bytes:
    """Return the words of a request, without its head."""
    return b"".join([b"$%d\r\n%b\r\n" % (len(word), word) for word in words])


class Decoder:
    """Replies out of a stream of bytes, however it is cut."""

    __slots__ = ("_chunks", "_missing", "_nested")

    def __init__(self) -> None:
        self._chunks: list[bytes] = []
        self._missing = 0
        """How many more bytes must come before it is worth looking again."""
        self._nested: list[tuple[list[Reply], int]] = []
        """The arrays that are being read, from the outermost, each with the length it will have."""

    def feed(self, data: bytes) -> list[Reply]:
        """Return the replies that ``data`` completes. Raise ProtocolError."""
        self._chunks.append(data)
        self._missing -= len(data)
        if self._missing > 0:
            return []
        if len(self._chunks) > 1:
            data = b"".join(self._chunks)
        try:
            replies, used, self._missing = self._read(data)
        except ValueError:
            raise ProtocolError("a length or a number of a reply is none") from None
        self._chunks = [data[used:]] if used < len(data) else []
        return replies

    def _read(self, data: bytes) -> tuple[list[Reply], int, int]:
        """Return the complete replies, the bytes they and what is known of the next took, and how many are missing."""
        replies: list[Reply] = []
        nested = self._nested
        at = 0
        size = len(data)
        while at < size:
            end = data.find(_CRLF, at)
            if end < 0:
                return replies, at, 1
            kind = data[at]
            line = data[at + 1 : end]
            after = end + 2
            value: Reply
            if kind == 36:  # $
                length = int(line)
                if length < 0:
                    value = None
                else:
                    value = data[after : after + length]
                    after += length + 2
                    if after > size:
                        return replies, at, after - size
            elif kind == 58:  # :
                value = int(line)
            elif kind == 42:  # *
                length = int(line)
                if length > 0:
                    nested.append(([], length))
                    at = after
                    continue
                value = [] if length == 0 else None
            elif kind == 43:  # +
                value = line
            elif kind == 45:  # -
                value = Refusal(line.decode(errors="replace"))
            else:
                raise ProtocolError(f"a reply begins with {bytes([kind])!r}")
            at = after
            while nested:
                items, length = nested[-1]
                items.append(value)
                if len(items) < length:
                    break
                nested.pop()
                value = items
            else:
                replies.append(value)
        return replies, at, 0
