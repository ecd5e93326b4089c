"""
The load of opening: each lane opens a WebSocket, closes it, and opens the next.

Nothing but sockets and a poll, because the cost of a client that does more would be most of what is measured.
Run as a program, it prints one JSON object.

"""

from __future__ import annotations

import argparse
import contextlib
import gc
import select
import socket
import struct
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import urlsplit

from benchmarks import figures, marks, opening

STALL_TIMEOUT = 5.0
"""Seconds a socket may take from one step to the next."""

POLL_INTERVAL = 0.05


@dataclass(slots=True)
class Meter:
    """What was counted while the measurement was open."""

    open: bool = False
    took: list[int] = field(default_factory=list)
    """Nanoseconds from connecting to the answer."""
    problems: list[str] = field(default_factory=list)


class Lane:
    """One socket after the other."""

    def __init__(self, poll: select.epoll, address: tuple[str, int], request: bytes, meter: Meter) -> None:
        self.poll = poll
        self.address = address
        self.request = request
        self.meter = meter
        self.stopped = False
        self.open()

    def open(self) -> None:
        """Begin the next socket."""
        self.head = b""
        self.opened = False
        self.began = time.monotonic_ns()
        self.socket = socket.socket()
        self.socket.setblocking(False)
        # Closing it resets the connection: ports that linger would run out within seconds.
        self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.socket.connect_ex(self.address)
        try:
            self.socket.send(self.request)
        except BlockingIOError:
            self.poll.register(self.socket, select.EPOLLOUT)
        else:
            self.poll.register(self.socket, select.EPOLLIN)

    def on_event(self, event: int) -> None:
        """Take the step that the poll says is possible."""
        if event & select.EPOLLOUT and not self.opened and not self.head:
            self.socket.send(self.request)
            self.poll.modify(self.socket, select.EPOLLIN)
            return
        try:
            data = self.socket.recv(4096)
        except ConnectionResetError:
            data = b""
        if self.opened or not data:
            if not self.opened:
                self.meter.problems.append(f"the connection ended after {self.head!r}")
                self.stopped = True
            self.next()
            return
        self.head += data
        if opening.END_OF_HEAD in self.head:
            self.answered()

    def answered(self) -> None:
        """Count the handshake and say goodbye; what the server answers to that ends the socket."""
        if not opening.is_accepted(self.head):
            self.meter.problems.append(f"refused: {self.head[:200]!r}")
            self.stopped = True
            self.next()
            return
        now = time.monotonic_ns()
        self.opened = True
        if self.meter.open:
            self.meter.took.append(now - self.began)
        with contextlib.suppress(ConnectionError):
            self.socket.send(opening.CLOSE)

    def next(self) -> None:
        """Close this socket and open the next, unless it was the last."""
        self.socket.close()
        if not self.stopped:
            self.open()


def run(options: argparse.Namespace, meter: Meter) -> dict[str, Any]:
    """Open and close for the warm-up and the measurement; return what was counted."""
    address = urlsplit(options.url)
    assert address.hostname is not None
    assert address.port is not None
    request = opening.request(address.port, address.path)
    gc.disable()
    with select.epoll() as poll:
        lanes = [
            Lane(poll, (address.hostname, address.port), request, meter) for _ in range(options.connections)
        ]
        _poll_until(poll, lanes, time.monotonic() + options.warmup)
        marks.tell(marks.BEGIN)
        meter.open = True
        used, began = time.process_time(), time.monotonic()
        _poll_until(poll, lanes, began + options.seconds)
        seconds, used = time.monotonic() - began, time.process_time() - used
        meter.open = False
        marks.tell(marks.END)
        for lane in lanes:
            lane.socket.close()
        stalled = sum(time.monotonic_ns() - lane.began > STALL_TIMEOUT * 1e9 for lane in lanes)
    if stalled:
        meter.problems.append(f"{stalled} handshakes took longer than {STALL_TIMEOUT:g} s")
    if not meter.took:
        meter.problems.append("nothing was answered")
    return {
        "per_second": round(len(meter.took) / seconds, 1),
        "answers": len(meter.took),
        "seconds": round(seconds, 3),
        **figures.latencies(meter.took),
        "load_share": round(used / seconds, 3),
    }


def _poll_until(poll: select.epoll, lanes: Sequence[Lane], deadline: float) -> None:
    """Let the lanes work until ``deadline``, or until none is left."""
    by_file = {lane.socket.fileno(): lane for lane in lanes if not lane.stopped}
    while by_file and time.monotonic() < deadline:
        for file, event in poll.poll(POLL_INTERVAL):
            lane = by_file.pop(file)
            lane.on_event(event)
            if not lane.stopped:
                by_file[lane.socket.fileno()] = lane


def parsed(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    """Return the options of the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("url")
    parser.add_argument("--connections", type=int, default=50, help="lanes (50)")
    parser.add_argument("--seconds", type=float, default=5.0)
    parser.add_argument("--warmup", type=float, default=1.0)
    return parser.parse_args(arguments)


def main() -> int:
    """Run the load and print what was counted; 1 if a handshake failed."""
    meter = Meter()
    result = run(parsed(), meter)
    return marks.report({**result, "problems": list(dict.fromkeys(meter.problems))[:5]})


if __name__ == "__main__":
    sys.exit(main())
