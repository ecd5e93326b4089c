"""
The load: sockets that send to a server and check what comes back.

Closed loads (``echo``, ``tcp``, ``broadcast``) send again when the answer has come: they find the most that a server does.
``paced`` sends at a fixed rate, whatever comes back, and counts the time of an answer from when its message was due.

Run as a program, it prints one JSON object. What is lost, wrong, twice or out of order is a problem: exit code 1.

"""

from __future__ import annotations

import argparse
import asyncio
import gc
import sys
import time
from collections import deque
from collections.abc import Callable, Coroutine, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import urlsplit

import uvloop
from picows import WSFrame, WSListener, WSMsgType, WSTransport, ws_connect

from benchmarks import figures, marks, opening

CONNECTING_AT_ONCE = 50

ANSWER_TIMEOUT = 15.0
"""Seconds after the measurement in which what is still on its way must come."""

KEPT_UP = 0.98
"""Share of the asked rate that must have been answered within the measurement."""

INFLATED_KEPT = 64


@dataclass(slots=True)
class Meter:
    """What was counted while the measurement was open."""

    open: bool = False
    stopped: bool = False
    """Whether nothing more is to be sent."""
    took: list[int] = field(default_factory=list)
    """Nanoseconds of each answer."""
    late: list[int] = field(default_factory=list)
    """Nanoseconds by which each message of a paced load was sent late."""
    problems: list[str] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class Pace:
    """When each message of a load at a fixed rate is due."""

    began: int
    """Nanoseconds on the clock."""
    rate: float
    """Messages a second."""

    def due(self, now: int) -> int:
        """Return how many messages should have been sent by ``now``."""
        return 0 if now < self.began else int((now - self.began) * self.rate / 1e9) + 1

    def at(self, number: int) -> int:
        """Return when message ``number`` is due; the first is 0."""
        return self.began + int(number * 1e9 / self.rate)


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
        if frame.msg_type == WSMsgType.CLOSE and not self.leaving:
            self.meter.problems.append(f"closed with {frame.get_close_code()}")
            transport.disconnect()

    def on_ws_disconnected(self, transport: WSTransport) -> None:
        if not self.leaving:
            self.meter.problems.append("lost")

    @property
    def waits(self) -> bool:
        """Whether an answer is on its way."""
        return False

    def leave(self) -> None:
        """Go away without ceremony."""
        self.leaving = True
        if self.transport is not None:
            self.transport.disconnect(False)


class EchoSocket(Socket):
    """Has one message on its way at any time: two in turn, so that an answer that comes twice is seen."""

    def __init__(self, meter: Meter, size: int, prefix: bytes) -> None:
        super().__init__(meter)
        self.sent, self.other = b"x" * size, b"y" * size
        self.due, self.next_due = prefix + self.sent, prefix + self.other
        self.sent_at = 0
        self.waiting = False

    def start(self) -> None:
        """Send the first message."""
        assert self.transport is not None
        self.waiting = True
        self.sent_at = time.monotonic_ns()
        self.transport.send(WSMsgType.TEXT, self.sent)

    @property
    def waits(self) -> bool:
        return self.waiting

    def on_ws_frame(self, transport: WSTransport, frame: WSFrame) -> None:
        now = time.monotonic_ns()
        meter = self.meter
        if frame.get_payload_as_bytes() != self.due or not self.waiting:
            _unexpected(self, super().on_ws_frame, transport, frame)
            return
        if meter.open:
            meter.took.append(now - self.sent_at)
        if meter.stopped:
            self.waiting = False
            return
        self.sent, self.other = self.other, self.sent
        self.due, self.next_due = self.next_due, self.due
        self.sent_at = now
        transport.send(WSMsgType.TEXT, self.sent)


