"""The bytes that open and close a WebSocket, for loads that do nothing else."""

from __future__ import annotations

import base64
import hashlib
import itertools
import zlib

KEY = base64.b64encode(b"channels-ops key")
ACCEPT = base64.b64encode(hashlib.sha1(KEY + b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11").digest())

END_OF_HEAD = b"\r\n\r\n"

DEFLATE_OFFER = "permessage-deflate; client_max_window_bits"


def request(port: int, path: str, extensions: str = "") -> bytes:
    """Return the request that asks for a WebSocket at ``path``, as a page of the same origin would."""
    lines = [
        f"GET {path} HTTP/1.1",
        f"Host: 127.0.0.1:{port}",
        f"Origin: http://127.0.0.1:{port}",
        "Connection: Upgrade",
        "Upgrade: websocket",
        "Sec-WebSocket-Version: 13",
        f"Sec-WebSocket-Key: {KEY.decode()}",
    ]
    if extensions:
        lines.append(f"Sec-WebSocket-Extensions: {extensions}")
    return "\r\n".join([*lines, "", ""]).encode()


def is_accepted(head: bytes) -> bool:
    """Tell whether ``head`` is the answer that opens the WebSocket."""
    return head.startswith(b"HTTP/1.1 101 ") and ACCEPT in head


def masked(first: int, payload: bytes) -> bytes:
    """Return a frame that begins with the byte ``first``, masked with zeros, which leave the payload as it is."""
    length = len(payload)
    if length < 126:
        return bytes((first, 0x80 | length)) + bytes(4) + payload
    return bytes((first, 0x80 | 126)) + length.to_bytes(2, "big") + bytes(4) + payload


CLOSE = masked(0x88, (1000).to_bytes(2, "big"))

COMPRESSED_TEXT = 0xC1
"""First byte of a text message in one frame that is compressed."""


def deflated(text: bytes) -> bytes:
    """Return ``text`` as permessage-deflate sends it, with the smallest window, which every server can read."""
    compressor = zlib.compressobj(wbits=-9)
    return (compressor.compress(text) + compressor.flush(zlib.Z_SYNC_FLUSH)).removesuffix(b"\0\0\xff\xff")


def inflated(payload: bytes) -> bytes:
    """Return the text of a compressed message that refers to no earlier one."""
    return zlib.decompressobj(wbits=-15).decompress(payload + b"\0\0\xff\xff")


def text(size: int) -> bytes:
    """Return ``size`` bytes of JSON as a chat would send it, which compress as such things do."""
    lines = (
        b'{"type": "chat.line", "data": {"user": %d, "text": "line %d"}} ' % (n, n * n)
        for n in itertools.count()
    )
    said = b""
    while len(said) < size:
        said += next(lines)
    return said[:size]
