"""Settings that are overridden at one node, as the sockets of all nodes feel it: real processes, a real Redis."""

from __future__ import annotations

import asyncio
import http.cookiejar
import json
import re
import sqlite3
import urllib.parse
import urllib.request
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, closing
from pathlib import Path
from typing import Any

import pytest
from websockets.asyncio.client import ClientConnection
from websockets.asyncio.client import connect as ws_connect
from websockets.exceptions import ConnectionClosed
from websockets.typing import Origin

from tests.acceptance.cluster import Cluster, Redis
from tests.acceptance.processes import ServerProcess, daphne, free_port, manage, run, uvicorn
from tests.acceptance.test_cluster_nodes import eventually

PASSWORD = "correct-horse-battery"
TOKEN = "a-token-of-the-tests"
PROJECT = {
    "DJANGO_SETTINGS_MODULE": "wsproject.settings",
    "ASGI_APPLICATION": "wsproject.asgi.application",
    "SECRET_KEY": "tests",
    "DASHBOARD_TOKEN": TOKEN,
    "DEMO_ADMIN_PASSWORD": PASSWORD,
    "RATELIMIT_CONNECTIONS_PER_WINDOW": "0",
    "RATELIMIT_MESSAGES_PER_WINDOW": "0",
    "RATELIMIT_DISCONNECT_AFTER": "0",
    "RATELIMIT_BURST_MULTIPLIER": "1",
}
LIMIT = "RATELIMIT_MESSAGES_PER_WINDOW"
PUT = f"from ratelimit import overrides; overrides.put({LIMIT!r}, 5, seen=None)"
AT_ONCE = 1.0
"""Seconds within which an override counts everywhere."""


@pytest.fixture
def database(tmp_path: Path) -> Path:
    path = tmp_path / "db.sqlite3"
    for words in (("migrate", "--noinput", "--verbosity", "0"), ("demo_admin",)):
        done = run(manage(*words), {**PROJECT, "SQLITE_PATH": str(path)})
        assert done.code == 0, done.stderr
    return path


class Operator:
    """An operator with a browser, signed in at one node."""

    def __init__(self, port: int) -> None:
        self._url = f"http://127.0.0.1:{port}"
        jar = http.cookiejar.CookieJar()
        self._opener = urllib.request.build_opener(urllib.request.HTTPCookieProcessor(jar))
        page = self._ask("/admin/login/")
        self._ask("/admin/login/", {**_hidden(page), "username": "admin", "password": PASSWORD})

    def override(self, name: str, value: object) -> None:
        self._send(name, {"new_value": str(value), "_save": "1"})

    def revert(self, name: str) -> None:
        self._send(name, {"_revert": "1"})

    def _send(self, name: str, said: dict[str, str]) -> None:
        path = f"/admin/dashboard/setting/{name.replace('_', '_5F')}/change/"
        answer = self._ask(path, {**_hidden(self._ask(path)), **said})
        assert 'class="success"' in answer, re.findall(r'class="errorlist.*?</ul>', answer, re.DOTALL)

    def _ask(self, path: str, data: dict[str, str] | None = None) -> str:
        body = urllib.parse.urlencode(data).encode() if data is not None else None
        with self._opener.open(self._url + path, body, timeout=10) as answer:
            text: str = answer.read().decode()
            return text


def _hidden(page: str) -> dict[str, str]:
    fields = re.findall(r'<input type="hidden" name="(\w+)"(?: value="([^"]*)")?', page)
    return dict(fields)


class Echo:
    """A client of the demonstration's echo."""

    def __init__(self, socket: ClientConnection) -> None:
        self.socket = socket

    async def echoed(self, count: int) -> int:
        """Send messages, and return how many came back before one was refused."""
        for number in range(count):
            await self.socket.send(f"message {number}")
        for number in range(count):
            if "rate_limited" in str(await asyncio.wait_for(self.socket.recv(), 5)):
                return number
        return count

    async def comes_back(self, size: int) -> bool:
        """Send a message of so many bytes; return whether it comes back rather than that the socket is closed."""
        await self.socket.send("x" * size)
        try:
            return len(await asyncio.wait_for(self.socket.recv(), 5)) == size
        except ConnectionClosed:
            return False


@asynccontextmanager
async def echo(port: int) -> AsyncIterator[Echo]:
    host = f"127.0.0.1:{port}"
    async with ws_connect(
        f"ws://{host}/ws/echo/", origin=Origin(f"http://{host}"), proxy=None, ping_interval=None
    ) as socket:
        yield Echo(socket)


def told(port: int, name: str) -> dict[str, Any]:
    """Return what a node says of a setting."""
    request = urllib.request.Request(
        f"http://127.0.0.1:{port}/info/config", headers={"Authorization": f"Bearer {TOKEN}"}
    )
    with urllib.request.urlopen(request, timeout=10) as answer:
        settings = json.load(answer)["settings"]
    (found,) = (one for one in settings if one["name"] == name)
    return dict(found)


