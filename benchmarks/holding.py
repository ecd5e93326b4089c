"""
The load of being there: sockets that are open and silent, for the memory they take.

The server's memory is read with a first lot open and again with all of them, so that what a server takes once, however
many there are, does not count. Run as a program, it prints one JSON object.

"""

from __future__ import annotations

import argparse
import contextlib
import socket
import sys
import time
from collections.abc import Sequence
from typing import Any
from urllib.parse import urlsplit

from benchmarks import marks, opening

SETTLING = 0.5
"""Seconds in which a server may finish what it does after a handshake."""

TEXT = opening.text(1024)
"""What a socket sends once, and gets back, where messages are compressed."""


class Refused(Exception):
    """The server did not do what the measurement needs."""


def opened(address: tuple[str, int], path: str, compressed: bool) -> socket.socket:
    """Open one WebSocket; if ``compressed``, exchange one compressed message. Raise Refused if that is not agreed to."""
    held = socket.create_connection(address, timeout=30)
    try:
        _open(held, address, path, compressed)
    except BaseException:
        held.close()
        raise
    return held


def _open(held: socket.socket, address: tuple[str, int], path: str, compressed: bool) -> None:
    held.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    held.sendall(opening.request(address[1], path, opening.DEFLATE_OFFER if compressed else ""))
    answer = b""
    while opening.END_OF_HEAD not in answer:
        answer += received(held)
    head, _, answer = answer.partition(opening.END_OF_HEAD)
    if not opening.is_accepted(head):
        raise Refused(f"refused: {head[:200]!r}")
    if compressed:
        if b"permessage-deflate" not in head:
            raise Refused(f"compression was not agreed to: {head[:300]!r}")
        held.sendall(opening.masked(opening.COMPRESSED_TEXT, opening.deflated(TEXT)))
        first, payload = _frame(held, answer)
        if first != opening.COMPRESSED_TEXT:
            raise Refused(f"the answer is not compressed: {payload[:60]!r}")
        if opening.inflated(payload) != TEXT:
            raise Refused(f"the answer is not what was sent: {payload[:60]!r}")


def _frame(held: socket.socket, data: bytes) -> tuple[int, bytes]:
    """Return the first byte and the payload of the frame that comes; ``data`` of it has come already."""
    while len(data) < 4:
        data += received(held)
    start, length = (4, int.from_bytes(data[2:4], "big")) if data[1] == 126 else (2, data[1])
    while len(data) < start + length:
        data += received(held)
    return data[0], data[start : start + length]


def received(held: socket.socket) -> bytes:
    """Return what comes. Raise Refused if it is the end."""
    data = held.recv(65536)
    if not data:
        raise Refused("the connection ended")
    return data


def run(options: argparse.Namespace) -> dict[str, Any]:
    """Open the first lot, and the rest; hold still for the server's memory to be read after each."""
    address = urlsplit(options.url)
    assert address.hostname is not None
    assert address.port is not None
    where = (address.hostname, address.port)
    with contextlib.ExitStack() as held:
        sockets: list[socket.socket] = []
        for count, mark in ((options.first, marks.BEGIN), (options.connections, marks.END)):
            more = [opened(where, address.path, options.compressed) for _ in range(count)]
            sockets += [held.enter_context(one) for one in more]
            time.sleep(SETTLING)
            marks.tell_and_wait(mark)
        ended = sum(map(_has_ended, sockets))
    return {
        "answers": options.connections,
        "problems": [f"{ended} sockets were closed while they were held"] if ended else [],
    }


def _has_ended(held: socket.socket) -> bool:
    """Tell whether the server has closed the connection, or said that it does."""
    held.setblocking(False)
    try:
        while data := held.recv(65536):
            if data[0] == opening.CLOSE[0]:
                return True
    except BlockingIOError:
        return False
    except ConnectionResetError:
        return True
    return True


def parsed(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    """Return the options of the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("url")
    parser.add_argument("--first", type=int, default=200, help="sockets open before the memory is first read")
    parser.add_argument("--connections", type=int, default=2000, help="sockets opened after that (2000)")
    parser.add_argument("--compressed", action="store_true", help="each exchanges one compressed message")
    return parser.parse_args(arguments)


def main() -> int:
    """Hold the sockets; 1 if one was refused or did not stay open."""
    options = parsed()
    try:
        result = run(options)
    except Refused as refused:
        result = {"answers": 0, "problems": [str(refused)]}
    return marks.report(result)


if __name__ == "__main__":
    sys.exit(main())
