"""The listening socket: who is served by whom, and who is made to leave."""

from __future__ import annotations

import asyncio
import errno
import logging
import socket
from pathlib import Path
from typing import Any

import pytest

from realtime.server.front import Front
from realtime.server.heads import MAX_HEAD_BYTES, Head
from tests.acceptance import rawclient
from tests.realtime.server.engines import SOON, echo, native, until


@pytest.mark.parametrize(
    "request_bytes",
    [
        pytest.param(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n", id="plain request"),
        pytest.param(b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 3\r\n\r\nabc", id="request with a body"),
        pytest.param(b"POST / HTTP/1.1\r\n", id="part of what cannot be an upgrade"),
        pytest.param(b"nonsense", id="not HTTP"),
        pytest.param(b"GET / HTTP/1.1\r\nbad line\r\n\r\n", id="malformed"),
        pytest.param(b"GET / HTTP/1.1\r\nx: " + b"y" * MAX_HEAD_BYTES, id="endless head"),
        pytest.param(b"GET / HTTP/1.1\r\nConnection: Upgrade\r\nUpgrade: h2c\r\n\r\n", id="another protocol"),
    ],
)
async def test_what_is_not_an_upgrade_is_passed_on_with_every_byte(request_bytes: bytes) -> None:
    async with native(echo) as server, await server.peer() as peer:
        peer.send(request_bytes)
        await until(lambda: server.http)
        assert server.http == [request_bytes]
        assert not server.front.arrivals


async def test_upgrade_that_comes_in_single_bytes_is_served() -> None:
    async with native(echo) as server, await server.peer() as peer:
        for byte in rawclient.handshake("/"):
            peer.send(bytes([byte]))
            await asyncio.sleep(0)
        assert (await peer.response()).status == 101


async def test_plain_request_that_comes_in_parts_is_passed_on_whole() -> None:
    async with native(echo) as server, await server.peer() as peer:
        peer.send(b"GET / HTTP/1.1\r\nHost: x")
        await until(lambda: server.front.arrivals)
        peer.send(b"\r\n\r\n")
        await until(lambda: server.http)
        assert server.http == [b"GET / HTTP/1.1\r\nHost: x\r\n\r\n"]


async def test_partial_head_does_not_keep_the_loop_busy(monkeypatch: pytest.MonkeyPatch) -> None:
    looks = 0
    look = Front.__init__.__globals__["Arrival"].look

    def counted(self: object) -> None:
        nonlocal looks
        looks += 1
        look(self)

    monkeypatch.setattr("realtime.server.front.Arrival.look", counted)
    async with native(echo) as server, await server.peer() as peer:
        peer.send(b"GET / HTTP/1.1\r\n")
        await asyncio.sleep(0.2)
        assert looks <= 3


async def test_head_that_dribbles_in_has_a_time_limit() -> None:
    async with native(echo, head_timeout=0.2) as server, await server.peer() as peer:
        started = asyncio.get_running_loop().time()

        async def dribble() -> None:
            for byte in rawclient.handshake("/"):
                peer.send(bytes([byte]))
                await asyncio.sleep(0.05)

        task = asyncio.create_task(dribble())
        await peer.dropped()
        assert 0.15 < asyncio.get_running_loop().time() - started < 1
        task.cancel()
        assert not server.front.arrivals


async def test_connection_that_says_nothing_has_a_time_limit_of_its_own() -> None:
    async with native(echo, head_timeout=SOON, idle_timeout=0.1) as server, await server.peer() as peer:
        assert await peer.ended() == b""
        assert not server.front.arrivals


@pytest.mark.parametrize("start", [b"", b"GET "])
async def test_connection_that_leaves_is_forgotten(start: bytes) -> None:
    async with native(echo) as server:
        peer = await server.peer()
        peer.send(start)
        await until(lambda: server.front.arrivals)
        peer.writer.transport.abort()
        await until(lambda: not server.front.arrivals)


async def test_half_a_head_and_a_closed_side_are_the_end() -> None:
    """The socket would be readable all the time: waiting for it would take a whole core."""
    async with native(echo) as server, await server.peer() as peer:
        peer.send(b"GET ")
        await until(lambda: server.front.arrivals)
        peer.writer.write_eof()
        await until(lambda: not server.front.arrivals)


async def test_crowd_that_comes_at_once_is_begun_bit_by_bit() -> None:
    """Whoever is connected already gets a turn in between."""
    loop = asyncio.get_running_loop()
    turn, begun = 0, []

    def next_turn() -> None:
        nonlocal turn
        turn += 1
        loop.call_soon(next_turn)

    loop.call_soon(next_turn)
    async with native(echo) as server:
        begin = server.front.websocket

        def noted(sock: socket.socket, head: Head, address: Any) -> None:
            begun.append(turn)
            begin(sock, head, address)

        server.front.websocket = noted
        # Arrived before the loop has its next look at the listener.
        crowd = [socket.create_connection(("127.0.0.1", server.port)) for _ in range(50)]
        for sock in crowd:
            sock.sendall(rawclient.handshake("/"))
        await until(lambda: len(begun) == 50)
        await until(lambda: sum(socket.opened_at is not None for socket in server.engine.sockets) == 50)
        for sock in crowd:
            sock.close()
    assert max(begun.count(number) for number in begun) == 16


async def test_one_that_cannot_be_begun_does_not_hold_up_the_others() -> None:
    async with native(echo) as server:
        begin = server.front.websocket
        failures = iter([OSError, RuntimeError])
        errors: list[Any] = []
        asyncio.get_running_loop().set_exception_handler(
            lambda loop, context: errors.append(context["exception"])
        )

        def failing(sock: socket.socket, head: Head, address: Any) -> None:
            if failure := next(failures, None):
                sock.close()
                raise failure
            begin(sock, head, address)

        server.front.websocket = failing
        crowd = [socket.create_connection(("127.0.0.1", server.port)) for _ in range(20)]
        for sock in crowd:
            sock.sendall(rawclient.handshake("/"))
        await until(lambda: len(server.engine.sockets) == 18)
        for sock in crowd:
            sock.close()
    assert [type(error) for error in errors] == [RuntimeError]


async def test_stopped_listener_refuses_and_serves_what_has_arrived() -> None:
    async with native(echo) as server, await server.peer() as peer:
        peer.send(b"GET ")
        await until(lambda: server.front.arrivals)
        server.front.stop_listening()
        with pytest.raises(OSError, match="refused"):
            await server.peer()
        peer.send(rawclient.handshake("/")[4:])
        assert (await peer.response()).status == 101


async def test_close_drops_what_has_not_said_what_it_wants() -> None:
    async with native(echo) as server, await server.peer() as peer:
        await until(lambda: server.front.arrivals)
        server.front.close()
        assert await peer.ended() == b""


async def test_process_without_descriptors_tries_again(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    class Exhausted:
        """A listener whose process has no descriptor left, once."""

        def __init__(self, inner: socket.socket) -> None:
            self.inner = inner
            self.failed = False

        def accept(self) -> object:
            if not self.failed:
                self.failed = True
                raise OSError(errno.EMFILE, "Too many open files")
            return self.inner.accept()

        def __getattr__(self, name: str) -> object:
            return getattr(self.inner, name)

    monkeypatch.setattr("realtime.server.front._RETRY_SECONDS", 0.05)
    loop = asyncio.get_running_loop()
    arrived: asyncio.Future[bytes] = loop.create_future()

    def websocket(sock: socket.socket, head: Head, address: object) -> None:
        arrived.set_result(head.target)
        sock.close()

    front = Front(loop, http=socket.socket.close, websocket=websocket)
    listener = Exhausted(socket.create_server(("127.0.0.1", 0)))
    front.listen(listener)  # type: ignore[arg-type]
    with caplog.at_level(logging.ERROR), socket.create_connection(listener.inner.getsockname()) as client:
        client.sendall(rawclient.handshake("/late"))
        async with asyncio.timeout(SOON):
            assert await arrived == b"/late"
    assert "Too many open files" in caplog.text
    front.close()


async def test_unix_sockets_are_served_too(tmp_path: Path) -> None:
    async with native(echo) as server:
        listener = socket.socket(socket.AF_UNIX)
        listener.bind(str(tmp_path / "socket"))
        listener.listen()
        server.front.listen(listener)
        reader, writer = await asyncio.open_unix_connection(str(tmp_path / "socket"))
        request = rawclient.handshake("/")
        writer.write(request[:20])
        await asyncio.sleep(0.05)
        writer.write(request[20:] + rawclient.text("hello"))
        async with asyncio.timeout(SOON):
            assert (await reader.readuntil(b"\r\n\r\n")).startswith(b"HTTP/1.1 101")
            assert await reader.readexactly(7) == b"\x81\x05hello"
        writer.close()
