"""permessage-deflate (RFC 7692): what is agreed on, and the compression itself."""

from __future__ import annotations

import zlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from realtime.server.messages import BINARY, INVALID_DATA, TEXT, TOO_BIG, Violation, header

NAME = "permessage-deflate"

_TAIL = b"\x00\x00\xff\xff"
"""What every flushed block ends with; it is left out on the wire (RFC 7692, 7.2.1)."""
_MAX_STREAMS = 8
"""Most streams in one message: each costs a copy of the rest, and nobody sends more than one."""
_EMPTY = b"\x00"
"""The empty message, compressed (RFC 7692, 7.2.3.6)."""


@dataclass(frozen=True, slots=True)
class Policy:
    """What this server agrees to. Windows are given in bits: 12 is 4 KiB."""

    window_bits: int = 12
    mem_level: int = 5
    context_takeover: bool = False
    """Whether messages may refer to earlier ones: smaller, but each socket keeps its windows, and no frame can be shared."""
    min_bytes: int = 256
    """Shorter messages are sent as they are."""


@dataclass(frozen=True, slots=True)
class Agreement:
    """What one handshake agreed on."""

    response: str
    """The value of ``Sec-WebSocket-Extensions`` in the answer."""
    outbound_bits: int
    mem_level: int
    min_bytes: int
    keeps_outbound: bool
    inbound_bits: int
    keeps_inbound: bool


def negotiate(offers: Iterable[str], policy: Policy) -> Agreement | None:
    """Return the agreement on the first offer that can be met, ``None`` where there is none."""
    for parameters in _offers(offers):
        if parameters is not None and (agreement := _meet(parameters, policy)) is not None:
            return agreement
    return None


def _offers(values: Iterable[str]) -> Iterator[dict[str, str | None] | None]:
    """Yield the parameters of each offer of this extension; ``None`` for one that repeats a parameter."""
    for offer in ",".join(values).split(","):
        name, *rest = (part.strip() for part in offer.split(";"))
        if name.lower() != NAME:
            continue
        parameters: dict[str, str | None] = {}
        for part in rest:
            key, equals, value = part.partition("=")
            parameters[key.strip().lower()] = value.strip().strip('"') if equals else None
        yield parameters if len(parameters) == len(rest) else None


def _meet(parameters: dict[str, str | None], policy: Policy) -> Agreement | None:
    known = {
        "server_no_context_takeover",
        "client_no_context_takeover",
        "server_max_window_bits",
        "client_max_window_bits",
    }
    if not parameters.keys() <= known:
        return None
    for flag in ("server_no_context_takeover", "client_no_context_takeover"):
        if parameters.get(flag) is not None:
            return None
    server_bits = _bits(parameters, "server_max_window_bits", absent=15)
    client_bits = _bits(parameters, "client_max_window_bits", absent=15, bare=15)
    # zlib cannot make a raw stream with a window of 8 bits.
    if server_bits is None or client_bits is None or server_bits < 9:
        return None
    keeps_outbound = policy.context_takeover and "server_no_context_takeover" not in parameters
    keeps_inbound = policy.context_takeover and "client_no_context_takeover" not in parameters
    response = [NAME]
    if not keeps_outbound:
        response.append("server_no_context_takeover")
    if not keeps_inbound:
        response.append("client_no_context_takeover")
    outbound_bits = min(server_bits, policy.window_bits)
    if "server_max_window_bits" in parameters:
        response.append(f"server_max_window_bits={outbound_bits}")
    inbound_bits = 15
    if "client_max_window_bits" in parameters and client_bits > 8:
        # Only a client that says it can may be told to use a smaller window (RFC 7692, 7.1.2.2).
        inbound_bits = min(client_bits, policy.window_bits)
        response.append(f"client_max_window_bits={inbound_bits}")
    return Agreement(
        response="; ".join(response),
        outbound_bits=outbound_bits,
        mem_level=policy.mem_level,
        min_bytes=policy.min_bytes,
        keeps_outbound=keeps_outbound,
        inbound_bits=inbound_bits,
        keeps_inbound=keeps_inbound,
    )


