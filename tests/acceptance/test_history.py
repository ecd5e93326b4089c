"""Rooms with history on server processes over a real Redis: order, bursts, publishers that serve nobody, faults."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest
from websockets.asyncio.client import ClientConnection
from websockets.asyncio.client import connect as ws_connect

from tests.acceptance.cluster import Cluster, Redis
from tests.acceptance.faultproxy import FaultProxy
from tests.acceptance.messages import expect, message
from tests.acceptance.processes import NO_TABLES, ServerProcess, manage, run

pytestmark = pytest.mark.redis

ENVIRONMENT = {
    "REALTIME_HISTORY_SIZE": "5000",
    # What channels_redis has unless it is told otherwise.
    "LAYER_CAPACITY": "100",
}


@asynccontextmanager
async def client(process: ServerProcess, room: str) -> AsyncIterator[ClientConnection]:
    async with ws_connect(f"{process.ws}/{room}", ping_interval=None) as connection:
        joined = await expect(connection, "system.joined")
        assert joined["offset"] >= 0
        yield connection


async def said(connection: ClientConnection, count: int) -> list[tuple[int, Any]]:
    messages = [await message(connection, "said") for _ in range(count)]
    return [(one["offset"], one["data"]) for one in messages]


async def until_taken(connection: ClientConnection, data: Any, id: str) -> None:
    """Send a message, with the same id, until it is published."""
    async with asyncio.timeout(10):
        while True:
            await connection.send(json.dumps({"type": "say", "data": data, "id": id}))
            answer: dict[str, Any] = {"type": ""}
            while answer["type"] not in ("published", "system.error"):
                answer = json.loads(await connection.recv())
            if answer["type"] == "published":
                return
            assert answer["data"]["code"] == "unavailable"
            await asyncio.sleep(0.05)


async def shell(redis: Redis, *words: str) -> Any:
    """Run ``manage.py`` in a process that serves nobody."""
    environment = {
        "DJANGO_SETTINGS_MODULE": "tests.acceptance.apps.redis_settings",
        "REDIS_URL": redis.server.url,
        "REALTIME_STATE_URL": redis.server.url,
        **ENVIRONMENT,
    }
    return await asyncio.to_thread(run, manage(*words), environment)


async def test_a_burst_of_a_thousand_is_delivered_everywhere_and_in_order(redis: Redis) -> None:
    """The stock layer at its default capacity delivers a hundred of them."""
    code = (
        "import asyncio\n"
        "from realtime.publish import publish\n"
        "async def burst():\n"
        "    await asyncio.gather(*(publish('burst', 'said', n) for n in range(1000)))\n"
        "asyncio.run(burst())\n"
    )
    async with (
        Cluster([redis.port] * 3, environment=ENVIRONMENT) as cluster,
        client(cluster[0], "burst") as a,
        client(cluster[1], "burst") as b,
        client(cluster[2], "burst") as c,
    ):
        ended = await shell(redis, "shell", "--no-startup", "--no-imports", "-c", code)
        assert (ended.code, ended.stderr) == (0, NO_TABLES)
        expected = [(number + 1, number) for number in range(1000)]
        assert await asyncio.gather(*(said(one, 1000) for one in (a, b, c))) == [expected] * 3


async def test_a_command_publishes_with_an_offset(redis: Redis) -> None:
    async with (
        Cluster([redis.port] * 2, environment=ENVIRONMENT) as cluster,
        client(cluster[0], "news") as here,
        client(cluster[1], "news") as there,
    ):
        for number in (1, 2):
            ended = await shell(redis, "realtime_publish", "news", "said", json.dumps({"n": number}))
            assert (ended.code, ended.stderr) == (0, NO_TABLES)
            assert ended.stdout == f"published to news at offset {number}\n"
        for connection in (here, there):
            assert await said(connection, 2) == [(1, {"n": 1}), (2, {"n": 2})]


async def test_a_frozen_redis_fails_publishes_with_history_and_holds_up_nothing_else(redis: Redis) -> None:
    environment = {
        **ENVIRONMENT,
        "REALTIME_HISTORY_SIZE": json.dumps({"kept": 1000}),
        "REALTIME_STATE_TIMEOUT": "0.5",
        "REALTIME_HISTORY_CHECK_INTERVAL": "1",
    }
    async with (
        Cluster([redis.port] * 2, environment=environment) as cluster,
        client(cluster[0], "kept") as kept,
        client(cluster[1], "kept") as there,
        ws_connect(f"{cluster[0].ws}/plain", ping_interval=None) as plain,
    ):
        await expect(plain, "system.joined")
        redis.freeze()
        try:
            started = time.monotonic()
            await kept.send(json.dumps({"type": "say", "data": "lost", "id": "m1"}))
            await plain.send(json.dumps({"type": "say", "data": "here"}))
            assert (await message(plain, "said"))["data"] == "here"
            assert time.monotonic() - started < 0.4
            refused = await expect(kept, "system.error")
            assert (refused["id"], refused["code"]) == ("m1", "unavailable")
        finally:
            redis.thaw()
        await until_taken(kept, "back", "m2")
        heard = [(await message(there, "said"))["data"]]
        while heard[-1] != "back":
            heard.append((await message(there, "said"))["data"])
        # The one that failed may have been appended all the same; it is nothing that comes twice.
        assert heard in (["back"], ["lost", "back"])


@pytest.mark.parametrize("keep", [True, False], ids=["with its data", "without its data"])
async def test_after_a_restart_of_redis_every_room_goes_on_or_says_that_it_cannot(
    redis: Redis, keep: bool
) -> None:
    environment = {**ENVIRONMENT, "REALTIME_STATE_TIMEOUT": "0.5", "REALTIME_HISTORY_CHECK_INTERVAL": "1"}
    async with (
        Cluster([redis.port] * 2, environment=environment) as cluster,
        client(cluster[0], "again") as here,
        client(cluster[1], "again") as there,
    ):
        await here.send(json.dumps({"type": "say", "data": "before"}))
        for connection in (here, there):
            assert await said(connection, 1) == [(1, "before")]
        redis.stop()
        if not keep:
            redis.forget()
        redis.start()
        for connection in (here, there):
            told = await expect(connection, "system.recovered", 20)
            assert (told["complete"], told["from"], told["to"], told["count"]) == (keep, 1, int(keep), 0)
        await here.send(json.dumps({"type": "say", "data": "after"}))
        for connection in (here, there):
            assert await said(connection, 1) == [(1 + int(keep), "after")]
        assert here.close_code is there.close_code is None


async def test_a_node_that_was_cut_off_catches_up(redis: Redis) -> None:
    """No message is missing on it, doubled or out of order, and no socket closes."""
    environment = {**ENVIRONMENT, "REALTIME_STATE_TIMEOUT": "0.5", "REALTIME_HISTORY_CHECK_INTERVAL": "1"}
    async with (
        FaultProxy(redis.port) as proxy,
        Cluster([proxy.port, redis.port], environment=environment) as cluster,
        client(cluster[0], "cut") as cut,
        client(cluster[1], "cut") as well,
    ):
        await until_taken(well, 0, "m0")
        assert await said(cut, 1) == [(1, 0)]
        proxy.freeze()
        for number in range(1, 20):
            await until_taken(well, number, f"m{number}")
        await cut.send(json.dumps({"type": "say", "data": "from a node that is cut off", "id": "cut"}))
        assert (await expect(cut, "system.error"))["code"] == "unavailable"
        proxy.thaw()
        caught_up = await said(cut, 19)
        assert [data for _, data in caught_up][:19] == list(range(1, 20))
        assert [offset for offset, _ in caught_up] == list(range(2, 21))
        await until_taken(cut, "back", "back")
        heard = await said(well, 1)
        while heard[-1][1] != "back":
            heard += await said(well, 1)
        assert cut.close_code is well.close_code is None
