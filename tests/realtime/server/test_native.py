"""The native engine inside daphne's server: what the settings do, and which ports it takes."""

from __future__ import annotations

import asyncio
import logging
import zlib
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from django.test import override_settings
from websockets.asyncio.client import connect, unix_connect
from websockets.extensions.permessage_deflate import ClientPerMessageDeflateFactory

from realtime.conf import get_settings
from realtime.frames import Frame
from realtime.server import native as native_module
from realtime.server.native import native_half, options_of
from realtime.server.server import Server
from tests.acceptance import rawclient
from tests.acceptance.processes import ServerProcess, daphne, free_port, wait_for_lines
from tests.acceptance.rawclient import RawClient
from tests.realtime.server.engines import Native, Peer, echo, native, until
from tests.realtime.server.test_websocket import Counted, Opened

APPLICATION = "tests.acceptance.apps.plain:application"
DEFLATE = "Sec-WebSocket-Extensions: permessage-deflate"
WORDS = "all work and no play makes Jack a dull boy. " * 20


def daphne_server(**options: Any) -> Server:
    return Server(application=echo, endpoints=["tcp:port=0:interface=127.0.0.1"], **options)


@asynccontextmanager
async def configured(application: Any, **settings: Any) -> AsyncIterator[Native]:
    """Serve as the server would under these settings."""
    with override_settings(**{f"REALTIME_{name.upper()}": value for name, value in settings.items()}):
        given = options_of(daphne_server(), get_settings())
    async with native(application, given=given) as server:
        yield server


async def one_echo(peer: Peer, text: str) -> tuple[bool, bytes]:
    """Send ``text`` as it is; return whether the answer was compressed, and its payload."""
    peer.send(rawclient.text(text))
    frame = await peer.frame()
    return frame.rsv1, bytes(frame.data)


def inflated(payload: bytes, bits: int = 15) -> str:
    return zlib.decompressobj(-bits).decompress(payload + b"\x00\x00\xff\xff").decode()


# Settings


@pytest.mark.setting("REALTIME_COMPRESSION")
@pytest.mark.parametrize(("compression", "agrees"), [("none", False), ("deflate", True)])
async def test_compression_is_agreed_on_where_it_is_on(compression: str, agrees: bool) -> None:
    async with configured(echo, compression=compression) as server, await server.peer() as peer:
        peer.send(rawclient.handshake("/", DEFLATE))
        response = await peer.response()
        assert ("sec-websocket-extensions" in response.headers) is agrees
        compressed, payload = await one_echo(peer, WORDS)
        assert compressed is agrees
        assert (inflated(payload) if agrees else payload.decode()) == WORDS


@pytest.mark.setting("REALTIME_COMPRESSION")
@pytest.mark.parametrize("takeover", [False, True])
async def test_compressed_messages_come_back_as_they_were(takeover: bool) -> None:
    factory = ClientPerMessageDeflateFactory(client_max_window_bits=True)
    async with (
        configured(echo, compression="deflate", compression_context_takeover=takeover) as server,
        server.connect(extensions=[factory]) as client,
    ):
        for message in ("", "short", WORDS, WORDS, b"\x00" * 100_000, "grüße " * 1000):
            await client.send(message)
            assert await client.recv() == message


@pytest.mark.setting("REALTIME_COMPRESSION_WINDOW_BITS")
async def test_window_is_not_larger_than_set() -> None:
    async with (
        configured(echo, compression="deflate", compression_window_bits=9) as server,
        await server.peer() as peer,
    ):
        peer.send(rawclient.handshake("/", f"{DEFLATE}; client_max_window_bits; server_max_window_bits=15"))
        agreed = (await peer.response()).headers["sec-websocket-extensions"]
        assert "server_max_window_bits=9" in agreed
        assert "client_max_window_bits=9" in agreed
        _, payload = await one_echo(peer, WORDS)
        assert inflated(payload, bits=9) == WORDS


