"""Native WebSockets: what an application may do, what a client may, and what happens at the end."""

from __future__ import annotations

import asyncio
import contextvars
import gc
import logging
import socket
from collections.abc import Callable, Iterator
from random import Random
from typing import Any

import msgspec
import pytest
import uvloop
from websockets.exceptions import ConnectionClosed, InvalidStatus

from ratelimit.guards import Guard
from ratelimit.middleware import RateLimit
from ratelimit.sockets import GuardedSocket
from realtime.connections import Connection
from realtime.consumers import RealtimeConsumer
from realtime.frames import Frame
from realtime.server.deflate import Policy, compress_alone
from realtime.server.parser import Parser
from realtime.server.websocket import NativeWebSocket, SocketClosed
from realtime.sockets import WebSocket
from realtime.sockets import websocket as websocket_function
from realtime.stepping import step
from tests.acceptance import rawclient
from tests.acceptance.rawclient import Opcode
from tests.realtime.server.engines import SOON, Message, Recorder, client_of, echo, native, until

ACCEPT = {"type": "websocket.accept"}


@pytest.fixture(autouse=True)
def _errors_are_expected(caplog: pytest.LogCaptureFixture) -> Iterator[None]:
    """Nothing in here makes asyncio complain of something forgotten."""
    yield
    assert not [record for record in caplog.records if record.name == "asyncio"]


class Opened:
    """Accepts, and leaves the socket to the test."""

    def __init__(self, **accept: Any) -> None:
        self.accept = {**ACCEPT, **accept}
        self.ready = asyncio.Event()
        self.go = asyncio.Event()

    async def __call__(self, scope: Message, receive: Any, send: Any) -> None:
        self.scope, self.receive, self.send = scope, receive, send
        await receive()
        await send(self.accept)
        self.ready.set()
        await self.go.wait()

    @property
    def transport(self) -> Any:
        return self.scope["extensions"]["realtime"]

    async def wait(self) -> None:
        async with asyncio.timeout(SOON):
            await self.ready.wait()


# Messages


@pytest.mark.parametrize(
    "message",
    [
        pytest.param("hello", id="text"),
        pytest.param("grüße 🎈", id="text beyond ASCII"),
        pytest.param(b"\x00\xff", id="binary"),
        pytest.param("", id="empty text"),
        pytest.param(b"", id="empty binary"),
        pytest.param("x" * 125, id="longest short length"),
        pytest.param("x" * 126, id="16-bit length"),
        pytest.param("ü" * 63, id="length counts bytes"),
        pytest.param(b"x" * 70_000, id="64-bit length"),
    ],
)
async def test_message_comes_back_as_it_was(message: str | bytes) -> None:
    async with client_of(echo) as client:
        await client.send(message)
        assert await client.recv() == message


async def test_fragments_are_one_message_and_a_ping_may_come_between_them() -> None:
    async with native(echo) as server, await server.opened() as peer:
        peer.send(
            rawclient.frame(Opcode.TEXT, b"one ", fin=False)
            + rawclient.frame(Opcode.PING, b"?")
            + rawclient.frame(Opcode.CONT, b"two")
            + rawclient.text("three")
        )
        assert (await peer.frame()).opcode is Opcode.PONG
        assert [(await peer.frame()).data, (await peer.frame()).data] == [b"one two", b"three"]


async def test_messages_sent_together_are_answered_in_order() -> None:
    async with native(echo) as server, await server.opened() as peer:
        peer.send(b"".join(rawclient.text(str(number)) for number in range(500)))
        assert [(await peer.frame()).data for _ in range(500)] == [str(n).encode() for n in range(500)]


async def test_frames_right_behind_the_handshake_are_not_lost() -> None:
    async with native(echo) as server, await server.peer() as peer:
        peer.send(rawclient.handshake("/") + rawclient.text("early"))
        assert (await peer.response()).status == 101
        assert (await peer.frame()).data == b"early"


async def test_frames_sent_before_accept_wait_for_it() -> None:
    gate = asyncio.Event()

    async def late(scope: Message, receive: Any, send: Any) -> None:
        await gate.wait()
        await echo(scope, receive, send)

    async with native(late) as server, await server.peer() as peer:
        peer.send(rawclient.handshake("/"))
        await until(lambda: server.engine.sockets)
        peer.send(rawclient.text("early"))
        await asyncio.sleep(0.05)
        gate.set()
        assert (await peer.response()).status == 101
        assert (await peer.frame()).data == b"early"


async def test_sockets_share_a_parser_and_have_one_of_their_own_while_a_frame_is_on_its_way() -> None:
    ones, others = Opened(), Opened()
    apps = iter((ones, others))

    async def each(scope: Message, receive: Any, send: Any) -> None:
        await next(apps)(scope, receive, send)

    async with native(each) as server, await server.opened() as one, await server.opened() as other:
        await ones.wait()
        await others.wait()
        assert ones.transport._parser is None
        whole = rawclient.text("in two parts")
        one.send(whole[:7])
        await until(lambda: ones.transport._parser is not None)
        other.send(rawclient.text("between"))
        assert (await others.receive())["text"] == "between"
        one.send(whole[7:])
        assert (await ones.receive())["text"] == "in two parts"
        assert ones.transport._parser is others.transport._parser is None
        ones.go.set()
        others.go.set()


async def test_socket_that_just_ends_leaves_its_parser_to_the_next() -> None:
    app = Opened()
    async with native(app) as server, await server.opened() as peer:
        await app.wait()
        bound = app.transport.max_message_bytes
        parser = server.engine.parsers.of(bound).parser
        peer.writer.close()
        await until(lambda: app.transport.closed)
        assert server.engine.parsers.of(bound).parser is parser
        app.go.set()


