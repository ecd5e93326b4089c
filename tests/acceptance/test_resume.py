"""Clients that come back to another process, or to one that was killed and started again, over a real Redis."""

from __future__ import annotations

import asyncio
import json
import signal
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest
from websockets.asyncio.client import connect
from websockets.exceptions import ConnectionClosed

from realtime.resumption import FIRST_SAVE
from tests.acceptance.cluster import Cluster, Redis
from tests.acceptance.processes import NO_TABLES, ServerProcess, manage, run

pytestmark = pytest.mark.redis

ENVIRONMENT = {
    "ASGI_APPLICATION": "tests.acceptance.apps.sessions.application",
    "REALTIME_HISTORY_SIZE": "100",
}


class Guest:
    """One socket of one client."""

    def __init__(self, connection: Any) -> None:
        self.connection = connection
        self.welcome: dict[str, Any] = {}
        self.place: dict[str, Any] = {}

    async def send(self, type: str, data: Any = None, **more: Any) -> None:
        await self.connection.send(json.dumps({"type": type, "data": data, **more}))

    async def message(self, type: str, **values: Any) -> dict[str, Any]:
        async with asyncio.timeout(10):
            while True:
                message: dict[str, Any] = json.loads(await self.connection.recv())
                if message["type"] == "system.welcome":
                    self.welcome = message["data"]
                if message["type"] == type and (
                    not values or values.items() <= message.get("data", {}).items()
                ):
                    return message

    async def expect(self, type: str, **values: Any) -> Any:
        return (await self.message(type, **values))["data"]

    async def said(self, count: int) -> list[str]:
        return [(await self.message("said"))["data"] for _ in range(count)]

    async def say(self, text: str) -> dict[str, Any]:
        """Say something with an id of its own, and return the acknowledgement."""
        await self.send("say", text, id=text)
        ack: dict[str, Any] = await self.expect("system.ack", id=text)
        return ack

    async def code(self) -> int:
        async with asyncio.timeout(10):
            try:
                while True:
                    await self.connection.recv()
            except ConnectionClosed:
                return int(self.connection.close_code)


@asynccontextmanager
async def arrive(process: ServerProcess, path: str = "/lobby") -> AsyncIterator[Guest]:
    """Connect, and return in the room."""
    async with connect(f"{process.ws}{path}", ping_interval=None) as connection:
        guest = Guest(connection)
        room = path.partition("?")[0].strip("/")
        joined = await guest.expect("system.joined", room=room)
        guest.place = {room: {"epoch": joined["epoch"], "offset": joined["offset"]}}
        yield guest


@asynccontextmanager
async def come_back(process: ServerProcess, before: Guest) -> AsyncIterator[Guest]:
    """Resume with the first frame, from where the client joined."""
    async with connect(f"{process.ws}/lobby", ping_interval=None) as connection:
        guest = Guest(connection)
        guest.place = before.place
        await guest.send("system.resume", {"session": before.welcome["session"], "rooms": before.place})
        yield guest


async def settle(guest: Guest) -> None:
    """Have a name and a room that are written: what is said after them is."""
    await guest.send("name", "Ann")
    await guest.send("system.join", {"room": "bar"})
    await guest.expect("system.joined", room="bar")


async def until_kept(redis: Redis, guest: Guest) -> None:
    """Return when Redis has the session of a client."""
    key = f"channels-ops:session:{guest.welcome['client_id']}"
    async with asyncio.timeout(5):
        # Redis tells nobody.
        while await asyncio.to_thread(redis.server.command, "EXISTS", key) != b":1\r\n":  # noqa: ASYNC110
            await asyncio.sleep(0.02)


async def assert_it_is(before: Guest, after: Guest) -> None:
    assert after.welcome["resumed"]
    await after.send("who")
    assert await after.expect("you") == {
        "id": before.welcome["client_id"],
        "name": "Ann",
        "rooms": ["bar", "lobby"],
    }


