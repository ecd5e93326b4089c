"""
Where the time of an echo goes: the way of one message through the server, a step more each time.

Without an event loop's turns and without a load: the client's end of each socket is in the same process, which sends a
message, has the server's end read it, and reads the answer. What that takes above its four system calls is ours.

"""

from __future__ import annotations

import argparse
import asyncio
import gc
import os
import socket
import statistics
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import uvloop

from benchmarks import documents, report, results

REQUEST = (
    "GET {path} HTTP/1.1\r\nHost: 127.0.0.1\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
    "Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\n\r\n"
)
TEXT = b"x" * 64
MESSAGE = b"\x81\xc0\x01\x02\x03\x04" + bytes(byte ^ 1 + (place & 3) for place, byte in enumerate(TEXT))
"""The text in a frame, masked as a client has to."""

_HEADER = bytes((0x81, len(TEXT)))

SOCKETS = 50
OPENING = 5.0
"""Seconds that opening all of them may take."""

Socket = tuple[socket.socket, Any]
"""The client's end, and the server's WebSocket."""
Echo = Callable[[str, int], None]
Step = Callable[[Any], Echo]
"""Given the server's WebSocket, return what echoes a message of so many bytes on it."""


def _sends(websocket: Any) -> Echo:
    sock = websocket._stream._sock

    def echo(text: str, size: int) -> None:
        sock.send(_HEADER + text.encode())

    return echo


def _writes(websocket: Any) -> Echo:
    stream = websocket._stream

    def echo(text: str, size: int) -> None:
        stream.write(_HEADER + text.encode())

    return echo


def _frames(websocket: Any) -> Echo:
    from realtime.frames import Frame

    def echo(text: str, size: int) -> None:
        websocket.write(Frame(text))

    return echo


def _counts(websocket: Any) -> Echo:
    handle: Callable[[str], None] = websocket._take.__self__._handle
    return lambda text, size: handle(text)


STEPS: Sequence[tuple[str, str, Step | None]] = (
    ("reading it, parsing its frame, sending the text back", "/turbo/echo", _sends),
    ("writing through the stream, which gathers what one read brings about", "/turbo/echo", _writes),
    ("making an outbound frame, as others could share it", "/turbo/echo", _frames),
    ("the connection: is it open, does it read, what went out", "/turbo/echo", _counts),
    ("the limits, and what came in: all that `TurboEcho` does", "/turbo/echo", None),
    ("a consumer's `receive()` and `send()` in its task, timeout and errors included", "/echo", None),
)
"""What each step adds, on which path, and how messages are echoed there; ``None``: as the server does."""


async def opened(path: str) -> list[Socket]:
    """Open the sockets, with a server in this very loop."""
    from benchmarks.served import ours
    from realtime.server.engine import Engine, Options
    from realtime.server.front import Front

    loop = asyncio.get_running_loop()
    engine = Engine(ours.application, Options(), loop=loop)
    front = Front(loop, http=socket.socket.close, websocket=engine.begin)
    listener = socket.create_server(("127.0.0.1", 0), backlog=SOCKETS)
    front.listen(listener)
    clients = {}
    for _ in range(SOCKETS):
        client = socket.create_connection(listener.getsockname())
        client.setblocking(False)
        clients[client.getsockname()[1]] = client
        await loop.sock_sendall(client, REQUEST.format(path=path).encode())
        if b" 101 " not in await loop.sock_recv(client, 4096):
            raise RuntimeError(f"{path} was refused")
    async with asyncio.timeout(OPENING):
        while sum(one._waiter is not None for one in engine.sockets) < SOCKETS:
            await asyncio.sleep(0.01)
    return [(clients[websocket.scope["client"][1]], websocket) for websocket in engine.sockets]


async def seconds_each(sockets: Sequence[Socket], rounds: int, one: Callable[[Any, Any], None]) -> float:
    """Return the processor seconds of ``one(client, websocket)``, done on each socket in turn, outside of any task."""
    done = asyncio.get_running_loop().create_future()

    def run() -> None:
        began = time.process_time()
        try:
            for _ in range(rounds):
                for client, websocket in sockets:
                    one(client, websocket)
        except (OSError, RuntimeError) as error:
            done.set_exception(error)
        else:
            done.set_result((time.process_time() - began) / (rounds * len(sockets)))

    asyncio.get_running_loop().call_soon(run)
    return float(await done)


def _calls_alone(client: socket.socket, websocket: Any) -> None:
    server = websocket._stream._sock
    client.send(MESSAGE)
    server.recv_into(_room)
    server.send(_HEADER + TEXT)
    client.recv_into(_room)


def _echoed(client: socket.socket, websocket: Any) -> None:
    client.send(MESSAGE)
    websocket.readable(websocket._stream._sock)
    size = client.recv_into(_room)
    if _room[size - len(TEXT) : size] != TEXT:
        raise RuntimeError(f"{bytes(_room[:size])!r} is not the echo.")


_room = memoryview(bytearray(4096))


async def measured(path: str, step: Step | None, turns: int, rounds: int) -> dict[str, float]:
    """Return the microseconds of an echo and of its system calls alone, each the least of the turns."""
    sockets = await opened(path)
    if step is not None:
        for _, websocket in sockets:
            websocket._take = step(websocket)
    gc.collect()
    calls, echoes = [], []
    for _ in range(turns):
        calls.append(await seconds_each(sockets, rounds, _calls_alone))
        echoes.append(await seconds_each(sockets, rounds, _echoed))
    for client, _ in sockets:
        client.close()
    return {"calls_us": min(calls) * 1e6, "echo_us": min(echoes) * 1e6}


def taken(turns: int, rounds: int) -> list[dict[str, Any]]:
    """Measure every step, each in a loop of its own."""
    return [{"step": name, **uvloop.run(measured(path, step, turns, rounds))} for name, path, step in STEPS]


def block(result: Sequence[dict[str, Any]]) -> str:
    """Return the table: what each step takes, and what all up to it take."""
    calls = statistics.median(step["calls_us"] for step in result)
    lines, before = [["the four system calls", f"{calls:.1f} µs", ""]], 0.0
    for step in result:
        ours = step["echo_us"] - step["calls_us"]
        lines.append([step["step"], f"{ours - before:.2f} µs", f"{ours:.2f} µs"])
        before = ours
    return report.table(["step", "takes", "ours so far"], lines)


def write(result: Sequence[dict[str, Any]], path: Path = report.DOCUMENT) -> None:
    """Write the table into the documentation."""
    documents.fill(path, {"steps": block(result)})


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure, keep the result, and print it."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--turns", type=int, default=15, help="of which the quickest counts (default: 15)")
    parser.add_argument(
        "--rounds", type=int, default=100, help="messages on each socket in a turn (default: 100)"
    )
    parser.add_argument("--json", type=Path, help="where to keep the result")
    parser.add_argument("--docs", action="store_true", help="write the table into docs/performance.md")
    options = parser.parse_args(arguments)
    os.environ["BENCH_APPS"] = "ours"
    found = taken(options.turns, options.rounds)
    path = results.write("steps", {"steps": found}, options.json)
    print(f"{block(found)}\n{path}")
    if options.docs:
        write(found)
    return 0


if __name__ == "__main__":
    sys.exit(main())
