"""Two server processes and a heartbeat worker over a real Redis."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Iterator, Mapping
from contextlib import asynccontextmanager, contextmanager
from typing import Any

import pytest
from websockets.asyncio.client import ClientConnection
from websockets.asyncio.client import connect as ws_connect

from tests.acceptance.messages import expect
from tests.acceptance.processes import NO_TABLES, ServerProcess, daphne, free_port, manage, run, worker
from tests.redisserver import RedisServer

pytestmark = pytest.mark.redis

SETTINGS = "tests.acceptance.apps.redis_settings"
APPLICATION = "tests.acceptance.apps.rooms:application"


@contextmanager
def server(redis: RedisServer, **environment: str) -> Iterator[ServerProcess]:
    port = free_port()
    settings = {
        "DJANGO_SETTINGS_MODULE": SETTINGS,
        "REDIS_URL": redis.url,
        **environment,
    }
    with ServerProcess(daphne(APPLICATION, port), port, settings) as process:
        yield process


@asynccontextmanager
async def client(process: ServerProcess, room: str) -> AsyncIterator[ClientConnection]:
    async with ws_connect(f"{process.ws}/{room}", ping_interval=None) as connection:
        await expect(connection, "system.joined")
        yield connection


async def say(connection: ClientConnection, data: Any) -> Any:
    await connection.send(json.dumps({"type": "say", "data": data}))
    return await expect(connection, "published")


def command(redis: RedisServer, **environment: str) -> Mapping[str, str]:
    return {"DJANGO_SETTINGS_MODULE": SETTINGS, "REDIS_URL": redis.url, **environment}


async def test_a_room_spans_processes_and_every_message_arrives_once_and_in_order(
    redis_server: RedisServer,
) -> None:
    """C5, C11"""
    with server(redis_server) as first, server(redis_server) as second:
        async with client(first, "span") as here, client(second, "span") as there:
            for number in range(50):
                await say(here, number)
            assert [await expect(there, "said") for _ in range(50)] == list(range(50))
            await say(there, "back")
            assert await expect(here, "said") == "back"


async def test_processes_know_of_each_other(redis_server: RedisServer) -> None:
    with server(redis_server) as first, server(redis_server) as second:
        async with client(first, "peers") as here, client(second, "peers"):
            async with asyncio.timeout(10):
                while (await say(here, 1))["nodes"] < 2:
                    pass


async def test_a_management_command_reaches_the_sockets_of_all_processes(redis_server: RedisServer) -> None:
    """F11: publishing, sending and disconnecting from a process that serves nothing."""
    code = (
        "from realtime.publish import *\n"
        "publish_sync('outside', 'said', 'from the shell')\n"
        "broadcast_sync('note', 'to all')\n"
        "disconnect_client_sync({id!r})\n"
    )
    with server(redis_server) as first, server(redis_server) as second:
        async with ws_connect(f"{first.ws}/outside") as here, client(second, "outside") as there:
            welcome = await expect(here, "system.welcome")
            await expect(here, "system.joined")
            shell = manage(
                "shell", "--no-startup", "--no-imports", "-c", code.format(id=welcome["client_id"])
            )
            ended = await asyncio.to_thread(run, shell, command(redis_server))
            assert (ended.code, ended.stderr) == (0, NO_TABLES)
            for connection in (here, there):
                assert await expect(connection, "said") == "from the shell"
                assert await expect(connection, "note") == "to all"
            assert (await expect(here, "system.closing"))["code"] == 4410
            async with asyncio.timeout(5):
                await here.wait_closed()
            assert here.close_code == 4410
            assert there.close_code is None


async def test_a_heartbeat_worker_of_its_own_closes_the_dead_and_keeps_the_living(
    redis_server: RedisServer,
) -> None:
    """C6"""
    slow = {
        "REALTIME_HEARTBEAT_ENABLED": "false",
        "REALTIME_HEARTBEAT_INTERVAL": "0.2",
        "REALTIME_HEARTBEAT_TIMEOUT": "0.6",
        "REALTIME_HEARTBEAT_TYPE": "message",
    }
    with server(redis_server, **slow) as process:
        async with client(process, "alive") as alive, client(process, "dead") as dead:
            # Without a worker nobody is asked.
            with pytest.raises(TimeoutError):
                await expect(alive, "system.ping", seconds=1.0)
            async with worker(manage("heartbeat", "--every", "0.05"), command(redis_server, **slow)):
                answered = 0
                while dead.close_code is None or answered < 5:
                    ping = await expect(alive, "system.ping")
                    await alive.send(json.dumps({"type": "system.pong", "data": ping}))
                    answered += 1
                await dead.wait_closed()
                assert dead.close_code == 4408
                assert alive.close_code is None


def test_the_heartbeat_worker_says_what_is_wrong_with_a_layer_that_stays_in_its_process() -> None:
    ended = run(manage("heartbeat"), {"DJANGO_SETTINGS_MODULE": "tests.acceptance.apps.settings"})
    assert ended.code == 1
    assert "channels_redis" in ended.stderr
    assert "Traceback" not in ended.stderr


def test_the_heartbeat_worker_says_what_is_wrong_with_its_option() -> None:
    ended = run(
        manage("heartbeat", "--every", "0"), {"DJANGO_SETTINGS_MODULE": "tests.acceptance.apps.settings"}
    )
    assert ended.code == 1
    assert "--every is 0 seconds" in ended.stderr


async def test_sockets_survive_a_redis_that_goes_away_and_comes_back(redis_server: RedisServer) -> None:
    """A layer that fails closes nobody; local delivery goes on; afterwards the processes hear each other again."""
    with server(redis_server) as first, server(redis_server) as second:
        async with client(first, "blink") as here, client(second, "blink") as there:
            await say(here, "before")
            assert await expect(there, "said") == "before"
            redis_server.command("CLIENT", "KILL", "TYPE", "normal")
            await here.send(json.dumps({"type": "say", "data": "during"}))
            assert await expect(here, "said") == "during"
            await expect(here, "published")
            async with asyncio.timeout(20):
                while True:
                    await say(here, "after")
                    try:
                        while await expect(there, "said", seconds=0.5) != "after":
                            pass
                    except TimeoutError:
                        continue
                    break
        for process in (first, second):
            # channels_redis cleans up behind each message in a task that nobody awaits; where the connection was
            # cut in that very moment, asyncio reports the task. Nothing else may leave a traceback.
            unawaited = process.stderr.count("Task exception was never retrieved")
            assert process.stderr.count("Traceback") == unawaited