async def test_large_message_does_not_keep_its_memory() -> None:
    """A parser keeps what a large message needed; such a one is let go, and nothing is lost with it."""
    app = Opened()
    async with native(app) as server, await server.opened() as peer:
        await app.wait()
        for number in range(3):
            peer.send(rawclient.frame(Opcode.BINARY, bytes([number]) * 300_000) + rawclient.text("next"))
            assert (await app.receive())["bytes"] == bytes([number]) * 300_000
            assert (await app.receive())["text"] == "next"
        await asyncio.sleep(0.01)
        peer.send(rawclient.frame(Opcode.BINARY, b"x" * 300_000))
        assert len((await app.receive())["bytes"]) == 300_000
        await until(lambda: app.transport._parser is None)
        peer.send(rawclient.text("last"))
        assert (await app.receive())["text"] == "last"
        assert app.transport._parser is None
        shared = server.engine.parsers.of(app.transport.max_message_bytes)
        assert (len(shared.parser.room), shared._spare) == (4096, [])
        app.go.set()


async def test_parser_whose_buffer_has_moved_is_not_read_into_again(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where the next bytes would go is not ours any more."""
    monkeypatch.setattr("realtime.server.parser._UNCOUNTED", 0)
    app = Opened()
    async with native(app) as server, await server.opened() as peer:
        await app.wait()
        shared = server.engine.parsers.of(app.transport.max_message_bytes)
        moved = shared.parser
        peer.send(rawclient.frame(Opcode.BINARY, b"x" * (4096 - 8)))
        assert len((await app.receive())["bytes"]) == 4096 - 8
        assert not moved.is_as_new
        await until(lambda: shared.parser is not moved)
        assert shared._spare == []
        app.go.set()


async def test_bound_that_a_message_sets_leaves_nothing_of_its_socket_in_a_shared_parser() -> None:
    def take(payload: str | bytes, size: int) -> Message | None:
        (websocket,) = server.engine.sockets
        websocket.limit_messages(1000)
        return None

    taking = Taking(take, as_task=False)
    async with native(taking, max_message_bytes=2000) as server, await server.opened() as peer:
        (websocket,) = server.engine.sockets
        await until(lambda: websocket._waiter is not None)
        shared = server.engine.parsers.of(2000)
        peer.send(rawclient.text("one") + rawclient.text("a part")[:-1])
        await until(lambda: websocket._parser is not None)
        assert shared.parser is not websocket._parser


@pytest.mark.parametrize("part", [b"", b"\x81"], ids=["in one read", "in two"])
async def test_frame_that_is_broken_off_takes_its_socket_along_and_nobody_else(part: bytes) -> None:
    """A cancellation is nothing that picows would catch: it leaves a shared parser with what it had not read."""

    def take(payload: str | bytes, size: int) -> Message | None:
        raise asyncio.CancelledError

    async def app(scope: Message, receive: Any, send: Any) -> None:
        await (taking if scope["path"] == "/taken" else echo)(scope, receive, send)

    taking = Taking(take, as_task=False)
    broken_off: list[Any] = []
    asyncio.get_running_loop().set_exception_handler(
        lambda loop, context: broken_off.append(context["exception"])
    )
    async with native(app) as server, await server.opened("/taken") as peer, server.connect() as other:
        (websocket,) = [one for one in server.engine.sockets if one.scope["path"] == "/taken"]
        await until(lambda: websocket._waiter is not None)
        if part:
            peer.send(part)
            await until(lambda: websocket._parser is not None)
        peer.send((rawclient.text("one") + rawclient.text("two") * 10 + b"\x81")[len(part) :])
        await peer.dropped()
        for text in ("one", "another" * 100, "last"):
            await other.send(text)
            assert await other.recv() == text
        assert websocket._parser is None
        parsers = server.engine.parsers.of(websocket.max_message_bytes)
        assert all(parser.is_as_new for parser in (parsers.parser, *parsers._spare))
        assert [type(error) for error in broken_off] == [asyncio.CancelledError]


async def test_what_follows_a_close_frame_does_not_cost_the_answers_to_what_came_before() -> None:
    async with native(echo) as server, await server.opened() as peer:
        peer.send(rawclient.close(1000) + rawclient.text("late") + b"\x83\x80abcd")
        assert await peer.closed() == (1000, "")
        await peer.ended()


async def test_nothing_is_read_after_a_violation_behind_the_message_that_made_the_application_close() -> None:
    """Where the next frame would begin is not known, though the answer to our close frame is awaited."""

    def take(payload: str | bytes, size: int) -> Message | None:
        websocket.close(4001, "")
        return None

    taking = Taking(take, as_task=False)
    async with native(taking) as server, await server.opened() as peer:
        (websocket,) = server.engine.sockets
        await until(lambda: websocket._waiter is not None)
        peer.send(rawclient.text("close") + b"\x83\x80abcd")
        assert await peer.closed() == (4001, "")
        assert await peer.ended() == b""
        assert not websocket.is_open


async def test_parser_of_another_bound_is_not_used_again() -> None:
    app = Opened()
    async with native(app, max_message_bytes=2000) as server, await server.opened() as peer:
        await app.wait()
        peer.send(b"\x82")
        await until(lambda: app.transport._parser is not None)
        app.transport.limit_messages(1000)
        peer.send(b"\x80abcd")
        assert (await app.receive())["bytes"] == b""
        shared = server.engine.parsers.of(1000)
        assert (shared.parser.max_frame_bytes, shared._spare) == (1000, [])
        app.go.set()


@pytest.mark.parametrize("part", [b"", b"\x82"], ids=["between frames", "inside a frame"])
@pytest.mark.parametrize(("limit", "accepts"), [(1000, False), (3000, True), (0, True)])
async def test_route_sets_the_largest_message_and_the_header_is_enough_to_refuse_it(
    part: bytes, limit: int, accepts: bool
) -> None:
    app = Opened()
    async with native(app, max_message_bytes=2000) as server, await server.opened() as peer:
        await app.wait()
        peer.send(rawclient.text("before") + part)
        assert (await app.receive())["text"] == "before"
        app.transport.limit_messages(limit)
        if part:
            peer.send(b"\x80abcd")
            assert (await app.receive())["bytes"] == b""
            await asyncio.sleep(0.01)
        if accepts:
            peer.send(rawclient.frame(Opcode.BINARY, b"x" * 2500))
            assert len((await app.receive())["bytes"]) == 2500
        else:
            peer.send(b"\x82\xfe" + (1001).to_bytes(2, "big"))
            assert (await peer.closed())[0] == 1009
        app.go.set()


@pytest.mark.parametrize(
    ("first", "size", "accepts"),
    [
        pytest.param(0x80 | 0x40 | Opcode.BINARY, 2000, True, id="compressed"),
        pytest.param(0x80 | 0x40 | Opcode.BINARY, 2001, False, id="too large, compressed"),
        pytest.param(0x80 | Opcode.TEXT, 2000, True, id="as it is"),
        pytest.param(0x80 | Opcode.TEXT, 2001, False, id="too large, as it is"),
    ],
)
@pytest.mark.parametrize("limits", [(2000,), (1000, 2000)], ids=["from the start", "by its route"])
async def test_bound_is_for_what_the_message_is_and_not_for_its_compressed_form(
    first: int, size: int, accepts: bool, limits: tuple[int, ...]
) -> None:
    """What cannot be compressed comes out longer."""
    app = Opened()
    offer = "Sec-WebSocket-Extensions: permessage-deflate"
    async with (
        native(app, max_message_bytes=limits[0], deflate=Policy()) as server,
        await server.opened("/", offer) as peer,
    ):
        await app.wait()
        app.transport.limit_messages(limits[-1])
        payload = Random(size).randbytes(size) if first & 0x40 else b"x" * size
        sent = compress_alone(payload, 15, 8) if first & 0x40 else payload
        assert not first & 0x40 or len(sent) > 2000
        peer.send(bytes((first, 0xFE)) + len(sent).to_bytes(2, "big") + bytes(4) + sent)
        if accepts:
            received = await app.receive()
            assert (received.get("bytes") or received["text"].encode()) == payload
        else:
            assert (await peer.closed())[0] == 1009
        app.go.set()


# The handshake


async def test_scope_is_what_asgi_says() -> None:
    app = Recorder()
    async with (
        native(app, root_path="/root") as server,
        server.connect("/a%20b?c=d", subprotocols=["one", "two"], additional_headers={"X-Y": "z"}) as client,
    ):
        host, port = client.local_address
        scope = app.scope
        assert scope["type"] == "websocket"
        assert scope["asgi"] == {"version": "3.0", "spec_version": "2.5"}
        assert (scope["http_version"], scope["scheme"]) == ("1.1", "ws")
        assert (scope["path"], scope["raw_path"], scope["query_string"]) == ("/a b", b"/a%20b", b"c=d")
        assert scope["root_path"] == "/root"
        assert scope["client"] == [host, port]
        assert scope["server"] == ["127.0.0.1", server.port]
        assert scope["subprotocols"] == ["one", "two"]
        assert (b"x-y", b"z") in scope["headers"]
        assert set(scope["extensions"]) == {"websocket.http.response", "realtime"}


async def test_firefox_is_served() -> None:
    async with native(echo) as server, await server.peer() as peer:
        peer.send(
            rawclient.handshake("/").replace(b"Connection: Upgrade", b"Connection: keep-alive, Upgrade")
        )
        assert (await peer.response()).status == 101


async def test_accept_carries_subprotocol_and_headers() -> None:
    app = Opened(subprotocol="two", headers=[(b"set-cookie", b"a=1"), (b"set-cookie", b"b=2")])
    async with native(app) as server, server.connect(subprotocols=["one", "two"]) as client:
        assert client.subprotocol == "two"
        assert client.response.headers.get_all("set-cookie") == ["a=1", "b=2"]
        app.go.set()


@pytest.mark.parametrize(
    "accept",
    [
        pytest.param({"subprotocol": "unheard-of"}, id="subprotocol that was not offered"),
        pytest.param({"headers": [(b"x", b"1\r\ny: 2")]}, id="header with a line break"),
    ],
)
async def test_accept_that_cannot_be_sent_is_an_error_of_the_application(
    accept: Message, caplog: pytest.LogCaptureFixture
) -> None:
    async with native(Opened(**accept)) as server:
        with pytest.raises(InvalidStatus) as refused:
            await server.connect(subprotocols=["one"])
    assert refused.value.response.status_code == 500
    assert "ValueError" in caplog.text


async def test_denial_is_an_http_response_of_the_applications_choosing() -> None:
    async def deny(scope: Message, receive: Any, send: Any) -> None:
        await receive()
        headers = [(b"content-type", b"application/json"), (b"retry-after", b"7")]
        await send({"type": "websocket.http.response.start", "status": 429, "headers": headers})
        await send({"type": "websocket.http.response.body", "body": b'{"slow":', "more_body": True})
        await send({"type": "websocket.http.response.body", "body": b' "down"}'})

    async with native(deny) as server, await server.peer() as peer:
        peer.send(rawclient.handshake("/"))
        response = await peer.response()
        assert (response.status, response.body) == (429, b'{"slow": "down"}')
        assert response.headers["retry-after"] == "7"
        assert response.headers["content-type"] == "application/json"
        assert await peer.ended() == b""


async def test_denial_larger_than_any_buffer_arrives_whole() -> None:
    async def deny(scope: Message, receive: Any, send: Any) -> None:
        await receive()
        await send({"type": "websocket.http.response.start", "status": 503, "headers": []})
        await send({"type": "websocket.http.response.body", "body": b"x" * 5_000_000})

    async with native(deny) as server, await server.peer() as peer:
        peer.send(rawclient.handshake("/"))
        assert len((await peer.response()).body) == 5_000_000


async def test_close_before_accept_is_403_and_the_application_hears_the_end() -> None:
    heard: list[Message] = []

    async def reject(scope: Message, receive: Any, send: Any) -> None:
        await receive()
        await send({"type": "websocket.close", "code": 4001})
        heard.append(await receive())

    async with native(reject) as server:
        with pytest.raises(InvalidStatus) as refused:
            await server.connect()
        await server.empty()
    assert refused.value.response.status_code == 403
    assert heard == [{"type": "websocket.disconnect", "code": 1006, "reason": ""}]


async def test_transport_that_is_closed_before_accept_is_403() -> None:
    async def refuse(scope: Message, receive: Any, send: Any) -> None:
        await receive()
        scope["extensions"]["realtime"].close(4401, "not allowed")
        assert (await receive())["type"] == "websocket.disconnect"

    async with native(refuse) as server, await server.peer() as peer:
        peer.send(rawclient.handshake("/"))
        assert (await peer.response()).status == 403
        await server.empty()


@pytest.mark.parametrize(
    ("change", "status"),
    [
        pytest.param((b"Sec-WebSocket-Version: 13", b"Sec-WebSocket-Version: 8"), 426, id="old version"),
        pytest.param((b"Sec-WebSocket-Key", b"X-Key"), 400, id="no key"),
    ],
)
async def test_handshake_that_cannot_be_granted_never_reaches_the_application(
    change: tuple[bytes, bytes], status: int
) -> None:
    app = Recorder()
    async with native(app) as server, await server.peer() as peer:
        peer.send(rawclient.handshake("/").replace(*change))
        response = await peer.response()
        assert response.status == status
        assert response.body
        assert not app.scope


async def test_application_that_does_not_answer_is_given_up(caplog: pytest.LogCaptureFixture) -> None:
    heard: list[Message] = []

    async def silent(scope: Message, receive: Any, send: Any) -> None:
        await receive()
        heard.append(await receive())

    async with native(silent, connect_timeout=0.1) as server, await server.peer() as peer:
        peer.send(rawclient.handshake("/"))
        assert (await peer.response()).status == 503
        await server.empty()
    assert heard[0]["code"] == 1006
    assert "did not answer in time" in caplog.text


async def test_client_that_leaves_before_accept_is_noticed() -> None:
    heard: asyncio.Queue[Message] = asyncio.Queue()

    async def thinking(scope: Message, receive: Any, send: Any) -> None:
        await receive()
        await heard.put(await receive())
        with pytest.raises(SocketClosed):
            await send(ACCEPT)

    async with native(thinking) as server:
        peer = await server.peer()
        peer.send(rawclient.handshake("/"))
        await until(lambda: server.engine.sockets)
        peer.writer.transport.abort()
        async with asyncio.timeout(SOON):
            assert (await heard.get())["code"] == 1006
        await server.empty()


async def test_handshakes_are_refused_while_draining() -> None:
    async with native(Recorder()) as server, await server.peer() as peer:
        server.engine.refuse_handshakes()
        peer.send(rawclient.handshake("/"))
        response = await peer.response()
        assert response.status == 503
        assert response.headers["retry-after"] == "1"


async def test_handshake_that_waits_is_refused_when_draining_begins() -> None:
    async def thinking(scope: Message, receive: Any, send: Any) -> None:
        await receive()
        await receive()

    async with native(thinking) as server, await server.peer() as peer:
        peer.send(rawclient.handshake("/"))
        await until(lambda: server.engine.sockets)
        server.engine.refuse_handshakes()
        assert (await peer.response()).status == 503
        await server.empty()


# The end


@pytest.mark.parametrize(
    ("sent", "answered", "code", "reason"),
    [
        pytest.param(rawclient.close(1000, "bye"), 1000, 1000, "bye", id="code and reason"),
        pytest.param(rawclient.close(4321), 4321, 4321, "", id="code"),
        pytest.param(rawclient.close(None), 1000, 1005, "", id="neither"),
    ],
)
async def test_client_that_closes_is_answered_and_the_application_told(
    sent: bytes, answered: int, code: int, reason: str
) -> None:
    app = Recorder()
    async with native(app) as server, await server.opened() as peer:
        peer.send(rawclient.text("last") + sent + rawclient.text("too late"))
        assert (await peer.closed())[0] == answered
        assert await peer.ended() == b""
        assert await app.end() == {"type": "websocket.disconnect", "code": code, "reason": reason}
        assert [event.get("text") for event in app.events] == ["last", None]


@pytest.mark.parametrize(
    ("sent", "answered", "code", "reason"),
    [
        pytest.param(rawclient.close(1000, "grüße"), 1000, 1000, "grüße", id="code and reason"),
        pytest.param(rawclient.close(4321, "x" * 123), 4321, 4321, "x" * 123, id="longest"),
        pytest.param(rawclient.close(None), 1000, 1005, "", id="neither"),
        pytest.param(rawclient.close(1005), 1002, 1002, None, id="code that must not be sent"),
        pytest.param(rawclient.frame(Opcode.CLOSE, b"\x03"), 1002, 1002, None, id="half a code"),
        pytest.param(rawclient.frame(Opcode.CLOSE, b"\x03\xe8\xff"), 1007, 1007, None, id="not UTF-8"),
        pytest.param(b"\x88\x02\x03\xe8", 1002, 1002, None, id="unmasked"),
    ],
)
async def test_close_frame_that_comes_alone_is_read_as_any_other(
    sent: bytes, answered: int, code: int, reason: str | None
) -> None:
    app = Recorder()
    async with native(app) as server:
        for _ in range(3):
            async with await server.opened() as peer:
                peer.send(sent)
                assert (await peer.closed())[0] == answered
                assert await peer.ended() == b""
            heard = await app.end()
            assert (heard["code"], heard["reason"]) == (code, heard["reason"] if reason is None else reason)
            await server.empty()


async def test_sockets_that_end_with_a_close_frame_leave_the_parser_to_the_next(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    made = []
    monkeypatch.setattr(Parser, "__init__", counting(Parser.__init__, made))
    async with native(Recorder()) as server:
        for _ in range(5):
            async with await server.opened() as peer:
                peer.send(rawclient.text("hello"))
                peer.send(rawclient.close(1000))
                await peer.closed()
            await server.empty()
    assert len(made) == 1


def counting(method: Any, calls: list[Any]) -> Any:
    def counted(*arguments: Any, **named: Any) -> None:
        calls.append(arguments)
        method(*arguments, **named)

    return counted


@websocket_function()
async def listening(ws: WebSocket) -> None:
    async for _ in ws:
        pass


@pytest.mark.django_db(transaction=True)
@pytest.mark.parametrize("application", [RealtimeConsumer.as_asgi(), listening], ids=["consumer", "function"])
async def test_a_socket_that_is_gone_is_freed_without_the_garbage_collector(application: Any) -> None:
    """And with it the consumer, the guard and the rest that knew it."""
    kinds = (NativeWebSocket, Connection, Guard, GuardedSocket, RealtimeConsumer)

    def alive() -> list[object]:
        return [one for one in gc.get_objects() if isinstance(one, kinds)]

    gc.collect()
    gc.disable()
    try:
        async with native(RateLimit(application)) as server:
            async with await server.opened() as peer:
                assert len(alive()) == len(kinds)
                peer.send(rawclient.close(1000))
                await peer.ended()
            await server.empty()
            await until(lambda: not alive())
    finally:
        gc.enable()


@pytest.mark.parametrize("how", ["abort", "write_eof"])
async def test_client_that_vanishes_is_1006(how: str) -> None:
    app = Recorder()
    async with native(app) as server, await server.opened() as peer:
        if how == "abort":
            peer.writer.transport.abort()
        else:
            peer.writer.write_eof()
        assert (await app.end())["code"] == 1006
        await server.empty()


async def test_application_closes_with_code_and_reason_and_is_told_at_once() -> None:
    app = Opened()
    async with native(app) as server, await server.opened() as peer:
        await app.wait()
        await app.send({"type": "websocket.close", "code": 4321, "reason": "enough"})
        assert await app.receive() == {"type": "websocket.disconnect", "code": 4321, "reason": "enough"}
        app.go.set()
        assert await peer.closed() == (4321, "enough")
        peer.send(rawclient.close(4321))
        assert await peer.ended() == b""
        await server.empty()


async def test_close_without_a_code_is_1000() -> None:
    app = Opened()
    async with native(app) as server, await server.opened() as peer:
        await app.wait()
        await app.send({"type": "websocket.close"})
        assert await peer.closed() == (1000, "")
        app.go.set()


async def test_peer_that_does_not_answer_a_close_is_dropped() -> None:
    app = Opened()
    async with native(app, close_timeout=0.1) as server, await server.opened() as peer:
        await app.wait()
        await app.send({"type": "websocket.close"})
        app.go.set()
        await peer.closed()
        assert await peer.ended() == b""
        await server.empty()


async def test_code_that_must_not_be_sent_is_an_error_of_the_application() -> None:
    app = Opened()
    async with native(app) as server, await server.opened():
        await app.wait()
        with pytest.raises(ValueError, match="1006"):
            await app.send({"type": "websocket.close", "code": 1006})
        app.go.set()


async def test_application_that_fails_closes_with_1011_at_once(caplog: pytest.LogCaptureFixture) -> None:
    async def fail(scope: Message, receive: Any, send: Any) -> None:
        await receive()
        await send(ACCEPT)
        await receive()
        raise RuntimeError("failed on purpose")

    async with native(fail) as server, await server.opened() as peer:
        peer.send(rawclient.text("go"))
        assert (await peer.closed())[0] == 1011
    assert caplog.text.count("RuntimeError: failed on purpose") == 1


async def test_application_that_fails_before_accept_is_500(caplog: pytest.LogCaptureFixture) -> None:
    async def fail(scope: Message, receive: Any, send: Any) -> None:
        raise RuntimeError("failed on purpose")

    async with native(fail) as server:
        with pytest.raises(InvalidStatus) as refused:
            await server.connect()
    assert refused.value.response.status_code == 500
    assert "failed on purpose" in caplog.text


@pytest.mark.parametrize("accepts", [True, False])
async def test_application_that_returns_leaves_no_open_socket(
    accepts: bool, caplog: pytest.LogCaptureFixture
) -> None:
    async def leave(scope: Message, receive: Any, send: Any) -> None:
        await receive()
        if accepts:
            await send(ACCEPT)

    async with native(leave) as server, await server.peer() as peer:
        peer.send(rawclient.handshake("/"))
        if accepts:
            assert (await peer.response()).status == 101
            assert (await peer.closed())[0] == 1000
        else:
            assert (await peer.response()).status == 500
            assert "returned without an answer" in caplog.text


async def test_application_that_does_not_end_is_cancelled(caplog: pytest.LogCaptureFixture) -> None:
    cancelled = asyncio.Event()

    async def stay(scope: Message, receive: Any, send: Any) -> None:
        await receive()
        await send(ACCEPT)
        try:
            await asyncio.Event().wait()
        finally:
            cancelled.set()

    async with native(stay, application_close_timeout=0.1) as server:
        peer = await server.opened()
        peer.writer.transport.abort()
        await server.empty()
    assert cancelled.is_set()
    assert "ran on after its socket closed" in caplog.text


async def test_receive_after_the_end_waits_and_does_not_spin() -> None:
    app = Opened()
    async with native(app) as server, await server.opened() as peer:
        await app.wait()
        peer.writer.transport.abort()
        assert (await app.receive())["type"] == "websocket.disconnect"
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(app.receive(), 0.05)
        app.go.set()


# Violations


@pytest.mark.parametrize(
    ("data", "code"),
    [
        pytest.param(b"\x83\x80abcd", 1002, id="found by the parser"),
        pytest.param(b"\xc1\x80abcd", 1002, id="found by us"),
        pytest.param(rawclient.frame(Opcode.TEXT, b"\xff"), 1007, id="not UTF-8"),
    ],
)
async def test_what_came_before_a_violation_is_delivered_before_the_end(data: bytes, code: int) -> None:
    app = Recorder()
    async with native(app) as server, await server.opened() as peer:
        peer.send(rawclient.text("last") + data + rawclient.text("too late"))
        assert (await peer.closed())[0] == code
        assert (await app.end())["code"] == code
        assert [event.get("text") for event in app.events] == ["last", None]


@pytest.mark.parametrize("first", [b"\xc9", b"\xaa", b"\x98"], ids=["ping", "pong", "close"])
async def test_control_frame_with_a_reserved_bit_is_refused(first: bytes) -> None:
    async with native(echo) as server, await server.opened() as peer:
        peer.send(first + b"\x80abcd")
        assert (await peer.closed())[0] == 1002


async def test_flood_of_control_frames_costs_its_sender_time(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("realtime.server.websocket._CHAFF_SECONDS", 0.001)
    app = Opened()
    async with native(app) as server, await server.opened() as peer:
        await app.wait()
        peer.send(rawclient.frame(Opcode.PONG) * 200)
        await until(lambda: app.transport.is_held)
        peer.send(rawclient.text("after"))
        assert (await app.receive())["text"] == "after"
        assert not app.transport.is_held
        app.go.set()


# Sending to nobody


async def test_send_after_the_disconnect_was_received_raises_oserror() -> None:
    app = Opened()
    async with native(app) as server, await server.opened() as peer:
        await app.wait()
        peer.send(rawclient.close(1000))
        assert (await app.receive())["type"] == "websocket.disconnect"
        with pytest.raises(OSError, match="closed"):
            await app.send({"type": "websocket.send", "text": "hello?"})
        await app.send({"type": "websocket.close"})
        app.go.set()


async def test_send_after_ones_own_close_raises_oserror() -> None:
    app = Opened()
    async with native(app) as server, await server.opened():
        await app.wait()
        await app.send({"type": "websocket.close"})
        with pytest.raises(OSError, match="closed"):
            await app.send({"type": "websocket.send", "text": "one more thing"})
        app.go.set()


async def test_application_that_does_not_know_yet_gets_to_its_disconnect() -> None:
    """A consumer that sends to a client that has just left must not lose its disconnect() to an error."""
    app = Opened()
    async with native(app) as server, await server.opened() as peer:
        await app.wait()
        peer.writer.transport.abort()
        await until(lambda: app.transport.closed)
        await app.send({"type": "websocket.send", "text": "hello?"})
        assert (await app.receive())["type"] == "websocket.disconnect"
        app.go.set()


async def test_application_that_only_sends_to_nobody_ends_and_holds_up_nobody() -> None:
    async def pour(scope: Message, receive: Any, send: Any) -> None:
        if scope["path"] == "/echo":
            await echo(scope, receive, send)
            return
        await receive()
        await send(ACCEPT)
        while True:
            await send({"type": "websocket.send", "text": "still here"})

    async with native(pour) as server:
        peer = await server.opened()
        await peer.frame()
        async with server.connect("/echo") as client:
            await client.send("alive?")
            assert await client.recv() == "alive?"
        peer.writer.transport.abort()
        await server.empty()


async def test_application_that_only_sends_lets_the_loop_have_its_turns() -> None:
    app = Opened()
    async with native(app) as server, await server.opened():
        await app.wait()
        turn = asyncio.Event()
        asyncio.get_running_loop().call_soon(turn.set)
        sent = 0
        while not turn.is_set():
            await app.send({"type": "websocket.send", "text": "and on"})
            sent += 1
            assert sent < 100
        app.go.set()


@pytest.mark.parametrize(
    "message",
    [
        pytest.param({"type": "websocket.send"}, id="neither"),
        pytest.param({"type": "websocket.send", "text": "a", "bytes": b"b"}, id="both"),
    ],
)
async def test_message_is_text_or_bytes(message: Message) -> None:
    app = Opened()
    async with native(app) as server, await server.opened():
        await app.wait()
        with pytest.raises(ValueError, match="either text or bytes"):
            await app.send(message)
        app.go.set()


@pytest.mark.parametrize(
    "message",
    [
        pytest.param(ACCEPT, id="second accept"),
        pytest.param(
            {"type": "websocket.http.response.start", "status": 403, "headers": []}, id="late denial"
        ),
        pytest.param({"type": "websocket.nonsense"}, id="unknown"),
    ],
)
async def test_message_out_of_order_is_an_error(message: Message) -> None:
    app = Opened()
    async with native(app) as server, await server.opened():
        await app.wait()
        with pytest.raises(RuntimeError, match=str(message["type"])):
            await app.send(message)
        app.go.set()


async def test_send_before_accept_is_an_error() -> None:
    async def hasty(scope: Message, receive: Any, send: Any) -> None:
        with pytest.raises(RuntimeError, match="connecting"):
            await send({"type": "websocket.send", "text": "hello"})
        await echo(scope, receive, send)

    async with client_of(hasty) as client:
        await client.send("hello")
        assert await client.recv() == "hello"


# Receiving


async def test_cancelled_receive_loses_nothing() -> None:
    app = Opened()
    async with native(app) as server, await server.opened() as peer:
        await app.wait()
        for number in range(20):
            waiting = asyncio.create_task(app.receive())
            await asyncio.sleep(0)
            peer.send(rawclient.text(str(number)))
            if number % 2:
                await until(waiting.done)
            waiting.cancel()
            message = waiting.result() if number % 2 else await app.receive()
            assert message["text"] == str(number)
        app.go.set()


async def test_receive_twice_at_once_is_an_error() -> None:
    app = Opened()
    async with native(app) as server, await server.opened():
        await app.wait()
        waiting = asyncio.create_task(app.receive())
        await asyncio.sleep(0)
        with pytest.raises(RuntimeError, match="awaited already"):
            await app.receive()
        waiting.cancel()
        app.go.set()


# The transport


async def test_send_completes_without_waiting() -> None:
    app = Opened()
    async with native(app) as server, await server.opened() as peer:
        await app.wait()
        assert step(app.send({"type": "websocket.send", "text": "now"})) is None
        assert (await peer.frame()).data == b"now"
        app.go.set()


async def test_transport_writes_and_closes_without_waiting() -> None:
    app = Opened()
    async with native(app) as server, await server.opened() as peer:
        await app.wait()
        transport = app.transport
        assert (transport.name, transport.can_ping) == ("native", True)
        assert transport.writable
        assert not transport.closed
        transport.write(Frame("text"))
        transport.write(Frame(b"bytes"))
        transport.close(1012, "restart")
        transport.write(Frame("too late"))
        assert ((await peer.frame()).opcode, (await peer.frame()).opcode) == (Opcode.TEXT, Opcode.BINARY)
        assert await peer.closed() == (1012, "restart")
        assert transport.closed
        assert not transport.writable
        app.go.set()


class Counted(Frame):
    """Notes for whom its wire bytes are made: the key they are kept by, or that they are plain ones."""

    made: list[object] = msgspec.field(default_factory=list)

    def wire(self, key: object, build: Callable[[str | bytes], bytes]) -> bytes:
        def counted(payload: str | bytes) -> bytes:
            self.made.append(key)
            return build(payload)

        return super().wire(key, counted)

    def __setattr__(self, name: str, value: object) -> None:
        if name == "plain":
            self.made.append(name)
        super().__setattr__(name, value)


async def test_frame_is_made_once_for_all_sockets() -> None:
    shared = Counted("shared")
    for _ in range(3):
        app = Opened()
        async with native(app) as server, await server.opened() as peer:
            await app.wait()
            app.transport.write(shared)
            assert (await peer.frame()).data == b"shared"
            app.go.set()
    assert shared.made == ["plain"]


class Watching:
    def __init__(self) -> None:
        self.heard_count = 0
        self.rtts: list[float] = []
        self.resumed = asyncio.Event()

    def heard(self) -> None:
        self.heard_count += 1

    def ponged(self, rtt: float) -> None:
        self.rtts.append(rtt)

    def resume_writing(self) -> None:
        self.resumed.set()


async def test_ping_measures_the_way_there_and_back() -> None:
    app, watching = Opened(), Watching()
    async with native(app) as server, await server.opened() as peer:
        await app.wait()
        app.transport.listener = watching
        app.transport.ping()
        ping = await peer.frame()
        assert ping.opcode is Opcode.PING
        peer.send(rawclient.frame(Opcode.PONG, b"something else"))
        await until(lambda: watching.heard_count == 1)
        assert watching.rtts == [], "only the answer to our own ping counts"
        await asyncio.sleep(0.02)
        peer.send(rawclient.frame(Opcode.PONG, bytes(ping.data)))
        await until(lambda: watching.rtts)
        assert 0.02 <= watching.rtts[0] < 1
        app.go.set()


async def test_ping_of_the_client_is_answered_with_its_payload() -> None:
    async with native(echo) as server, await server.opened() as peer:
        peer.send(rawclient.frame(Opcode.PING, b"are you there?"))
        pong = await peer.frame()
        assert (pong.opcode, pong.data) == (Opcode.PONG, b"are you there?")


async def test_aborted_socket_is_gone_at_once() -> None:
    app = Opened()
    async with native(app) as server, await server.opened() as peer:
        await app.wait()
        app.transport.abort()
        assert app.transport.closed
        assert (await app.receive())["code"] == 1006
        await peer.dropped()
        app.go.set()


class Taking:
    """Accepts, attaches a taker, and notes what is left for ``receive``."""

    def __init__(self, take: Any, *, as_task: bool) -> None:
        self.take, self.as_task = take, as_task
        self.received: list[Message] = []
        self.go_on = asyncio.Event()
        self.go_on.set()

    async def __call__(self, scope: Message, receive: Any, send: Any) -> None:
        await receive()
        await send(ACCEPT)
        self.task = asyncio.current_task()
        self.attached = scope["extensions"]["realtime"].attach(receive, self.take, as_task=self.as_task)
        while True:
            message = await receive()
            self.received.append(message)
            if message["type"] == "websocket.disconnect":
                return
            await self.go_on.wait()


async def test_message_is_taken_in_the_call_that_brings_it_while_receive_is_awaited() -> None:
    taken: list[tuple[str | bytes, int]] = []

    def take(payload: str | bytes, size: int) -> Message | None:
        taken.append((payload, size))
        return {"type": "own", "payload": payload} if payload == "leave it" else None

    app = Taking(take, as_task=False)
    async with native(app) as server, await server.opened() as peer:
        split = rawclient.frame(Opcode.TEXT, b"gr", fin=False) + rawclient.frame(Opcode.CONT, "ün".encode())
        peer.send(rawclient.text("fünf") + rawclient.frame(Opcode.BINARY, b"two") + split)
        await until(lambda: len(taken) == 3)
        assert app.attached
        assert not app.received
        peer.send(rawclient.text("leave it") + rawclient.text("in order"))
        await until(lambda: len(app.received) == 2)
        assert app.received[0] == {"type": "own", "payload": "leave it"}
        assert app.received[1]["text"] == "in order", "what waits for receive is not overtaken"
        assert taken == [("fünf", 5), (b"two", 3), ("grün", 5), ("leave it", 8)]


async def test_nothing_is_taken_while_the_application_does_something_else() -> None:
    taken: list[str | bytes] = []

    def take(payload: str | bytes, size: int) -> Message | None:
        taken.append(payload)
        return {"type": "own"}

    app = Taking(take, as_task=False)
    app.go_on.clear()
    async with native(app) as server, await server.opened() as peer:
        peer.send(rawclient.text("one"))
        await until(lambda: len(app.received) == 1)
        peer.send(rawclient.text("two") + rawclient.frame(Opcode.PING))
        assert (await peer.frame()).opcode is Opcode.PONG
        assert taken == ["one"]
        app.go_on.set()
        await until(lambda: len(app.received) == 2)
        assert app.received[1]["text"] == "two"


async def test_taker_runs_as_the_task_and_in_the_context_of_the_application() -> None:
    variable: contextvars.ContextVar[int] = contextvars.ContextVar("variable", default=0)
    seen: list[tuple[object, int]] = []

    def take(payload: str | bytes, size: int) -> Message | None:
        seen.append((asyncio.current_task(), variable.get()))
        variable.set(variable.get() + 1)
        return None if payload == "one" else {"type": "own", "was": variable}

    app = Taking(take, as_task=True)
    async with native(app) as server, await server.opened() as peer:
        peer.send(rawclient.text("one") + rawclient.text("two"))
        await until(lambda: bool(app.received))
        assert seen == [(app.task, 0), (app.task, 1)]
        assert asyncio.current_task() is not app.task
        assert variable.get() == 0, "nobody else sees what it sets"


async def test_somebody_between_the_server_and_the_application_sees_every_message() -> None:
    class Wrapped(Taking):
        async def __call__(self, scope: Message, receive: Any, send: Any) -> None:
            async def between() -> Any:
                return await receive()

            await super().__call__(scope, between, send)

    app = Wrapped(lambda payload: None, as_task=False)
    async with native(app) as server, await server.opened() as peer:
        peer.send(rawclient.text("one"))
        await until(lambda: bool(app.received))
        assert not app.attached


async def test_task_that_does_not_serve_the_socket_cannot_attach() -> None:
    class Elsewhere(Taking):
        async def __call__(self, scope: Message, receive: Any, send: Any) -> None:
            await asyncio.create_task(super().__call__(scope, receive, send))

    app = Elsewhere(lambda payload: None, as_task=True)
    async with native(app) as server, await server.opened() as peer:
        peer.send(rawclient.text("one"))
        await until(lambda: bool(app.received))
        assert not app.attached


# Sockets that nothing above watches


async def test_silent_socket_is_pinged_and_one_that_stays_silent_dropped() -> None:
    app = Recorder()
    async with native(app, keepalive_interval=0.4) as server, await server.opened() as peer:
        assert (await peer.frame()).opcode is Opcode.PING
        pinged = asyncio.get_running_loop().time()
        await peer.dropped()
        assert asyncio.get_running_loop().time() - pinged > 0.3
        assert (await app.end())["code"] == 1006


async def test_socket_that_answers_is_kept() -> None:
    async with native(echo, keepalive_interval=0.05) as server, server.connect() as client:
        await asyncio.sleep(0.4)
        await client.send("still here")
        assert await client.recv() == "still here"


async def test_socket_that_something_watches_is_left_to_it() -> None:
    app = Opened()
    async with native(app, keepalive_interval=0.05) as server, await server.opened() as peer:
        await app.wait()
        app.transport.listener = Watching()
        await asyncio.sleep(0.3)
        app.transport.write(Frame("first"))
        assert (await peer.frame()).data == b"first"
        app.go.set()


async def test_socket_has_a_greatest_age() -> None:
    async with native(echo, keepalive_interval=0.05, max_age=0.1) as server, server.connect() as client:
        with pytest.raises(ConnectionClosed) as closed:
            await client.recv()
        assert closed.value.rcvd is not None
        assert closed.value.rcvd.code == 1000


async def test_unexpected_failure_of_a_message_taker_is_logged_and_the_socket_goes_on(
    caplog: pytest.LogCaptureFixture,
) -> None:
    def fail(payload: str | bytes, size: int) -> Message | None:
        raise RuntimeError("failed on purpose")

    app = Taking(fail, as_task=True)
    async with native(app) as server, await server.opened() as peer:
        with caplog.at_level(logging.ERROR):
            peer.send(rawclient.text("one") + rawclient.frame(Opcode.PING))
            assert (await peer.frame()).opcode is Opcode.PONG
        assert "failed on purpose" in caplog.text


# The same on the production launcher's loop


@pytest.mark.parametrize(
    "scenario",
    [
        test_messages_sent_together_are_answered_in_order,
        test_frames_right_behind_the_handshake_are_not_lost,
        test_frames_sent_before_accept_wait_for_it,
        test_large_message_does_not_keep_its_memory,
        test_denial_larger_than_any_buffer_arrives_whole,
        test_client_that_leaves_before_accept_is_noticed,
        test_application_closes_with_code_and_reason_and_is_told_at_once,
        test_application_that_only_sends_to_nobody_ends_and_holds_up_nobody,
        test_cancelled_receive_loses_nothing,
        test_aborted_socket_is_gone_at_once,
    ],
    ids=lambda scenario: scenario.__name__.removeprefix("test_"),
)
def test_on_uvloop(scenario: Any) -> None:
    uvloop.run(scenario())


async def test_messages_are_sent_at_once_and_not_when_the_peer_has_acknowledged_earlier_ones() -> None:
    app = Opened()
    async with native(app) as server, await server.opened():
        await app.wait()
        sock = app.transport._stream._sock
        assert sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)
        app.go.set()