class PacedSocket(Socket):
    """Sends when told to; its answers must come in the order of its messages."""

    def __init__(self, meter: Meter, size: int, prefix: bytes) -> None:
        super().__init__(meter)
        self.filler = b"x" * (size - 10)
        self.prefix = prefix
        self.due: deque[tuple[int, bytes]] = deque()

    def send(self, number: int, due_at: int) -> None:
        """Send message ``number``, which was due at ``due_at``."""
        assert self.transport is not None
        payload = b"%010d" % number + self.filler
        self.due.append((due_at, self.prefix + payload))
        self.transport.send(WSMsgType.TEXT, payload)

    @property
    def waits(self) -> bool:
        return bool(self.due)

    def on_ws_frame(self, transport: WSTransport, frame: WSFrame) -> None:
        now = time.monotonic_ns()
        if not self.due or frame.get_payload_as_bytes() != self.due[0][1]:
            _unexpected(self, super().on_ws_frame, transport, frame)
            return
        due_at, _ = self.due.popleft()
        if self.meter.open:
            self.meter.took.append(now - due_at)


class Pacer:
    """
    Has messages sent when they are due, by the sockets in turn.

    It looks at the clock every ``tick`` seconds, and messages leave in bunches of what is due by then. Without a
    tick it looks in every turn of the loop and never sleeps, and messages leave one by one.

    """

    def __init__(self, meter: Meter, sockets: Sequence[PacedSocket], rate: float, tick: float) -> None:
        self.meter = meter
        self.sockets = sockets
        self.tick = tick
        self.pace = Pace(time.monotonic_ns(), rate)
        self.loop = asyncio.get_running_loop()
        self.next = 0

    def beat(self) -> None:
        """Send what is due, and come again in the next turn."""
        if self.meter.stopped:
            return
        now = time.monotonic_ns()
        due = self.pace.due(now)
        while self.next < due:
            due_at = self.pace.at(self.next)
            if self.meter.open:
                self.meter.late.append(now - due_at)
            self.sockets[self.next % len(self.sockets)].send(self.next, due_at)
            self.next += 1
        if self.tick:
            self.loop.call_later(self.tick, self.beat)
        else:
            self.loop.call_soon(self.beat)


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
        self.known: dict[bytes, int] = {}

    def start(self) -> None:
        """Begin one round."""
        assert self.speaker is not None
        assert self.speaker.transport is not None
        number, self.next = self.next, self.next + 1
        self.began[number] = time.monotonic_ns()
        self.missing[number] = self.members
        self.speaker.transport.send(WSMsgType.TEXT, b"@%010d@" % number + self.payload)

    def number(self, payload: bytes, compressed: bool) -> int | None:
        """Return which round a message belongs to; None if to none. All members get the same bytes, which are read once."""
        number = self.known.get(payload)
        if number is None:
            text = opening.inflated(payload) if compressed else payload
            mark = text.find(b"@")
            if mark < 0 or not text.count(self.payload):
                return None
            number = int(text[mark + 1 : mark + 11])
            if len(self.known) >= INFLATED_KEPT:
                self.known.clear()
            self.known[payload] = number
        return number

    def took(self, number: int) -> None:
        """Count one member that has message ``number``."""
        if self.meter.open:
            self.meter.took.append(time.monotonic_ns() - self.began[number])
        self.missing[number] -= 1
        if not self.missing[number]:
            del self.missing[number], self.began[number]
            if not self.meter.stopped:
                self.start()


class Member(Socket):
    """One socket of the room. Each message must come once and in order, and compressed if that was agreed."""

    def __init__(self, meter: Meter, rounds: Rounds, compressed: bool) -> None:
        super().__init__(meter)
        self.rounds = rounds
        self.compressed = compressed
        self.expected = 0

    @property
    def waits(self) -> bool:
        return self.expected < self.rounds.next

    def on_ws_frame(self, transport: WSTransport, frame: WSFrame) -> None:
        if frame.msg_type != WSMsgType.TEXT:
            super().on_ws_frame(transport, frame)
            return
        compressed = bool(frame.rsv1)
        number = self.rounds.number(frame.get_payload_as_bytes(), compressed)
        if number is None:
            return
        if number != self.expected:
            self.meter.problems.append(f"message {number} came where {self.expected} was due")
        if compressed is not self.compressed:
            self.meter.problems.append(f"a message came {'' if compressed else 'not '}compressed")
        self.expected = number + 1
        self.rounds.took(number)


