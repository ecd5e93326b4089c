"""Entering a room with history: where it is, what was missed, in order and once, in full or not at all."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from typing import Any

import pytest
from django.test import override_settings

from realtime import nodes
from realtime.connections import Connection
from realtime.consumers import RealtimeConsumer
from realtime.handlers import on
from realtime.history import Place
from realtime.publish import publish
from realtime.testing import Socket, connect


class Member(RealtimeConsumer):
    """Joins the lobby, which has a history; a path of ``/hold`` may be about to say where it was."""

    async def connected(self) -> None:
        await self.join("lobby", recover=self.scope["path"] == "/hold")

    @on("hello")
    async def hello(self) -> None:
        """Be a first message."""


APP = Member.as_asgi()


@pytest.fixture(autouse=True)
def history() -> Iterator[None]:
    with override_settings(REALTIME_HISTORY_SIZE={"lobby": 10}):
        yield


def hub() -> Any:
    return nodes.current().hub


async def joined(socket: Socket) -> Place:
    data = (await socket.expect("system.joined"))["data"]
    return Place(data["epoch"], data["offset"])


async def said(socket: Socket, count: int) -> list[tuple[int, Any]]:
    """Return offsets and data of the next messages."""
    messages = [await socket.expect("said") for _ in range(count)]
    return [(message["offset"], message["data"]) for message in messages]


def only() -> Connection:
    (connection,) = nodes.current().registry
    return connection


async def recovered(socket: Socket, seen: Place) -> dict[str, Any]:
    """Recover the one socket from where it was, and return what it is told of it."""
    await hub().arrivals.recover(only(), hub().rooms["lobby"], seen)
    told: dict[str, Any] = (await socket.expect("system.recovered"))["data"]
    return told


async def test_who_enters_is_told_where_the_room_is_and_gets_what_follows() -> None:
    async with connect(APP) as socket:
        place = await joined(socket)
        assert place.offset == 0
        assert place.epoch
        for number in range(3):
            assert (await publish("lobby", "said", number)).offset == number + 1
        assert await said(socket, 3) == [(1, 0), (2, 1), (3, 2)]
        async with connect(APP) as late:
            assert await joined(late) == (place.epoch, 3)


async def test_what_was_missed_comes_first_and_in_order() -> None:
    async with connect(APP, "/hold") as socket:
        place = await joined(socket)
        for number in range(3):
            await publish("lobby", "said", number)
        assert await recovered(socket, place) == {
            "room": "lobby",
            "complete": True,
            "count": 3,
            "from": 0,
            "to": 3,
            "epoch": place.epoch,
        }
        await publish("lobby", "said", 3)
        assert await said(socket, 4) == [(1, 0), (2, 1), (3, 2), (4, 3)]


async def test_who_may_be_coming_back_is_held_where_it_was_told_until_its_first_message() -> None:
    async with connect(APP, "/hold") as socket:
        await joined(socket)
        await publish("lobby", "said", 0)
        await socket.expect_nothing(0.02)
        hub().arrivals.release(only())
        assert await said(socket, 1) == [(1, 0)]
        assert only() in hub().rooms["lobby"].members
        assert "system.recovered" not in [message["type"] for message in socket.skipped]


async def test_who_says_nothing_is_held_for_a_moment_only() -> None:
    async with connect(APP, "/hold") as socket:
        await joined(socket)
        await publish("lobby", "said", 0)
        assert await said(socket, 1) == [(1, 0)]


async def test_who_leaves_while_it_is_held_is_gone() -> None:
    async with connect(APP, "/hold") as socket:
        await joined(socket)
        await hub().leave(only(), "lobby")
        assert hub().rooms == {}
        hub().arrivals.release(only())
        await socket.expect_nothing()


async def test_who_is_excluded_does_not_get_it_later_either() -> None:
    async with connect(APP, "/hold") as socket:
        place = await joined(socket)
        await publish("lobby", "said", 0, exclude=[only().id])
        await publish("lobby", "said", 1)
        told = await recovered(socket, place)
        assert (told["complete"], told["count"], told["to"]) == (True, 1, 2)
        assert await said(socket, 1) == [(2, 1)]


async def test_a_place_that_nobody_knows_is_not_recovered() -> None:
    async with connect(APP, "/hold") as socket:
        place = await joined(socket)
        await publish("lobby", "said", 0)
        for seen in (Place("another", 1), Place(place.epoch, 9)):
            told = await recovered(socket, seen)
            assert (told["complete"], told["from"], told["to"], told["count"]) == (False, seen.offset, 1, 0)
        await publish("lobby", "said", 1)
        assert await said(socket, 1) == [(2, 1)]


@pytest.mark.setting("REALTIME_HISTORY_SIZE")
async def test_more_than_is_kept_is_not_recovered() -> None:
    async with connect(APP, "/hold") as socket:
        place = await joined(socket)
        for number in range(11):
            await publish("lobby", "said", number)
        told = await recovered(socket, place)
        assert (told["complete"], told["from"], told["to"], told["count"]) == (False, 0, 11, 0)
        assert (await recovered(socket, place._replace(offset=1)))["complete"]
        assert await said(socket, 10) == [(number + 1, number) for number in range(1, 11)]


@pytest.mark.setting("REALTIME_HISTORY_TTL")
async def test_a_history_is_kept_for_its_time() -> None:
    with override_settings(REALTIME_HISTORY_TTL={"lobby": 1}, REALTIME_HISTORY_CACHE_BYTES=0):
        async with connect(APP, "/hold") as socket:
            place = await joined(socket)
            await publish("lobby", "said", 0)
            state = nodes.current().state
            assert (await state.since("lobby", 0, limit=10)).entries
            async with asyncio.timeout(3):
                # Time is what it waits for.
                while (await state.since("lobby", 0, limit=10)).entries:  # noqa: ASYNC110
                    await asyncio.sleep(0.05)
            told = await recovered(socket, place)
            assert (told["complete"], told["count"]) == (False, 0)


@pytest.mark.setting("REALTIME_HISTORY_CACHE_BYTES")
async def test_what_is_not_in_memory_is_fetched(monkeypatch: pytest.MonkeyPatch) -> None:
    fetched: list[int] = []
    for cache, fetches in ((32 * 1024 * 1024, 0), (0, 1)):
        with override_settings(REALTIME_HISTORY_CACHE_BYTES=cache):
            node = nodes.current()
            fetch = node.hub.repairs.fetch

            async def counted(room: Any, offset: int, count: int, fetch: Any = fetch) -> Any:
                fetched.append(offset)
                return await fetch(room, offset, count)

            monkeypatch.setattr(node.hub.repairs, "fetch", counted)
            fetched.clear()
            async with connect(APP, "/hold") as socket:
                place = await joined(socket)
                await publish("lobby", "said", 0)
                assert (await recovered(socket, place))["complete"]
                await said(socket, 1)
            assert len(fetched) == fetches
            await node.aclose()


@pytest.mark.parametrize("policy", ["drop_oldest", "drop_newest", "coalesce"])
async def test_no_policy_makes_a_silent_hole_in_a_history(policy: str) -> None:
    with override_settings(REALTIME_MAX_OUTBOUND_BYTES=2000, REALTIME_SLOW_CONSUMER=policy):
        async with connect(APP) as socket:
            await joined(socket)
            connection = only()
            connection.transport = Stuck(connection.transport)
            for number in range(10):
                await publish("lobby", "said", f"{number:01000d}")
            assert connection.closed
            assert nodes.current().counters.slow_consumers == {"disconnect": 1}
            assert await socket.expect_close() == 4413


class Stuck:
    """A transport whose peer reads nothing."""

    writable = False

    def __init__(self, transport: Any) -> None:
        self._transport = transport

    def __getattr__(self, name: str) -> Any:
        return getattr(self._transport, name)


async def test_presence_is_told_to_those_who_are_on_their_way() -> None:
    class Seen(Member):
        async def connected(self) -> None:
            await self.join("lobby", presence=True, recover=True)

    async with connect(Seen.as_asgi()) as socket:
        await joined(socket)
        assert (await socket.expect("system.presence", timeout=0.2))["data"]["joins"]