def _bits(
    parameters: dict[str, str | None], name: str, *, absent: int, bare: int | None = None
) -> int | None:
    if name not in parameters:
        return absent
    value = parameters[name]
    if value is None:
        return bare
    return int(value) if value in {"8", "9", "10", "11", "12", "13", "14", "15"} else None


def compress_alone(payload: bytes, window_bits: int, mem_level: int) -> bytes:
    """Return ``payload`` compressed without reference to any other message."""
    if not payload:
        return _EMPTY
    compressor = zlib.compressobj(zlib.Z_DEFAULT_COMPRESSION, zlib.DEFLATED, -window_bits, mem_level)
    return (compressor.compress(payload) + compressor.flush(zlib.Z_SYNC_FLUSH))[:-4]


class Deflater:
    """
    The compression of one socket.

    Keeps nothing between messages unless the agreement says so: an idle socket then costs nothing.

    """

    __slots__ = ("_compressor", "_decompressor", "agreement", "min_bytes", "share_key")

    def __init__(self, agreement: Agreement) -> None:
        self.agreement = agreement
        self.min_bytes = agreement.min_bytes
        self.share_key = (
            None if agreement.keeps_outbound else ("deflate", agreement.outbound_bits, agreement.mem_level)
        )
        """Sockets with the same key, if not ``None``, can be sent the same compressed frame."""
        self._compressor: zlib._Compress | None = None
        self._decompressor: zlib._Decompress | None = None

    def wire_alone(self, payload: str | bytes) -> bytes:
        """Return the whole frame of a message, for every socket with the same ``share_key``."""
        opcode, data = (TEXT, payload.encode()) if isinstance(payload, str) else (BINARY, payload)
        packed = self.compress(data)
        return (
            header(opcode, len(data)) + data
            if packed is None
            else header(opcode, len(packed), rsv1=True) + packed
        )

    def compress(self, payload: bytes) -> bytes | None:
        """
        Return ``payload`` compressed; ``None`` if that would not make it smaller.

        What this returns must be sent, or later messages may not be readable.

        """
        agreement = self.agreement
        if not payload or not agreement.keeps_outbound:
            packed = compress_alone(payload, agreement.outbound_bits, agreement.mem_level)
            return packed if len(packed) < len(payload) else None
        if self._compressor is None:
            self._compressor = zlib.compressobj(
                zlib.Z_DEFAULT_COMPRESSION, zlib.DEFLATED, -agreement.outbound_bits, agreement.mem_level
            )
        return (self._compressor.compress(payload) + self._compressor.flush(zlib.Z_SYNC_FLUSH))[:-4]

    def inflate(self, payload: bytes, max_bytes: int) -> bytes:
        """
        Undo the client's compression.

        Raise :class:`Violation` where more than ``max_bytes`` would come out (0: no bound); no more is made.

        """
        bits = self.agreement.inbound_bits
        decompressor = self._decompressor or zlib.decompressobj(-bits)
        room = max_bytes + 1
        try:
            inflated = decompressor.decompress(payload + _TAIL, room if max_bytes else 0)
            # A client may end its stream in the middle of a message and begin another (RFC 7692, 7.2.3.5).
            for _ in range(_MAX_STREAMS):
                if (
                    not decompressor.eof
                    or not decompressor.unused_data
                    or (max_bytes and len(inflated) >= room)
                ):
                    break
                rest, decompressor = (
                    decompressor.unused_data,
                    zlib.decompressobj(-bits, inflated[-(1 << bits) :]),
                )
                inflated += decompressor.decompress(rest, room - len(inflated) if max_bytes else 0)
            else:
                raise Violation(INVALID_DATA, "a message of too many compressed streams")
        except zlib.error:
            raise Violation(INVALID_DATA, "data that cannot be decompressed") from None
        if max_bytes and len(inflated) > max_bytes:
            raise Violation(TOO_BIG, f"a message of more than {max_bytes} bytes")
        self._decompressor = decompressor if self.agreement.keeps_inbound else None
        return inflated
