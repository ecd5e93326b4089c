"""One plain ASGI application whose paths are the situations a server has to get right."""

from __future__ import annotations

import asyncio
import gc
import json
import os
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs

import django

os.environ.setdefault("DJANGO_SETTINGS_MODULE", "tests.acceptance.apps.settings")
django.setup()

from realtime.frames import Frame  # noqa: E402 - the apps have to be there first
from realtime.server import install  # noqa: E402

install()

Message = dict[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]

GATE = asyncio.Event()
"""Opened by ``GET /open``: what waits at it goes on."""


def note(line: str) -> None:
    """Write a line to the file that the test looks at."""
    with Path(os.environ["NOTES"]).open("a") as file:
        file.write(f"{line}\n")


async def application(scope: dict[str, Any], receive: Receive, send: Send) -> None:
    name = scope["path"].strip("/").replace("-", "_") or "home"
    situation = globals()[f"{scope['type']}_{name}"]
    await situation(scope, receive, send)


async def accepted(receive: Receive, send: Send, **how: Any) -> None:
    assert (await receive())["type"] == "websocket.connect"
    await send({"type": "websocket.accept", **how})


async def until_disconnected(receive: Receive) -> Message:
    while True:
        message = await receive()
        if message["type"] == "websocket.disconnect":
            return message


# WebSockets.


async def websocket_echo(scope: dict[str, Any], receive: Receive, send: Send) -> None:
    await accepted(receive, send)
    while (message := await receive())["type"] == "websocket.receive":
        kind = "text" if message.get("text") is not None else "bytes"
        await send({"type": "websocket.send", kind: message[kind]})


async def websocket_note(scope: dict[str, Any], receive: Receive, send: Send) -> None:
    """Write down how it ended."""
    await accepted(receive, send)
    message = await until_disconnected(receive)
    note(f"{message['code']} {message['reason']}".strip())


async def websocket_slow_goodbye(scope: dict[str, Any], receive: Receive, send: Send) -> None:
    """Take a second to clean up."""
    await accepted(receive, send)
    message = await until_disconnected(receive)
    await asyncio.sleep(1)
    note(f"cleaned up after {message['code']}")


async def websocket_never_ends(scope: dict[str, Any], receive: Receive, send: Send) -> None:
    await accepted(receive, send)
    await until_disconnected(receive)
    try:
        await asyncio.Event().wait()
    finally:
        note("cancelled")


async def websocket_scope(scope: dict[str, Any], receive: Receive, send: Send) -> None:
    """Send what can be said of the scope in JSON."""
    told = {
        key: scope.get(key)
        for key in ("asgi", "http_version", "scheme", "path", "root_path", "subprotocols", "client", "server")
    }
    told["query_string"] = scope["query_string"].decode()
    told["extensions"] = sorted(scope.get("extensions") or ())
    told["headers"] = [[name.decode(), value.decode("latin-1")] for name, value in scope["headers"]]
    await accepted(receive, send)
    await send({"type": "websocket.send", "text": json.dumps(told)})
    await until_disconnected(receive)


async def websocket_headers(scope: dict[str, Any], receive: Receive, send: Send) -> None:
    await accepted(
        receive,
        send,
        subprotocol=scope["subprotocols"][0],
        headers=[(b"x-one", b"1"), (b"set-cookie", b"a=1"), (b"set-cookie", b"b=2")],
    )
    await until_disconnected(receive)


async def websocket_split_header(scope: dict[str, Any], receive: Receive, send: Send) -> None:
    await accepted(receive, send, headers=[(b"x-one", b"1\r\nx-two: 2")])


async def websocket_unoffered(scope: dict[str, Any], receive: Receive, send: Send) -> None:
    await accepted(receive, send, subprotocol="unheard-of")


async def websocket_reject(scope: dict[str, Any], receive: Receive, send: Send) -> None:
    await receive()
    await send({"type": "websocket.close", "code": 4001})
    note(f"rejected: {(await receive())['type']}")


