"""Function style: an async function that iterates over its messages."""

from __future__ import annotations

import asyncio

import pytest
from django.test import override_settings

from ratelimit.middleware import RateLimit
from realtime import nodes
from realtime.close_codes import FORBIDDEN
from realtime.errors import SocketClosed
from realtime.limits import Limits
from realtime.publish import publish
from realtime.sockets import WebSocket, websocket
from realtime.testing import Socket, connect, until


@websocket()
async def echo(ws: WebSocket) -> None:
    """Send back what comes."""
    async for message in ws:
        await ws.send(message)


async def test_text_and_binary_come_back_as_they_were() -> None:
    """B2"""
    async with connect(echo) as socket:
        for payload in ("hi", "", b"\x00", b"", '{"type":"system.ping"}'):
            await socket.send_raw(payload)
            assert await socket.receive_raw() == payload


async def test_no_envelope_is_spoken() -> None:
    async with connect(echo) as socket:
        await socket.expect_nothing()


async def test_the_socket_is_closed_when_the_function_returns() -> None:
    @websocket()
    async def once(ws: WebSocket) -> None:
        await ws.send(await ws.receive() or "")

    async with connect(once) as socket:
        await socket.send_raw("only this")
        assert await socket.receive_raw() == "only this"
        assert await socket.expect_close() == 1000


async def test_a_function_closes_with_a_reason() -> None:
    @websocket()
    async def refuses(ws: WebSocket) -> None:
        await ws.close(FORBIDDEN)

    async with connect(refuses) as socket:
        assert await socket.expect_close() == 4403


async def test_the_iteration_ends_with_the_socket() -> None:
    ended = asyncio.Event()

    @websocket()
    async def waits(ws: WebSocket) -> None:
        async for _ in ws:
            pass
        assert await ws.receive() is None
        ended.set()

    async with connect(waits) as socket:
        await socket.disconnect()
    assert ended.is_set()


async def test_a_function_goes_on_in_its_own_task_whoever_else_reads() -> None:
    tasks: set[asyncio.Task[None] | None] = set()
    got: list[str | bytes] = []

    @websocket()
    async def shared(ws: WebSocket) -> None:
        async def read_too() -> None:
            while (message := await ws.receive()) is not None:
                got.append(message)

        beside = asyncio.create_task(read_too())
        async for message in ws:
            tasks.add(asyncio.current_task())
            got.append(message)
        beside.cancel()

    async with connect(shared) as socket:
        for number in range(6):
            await socket.send_raw(str(number))
            # Both wait again: it is the other's turn.
            await until(lambda: len(got) == number + 1)  # noqa: B023 - it is called now
        await socket.disconnect()
    assert sorted(got) == ["0", "1", "2", "3", "4", "5"]
    assert len(tasks) <= 1


async def test_a_function_that_only_sends_ends_when_the_socket_is_closed() -> None:
    ended: list[BaseException] = []

    @websocket()
    async def ticks(ws: WebSocket) -> None:
        try:
            while True:
                await ws.send("tick")
                await asyncio.sleep(0)
        except SocketClosed as error:
            ended.append(error)
            raise

    async with connect(ticks) as socket:
        assert await socket.receive_raw() == "tick"
        (connection,) = nodes.current().registry
        connection.close(FORBIDDEN)
        while True:
            event = await socket.communicator.receive_output(1)
            if event["type"] == "websocket.close":
                break
        await until(lambda: bool(ended))
    assert len(nodes.current().registry) == 0


async def test_a_function_that_raises_gives_everything_back() -> None:
    @websocket()
    async def breaks(ws: WebSocket) -> None:
        await ws.join("breaking")
        raise LookupError("the function failed")

    with pytest.raises(LookupError, match="the function failed"):
        async with connect(breaks) as socket:
            await socket.communicator.wait(1)
    assert nodes.current().hub.rooms == {}
    assert len(nodes.current().registry) == 0


async def test_rooms_work_from_a_function() -> None:
    @websocket()
    async def member(ws: WebSocket) -> None:
        await ws.join("lobby")
        async for message in ws:
            await ws.room("lobby").publish("said", message)

    async with connect(member) as one, connect(member) as two:
        await until(lambda: len(nodes.current().hub.rooms.get("lobby").members) == 2)
        await one.send_raw("hi")
        for socket in (one, two):
            assert (await socket.expect("said"))["data"] == "hi"
        await publish("lobby", "said", "from outside")
        assert (await two.expect("said"))["data"] == "from outside"


async def test_what_the_url_captured_and_the_id_are_at_hand() -> None:
    seen: list[object] = []

    @websocket()
    async def looks(ws: WebSocket) -> None:
        seen.append((ws.kwargs, ws.id, ws.scope["path"]))

    scope = {"url_route": {"args": (), "kwargs": {"room": "blue"}}}
    async with connect(looks, "/blue", scope=scope) as socket:
        assert await socket.expect_close() == 1000
    ((kwargs, id, path),) = seen  # type: ignore[misc]
    assert (kwargs, path) == ({"room": "blue"}, "/blue")
    assert len(id) == 24


async def test_a_subprotocol_is_negotiated() -> None:
    @websocket(subprotocols=["v2", "v1"])
    async def versions(ws: WebSocket) -> None:
        await ws.send(ws.connection.subprotocol)

    async with connect(versions, subprotocols=["v1"]) as socket:
        assert await socket.receive_raw() == "v1"


async def test_a_function_has_limits_of_its_own() -> None:
    """B1"""

    @websocket(limits=Limits(max_message_bytes=3))
    async def small(ws: WebSocket) -> None:
        async for message in ws:
            await ws.send(message)

    async with connect(RateLimit(small)) as socket:
        await socket.send_raw("abc")
        assert await socket.receive_raw() == "abc"
        await socket.send_raw("abcd")
        assert await socket.expect_close() == 1009


async def test_a_function_is_seen_in_the_registry_by_its_name() -> None:
    async with connect(echo) as socket:
        await socket.send_raw("x")
        await socket.receive_raw()
        (info,) = nodes.connection_infos()
        assert info.consumer.endswith("test_sockets.echo")
        assert (info.messages_in, info.messages_out) == (1, 1)


async def heartbeats(socket: Socket) -> None:
    await socket.expect_nothing(0.2)


async def test_a_socket_that_cannot_be_asked_is_not_judged_by_its_silence() -> None:
    with override_settings(REALTIME_HEARTBEAT_INTERVAL=0.02, REALTIME_HEARTBEAT_TIMEOUT=0.05):
        async with connect(echo) as socket:
            await heartbeats(socket)
            await socket.send_raw("x")
            assert await socket.receive_raw() == "x"
