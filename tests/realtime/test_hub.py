"""Delivery: rooms, order, exclusion, slices, queues and presence, on real consumers."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any

import pytest
from channels.layers import InMemoryChannelLayer
from django.contrib.auth.models import User
from django.test import override_settings

from realtime import envelope, gathering, nodes
from realtime import hub as hub_module
from realtime.attendance import public_id
from realtime.close_codes import KICKED
from realtime.connections import Connection
from realtime.consumers import RealtimeConsumer
from realtime.errors import PublishQueueFull
from realtime.handlers import on
from realtime.publish import publish
from realtime.server import deflate
from realtime.testing import Socket, connect, until
from tests.acceptance.rawclient import Opcode, text
from tests.realtime.server.engines import Native, Peer, native
from tests.realtime.turns import each_turn


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


def messages_out() -> int:
    """Return how many messages all sockets have been sent."""
    return sum(one.messages_out for one in nodes.current().registry)


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


# Real sockets.


class Reader(RealtimeConsumer):
    """Joins the room that its path names, and is told nothing but what is published there."""

    speaks_protocol = False

    async def connected(self) -> None:
        await self.join(self.scope["path"][1:])

    @on("pour")
    async def pour(self, data: dict[str, Any]) -> None:
        """Publish as fast as the readers take it."""
        for number in range(data["messages"]):
            await self.room(data["room"]).publish("poured", [number, "x" * KIB], wait=True)


KIB = 1024
LIMIT = 64 * KIB
"""What may wait in the engine before a reader counts as slow."""


@asynccontextmanager
async def served(**options: Any) -> AsyncIterator[Native]:
    async with native(Reader.as_asgi(), write_buffer_bytes=LIMIT, **options) as server:
        yield server


async def member(server: Native, room: str, *lines: str, receive_buffer: int | None = None) -> Peer:
    """A client that is in a room, and reads when it is told to."""
    known = set(nodes.current().registry)
    peer = await server.opened(f"/{room}", *lines, receive_buffer=receive_buffer)
    await until(lambda: any(room in one.rooms for one in set(nodes.current().registry) - known))
    return peer


def connection_in(room: str) -> Connection:
    (connection,) = nodes.current().hub.rooms[room].members
    return connection


async def stall(room: str) -> Connection:
    """Publish until the one member of a room, who does not read, is behind."""
    connection = connection_in(room)
    while not connection.is_behind:
        await publish(room, "filling", "x" * 16 * KIB)
        await asyncio.sleep(0)
    return connection


async def read_all(peer: Peer, numbers: list[int], *, pause: float = 0.0) -> None:
    """Read what is published, and keep its numbers, until the end of the socket."""
    while (frame := await peer.frame()).opcode is Opcode.TEXT:
        message = json.loads(frame.data)
        if message["type"] == "poured":
            numbers.append(message["data"][0])
        await asyncio.sleep(pause)


async def test_a_broadcast_is_compressed_and_framed_once_for_all(monkeypatch: pytest.MonkeyPatch) -> None:
    """X17: fifty sockets without context takeover cost one compression."""
    compressed: list[int] = []
    compress = deflate.compress_alone

    def counted(payload: bytes, window_bits: int, mem_level: int) -> bytes:
        compressed.append(len(payload))
        return compress(payload, window_bits, mem_level)

    monkeypatch.setattr(deflate, "compress_alone", counted)
    policy = deflate.Policy(window_bits=12, mem_level=5, context_takeover=False, min_bytes=0)
    async with served(deflate=policy) as server, AsyncExitStack() as stack:
        offer = "Sec-WebSocket-Extensions: permessage-deflate"
        peers = [await stack.enter_async_context(await member(server, "crowd", offer)) for _ in range(50)]
        result = await publish("crowd", "news", "all work and no play " * 100)
        assert (result.targets, len(compressed)) == (50, 1)
        frames = [await peer.frame() for peer in peers]
    assert {frame.rsv1 for frame in frames} == {True}
    assert len({frame.data for frame in frames}) == 1


@pytest.mark.setting("REALTIME_MAX_CONCURRENT_BROADCAST")
async def test_the_loop_has_a_turn_after_every_slice_of_real_sockets() -> None:
    """S11"""
    with override_settings(REALTIME_MAX_CONCURRENT_BROADCAST=10):
        async with served() as server, AsyncExitStack() as stack:
            peers = [await stack.enter_async_context(await member(server, "crowd")) for _ in range(25)]
            with each_turn(messages_out) as sent:
                assert (await publish("crowd", "news", 1)).targets == 25
            assert sorted(set(sent)) == [0, 10, 20, 25]
            for peer in peers:
                await peer.frame()


def from_another_process(*numbers: int) -> dict[str, Any]:
    """What the channel layer brings of a process that published to the crowd."""
    ops = [{"op": "room", "to": "crowd", "payload": json.dumps({"type": "n", "data": n})} for n in numbers]
    return {"from": "another", "ops": ops}


async def test_what_another_process_sent_together_leaves_in_one_piece() -> None:
    """N messages to M sockets are M writes, not N times M."""
    async with served() as server, await member(server, "crowd") as peer:
        transport = connection_in("crowd").transport
        await hub()._received(from_another_process(1, 2, 3))
        assert transport.buffered_bytes > 0, "it was written at once"
        frames = [json.loads((await peer.frame()).data)["data"] for _ in range(3)]
        assert (frames, transport.buffered_bytes) == ([1, 2, 3], 0)


async def test_what_a_client_sends_meanwhile_lets_nothing_go(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gathering, "PATIENCE", 5.0)
    async with served() as server, await member(server, "crowd") as peer:
        connection = connection_in("crowd")
        with hub().gathering:
            await hub()._received(from_another_process(1, 2))
            peer.send(text("no envelope"))
            await until(lambda: connection.messages_in)
            assert connection.transport.buffered_bytes > 0
        assert [json.loads((await peer.frame()).data)["data"] for _ in range(2)] == [1, 2]


@pytest.mark.setting("REALTIME_MAX_CONCURRENT_BROADCAST")
async def test_others_have_a_turn_while_another_process_floods_this_one() -> None:
    """What comes with one message of the layer, and one after the other without waiting, is cut into slices."""
    with override_settings(REALTIME_MAX_CONCURRENT_BROADCAST=10):
        async with served() as server, AsyncExitStack() as stack:
            for _ in range(4):
                await stack.enter_async_context(await member(server, "crowd"))
            with each_turn(messages_out) as sent:
                await asyncio.sleep(0)
                await hub()._received(from_another_process(*range(10)))
            assert sent == [0, 8, 16, 24, 32, 40], "each message counts one, and each of its sockets"


async def test_a_publish_that_waits_never_has_more_waiting_than_fits_and_loses_nothing() -> None:
    """R5: the producer is as fast as its slow reader."""
    numbers: list[int] = []
    with override_settings(REALTIME_MAX_OUTBOUND_BYTES=LIMIT):
        async with served() as server, await member(server, "slow", receive_buffer=4096) as peer:
            reading = asyncio.create_task(read_all(peer, numbers, pause=0.0005))
            connection = connection_in("slow")
            with each_turn(lambda: connection.outbox.bytes + connection.transport.buffered_bytes) as waiting:
                for number in range(600):
                    result = await publish("slow", "poured", [number, "x" * 16 * KIB], wait=True)
                    assert (result.failed, result.behind, connection.is_behind) == (0, 0, False)
                await until(lambda: len(numbers) == 600)
            reading.cancel()
    assert numbers == list(range(600))
    # Above the limit there is never more than the message that went over it.
    assert LIMIT < max(waiting) < LIMIT + 17 * KIB


async def test_a_publish_that_does_not_wait_overflows_the_same_reader() -> None:
    numbers: list[int] = []
    with override_settings(REALTIME_MAX_OUTBOUND_BYTES=LIMIT):
        async with served() as server, await member(server, "slow", receive_buffer=4096) as peer:
            reading = asyncio.create_task(read_all(peer, numbers, pause=0.0005))
            connection = connection_in("slow")
            for number in range(600):
                await publish("slow", "poured", [number, "x" * 16 * KIB])
                await asyncio.sleep(0)
            assert connection.closed
            await asyncio.gather(reading)
    assert len(numbers) < 600
    assert nodes.current().counters.slow_consumers["disconnect"] == 1


async def test_a_handler_may_wait_for_its_room() -> None:
    async with served() as server, await member(server, "r") as reader, await member(server, "p") as producer:
        producer.send(text(json.dumps({"type": "pour", "data": {"room": "r", "messages": 200}})))
        numbers: list[int] = []
        reading = asyncio.create_task(read_all(reader, numbers))
        await until(lambda: len(numbers) == 200)
        reading.cancel()


async def test_a_reader_that_stands_still_is_waited_for_once() -> None:
    """And again when it has caught up: one dead reader must not cost every publish its whole time."""
    with override_settings(REALTIME_SLOW_CONSUMER="drop_oldest"):
        async with served() as server, await member(server, "slow", receive_buffer=4096) as peer:
            connection = await stall("slow")
            loop = asyncio.get_running_loop()
            started = loop.time()
            assert (await publish("slow", "poured", [0, ""], wait=0.2)).behind == 1
            assert 0.2 <= loop.time() - started < 1
            started = loop.time()
            assert (await publish("slow", "poured", [1, ""], wait=5)).behind == 1
            assert loop.time() - started < 0.1
            numbers: list[int] = []
            reading = asyncio.create_task(read_all(peer, numbers))
            await until(lambda: not connection.is_behind)
            reading.cancel()
            assert not connection.stalled


@pytest.mark.parametrize(
    "end",
    [
        pytest.param(lambda peer, connection: peer.writer.transport.abort(), id="the peer is gone"),
        pytest.param(lambda peer, connection: connection.close(KICKED), id="it is closed"),
        pytest.param(lambda peer, connection: connection.abort(), id="it is dropped"),
    ],
)
async def test_a_reader_that_goes_is_not_waited_for(end: Any) -> None:
    async with served() as server, await member(server, "slow", receive_buffer=4096) as peer:
        connection = await stall("slow")
        waiting = asyncio.create_task(publish("slow", "poured", [0, ""], wait=30))
        await until(lambda: connection._followers)
        end(peer, connection)
        async with asyncio.timeout(2):
            assert (await waiting).behind == 0


async def test_a_handler_that_waits_for_its_own_client_ends_when_that_is_gone() -> None:
    """Though nobody sees the end of the socket before the handler has returned."""
    async with served() as server, await member(server, "slow", receive_buffer=4096) as peer:
        peer.send(text(json.dumps({"type": "pour", "data": {"room": "slow", "messages": 8_000}})))
        connection = connection_in("slow")
        await until(lambda: connection._followers)
        peer.writer.transport.abort()
        await until(lambda: len(nodes.current().registry) == 0, timeout=5)


async def test_who_is_left_out_is_not_waited_for() -> None:
    async with served() as server, await member(server, "slow", receive_buffer=4096):
        connection = await stall("slow")
        async with asyncio.timeout(2):
            result = await publish("slow", "poured", [0, ""], exclude=[connection.id], wait=30)
        assert (result.targets, result.behind) == (0, 0)


async def test_a_publisher_that_waits_lets_others_run() -> None:
    """Though every reader is quick: a loop of publishes must not be the only thing that runs."""
    async with served() as server, await member(server, "quick"):
        with each_turn(lambda: None) as turns:
            for number in range(100):
                await publish("quick", "poured", [number, ""], wait=True)
    assert len(turns) >= 100


# Policies by room.


@pytest.mark.setting("REALTIME_SLOW_CONSUMER")
async def test_each_room_has_its_own_policy() -> None:
    """R5, X5"""
    by_room = {"ticker-*": "drop_oldest", "*": "disconnect"}
    with override_settings(REALTIME_SLOW_CONSUMER=by_room, REALTIME_MAX_OUTBOUND_BYTES=LIMIT):
        async with (
            served() as server,
            await member(server, "ticker-eur", receive_buffer=4096),
            await member(server, "chat", receive_buffer=4096),
        ):
            ticker, chat = connection_in("ticker-eur"), connection_in("chat")
            for room in ("ticker-eur", "chat"):
                for number in range(1000):
                    await publish(room, "n", [number, "x" * 16 * KIB])
            assert (ticker.closed, chat.closed) == (False, True)
            assert 0 < ticker.outbox.bytes <= LIMIT
            counters = nodes.current().counters
            assert counters.slow_consumers["disconnect"] == 1
            assert counters.slow_consumers["drop_oldest"] > 100


async def test_the_policy_of_a_room_is_not_that_of_direct_messages() -> None:
    """A full box of prices makes room for what must not be lost, and does not close the socket for it."""
    with override_settings(
        REALTIME_SLOW_CONSUMER={"ticker-*": "drop_oldest"}, REALTIME_MAX_OUTBOUND_BYTES=LIMIT
    ):
        async with served() as server, await member(server, "ticker-eur", receive_buffer=4096):
            connection = await stall("ticker-eur")
            for _ in range(100):
                await publish("ticker-eur", "n", "x" * KIB)
            assert all(connection.offer(envelope.event("direct", number)) for number in range(100))
            assert not connection.closed
            while connection.offer(envelope.event("direct", "x" * KIB)):
                pass
            assert connection.closed


# A channel layer that fails (R11).


class Moody(InMemoryChannelLayer):
    """Leaves the process, as far as anybody can tell, and does not always do what it is asked."""

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        self.answers = asyncio.Event()
        self.answers.set()
        self.refusals = 0
        """How many of the next memberships it refuses."""
        self.failing = asyncio.Event()

    async def group_add(self, group: str, channel: str) -> None:
        await self.answers.wait()
        if self.refusals:
            self.refusals -= 1
            raise ConnectionError("not now")
        await super().group_add(group, channel)

    async def receive(self, channel: str) -> dict[str, Any]:
        receiving = asyncio.ensure_future(super().receive(channel))
        failing = asyncio.ensure_future(self.failing.wait())
        await asyncio.wait([receiving, failing], return_when=asyncio.FIRST_COMPLETED)
        receiving.cancel()
        if failing.done():
            self.failing.clear()
            raise ConnectionError("the server went away")
        failing.cancel()
        return await receiving


@pytest.fixture
def moody(monkeypatch: pytest.MonkeyPatch) -> Moody:
    layer = Moody()
    monkeypatch.setattr(hub_module, "crossing_layer", lambda state: layer)
    return layer


async def test_who_enters_does_not_wait_for_a_layer_that_says_nothing(
    moody: Moody, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(hub_module, "LAYER_PATIENCE", 0.05)
    async with connect(APP) as one:
        await settled(one)
        moody.answers.clear()
        async with connect(APP, "/cellar") as two:
            await settled(two)
            room = hub().rooms["cellar"]
            assert room.subscribed is None
            await publish("cellar", "said", 1)
            await two.expect("said")
            moody.answers.set()
            await until(lambda: room.subscribed is True)
            assert room.group in moody.groups
    await nodes.current().aclose()


async def test_a_layer_that_is_back_is_told_the_rooms_until_it_has_taken_them(moody: Moody) -> None:
    async with connect(APP) as one:
        await settled(one)
        moody.groups.clear()
        moody.refusals = 1
        moody.failing.set()
        await until(lambda: hub().rooms["lobby"].group in moody.groups)
    await nodes.current().aclose()