@pytest.mark.setting("REALTIME_COMPRESSION_MEM_LEVEL")
async def test_memory_level_changes_what_is_sent() -> None:
    sizes = {}
    text = "".join(f"{number * 7919 % 1000:03d} " for number in range(4000))
    for level in (1, 9):
        async with (
            configured(echo, compression="deflate", compression_mem_level=level) as server,
            await server.opened("/", DEFLATE) as peer,
        ):
            _, payload = await one_echo(peer, text)
            assert inflated(payload) == text
            sizes[level] = len(payload)
    assert sizes[9] < sizes[1]


@pytest.mark.setting("REALTIME_COMPRESSION_CONTEXT_TAKEOVER")
@pytest.mark.parametrize("takeover", [False, True])
async def test_context_takeover_makes_the_second_message_smaller(takeover: bool) -> None:
    async with (
        configured(echo, compression="deflate", compression_context_takeover=takeover) as server,
        await server.opened("/", DEFLATE) as peer,
    ):
        first, second = (await one_echo(peer, WORDS))[1], (await one_echo(peer, WORDS))[1]
        assert (len(second) < len(first) / 2) is takeover


@pytest.mark.setting("REALTIME_COMPRESSION_MIN_BYTES")
async def test_short_messages_are_sent_as_they_are() -> None:
    async with (
        configured(echo, compression="deflate", compression_min_bytes=50) as server,
        await server.opened("/", DEFLATE) as peer,
    ):
        assert await one_echo(peer, "x" * 49) == (False, b"x" * 49)
        assert (await one_echo(peer, "x" * 50))[0] is True


async def test_broadcast_is_compressed_once_for_all() -> None:
    app = Opened()
    async with configured(app, compression="deflate") as server:
        frame = Counted(WORDS)
        for lines in ((DEFLATE,), (DEFLATE,), (f"{DEFLATE}; server_max_window_bits=9",), (), ()):
            app.ready.clear()
            async with await server.opened("/", *lines) as peer:
                await app.wait()
                app.transport.write(frame)
                sent = await peer.frame()
                assert sent.rsv1 is bool(lines)
                assert (inflated(bytes(sent.data)) if lines else bytes(sent.data).decode()) == WORDS
        assert len(frame.made) == 3, "one for each set of parameters, and one for those without"
        app.go.set()