def clients_of(port: int) -> list[dict[str, Any]]:
    """Return what a node says of its clients."""
    request = urllib.request.Request(
        f"http://127.0.0.1:{port}/info/clients", headers={"Authorization": f"Bearer {TOKEN}"}
    )
    with urllib.request.urlopen(request, timeout=10) as answer:
        return list(json.load(answer)["clients"])


def environment(database: Path) -> dict[str, str]:
    return {**PROJECT, "SQLITE_PATH": str(database)}


def shell(code: str) -> list[str]:
    return manage("shell", "-c", code)


def sql(database: Path, statement: str, *values: str) -> None:
    """Change the database behind everybody's back."""
    with closing(sqlite3.connect(database, timeout=10)) as connection, connection:
        connection.execute(statement, values)


async def value_at(port: int, name: str) -> Any:
    return (await asyncio.to_thread(told, port, name))["value"]


async def limited(client: Echo, seconds: float = AT_ONCE) -> float:
    """Return after how many seconds an open socket is limited; raise TimeoutError where it takes longer."""

    async def is_limited() -> bool:
        return await client.echoed(20) < 20

    return await eventually(seconds, is_limited)


def nodes(redis: Redis, database: Path, count: int, **environment: str) -> Cluster:
    return Cluster([redis.port] * count, environment={**PROJECT, "SQLITE_PATH": str(database), **environment})


@pytest.mark.redis
async def test_a_limit_that_is_overridden_at_one_node_holds_for_the_open_sockets_of_all(redis, database):
    async with nodes(redis, database, 3) as cluster:
        operator = await asyncio.to_thread(Operator, cluster.ports[0])
        async with (
            echo(cluster.ports[0]) as here,
            echo(cluster.ports[1]) as there,
            echo(cluster.ports[2]) as far,
        ):
            clients = (here, there, far)
            assert [await one.echoed(20) for one in clients] == [20, 20, 20]
            await asyncio.to_thread(operator.override, LIMIT, 5)
            await asyncio.gather(*(limited(client) for client in clients))
            async with echo(cluster.ports[2]) as newcomer:
                assert await newcomer.echoed(20) == 5
            assert all(one.socket.close_code is None for one in clients)
            await asyncio.to_thread(operator.revert, LIMIT)

            async def are_free() -> bool:
                return [await one.echoed(20) for one in clients] == [20, 20, 20]

            await eventually(AT_ONCE, are_free)


@pytest.mark.redis
async def test_an_open_socket_of_another_node_is_pinged_as_often_as_is_said_now(redis, database):
    patience = {"REALTIME_HEARTBEAT_INTERVAL": "3600", "REALTIME_HEARTBEAT_TIMEOUT": "7200"}
    async with nodes(redis, database, 2, **patience) as cluster:
        operator = await asyncio.to_thread(Operator, cluster.ports[0])
        async with echo(cluster.ports[1]):
            (client,) = await asyncio.to_thread(clients_of, cluster.ports[1])
            assert client["rtt"] is None
            await asyncio.to_thread(operator.override, "REALTIME_HEARTBEAT_INTERVAL", 0.2)

            async def was_asked() -> bool:
                (client,) = await asyncio.to_thread(clients_of, cluster.ports[1])
                return client["rtt"] is not None

            await eventually(AT_ONCE + 0.2, was_asked)


@pytest.mark.redis
async def test_what_a_command_overrides_counts_at_every_node(redis, database):
    async with nodes(redis, database, 2) as cluster, echo(cluster.ports[1]) as client:
        assert await client.echoed(20) == 20
        url = f"redis://127.0.0.1:{redis.port}/0"
        done = await asyncio.to_thread(run, shell(PUT), {**environment(database), "REDIS_URL": url})
        assert done.code == 0, done.stderr
        await limited(client)
        # Nobody has come to this one yet, so that it heard nothing.
        await asyncio.sleep(AT_ONCE)
        async with echo(cluster.ports[0]) as first:
            assert await first.echoed(20) == 5


@pytest.mark.redis
async def test_a_node_that_did_not_hear_the_news_looks_for_itself(redis, database):
    """Redis is away while the override is made."""
    async with nodes(redis, database, 2) as cluster:
        operator = await asyncio.to_thread(Operator, cluster.ports[0])
        redis.stop()
        redis.forget()
        await asyncio.to_thread(operator.override, LIMIT, 5)

        async with echo(cluster.ports[1]) as client:
            await limited(client, 8)


async def test_several_processes_without_redis_follow(database):
    """Nothing tells them: a new socket is judged by what it finds, and an open one follows at the next look."""
    with server(database) as one, server(database) as other:
        operator = await asyncio.to_thread(Operator, one.port)
        async with echo(other.port) as before:
            assert await before.echoed(20) == 20
            await asyncio.to_thread(operator.override, LIMIT, 5)
            await asyncio.sleep(AT_ONCE)
            async with echo(other.port) as newcomer:
                assert await newcomer.echoed(20) == 5
            await limited(before, 8)


