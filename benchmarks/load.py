"""The load: sockets that ask as fast as they are answered. Run as a program, it prints one JSON object."""

from __future__ import annotations

import argparse
import asyncio
import json
import resource
import sys
import time
from collections.abc import Callable
from typing import Any

import uvloop
from picows import WSFrame, WSListener, WSMsgType, WSTransport, ws_connect

CONNECTING_AT_ONCE = 50


class Meter:
    """Counts answers while it is open, and how long each took."""

    def __init__(self) -> None:
        self.open = False
        self.answers = 0
        self.nanoseconds: list[int] = []
        self.problems: list[str] = []

    def answered(self, began: int) -> None:
        if self.open:
            self.answers += 1
            self.nanoseconds.append(time.monotonic_ns() - began)

    def quantile_ms(self, share: float) -> float | None:
        """Return the time within which ``share`` of the answers came."""
        if not self.nanoseconds:
            return None
        self.nanoseconds.sort()
        return round(self.nanoseconds[int(share * (len(self.nanoseconds) - 1))] / 1e6, 3)


class Socket(WSListener):
    """One connection; what is done with a message is the subclass's."""

    def __init__(self, meter: Meter) -> None:
        super().__init__()
        self.meter = meter
        self.transport: WSTransport | None = None
        self.leaving = False

    def on_ws_connected(self, transport: WSTransport) -> None:
        self.transport = transport

    def on_ws_frame(self, transport: WSTransport, frame: WSFrame) -> None:
        if frame.msg_type in (WSMsgType.TEXT, WSMsgType.BINARY):
            self.took(frame)
        elif frame.msg_type == WSMsgType.CLOSE and not self.leaving:
            self.meter.problems.append(f"closed with {frame.get_close_code()}")
            transport.disconnect()

    def on_ws_disconnected(self, transport: WSTransport) -> None:
        if not self.leaving:
            self.meter.problems.append("lost")

    def took(self, frame: WSFrame) -> None:
        """Handle one message."""
        raise NotImplementedError

    def leave(self) -> None:
        """Go away without ceremony."""
        self.leaving = True
        if self.transport is not None:
            self.transport.disconnect(False)


class EchoSocket(Socket):
    """Sends its message again whenever it has come back."""

    def __init__(self, meter: Meter, payload: bytes) -> None:
        super().__init__(meter)
        self.payload = payload
        self.sent_at = 0

    def ask(self) -> None:
        """Send once."""
        assert self.transport is not None
        self.sent_at = time.monotonic_ns()
        self.transport.send(WSMsgType.TEXT, self.payload)

    def took(self, frame: WSFrame) -> None:
        if frame.get_payload_as_bytes() != self.payload:
            self.meter.problems.append("an answer is not what was sent")
        self.meter.answered(self.sent_at)
        self.ask()


class Rounds:
    """Messages to a room, a few on their way at once; a round is over when every member has it."""

    def __init__(self, meter: Meter, members: int, payload: bytes) -> None:
        self.meter = meter
        self.members = members
        self.payload = payload
        self.began: dict[int, int] = {}
        self.missing: dict[int, int] = {}
        self.next = 0
        self.speaker: Socket | None = None

    def start(self) -> None:
        """Begin one round."""
        assert self.speaker is not None
        assert self.speaker.transport is not None
        number, self.next = self.next, self.next + 1
        self.began[number] = time.monotonic_ns()
        self.missing[number] = self.members
        self.speaker.transport.send(WSMsgType.TEXT, b"@%010d@" % number + self.payload)

    def took(self, number: int) -> None:
        """Count one member that has message ``number``."""
        self.meter.answered(self.began[number])
        self.missing[number] -= 1
        if not self.missing[number]:
            del self.missing[number], self.began[number]
            self.start()


class Member(Socket):
    """One socket of the room. Each message must come once and in order."""

    def __init__(self, meter: Meter, rounds: Rounds) -> None:
        super().__init__(meter)
        self.rounds = rounds
        self.expected = 0

    def took(self, frame: WSFrame) -> None:
        text = frame.get_payload_as_bytes()
        mark = text.find(b"@")
        if mark < 0:
            return
        number = int(text[mark + 1 : mark + 11])
        if number != self.expected:
            self.meter.problems.append(f"message {number} came where {self.expected} was due")
        self.expected = number + 1
        self.rounds.took(number)


async def connected(url: str, make: Callable[[], Socket], count: int) -> list[Any]:
    """Open ``count`` sockets."""
    turn = asyncio.Semaphore(CONNECTING_AT_ONCE)

    async def one() -> Any:
        async with turn:
            _, listener = await ws_connect(make, url, websocket_handshake_timeout=30, use_aiofastnet=False)
            return listener

    return await asyncio.gather(*(one() for _ in range(count)))


async def echo(options: argparse.Namespace, meter: Meter) -> None:
    """Every socket has one message on its way."""
    payload = b"x" * options.size
    sockets = await connected(options.url, lambda: EchoSocket(meter, payload), options.connections)
    for socket in sockets:
        socket.ask()
    await _measure(options, meter)
    for socket in sockets:
        socket.leave()


async def broadcast(options: argparse.Namespace, meter: Meter) -> None:
    """The first socket speaks, all listen."""
    rounds = Rounds(meter, options.connections, b"x" * (options.size - 12))
    sockets = await connected(options.url, lambda: Member(meter, rounds), options.connections)
    rounds.speaker = sockets[0]
    for _ in range(options.rounds):
        rounds.start()
    await _measure(options, meter)
    for socket in sockets:
        socket.leave()


async def _measure(options: argparse.Namespace, meter: Meter) -> None:
    await asyncio.sleep(options.warmup)
    # Whoever started this reads the server's processor time when these lines come.
    sys.stdout.write("begin\n")
    sys.stdout.flush()
    meter.open = True
    began = time.monotonic()
    await asyncio.sleep(options.seconds)
    if not meter.answers:
        meter.problems.append("nothing was answered")
    options.measured = time.monotonic() - began
    meter.open = False
    sys.stdout.write("end\n")
    sys.stdout.flush()


def main() -> int:
    """Run one load and print what was counted; 1 if anything was lost, wrong or late."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("load", choices=("echo", "broadcast"))
    parser.add_argument("url")
    parser.add_argument("--connections", type=int, default=50)
    parser.add_argument("--size", type=int, default=64, help="bytes of a message")
    parser.add_argument("--seconds", type=float, default=5.0)
    parser.add_argument("--warmup", type=float, default=1.0)
    parser.add_argument("--rounds", type=int, default=4, help="broadcast: messages on their way at once")
    options = parser.parse_args()
    meter = Meter()
    run = echo if options.load == "echo" else broadcast
    uvloop.run(run(options, meter))
    used = resource.getrusage(resource.RUSAGE_SELF)
    result = {
        "per_second": round(meter.answers / options.measured, 1),
        "answers": meter.answers,
        "seconds": round(options.measured, 3),
        "p50_ms": meter.quantile_ms(0.5),
        "p99_ms": meter.quantile_ms(0.99),
        "load_cpu_seconds": round(used.ru_utime + used.ru_stime, 3),
        "problems": meter.problems[:5],
    }
    sys.stdout.write(json.dumps(result) + "\n")
    return 1 if meter.problems else 0


if __name__ == "__main__":
    sys.exit(main())
