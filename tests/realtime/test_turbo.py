"""Turbo routes: what they do, that everything around consumers applies to them too, and that any server will do."""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator
from typing import Any, Protocol

import pytest
from channels.routing import URLRouter
from channels.security.websocket import OriginValidator
from django.test import override_settings
from django.urls import path
from websockets.exceptions import ConnectionClosed, InvalidStatus

from ratelimit.middleware import RateLimit
from realtime import nodes
from realtime.consumers import RealtimeConsumer
from realtime.limits import Limits
from realtime.publish import disconnect_client, publish, relay
from realtime.testing import Refused, Socket, connect, until
from realtime.turbo import TurboBroadcast, TurboEcho, TurboRelay
from tests.realtime.server.engines import native

SOON = 3.0
Raw = str | bytes


class Peer(Protocol):
    """A client, however it is connected."""

    async def send(self, payload: Raw) -> None: ...
    async def receive(self) -> Raw: ...
    async def close_code(self) -> int | None: ...


class OverNative:
    """A client of the native engine."""

    def __init__(self, client: Any) -> None:
        self._client = client

    async def send(self, payload: Raw) -> None:
        await self._client.send(payload)

    async def receive(self) -> Raw:
        async with asyncio.timeout(SOON):
            payload: Raw = await self._client.recv()
        return payload

    async def close_code(self) -> int | None:
        async with asyncio.timeout(SOON):
            with contextlib.suppress(ConnectionClosed):
                async for _ in self._client:
                    pass
        code: int | None = self._client.close_code
        return code


class OverAsgi:
    """A client of any other server."""

    def __init__(self, socket: Socket) -> None:
        self._socket = socket

    async def send(self, payload: Raw) -> None:
        await self._socket.send_raw(payload)

    async def receive(self) -> Raw:
        return await self._socket.receive_raw()

    async def close_code(self) -> int | None:
        while (event := await self._socket.communicator.receive_output(SOON))["type"] != "websocket.close":
            pass
        code: int = event["code"]
        await self._socket.disconnect(code)
        return code


class Door:
    """Opens sockets to one application."""

    def __init__(self, engine: str) -> None:
        self._engine = engine
        self._stack = contextlib.AsyncExitStack()
        self._server: Any = None
        self.application: Any = None

    async def serve(self, application: Any) -> None:
        self.application = application
        if self._engine == "native":
            self._server = await self._stack.enter_async_context(native(application))

    async def open(self, address: str = "/", **headers: str) -> Peer:
        if self._server is not None:
            connecting = self._server.connect(address, additional_headers=headers)
            return OverNative(await self._stack.enter_async_context(connecting))
        encoded = [(name.encode(), value.encode()) for name, value in headers.items()]
        return OverAsgi(
            await self._stack.enter_async_context(connect(self.application, address, headers=encoded))
        )

    async def aclose(self) -> None:
        await self._stack.aclose()


@pytest.fixture(params=["native", "asgi"])
async def door(request: pytest.FixtureRequest) -> AsyncIterator[Door]:
    door = Door(request.param)
    yield door
    await door.aclose()


# Echo


async def test_every_message_comes_back_with_the_prefix(door: Door) -> None:
    """B3"""
    await door.serve(TurboEcho(prefix="Écho: "))
    socket = await door.open()
    for payload, echoed in (
        ("hi", "Écho: hi"),
        ("", "Écho: "),
        (b"\x00\xff", "Écho: ".encode() + b"\x00\xff"),
    ):
        await socket.send(payload)
        assert await socket.receive() == echoed


async def test_without_a_prefix_messages_come_back_as_they_were_and_in_order(door: Door) -> None:
    await door.serve(TurboEcho())
    socket = await door.open()
    sent = [str(number) for number in range(300)]
    for payload in sent:
        await socket.send(payload)
    assert [await socket.receive() for _ in sent] == sent


@override_settings(
    RATELIMIT_MESSAGES_PER_WINDOW=3, RATELIMIT_BURST_MULTIPLIER=1, RATELIMIT_DISCONNECT_AFTER=2
)
async def test_message_limits_apply(door: Door) -> None:
    await door.serve(RateLimit(TurboEcho()))
    socket = await door.open()
    for number in range(5):
        await socket.send(str(number))
    assert [await socket.receive() for _ in range(3)] == ["0", "1", "2"]
    assert json.loads(await socket.receive())["type"] == "system.rate_limited"
    assert await socket.close_code() == 4429


async def test_a_route_has_limits_of_its_own(door: Door) -> None:
    await door.serve(RateLimit(TurboEcho(limits=Limits(max_message_bytes=10))))
    socket = await door.open()
    await socket.send("x" * 11)
    assert await socket.close_code() == 1009


@pytest.mark.django_db  # Channels' own denier looks after database connections
async def test_the_origin_is_checked_before_the_socket_is_accepted(door: Door) -> None:
    await door.serve(OriginValidator(TurboEcho(), ["https://good.example"]))
    socket = await door.open(origin="https://good.example")
    await socket.send("hi")
    assert await socket.receive() == "hi"
    with pytest.raises((InvalidStatus, Refused)):
        await door.open(origin="https://bad.example")


