"""Overridden settings in what is open already."""

from __future__ import annotations

import asyncio
import time
from contextlib import AsyncExitStack

import pytest

from ratelimit import overrides as stored_overrides
from ratelimit import turns
from realtime import news, nodes, overrides
from realtime.close_codes import DONE
from realtime.consumers import RealtimeConsumer
from realtime.testing import connect, stop_node

SIZE = "REALTIME_MAX_OUTBOUND_BYTES"
POLICY = "REALTIME_SLOW_CONSUMER"


class Late(RealtimeConsumer):
    """Takes its time with the handshake."""

    at_door: asyncio.Event
    go_on: asyncio.Event

    async def connect(self) -> None:
        self.at_door.set()
        await self.go_on.wait()
        await self.accept()


@pytest.fixture
async def override(monkeypatch):
    """Override settings, as news from another node would."""
    stored: dict[str, object] = {}
    monkeypatch.setattr(stored_overrides.watch, "query", lambda: dict(stored))

    async def override(**values: object) -> None:
        stored.update(values)
        await news.OVERRIDES._read()
        for _ in range(10):
            await asyncio.sleep(0)

    yield override
    await stop_node()


async def opened(stack: AsyncExitStack, count: int) -> list[object]:
    for _ in range(count):
        socket = await stack.enter_async_context(connect(RealtimeConsumer.as_asgi()))
        await socket.expect("system.welcome")
    return list(nodes.current().registry)


async def test_a_socket_in_its_handshake_is_not_missed(override):
    """Nobody can find it before it is accepted."""
    Late.at_door, Late.go_on = asyncio.Event(), asyncio.Event()

    async def come() -> tuple[int, str, float]:
        async with connect(Late.as_asgi()) as socket:
            assert (await socket.expect("system.welcome"))["data"]["heartbeat"] == 50
            (connection,) = nodes.current().registry
            return connection.outbox.max_bytes, connection.outbox.policy, connection.opened

    coming = asyncio.create_task(come())
    await Late.at_door.wait()
    await override(**{SIZE: 2000, POLICY: "drop_oldest", "REALTIME_HEARTBEAT_INTERVAL": 50})
    Late.go_on.set()
    assert (await coming)[:2] == (2000, "drop_oldest")


async def test_many_are_done_some_at_a_time(override, monkeypatch):
    monkeypatch.setattr(turns, "AT_ONCE", 2)
    async with AsyncExitStack() as stack:
        connections = await opened(stack, 7)
        hub = nodes.current().hub
        # Fewer rooms than sockets, so that one of the two is done first.
        for number, connection in enumerate(connections[:3]):
            await hub.join(connection, f"room.{number}")
        await override(**{SIZE: 2000, POLICY: {"room.2": "coalesce", "*": "drop_newest"}})
        assert {one.outbox.max_bytes for one in connections} == {2000}
        assert {one.outbox.policy for one in connections} == {"drop_newest"}
        policies = [hub.rooms[f"room.{number}"].policy for number in range(3)]
        assert policies == ["drop_newest"] * 2 + ["coalesce"]


async def test_each_socket_keeps_one_deadline(override, settings):
    settings.REALTIME_HEARTBEAT_TYPE = "message"
    async with AsyncExitStack() as stack:
        await opened(stack, 3)
        heartbeat = nodes.current().heartbeat
        for interval in (20, 10, 5):
            await override(REALTIME_HEARTBEAT_INTERVAL=interval)
            assert len(heartbeat) == 3
        assert heartbeat._deadlines.next() <= time.monotonic() + 5


async def test_a_socket_that_closes_is_left_alone(override, settings):
    settings.REALTIME_HEARTBEAT_TYPE = "message"
    async with AsyncExitStack() as stack:
        (connection,) = await opened(stack, 1)
        connection.close(DONE)
        nodes.current().heartbeat.forget(connection)
        await override(REALTIME_HEARTBEAT_INTERVAL=5)
        assert len(nodes.current().heartbeat) == 0


async def test_an_override_that_is_taken_back_is_taken_back_everywhere(override, monkeypatch):
    async with AsyncExitStack() as stack:
        (connection,) = await opened(stack, 1)
        before = connection.outbox.max_bytes
        await override(**{SIZE: 2000})
        monkeypatch.setattr(stored_overrides.watch, "query", dict)
        await news.OVERRIDES._read()
        await asyncio.sleep(0)
        assert connection.outbox.max_bytes == before


def test_following_twice_is_following_once():
    overrides.follow()
    overrides.follow()
    assert stored_overrides.watch.on_change.count(overrides.bring_up_to_date) == 1