@pytest.mark.parametrize("by", ["frame", "address"])
async def test_a_session_goes_on_at_another_process(redis: Redis, by: str) -> None:
    """S4, C11."""
    async with Cluster([redis.port] * 2, environment=ENVIRONMENT) as cluster:
        async with arrive(cluster[0]) as before:
            await settle(before)
        async with arrive(cluster[0]) as other:
            for text in ("one", "two"):
                await other.say(text)
            address = f"/lobby?session={before.welcome['session']}"
            back = come_back(cluster[1], before) if by == "frame" else arrive(cluster[1], address)
            async with back as after:
                told = await after.expect("system.recovered", room="lobby")
                assert (told["complete"], told["count"]) == (True, 2)
                await other.say("three")
                assert await after.said(3) == ["one", "two", "three"]
                await assert_it_is(before, after)


async def test_the_older_connection_is_closed_wherever_it_is(redis: Redis) -> None:
    async with (
        Cluster([redis.port] * 2, environment=ENVIRONMENT) as cluster,
        arrive(cluster[0]) as older,
        come_back(cluster[1], older) as newer,
    ):
        await newer.expect("system.recovered", room="lobby")
        assert newer.welcome["client_id"] == older.welcome["client_id"]
        assert await older.code() == 4409
        await newer.say("still here")
        async with come_back(cluster[0], newer) as newest:
            await newest.expect("system.recovered", room="lobby")
            assert await newer.code() == 4409
            await newest.say("and here")


async def test_a_session_outlives_the_processes(redis: Redis) -> None:
    """They are killed, and so save nothing in the end."""
    async with Cluster([redis.port] * 2, environment=ENVIRONMENT) as cluster:
        async with arrive(cluster[0]) as before, arrive(cluster[1]) as other:
            await settle(before)
            # The session is written within the second.
            await asyncio.sleep(1.5)
            await other.say("heard")
            assert await before.said(1) == ["heard"]
            before.place["lobby"]["offset"] += 1
            await cluster.kill(0)
            await other.say("missed")
            await cluster.kill(1)
        await asyncio.gather(cluster.start(0), cluster.start(1))
        async with come_back(cluster[1], before) as after:
            told = await after.expect("system.recovered", room="lobby")
            assert (told["complete"], told["count"]) == (True, 1)
            assert await after.said(1) == ["missed"]
            await assert_it_is(before, after)


@pytest.mark.parametrize("room", ["lobby", "bar"])
async def test_whoever_has_just_come_is_who_it_was_when_its_node_is_killed(redis: Redis, room: str) -> None:
    """S4, C11: it need not have been there for any time. A message that is acknowledged was in Redis after the session."""
    environment = {**ENVIRONMENT, "REALTIME_SESSION_SAVE_INTERVAL": "3600"}
    async with Cluster([redis.port] * 2, environment=environment) as cluster:
        async with arrive(cluster[0]) as before:
            if room != "lobby":
                await before.send("system.join", {"room": room})
                await before.expect("system.joined", room=room)
            await before.say("hello")
            await cluster.kill(0)
        async with come_back(cluster[1], before) as after:
            assert await after.said(1) == ["hello"]
            assert (after.welcome["resumed"], after.welcome["client_id"]) == (
                True,
                before.welcome["client_id"],
            )
            await after.send("who")
            assert (await after.expect("you"))["rooms"] == sorted({"lobby", room})


async def test_whoever_is_told_to_be_in_a_room_is_who_it_was_though_its_node_is_killed_at_once(
    redis: Redis,
) -> None:
    """S4, C11: other nodes know its session, and the room, before it knows itself."""
    async with Cluster([redis.port] * 2, environment=ENVIRONMENT) as cluster:
        for _ in range(3):
            # The node knows where the room is, and has no reason to ask Redis.
            async with arrive(cluster[0]), arrive(cluster[0]) as before:
                cluster[0].send_signal(signal.SIGKILL)
            await cluster.kill(0)
            async with come_back(cluster[1], before) as after:
                await after.expect("system.recovered", room="lobby")
                assert after.welcome["resumed"]
                await after.send("who")
                assert (await after.expect("you"))["rooms"] == ["lobby"]
            await cluster.start(0)