async def websocket_deny(scope: dict[str, Any], receive: Receive, send: Send) -> None:
    await receive()
    headers = [(b"content-type", b"application/json"), (b"retry-after", b"7")]
    await send({"type": "websocket.http.response.start", "status": 429, "headers": headers})
    await send({"type": "websocket.http.response.body", "body": b'{"slow": "down"}'})
    note(f"denied: {(await receive())['type']}")


async def websocket_deny_in_parts(scope: dict[str, Any], receive: Receive, send: Send) -> None:
    await receive()
    await send({"type": "websocket.http.response.start", "status": 503})
    await send({"type": "websocket.http.response.body", "body": b"one ", "more_body": True})
    await send({"type": "websocket.http.response.body", "body": b"two"})


async def websocket_close(scope: dict[str, Any], receive: Receive, send: Send) -> None:
    """Close with the code and reason of the query."""
    query = parse_qs(scope["query_string"].decode())
    await accepted(receive, send)
    await send({"type": "websocket.close", "code": int(query["code"][0]), "reason": query["reason"][0]})
    message = await until_disconnected(receive)
    note(f"{message['code']} {message['reason']}")


async def websocket_close_plain(scope: dict[str, Any], receive: Receive, send: Send) -> None:
    await accepted(receive, send)
    await send({"type": "websocket.close"})


async def websocket_send_after_close(scope: dict[str, Any], receive: Receive, send: Send) -> None:
    """Send on and on, and never ask whether anybody is there."""
    await accepted(receive, send)
    note("sending")
    try:
        while True:
            await send({"type": "websocket.send", "text": "still here"})
    finally:
        note("ended")


async def websocket_big(scope: dict[str, Any], receive: Receive, send: Send) -> None:
    await accepted(receive, send)
    await send(
        {"type": "websocket.send", "bytes": b"x" * int(parse_qs(scope["query_string"].decode())["size"][0])}
    )
    await until_disconnected(receive)


async def websocket_pour(scope: dict[str, Any], receive: Receive, send: Send) -> None:
    """Send a megabyte at a time for as long as somebody takes it, and write down each that was taken."""
    await accepted(receive, send)
    for number in range(100):
        await send({"type": "websocket.send", "bytes": b"x" * 1_000_000})
        note(f"sent {number}")


async def websocket_raise(scope: dict[str, Any], receive: Receive, send: Send) -> None:
    """Fail at the first message."""
    await accepted(receive, send)
    await receive()
    raise RuntimeError("failed on purpose")


async def websocket_raise_early(scope: dict[str, Any], receive: Receive, send: Send) -> None:
    raise RuntimeError("failed on purpose, early")


async def websocket_return(scope: dict[str, Any], receive: Receive, send: Send) -> None:
    """Leave the socket open and go."""
    await accepted(receive, send)


async def websocket_return_early(scope: dict[str, Any], receive: Receive, send: Send) -> None:
    """Go without an answer to the handshake."""


async def websocket_late(scope: dict[str, Any], receive: Receive, send: Send) -> None:
    """Accept when the gate opens, then echo."""
    note("waiting")
    await GATE.wait()
    await websocket_echo(scope, receive, send)


async def websocket_never_accepts(scope: dict[str, Any], receive: Receive, send: Send) -> None:
    note("waiting")
    await receive()
    note((await receive())["type"])


async def websocket_busy(scope: dict[str, Any], receive: Receive, send: Send) -> None:
    """Read nothing until the gate opens; then answer ``end`` with the number of messages before it."""
    await accepted(receive, send)
    await GATE.wait()
    count = 0
    while (message := await receive())["type"] == "websocket.receive":
        if message.get("text") == "end":
            await send({"type": "websocket.send", "text": str(count)})
        count += 1


