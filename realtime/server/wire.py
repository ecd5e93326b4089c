"""Messages as RFC 6455 frames: written whole, and read where they arrive whole."""

from __future__ import annotations

import struct

TEXT = 0x81
"""The first byte of a whole text message: final frame, no extension bits, opcode 1."""
BINARY = 0x82
"""The first byte of a whole binary message."""

_CLOSE_CODES = frozenset([1000, 1001, 1002, 1003, *range(1007, 1015), *range(3000, 5000)])


def frame(payload: str | bytes) -> bytes:
    """Return the message as one frame, unmasked as a server sends it."""
    if isinstance(payload, str):
        first, payload = TEXT, payload.encode()
    else:
        first = BINARY
    size = len(payload)
    if size < 126:
        return bytes((first, size)) + payload
    if size < 65536:
        return struct.pack("!BBH", first, 126, size) + payload
    return struct.pack("!BBQ", first, 127, size) + payload


def whole_message(data: bytes, start: int, limit: int) -> tuple[str | bytes, int] | None:
    """
    Return the message that begins at ``start``, and where the next one begins.

    That is the common case only: one final, masked frame of text or binary that is all there, shorter
    than 64 KiB and, unless ``limit`` is 0, of at most ``limit`` bytes. For everything else, legal or
    not, return ``None``: a full parser has to look. Raise UnicodeDecodeError for text that is not UTF-8.

    """
    available = len(data) - start
    if available < 6:
        return None
    first = data[start]
    if first not in (TEXT, BINARY):
        return None
    size = data[start + 1] - 128
    key = start + 2
    if size < 0 or size == 127:
        return None
    if size == 126:
        size = data[key] << 8 | data[key + 1]
        key += 2
        if size < 126:
            return None
    begin = key + 4
    end = begin + size
    if end > len(data) or 0 < limit < size:
        return None
    payload = unmask(data[begin:end], data[key:begin])
    return (payload.decode() if first == TEXT else payload), end


def unmask(payload: bytes, key: bytes) -> bytes:
    """Return ``payload`` with the four bytes of ``key`` laid over it again and again."""
    size = len(payload)
    # Two long numbers are the quickest way to XOR two byte strings without C of one's own.
    mask = (key * (size // 4 + 1))[:size]
    return (int.from_bytes(payload, "little") ^ int.from_bytes(mask, "little")).to_bytes(size, "little")


def may_be_sent(code: int) -> bool:
    """Whether a close frame may carry this code (RFC 6455, 7.4): 1005, 1006 and 1015 never leave a machine."""
    return code in _CLOSE_CODES
