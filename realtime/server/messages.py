"""Messages out of frames: fragments in order, text that is UTF-8, sizes within bounds."""

from __future__ import annotations

import codecs
import struct
from collections.abc import Callable

CONTINUATION, TEXT, BINARY = 0x0, 0x1, 0x2

PROTOCOL_ERROR, INVALID_DATA, TOO_BIG = 1002, 1007, 1009

NO_CODE = 1005
"""Stands for a close frame without a code (RFC 6455, 7.4.1)."""

_utf8_decoder = codecs.getincrementaldecoder("utf-8")

Inflate = Callable[[bytes, int], bytes]
"""Undo the compression of one message, given the most bytes that may come out; may raise :class:`Violation`."""


class Violation(Exception):
    """What a client sent breaks the protocol or a bound: the socket is closed with ``code``."""

    def __init__(self, code: int, text: str) -> None:
        super().__init__(text)
        self.code = code
        self.text = text


def utf8(payload: bytes) -> str:
    """Return the text of a message. Raise :class:`Violation` where it is not UTF-8."""
    try:
        return payload.decode()
    except UnicodeDecodeError:
        raise Violation(INVALID_DATA, "text that is not UTF-8") from None


def packed_bound(size: int) -> int:
    """Return the most bytes that a message of ``size`` bytes may come in, compressed; 0, without bound, stays 0."""
    # Deflate makes what cannot be compressed a little longer, and the bound is for what comes out.
    return size and size + (size >> 6) + 64


class Assembly:
    """
    The message of one socket that has not come whole yet.

    ``max_bytes`` bounds a message as the application would see it, 0 is without bound; ``inflate`` is
    given where permessage-deflate was agreed on.

    """

    __slots__ = ("_buffer", "_decoder", "_inflate", "_packed", "max_bytes", "opcode")

    def __init__(self, max_bytes: int, inflate: Inflate | None = None) -> None:
        self.max_bytes = max_bytes
        self._inflate = inflate
        self.opcode = CONTINUATION
        """That of the message which was begun; ``CONTINUATION``, which is 0, while none is."""
        self._packed = False
        self._buffer = bytearray()
        self._decoder: codecs.IncrementalDecoder | None = None

    @property
    def buffered_bytes(self) -> int:
        """Bytes held of the message that was begun."""
        return len(self._buffer)

    def feed(
        self, opcode: int, payload: bytes, *, fin: int, rsv1: int, rsv2: int, rsv3: int
    ) -> str | bytes | None:
        """Take one data frame; return the message it completes. Raise :class:`Violation`."""
        if rsv2 or rsv3 or (rsv1 and (self._inflate is None or opcode == CONTINUATION)):
            raise Violation(PROTOCOL_ERROR, "a reserved bit is set")
        if opcode == CONTINUATION:
            if not self.opcode:
                raise Violation(PROTOCOL_ERROR, "a continuation of nothing")
        elif self.opcode:
            raise Violation(PROTOCOL_ERROR, "a new message before the last one was complete")
        elif fin:
            self.check_size(len(payload), packed=bool(rsv1))
            return self._finished(opcode, payload, packed=bool(rsv1))
        else:
            self.opcode, self._packed = opcode, bool(rsv1)
            self._decoder = _utf8_decoder() if opcode == TEXT and not rsv1 else None
        return self._append(payload, last=bool(fin))

    def _append(self, payload: bytes, *, last: bool) -> str | bytes | None:
        self.check_size(len(self._buffer) + len(payload), packed=self._packed)
        if self._decoder is not None:
            # Checked as it comes: nobody should have to send a megabyte to learn that its start was wrong.
            try:
                self._decoder.decode(payload, last)
            except UnicodeDecodeError:
                raise Violation(INVALID_DATA, "text that is not UTF-8") from None
        self._buffer += payload
        if not last:
            return None
        opcode, packed, whole = self.opcode, self._packed, self._buffer
        self.opcode, self._decoder, self._buffer = CONTINUATION, None, bytearray()
        if opcode == TEXT and not packed:
            # Not by way of bytes: that would be another copy of a large message.
            return whole.decode()
        return self._finished(opcode, bytes(whole), packed=packed)

    def check_size(self, size: int, *, packed: bool = False) -> None:
        """Raise :class:`Violation` where a message of ``size`` bytes on the wire cannot be within the bound."""
        bound = packed_bound(self.max_bytes) if packed else self.max_bytes
        if self.max_bytes and size > bound:
            raise Violation(TOO_BIG, f"a message of more than {self.max_bytes} bytes")

    def _finished(self, opcode: int, payload: bytes, *, packed: bool) -> str | bytes:
        if packed and self._inflate is not None:
            payload = self._inflate(payload, self.max_bytes)
        return utf8(payload) if opcode == TEXT else payload


def read_close(payload: bytes) -> tuple[int, str]:
    """Return code and reason of a close frame; ``NO_CODE`` where it has none. Raise :class:`Violation`."""
    if not payload:
        return NO_CODE, ""
    if len(payload) == 1:
        raise Violation(PROTOCOL_ERROR, "half a close code")
    (code,) = struct.unpack_from("!H", payload)
    if not is_sendable(code):
        raise Violation(PROTOCOL_ERROR, f"{code} is not a close code")
    return code, utf8(payload[2:])


def is_sendable(code: int) -> bool:
    """Whether a close frame may carry ``code`` (RFC 6455, 7.4, and the IANA registry)."""
    return 3000 <= code <= 4999 or code in (
        1000,
        1001,
        1002,
        1003,
        1007,
        1008,
        1009,
        1010,
        1011,
        1012,
        1013,
        1014,
    )


def close_payload(code: int, reason: str) -> bytes:
    """Return the payload of a close frame; a reason that is too long is cut between two characters."""
    if not is_sendable(code):
        raise ValueError(
            f"Close code {code!r} cannot be sent. Use 1000 to 1014 (not 1004 to 1006) or 3000 to 4999."
        )
    return struct.pack("!H", code) + reason.encode()[:123].decode(errors="ignore").encode()


def header(opcode: int, size: int, *, rsv1: bool = False) -> bytes:
    """Return the header of a whole, unmasked frame with a payload of ``size`` bytes."""
    first = 0xC0 | opcode if rsv1 else 0x80 | opcode
    if size < 126:
        return bytes((first, size))
    if size < 65536:
        return struct.pack("!BBH", first, 126, size)
    return struct.pack("!BBQ", first, 127, size)