async def websocket_order(scope: dict[str, Any], receive: Receive, send: Send) -> None:
    """Send numbered messages of 20 kB, in turn through ASGI and through the transport beside it."""
    await accepted(receive, send)
    transport = scope["extensions"]["realtime"]
    for number in range(200):
        message = f"{number} " + "x" * 20_000
        if number % 2:
            transport.write(Frame(message))
        else:
            await send({"type": "websocket.send", "text": message})
    await until_disconnected(receive)


class Listener:
    """Tells a queue what a transport reports."""

    def __init__(self) -> None:
        self.told: asyncio.Queue[tuple[str, float]] = asyncio.Queue()

    def heard(self) -> None:
        self.told.put_nowait(("heard", 0.0))

    def ponged(self, rtt: float) -> None:
        self.told.put_nowait(("ponged", rtt))

    def resume_writing(self) -> None:
        self.told.put_nowait(("resumed", 0.0))


async def websocket_ping(scope: dict[str, Any], receive: Receive, send: Send) -> None:
    """Ping, and send on what the transport reports until the answer has come."""
    transport = scope["extensions"]["realtime"]
    transport.listener = listener = Listener()
    await accepted(receive, send)
    transport.ping()
    kind = ""
    while kind != "ponged":
        kind, rtt = await listener.told.get()
        await send({"type": "websocket.send", "text": f"{kind} {rtt}"})
    await until_disconnected(receive)


async def websocket_slow_reader(scope: dict[str, Any], receive: Receive, send: Send) -> None:
    """Write until the transport says that the peer does not keep up, wait until it does, and say so."""
    transport = scope["extensions"]["realtime"]
    transport.listener = listener = Listener()
    await accepted(receive, send)
    frame, written = Frame(b"x" * 100_000), 0
    while transport.writable:
        transport.write(frame)
        written += 1
        await asyncio.sleep(0)
    note(f"full {transport.buffered_bytes > 0}")
    while (await listener.told.get())[0] != "resumed":
        pass
    note(f"empty {transport.buffered_bytes == 0}")
    await send({"type": "websocket.send", "text": str(written)})
    await until_disconnected(receive)


async def websocket_close_at_the_gate(scope: dict[str, Any], receive: Receive, send: Send) -> None:
    """Handle nothing; close and go when the gate opens."""
    await accepted(receive, send)
    await GATE.wait()
    await send({"type": "websocket.close", "code": 4000})


# HTTP.


async def respond(send: Send, status: int, body: bytes) -> None:
    headers = [(b"content-type", b"text/plain"), (b"content-length", str(len(body)).encode())]
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": body})


async def http_home(scope: dict[str, Any], receive: Receive, send: Send) -> None:
    await respond(send, 200, scope["root_path"].encode() or b"home")


async def http_open(scope: dict[str, Any], receive: Receive, send: Send) -> None:
    GATE.set()
    await respond(send, 200, b"open")


async def http_collect(scope: dict[str, Any], receive: Receive, send: Send) -> None:
    """Collect garbage, and tell how many objects that would look at the next time."""
    # Twice: everything may be due the second time.
    for _ in range(2):
        gc.collect()
    await respond(send, 200, str(len(gc.get_objects())).encode())


async def http_slow(scope: dict[str, Any], receive: Receive, send: Send) -> None:
    note("request began")
    await asyncio.sleep(1)
    await respond(send, 200, b"late " + b"x" * 1_000_000)


async def http_raise(scope: dict[str, Any], receive: Receive, send: Send) -> None:
    raise RuntimeError("failed on purpose, over HTTP")


async def http_raise_late(scope: dict[str, Any], receive: Receive, send: Send) -> None:
    await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"100")]})
    await send({"type": "http.response.body", "body": b"half", "more_body": True})
    raise RuntimeError("failed on purpose, after half a response")


async def http_return(scope: dict[str, Any], receive: Receive, send: Send) -> None:
    """Go without a response."""