def server(database: Path, command: Callable[[str, int], list[str]] = daphne, **own: str) -> ServerProcess:
    """A node on its own, under a stock command, without Redis."""
    port = free_port()
    return ServerProcess(command("wsproject.asgi:application", port), port, {**environment(database), **own})


async def test_a_node_on_its_own_needs_no_redis(database):
    with server(database) as node:
        operator = await asyncio.to_thread(Operator, node.port)
        async with echo(node.port) as client:
            await asyncio.to_thread(operator.override, LIMIT, 5)
            assert await client.echoed(20) == 5


@pytest.mark.parametrize("command", [daphne, uvicorn], ids=["daphne", "uvicorn"])
async def test_a_node_that_starts_has_the_overrides_before_it_serves(database, command):
    """uvicorn imports the application while its loop runs, where Django lets nobody ask the database."""
    done = await asyncio.to_thread(run, shell(PUT), environment(database))
    assert done.code == 0, done.stderr
    with server(database, command) as node:
        async with echo(node.port) as client:
            assert await client.echoed(20) == 5


async def test_a_command_that_publishes_goes_by_the_overrides(database):
    """No server runs there that could tell."""
    code = "from ratelimit import overrides; overrides.put('REALTIME_HISTORY_TTL', 77, seen=None)"
    assert (await asyncio.to_thread(run, shell(code), environment(database))).code == 0
    look = (
        "from realtime.outside import outside; outside();"
        "from realtime.conf import get_settings; print('ttl', get_settings().history_ttl)"
    )
    done = await asyncio.to_thread(run, shell(look), environment(database))
    assert "ttl 77" in done.stdout, done.stderr


async def test_overrides_that_cannot_be_used_keep_no_node_from_serving(database):
    for number, (name, value) in enumerate(
        [(LIMIT, '"lots"'), ("REALTIME_FORMER", "1"), ("REALTIME_MAX_ROOMS", "7")]
    ):
        row = (name, value, f"{number:032x}", "2026-01-01")
        sql(
            database,
            "INSERT INTO ratelimit_override (name, value, version, set_at) VALUES (?, ?, ?, ?)",
            *row,
        )
    with server(database) as node:
        async with echo(node.port) as client:
            assert await client.echoed(20) == 20
            said = await asyncio.to_thread(told, node.port, LIMIT)
            assert (said["value"], said["source"]) == (0, "env")
            assert said["ignored"].startswith(f"{LIMIT} is 'lots'. Set it to a whole number")
            assert await value_at(node.port, "REALTIME_MAX_ROOMS") == 7
        assert node.stderr.count("overrides left out") == 1
        assert "REALTIME_FORMER is not a setting" in node.stderr
        assert "Traceback" not in node.stderr


async def test_a_database_that_cannot_be_read_for_a_while_leaves_what_was_known(database):
    done = await asyncio.to_thread(run, shell(PUT), environment(database))
    assert done.code == 0, done.stderr
    with server(database) as node:
        async with echo(node.port) as client:
            assert await client.echoed(20) == 5
            sql(database, "ALTER TABLE ratelimit_override RENAME TO away")
            await asyncio.to_thread(node.wait_for_output, "overrides not read")
            async with echo(node.port) as newcomer:
                assert await newcomer.echoed(20) == 5
            sql(database, "UPDATE away SET value = '9'")
            sql(database, "ALTER TABLE away RENAME TO ratelimit_override")
            await asyncio.to_thread(node.wait_for_output, "overrides read again")
            assert await client.echoed(20) == 9
        assert node.stderr.count("overrides not read") == 1
        assert "Traceback" not in node.stderr


@pytest.mark.parametrize("engine", ["native", "daphne"])
async def test_the_size_of_messages_is_another_for_open_sockets_and_new_ones(database, engine):
    """The server refuses what is too large before it has read it, so it has to know."""
    name = "RATELIMIT_MAX_MESSAGE_BYTES"
    with server(database, RATELIMIT_MAX_MESSAGE_BYTES="1000", REALTIME_ENGINE=engine) as node:
        operator = await asyncio.to_thread(Operator, node.port)
        async with echo(node.port) as before, echo(node.port) as small:
            assert await small.comes_back(1000)
            await asyncio.to_thread(operator.override, name, 5000)
            assert await before.comes_back(5000)
            async with echo(node.port) as newcomer:
                assert await newcomer.comes_back(5000)
                assert not await newcomer.comes_back(5001)
                assert newcomer.socket.close_code == 1009
            await asyncio.to_thread(operator.revert, name)
            assert not await before.comes_back(1001)
            assert before.socket.close_code == 1009
            async with echo(node.port) as last:
                assert not await last.comes_back(1001)
            assert await small.comes_back(1000)
