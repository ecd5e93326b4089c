"""Delivery: rooms, order, exclusion, slices, queues and presence, on real consumers."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from django.contrib.auth.models import User
from django.test import override_settings

from realtime import nodes
from realtime.consumers import RealtimeConsumer
from realtime.errors import PublishQueueFull
from realtime.handlers import on
from realtime.hub import public_id
from realtime.publish import publish
from realtime.testing import Socket, connect, until


class Member(RealtimeConsumer):
    """Joins the room that its path names, with presence."""

    async def connected(self) -> None:
        await self.join(self.scope["path"][1:] or "lobby", presence=True)

    @on("say")
    async def say(self, data: dict[str, Any]) -> None:
        await self.room("lobby").publish("said", data)

    @on("whisper")
    async def whisper(self, data: dict[str, Any]) -> None:
        await self.room("lobby").publish("said", data, exclude_self=True)

    @on("go")
    async def go(self) -> None:
        await self.leave("lobby")


APP = Member.as_asgi()


async def settled(*sockets: Socket) -> None:
    """Return when every socket was told that it is in its room, and knows who else is."""
    for socket in sockets:
        await socket.expect("system.joined")
    await asyncio.sleep(0)


def hub() -> Any:
    return nodes.current().hub


# Rooms (C5).


async def test_a_publish_reaches_every_member_and_the_publisher() -> None:
    async with connect(APP) as one, connect(APP) as two:
        await settled(one, two)
        await one.send("say", {"text": "hi"})
        for socket in (one, two):
            said = await socket.expect("said")
            assert (said["room"], said["data"]) == ("lobby", {"text": "hi"})
            assert said["ts"] > 1_700_000_000


async def test_the_publisher_can_be_left_out() -> None:
    async with connect(APP) as one, connect(APP) as two:
        await settled(one, two)
        await one.send("whisper", {"text": "hi"})
        await two.expect("said")
        await one.send("say", {"text": "next"})
        assert (await one.expect("said"))["data"] == {"text": "next"}


async def test_rooms_are_apart() -> None:
    async with connect(APP) as lobby, connect(APP, "/cellar") as cellar:
        await settled(lobby, cellar)
        await publish("cellar", "said", 1)
        await cellar.expect("said")
        await publish("lobby", "said", 2)
        assert (await lobby.expect("said"))["data"] == 2


async def test_who_left_hears_nothing_more() -> None:
    async with connect(APP) as one:
        await one.send("go")
        await one.expect("system.left")
        result = await publish("lobby", "said", 1)
        assert (result.targets, result.failed) == (0, 0)


async def test_a_room_is_forgotten_with_its_last_member() -> None:
    async with connect(APP) as one, connect(APP) as two:
        await settled(one, two)
        await one.disconnect()
        assert "lobby" in hub().rooms
        await two.disconnect()
        assert hub().rooms == {}


@pytest.mark.parametrize(
    "room",
    [
        pytest.param("x" * 1024, id="very long"),
        pytest.param("räume/mit leerzeichen", id="not ASCII"),
        pytest.param("nul\x00", id="NUL"),
        pytest.param("!", id="one odd character"),
    ],
)
async def test_an_odd_room_name_works(room: str) -> None:
    async with connect(APP) as socket:
        await settled(socket)
        (connection,) = nodes.current().registry
        await hub().join(connection, room)
        await publish(room, "said", 1)
        assert (await socket.expect("said"))["room"] == room


async def test_joining_twice_is_being_in_it_once() -> None:
    async with connect(APP) as socket:
        await settled(socket)
        (connection,) = nodes.current().registry
        await hub().join(connection, "lobby")
        result = await publish("lobby", "said", 1)
        assert result.targets == 1


async def test_messages_of_one_publisher_arrive_in_order() -> None:
    async with connect(APP) as one, connect(APP) as two:
        await settled(one, two)
        for number in range(200):
            await publish("lobby", "said", number)
        assert [(await two.expect("said"))["data"] for _ in range(200)] == list(range(200))


@pytest.mark.setting("REALTIME_MAX_CONCURRENT_BROADCAST")
async def test_a_large_room_is_served_in_slices_and_in_order() -> None:
    """S11: other work gets a turn between two slices, and a later publish does not overtake."""
    with override_settings(REALTIME_MAX_CONCURRENT_BROADCAST=2):
        sockets = [connect(APP) for _ in range(5)]
        opened = [await socket.__aenter__() for socket in sockets]
        await settled(*opened)
        served: list[int] = []

        async def watch() -> None:
            while len(served) < 10:
                served.append(sum(c.messages_out for c in nodes.current().registry))
                await asyncio.sleep(0)

        watching = asyncio.create_task(watch())
        results = await asyncio.gather(publish("lobby", "said", 1), publish("lobby", "said", 2))
        await watching
        assert [result.targets for result in results] == [5, 5]
        assert len(set(served)) > 2
        for socket in opened:
            assert [(await socket.expect("said"))["data"] for _ in range(2)] == [1, 2]
            await socket.disconnect()


@pytest.mark.setting("REALTIME_MAX_QUEUE_SIZE")
async def test_waiting_publishes_are_bounded_and_counted() -> None:
    """F13"""
    with override_settings(REALTIME_MAX_CONCURRENT_BROADCAST=1, REALTIME_MAX_QUEUE_SIZE=2):
        async with connect(APP) as one, connect(APP) as two:
            await settled(one, two)
            results = await asyncio.gather(
                *(publish("lobby", "said", number) for number in range(4)), return_exceptions=True
            )
            assert [type(result) for result in results[2:]] == [PublishQueueFull, PublishQueueFull]
            assert "REALTIME_MAX_QUEUE_SIZE is 2" in str(results[2])
            assert [(await two.expect("said"))["data"] for _ in range(2)] == [0, 1]
            snapshot = nodes.snapshot()
            assert (snapshot.totals.queue_overflows, snapshot.queue_size) == (2, 0)


async def test_one_socket_that_is_closing_is_counted_as_failed_and_hurts_nobody() -> None:
    async with connect(APP) as one, connect(APP) as two:
        await settled(one, two)
        first = nodes.current().registry.get(one.client_id) or next(iter(nodes.current().registry))
        first.closed = True
        result = await publish("lobby", "said", 1)
        assert (result.targets, result.failed) == (2, 1)
        first.closed = False


# Presence (X4).


async def test_who_comes_sees_who_is_there() -> None:
    async with connect(APP, user=User(pk=1, username="ann")) as ann, connect(APP) as visitor:
        here = (await ann.expect("system.joined"))["data"]["presence"]
        assert [entry["user"] for entry in here] == ["ann"]
        here = (await visitor.expect("system.joined"))["data"]["presence"]
        assert [entry["user"][:6] for entry in here] == ["ann", "guest-"]
        assert len({entry["id"] for entry in here}) == 2


async def test_who_is_there_sees_who_comes_and_goes() -> None:
    async with connect(APP, user=User(pk=1, username="ann")) as ann:
        await ann.expect("system.presence")
        async with connect(APP, user=User(pk=2, username="ben")) as ben:
            await settled(ben)
            joined = (await ann.expect("system.presence"))["data"]
            assert [entry["user"] for entry in joined["joins"]] == ["ben"]
        left = (await ann.expect("system.presence"))["data"]
        assert ([entry["user"] for entry in left["leaves"]], left["joins"]) == (["ben"], [])


async def test_a_second_tab_of_the_same_user_is_nobody_new() -> None:
    user = User(pk=1, username="ann")
    async with connect(APP, user=user) as one:
        await one.expect("system.presence")
        async with connect(APP, user=user) as two:
            here = (await two.expect("system.joined"))["data"]["presence"]
            assert [entry["user"] for entry in here] == ["ann"]
        await one.expect_nothing(0.1)


async def test_presence_does_not_give_away_ids_that_mean_something() -> None:
    async with connect(APP, user=User(pk=1, username="ann")) as ann:
        (entry,) = (await ann.expect("system.joined"))["data"]["presence"]
        assert entry["id"] not in ("1", ann.client_id)


def test_the_public_id_is_stable_distinct_and_cannot_be_guessed_without_the_secret() -> None:
    assert public_id("user:1") == public_id("user:1")
    assert len({public_id(f"user:{number}") for number in range(1000)}) == 1000
    with override_settings(SECRET_KEY="another"):
        other = public_id("user:1")
    assert other != public_id("user:1")


async def test_who_reloads_was_never_gone() -> None:
    user = User(pk=2, username="ben")
    async with connect(APP) as watcher:
        async with connect(APP, user=user):
            await watcher.expect("system.presence")
            await until(lambda: not hub().rooms["lobby"].announcing)
        async with connect(APP, user=user):
            await watcher.expect_nothing(0.15)


# Slow readers.


async def test_a_slow_reader_is_closed_and_nobody_else_notices() -> None:
    """X5"""
    stuck = asyncio.Event()

    async def slow_server(scope: Any, receive: Any, send: Any) -> None:
        async def slow_send(message: Any) -> None:
            await send(message)
            if message["type"] == "websocket.send" and scope["path"] == "/lobby/slow":
                await stuck.wait()

        await Slow.as_asgi()(scope, receive, slow_send)

    class Slow(Member):
        async def connected(self) -> None:
            await self.join("lobby")

    with override_settings(REALTIME_MAX_OUTBOUND_BYTES=2000):
        async with connect(slow_server, "/lobby/slow") as slow, connect(slow_server, "/lobby/quick") as quick:
            await until(lambda: len(hub().rooms.get("lobby").members) == 2)
            for number in range(50):
                await publish("lobby", "said", f"{number:0100d}")
                await quick.expect("said")
            counters = nodes.current().counters
            assert counters.slow_consumers == {"disconnect": 1}
            stuck.set()
            assert await slow.expect_close() == 4413