@pytest.mark.setting("REALTIME_READ_BUFFER_BYTES")
@pytest.mark.parametrize("size", [1024, 65536])
async def test_no_more_is_read_at_once_than_is_set(size: int) -> None:
    app = Opened()
    async with configured(app, read_buffer_bytes=size) as server, await server.opened() as peer:
        await app.wait()
        peer.send(rawclient.text("x" * 10) * (2 * size // 16))
        await app.receive()
        # What was read before anything was handled.
        assert size - 16 <= 16 * (1 + len(app.transport._queue)) <= size
        app.go.set()


@pytest.mark.setting("REALTIME_WRITE_BUFFER_BYTES")
@pytest.mark.parametrize(("size", "writable"), [(10_000, False), (8_000_000, True)])
async def test_peer_counts_as_slow_when_more_than_that_waits(size: int, writable: bool) -> None:
    app = Opened()
    async with (
        configured(app, write_buffer_bytes=size) as server,
        await server.opened(receive_buffer=4096) as peer,
    ):
        await app.wait()
        while app.transport.buffered_bytes < 20_000:
            app.transport.write(Frame(b"x" * 20_000))
        assert app.transport.writable is writable
        for _ in range(2000):
            if app.transport.writable and app.transport.buffered_bytes == 0:
                break
            await peer.frame()
        await until(lambda: app.transport.writable)
        app.go.set()


@pytest.mark.setting("REALTIME_MAX_INBOUND_MESSAGES")
async def test_socket_is_not_read_while_too_many_messages_wait() -> None:
    app = Opened()
    async with configured(app, max_inbound_messages=4) as server, await server.opened() as peer:
        await app.wait()
        for number in range(6):
            peer.send(rawclient.text(str(number)))
            await until(lambda number=number: len(app.transport._queue) > min(number, 3))
        assert app.transport.is_held
        assert len(app.transport._queue) == 4
        assert [(await app.receive())["text"] for _ in range(6)] == [str(number) for number in range(6)]
        assert not app.transport.is_held
        app.go.set()


@pytest.mark.setting("REALTIME_ENGINE")
@pytest.mark.parametrize(("engine", "native_serves"), [("native", True), ("daphne", False)])
def test_engine_is_chosen(engine: str, native_serves: bool) -> None:
    with override_settings(REALTIME_ENGINE=engine):
        half = native_half(daphne_server())
    assert (half is not None) is native_serves
    if half is not None:
        half.engine.close()


def test_without_picows_daphne_serves_and_that_is_said(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(native_module, "MISSING", "No module named 'picows'")
    with caplog.at_level(logging.WARNING):
        assert native_half(daphne_server()) is None
    assert "picows" in caplog.text


def test_options_follow_the_command_line() -> None:
    server = daphne_server(
        root_path="/root",
        websocket_timeout=-1,
        websocket_connect_timeout=-1,
        application_close_timeout=3,
        ping_interval=7,
        websocket_max_message_size=5000,
        server_name="",
    )
    options = options_of(server, get_settings())
    assert (options.root_path, options.server_name) == ("/root", "")
    assert options.max_age == 0
    assert options.connect_timeout > 86400
    assert (options.application_close_timeout, options.keepalive_interval) == (3, 7)
    assert options.max_message_bytes == 5000


# Ports


@pytest.fixture
def environment(tmp_path: Path) -> dict[str, str]:
    return {"NOTES": str(tmp_path / "notes")}


async def test_http_and_websockets_share_a_port(environment: dict[str, str]) -> None:
    port = free_port()
    with ServerProcess(daphne(APPLICATION, port), port, environment) as server:
        assert rawclient.get(port, "/").body == b"home"
        async with connect(f"{server.ws}/echo") as client:
            await client.send("hello")
            assert await client.recv() == "hello"
        assert server.stop().code == 0


def test_upgrade_on_a_connection_that_was_used_for_http_is_served_by_daphne(
    environment: dict[str, str],
) -> None:
    port = free_port()
    with ServerProcess(daphne(APPLICATION, port), port, environment), RawClient(port) as client:
        client.send(b"GET / HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n")
        assert client.response().status == 200
        assert client.open("/echo").status == 101
        client.send(rawclient.text("hello"))
        assert client.frame().data == b"hello"


async def test_unix_socket_serves_both(environment: dict[str, str], tmp_path: Path) -> None:
    port, path = free_port(), tmp_path / "socket"
    command = daphne(APPLICATION, port, "-u", str(path))
    with ServerProcess(command, port, environment):
        # The port, which has been waited for, is listened at first.
        while not path.exists():  # noqa: ASYNC110
            await asyncio.sleep(0.01)
        async with unix_connect(str(path), "ws://localhost/echo") as client:
            await client.send("hello")
            assert await client.recv() == "hello"
            assert client.transport.get_extra_info("peername") == str(path)
        reader, writer = await asyncio.open_unix_connection(str(path))
        writer.write(b"GET / HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
        assert b"home" in await reader.read()
        writer.close()


async def test_client_address_comes_from_a_proxy_where_that_is_asked_for(environment: dict[str, str]) -> None:
    port = free_port()
    with ServerProcess(daphne(APPLICATION, port, "--proxy-headers"), port, environment) as server:
        headers = {"X-Forwarded-For": "192.0.2.7", "X-Forwarded-Proto": "https"}
        async with connect(f"{server.ws}/scope", additional_headers=headers) as client:
            scope = await client.recv()
        assert '"client": ["192.0.2.7", 0]' in scope
        assert '"scheme": "wss"' in scope


async def test_drain_sees_off_native_sockets(environment: dict[str, str]) -> None:
    port = free_port()
    with ServerProcess(daphne(APPLICATION, port), port, environment) as server, RawClient(port) as client:
        client.open("/note")
        ending = asyncio.create_task(asyncio.to_thread(server.stop))
        code, _ = await asyncio.to_thread(client.close_frame)
        assert code == 1012
        client.send(rawclient.close(1012))
        assert await asyncio.to_thread(client.rest) == b""
        assert (await ending).code == 0
    (note,) = wait_for_lines(Path(environment["NOTES"]), 1)
    assert note.startswith("1012")