class TcpSocket(asyncio.Protocol):
    """Has one message on its way at any time, without frames."""

    def __init__(self, meter: Meter, size: int) -> None:
        self.meter = meter
        self.payload = b"x" * size
        self.got = b""
        self.sent_at = 0
        self.waits = False
        self.leaving = False

    def connection_made(self, transport: Any) -> None:
        self.transport = transport

    def connection_lost(self, exc: Exception | None) -> None:
        if not self.leaving:
            self.meter.problems.append("lost")

    def start(self) -> None:
        """Send the first message."""
        self.waits = True
        self.sent_at = time.monotonic_ns()
        self.transport.write(self.payload)

    def data_received(self, data: bytes) -> None:
        now = time.monotonic_ns()
        if data != self.payload:
            self.got += data
            if len(self.got) < len(self.payload):
                return
            if self.got != self.payload:
                self.meter.problems.append("an answer is not what was sent")
            self.got = b""
        if self.meter.open:
            self.meter.took.append(now - self.sent_at)
        if self.meter.stopped:
            self.waits = False
            return
        self.sent_at = now
        self.transport.write(self.payload)

    def leave(self) -> None:
        """Go away without ceremony."""
        self.leaving = True
        self.transport.abort()


def _unexpected(
    socket: Socket, handle: Callable[[WSTransport, WSFrame], None], transport: WSTransport, frame: WSFrame
) -> None:
    """Handle a frame that is not the answer that was due."""
    if frame.msg_type in (WSMsgType.TEXT, WSMsgType.BINARY):
        socket.meter.problems.append(f"not the answer that was due: {frame.get_payload_as_bytes()[:60]!r}")
    else:
        handle(transport, frame)


async def connected(
    url: str, make: Callable[[], Socket], count: int, headers: Sequence[tuple[str, str]] = ()
) -> list[Any]:
    """Open ``count`` sockets."""
    turn = asyncio.Semaphore(CONNECTING_AT_ONCE)

    async def one() -> Any:
        async with turn:
            _, listener = await ws_connect(
                make,
                url,
                websocket_handshake_timeout=30,
                read_buffer_init_size=2048,
                use_aiofastnet=False,
                extra_headers=headers,
            )
            return listener

    return await asyncio.gather(*(one() for _ in range(count)))


async def echo(options: argparse.Namespace, meter: Meter) -> dict[str, Any]:
    """Every socket has one message on its way."""
    prefix = options.prefix.encode()
    sockets = await connected(
        options.url, lambda: EchoSocket(meter, options.size, prefix), options.connections
    )
    for socket in sockets:
        socket.start()
    return await measured(options, meter, sockets)


async def tcp(options: argparse.Namespace, meter: Meter) -> dict[str, Any]:
    """The same without WebSockets."""
    loop, address = asyncio.get_running_loop(), urlsplit(options.url)
    sockets = [
        (
            await loop.create_connection(
                lambda: TcpSocket(meter, options.size), address.hostname, address.port
            )
        )[1]
        for _ in range(options.connections)
    ]
    for socket in sockets:
        socket.start()
    return await measured(options, meter, sockets)


async def paced(options: argparse.Namespace, meter: Meter) -> dict[str, Any]:
    """Messages leave at a fixed rate, from the sockets in turn; ``idle`` more sockets are open and silent."""
    prefix = options.prefix.encode()
    idle = await connected(options.url, lambda: Socket(meter), options.idle)
    sockets = await connected(
        options.url, lambda: PacedSocket(meter, options.size, prefix), options.connections
    )
    Pacer(meter, sockets, options.rate, options.tick).beat()
    result = await measured(options, meter, [*sockets, *idle])
    if result["per_second"] < options.rate * KEPT_UP:
        meter.problems.append(
            f"only {result['per_second']:,.0f} of {options.rate:,.0f} a second were answered"
        )
    return result | {"late_p99_ms": figures.quantile_ms(meter.late, 0.99), "tick_ms": options.tick * 1000}