async def test_whoever_comes_back_does_not_wait_for_a_save(redis: Redis) -> None:
    """It is saved when it is in its rooms, and not before."""
    async with Cluster([redis.port], environment=ENVIRONMENT) as cluster, arrive(cluster[0]) as guest:
        took = []
        for _ in range(3):
            started = time.monotonic()
            async with arrive(cluster[0], f"/lobby?session={guest.welcome['session']}") as again:
                took.append(time.monotonic() - started)
                assert again.welcome["resumed"]
        assert min(took) < FIRST_SAVE


async def test_whoever_was_welcomed_while_redis_was_away_is_kept_when_it_is_back(redis: Redis) -> None:
    environment = {**ENVIRONMENT, "REALTIME_STATE_TIMEOUT": "0.5"}
    async with Cluster([redis.port] * 2, environment=environment) as cluster:
        async with arrive(cluster[0]):
            redis.freeze()
            try:
                async with connect(f"{cluster[0].ws}/lobby", ping_interval=None) as connection:
                    before = Guest(connection)
                    async with asyncio.timeout(0.4):
                        await before.expect("system.welcome")
                        # The node knows where the room is.
                        joined = await before.expect("system.joined", room="lobby")
                    # It is found out that Redis is away by one whose session cannot be saved.
                    await asyncio.to_thread(cluster[0].wait_for_output, "shared state is not available")
                    redis.thaw()
                    before.place = {"lobby": {"epoch": joined["epoch"], "offset": joined["offset"]}}
                    await until_kept(redis, before)
                    await cluster.kill(0)
            finally:
                redis.thaw()
        async with come_back(cluster[1], before) as after:
            await after.expect("system.recovered", room="lobby")
            assert after.welcome["resumed"]


async def test_a_message_that_is_sent_again_elsewhere_appears_once(redis: Redis) -> None:
    """X16."""
    async with Cluster([redis.port] * 2, environment=ENVIRONMENT) as cluster, arrive(cluster[1]) as listener:
        async with arrive(cluster[0]) as before:
            first = await before.say("once")
        async with come_back(cluster[1], before) as after:
            assert await after.say("once") == first
            await after.say("then")
        assert await listener.said(2) == ["once", "then"]


async def test_a_shell_revokes_a_session(redis: Redis) -> None:
    async with Cluster([redis.port] * 2, environment=ENVIRONMENT) as cluster, arrive(cluster[0]) as guest:
        id = guest.welcome["client_id"]
        code = f"from realtime.publish import revoke_session_sync; revoke_session_sync({id!r})"
        environment = {
            "DJANGO_SETTINGS_MODULE": "tests.acceptance.apps.redis_settings",
            "REDIS_URL": redis.server.url,
            "REALTIME_STATE_URL": redis.server.url,
        }
        words = manage("shell", "--no-startup", "--no-imports", "-c", code)
        ended = await asyncio.to_thread(run, words, environment)
        assert (ended.code, ended.stderr) == (0, NO_TABLES)
        assert await guest.code() == 4410
        async with come_back(cluster[1], guest) as again:
            assert (await again.expect("system.error"))["code"] == "session_revoked"
            assert again.welcome["client_id"] != id


async def test_no_token_is_in_the_log(redis: Redis) -> None:
    async with Cluster([redis.port], environment=ENVIRONMENT) as cluster:
        async with arrive(cluster[0]) as before:
            await before.say("hello")
        async with (
            arrive(cluster[0], f"/lobby?session={before.welcome['session']}") as after,
            arrive(cluster[0], f"/lobby?session={before.welcome['session'][:-1]}"),
        ):
            await after.say("again")
        ended = await cluster.stop(0)
        for token in (before.welcome["session"], after.welcome["session"]):
            assert token[:40] not in ended.stdout + ended.stderr