async def test_sockets_are_listed_counted_and_can_be_closed(door: Door) -> None:
    await door.serve(TurboEcho(prefix="> "))
    socket = await door.open()
    await socket.send("four")
    await socket.receive()
    (info,) = nodes.connection_infos()
    assert info.consumer == "realtime.turbo.TurboEcho"
    assert (info.messages_in, info.bytes_in, info.messages_out, info.bytes_out) == (1, 4, 1, 6)
    totals = nodes.snapshot().totals
    assert (totals.messages_in, totals.messages_out) == (1, 1)
    await disconnect_client(info.id)
    assert await socket.close_code() == 4410
    await until(lambda: not nodes.connection_infos())


async def test_a_client_that_does_not_read_is_not_read_either() -> None:
    """R5: what a client is owed is bounded, and it gets all of it once it reads."""
    async with native(TurboEcho()) as server, server.connect(max_queue=1) as client:
        payload, count = "x" * 50_000, 1000
        sending = asyncio.create_task(_send_all(client, payload, count))
        await asyncio.sleep(0.5)
        (connection,) = nodes.current().registry
        waiting = connection.outbox.bytes + connection.transport.buffered_bytes
        assert connection.messages_in < count / 2
        assert waiting < 1024 * 1024
        async with asyncio.timeout(10 * SOON):
            for _ in range(count):
                assert len(await client.recv()) == len(payload)
            await sending


async def _send_all(client: Any, payload: str, count: int) -> None:
    for _ in range(count):
        await client.send(payload)


# Broadcast


async def test_every_message_goes_to_everybody_in_the_room(door: Door) -> None:
    """B3"""
    await door.serve(TurboBroadcast("lobby"))
    sockets = [await door.open() for _ in range(3)]
    for payload in ("hi", "", b"\x00"):
        await sockets[0].send(payload)
        assert [await socket.receive() for socket in sockets] == [payload] * 3


async def test_the_sender_may_be_left_out(door: Door) -> None:
    await door.serve(TurboBroadcast("lobby", exclude_self=True))
    sender, other = await door.open(), await door.open()
    await sender.send("one")
    assert await other.receive() == "one"
    await other.send("two")
    assert await sender.receive() == "two"


async def test_a_room_is_named_by_what_the_url_captured(door: Door) -> None:
    await door.serve(URLRouter([path("<str:name>/", TurboBroadcast("lobby.{name}"))]))  # type: ignore[arg-type]
    red, blue = await door.open("/red/"), await door.open("/blue/")
    await red.send("for red")
    await blue.send("for blue")
    assert (await red.receive(), await blue.receive()) == ("for red", "for blue")
    assert {info.rooms for info in nodes.connection_infos()} == {("lobby.red",), ("lobby.blue",)}


async def test_what_others_publish_to_the_room_arrives_too(door: Door) -> None:
    await door.serve(TurboBroadcast("lobby"))
    socket = await door.open()
    await until(lambda: nodes.connection_infos()[0].rooms == ("lobby",))
    result = await publish("lobby", "news", {"n": 1})
    assert result.targets == 1
    message = json.loads(await socket.receive())
    assert (message["type"], message["data"]) == ("news", {"n": 1})


# Relay


class Listener(RealtimeConsumer):
    """Listens to the feed."""

    async def connected(self) -> None:
        await self.join("readings.north")


async def test_messages_are_published_to_a_room_as_events(door: Door) -> None:
    """B3"""
    feed = URLRouter([path("<str:site>/", TurboRelay("readings.{site}", type="reading"))])  # type: ignore[arg-type]
    await door.serve(feed)
    async with connect(Listener.as_asgi()) as listener:
        await listener.expect("system.joined")
        sensor = await door.open("/north/")
        await sensor.send('{"celsius": 3}')
        message = await listener.expect("reading")
        assert (message["room"], message["data"]) == ("readings.north", {"celsius": 3})
        await sensor.send("[1, 2]")
        assert (await listener.expect("reading"))["data"] == [1, 2]


@pytest.mark.parametrize(
    ("garbage", "code"),
    [("", "malformed"), ("{", "malformed"), (b"{}", "text_expected"), ("[" * 100 + "]" * 100, "too_deep")],
    ids=["empty", "malformed", "binary", "deep"],
)
@override_settings(REALTIME_MAX_CLIENT_ERRORS=2)
async def test_what_is_not_json_is_answered_and_costs_no_more_than_the_error_budget(
    door: Door, garbage: Raw, code: str
) -> None:
    await door.serve(TurboRelay("readings.north", type="reading"))
    async with connect(Listener.as_asgi()) as listener:
        await listener.expect("system.joined")
        sensor = await door.open()
        await sensor.send(garbage)
        error = json.loads(await sensor.receive())
        assert (error["type"], error["data"]["code"], error["data"]["errors_left"]) == (
            "system.error",
            code,
            1,
        )
        await sensor.send("1")
        assert (await listener.expect("reading"))["data"] == 1
        await sensor.send(garbage)
        await sensor.send(garbage)
        assert await sensor.close_code() == 4400


@override_settings(REALTIME_HANDLER_CONCURRENCY=4)
async def test_messages_stay_in_order_though_publishing_has_to_wait(
    door: Door, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def slow(room: str, payload: Raw, **how: Any) -> Any:
        await asyncio.sleep(0.02 if payload == "0" else 0)
        return await relay(room, payload, **how)

    monkeypatch.setattr("realtime.turbo.relay", slow)
    await door.serve(TurboBroadcast("lobby"))
    socket = await door.open()
    sent = [str(number) for number in range(20)]
    for payload in sent:
        await socket.send(payload)
    assert [await socket.receive() for _ in sent] == sent