async def broadcast(options: argparse.Namespace, meter: Meter) -> dict[str, Any]:
    """The first socket speaks, all listen."""
    # Without quotes: a server that puts it into JSON must not have to escape it, or it could not be counted.
    payload = opening.text(options.size - 12).replace(b'"', b"'")
    rounds = Rounds(meter, options.connections, payload)
    offer = "permessage-deflate; server_no_context_takeover; client_no_context_takeover"
    headers = [("Sec-WebSocket-Extensions", offer)] if options.compressed else []
    sockets = await connected(
        options.url, lambda: Member(meter, rounds, options.compressed), options.connections, headers
    )
    rounds.speaker = sockets[0]
    # Some servers accept a socket before they have put it into the room.
    await asyncio.sleep(0.3)
    for _ in range(options.rounds):
        rounds.start()
    return await measured(options, meter, sockets)


LOADS: dict[str, Callable[[argparse.Namespace, Meter], Coroutine[Any, Any, dict[str, Any]]]] = {
    "echo": echo,
    "tcp": tcp,
    "paced": paced,
    "broadcast": broadcast,
}


async def measured(options: argparse.Namespace, meter: Meter, sockets: Iterable[Any]) -> dict[str, Any]:
    """Let it run, count, and see that everything that was sent is answered; return what was counted."""
    # A collection in the middle would be a pause of the load, which would be taken for one of the server.
    gc.collect()
    gc.disable()
    await asyncio.sleep(options.warmup)
    marks.tell(marks.BEGIN)
    used, began = time.process_time(), time.monotonic()
    meter.open = True
    await asyncio.sleep(options.seconds)
    meter.open = False
    seconds, used = time.monotonic() - began, time.process_time() - used
    marks.tell(marks.END)
    meter.stopped = True
    deadline = time.monotonic() + ANSWER_TIMEOUT
    while (waiting := sum(socket.waits for socket in sockets)) and time.monotonic() < deadline:
        await asyncio.sleep(0.01)
    if waiting:
        meter.problems.append(f"{waiting} sockets still wait {ANSWER_TIMEOUT:g} s after the last message")
    if not meter.took:
        meter.problems.append("nothing was answered")
    for socket in sockets:
        socket.leave()
    return {
        "per_second": round(len(meter.took) / seconds, 1),
        "answers": len(meter.took),
        "seconds": round(seconds, 3),
        **figures.latencies(meter.took),
        "load_share": round(used / seconds, 3),
    }


def parsed(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    """Return the options of the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("load", choices=LOADS)
    parser.add_argument("url")
    parser.add_argument("--connections", type=int, default=50)
    parser.add_argument("--size", type=int, default=64, help="bytes of a message (64)")
    parser.add_argument("--prefix", default="", help="what the server puts in front of an answer")
    parser.add_argument("--seconds", type=float, default=5.0)
    parser.add_argument("--warmup", type=float, default=1.0)
    parser.add_argument("--rate", type=float, default=20_000.0, help="paced: messages a second (20,000)")
    parser.add_argument(
        "--tick", type=float, default=0.0, help="paced: seconds between looks at the clock (0)"
    )
    parser.add_argument("--idle", type=int, default=0, help="paced: sockets that are open beside (0)")
    parser.add_argument("--rounds", type=int, default=4, help="broadcast: messages on their way at once (4)")
    parser.add_argument(
        "--compressed", action="store_true", help="broadcast: agree to deflate, and demand it"
    )
    return parser.parse_args(arguments)


def main() -> int:
    """Run one load and print what was counted; 1 if anything was lost, wrong or late."""
    options = parsed()
    meter = Meter()
    result = uvloop.run(LOADS[options.load](options, meter))
    return marks.report({**result, "problems": list(dict.fromkeys(meter.problems))[:5]})


if __name__ == "__main__":
    sys.exit(main())
