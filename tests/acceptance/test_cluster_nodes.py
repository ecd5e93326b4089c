"""What real nodes know of each other: clients, who is in a room, who has died; over a real Redis that fails for real."""

from __future__ import annotations

import asyncio
import json
import time
import urllib.request
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from pathlib import Path
from typing import Any
from urllib.error import HTTPError

import pytest
from websockets.asyncio.client import ClientConnection
from websockets.asyncio.client import connect as ws_connect
from websockets.exceptions import ConnectionClosed
from websockets.typing import Origin

from realtime.state import RedisState
from tests.acceptance.cluster import Cluster, Redis
from tests.acceptance.processes import manage, run, worker

pytestmark = pytest.mark.redis

TOKEN = "a-token-of-the-tests"
LEASE = 1.5
"""Seconds."""
PROJECT = {
    "DJANGO_SETTINGS_MODULE": "wsproject.settings",
    "ASGI_APPLICATION": "wsproject.asgi.application",
    "SECRET_KEY": "tests",
    "DASHBOARD_TOKEN": TOKEN,
    "RATELIMIT_CONNECTIONS_PER_WINDOW": "0",
    "REALTIME_NODE_LEASE": str(LEASE),
    "REALTIME_REGISTRY_SYNC_INTERVAL": "0.2",
    "REALTIME_STATE_TIMEOUT": "0.5",
}


@pytest.fixture(scope="module")
def database(tmp_path_factory) -> Path:
    path: Path = tmp_path_factory.mktemp("nodes") / "db.sqlite3"
    done = run(manage("migrate", "--noinput", "--verbosity", "0"), {**PROJECT, "SQLITE_PATH": str(path)})
    assert done.code == 0, done.stderr
    return path


class Chatter:
    """A client of the demonstration's chat, that keeps the list of who is there."""

    def __init__(self, socket: ClientConnection) -> None:
        self.socket = socket
        self.id = ""
        self.shown: dict[str, str] = {}
        self.left = 0
        self.code: int | None = None
        self._reader = asyncio.create_task(self._read())

    async def _read(self) -> None:
        with suppress(ConnectionClosed):
            async for text in self.socket:
                self._take(json.loads(text))
        self.code = self.socket.close_code

    def _take(self, message: dict[str, Any]) -> None:
        data = message.get("data")
        if message["type"] == "system.welcome":
            self.id = data["client_id"]
        elif message["type"] == "system.joined":
            assert len({entry["id"] for entry in data["presence"]}) == len(data["presence"])
            self.shown = {entry["id"]: entry["user"] for entry in data["presence"]}
        elif message["type"] == "system.presence":
            for entry in data["leaves"]:
                self.left += self.shown.pop(entry["id"], None) is not None
            self.shown |= {entry["id"]: entry["user"] for entry in data["joins"]}

    async def close(self) -> None:
        await self.socket.close()
        await self._reader


@asynccontextmanager
async def chatting(cluster: Cluster, *at: int, room: str = "nodes") -> AsyncIterator[list[Chatter]]:
    """Clients in one room of the chat, on these nodes."""
    async with AsyncExitStack() as stack:
        clients = []
        for node in at:
            host = f"127.0.0.1:{cluster.ports[node]}"
            socket = await ws_connect(
                f"ws://{host}/ws/chat/{room}/",
                origin=Origin(f"http://{host}"),
                proxy=None,
                ping_interval=None,
            )
            client = Chatter(socket)
            stack.push_async_callback(client.close)
            clients.append(client)
        yield clients


def told(cluster: Cluster, node: int, page: str) -> Any:
    """Return what a page of a node says to a program."""
    url = f"http://127.0.0.1:{cluster.ports[node]}{page}"
    request = urllib.request.Request(url, headers={"Authorization": f"Bearer {TOKEN}"})
    try:
        with urllib.request.urlopen(request, timeout=10) as answer:
            return json.load(answer)
    except HTTPError as error:
        return json.load(error)


async def asked(cluster: Cluster, node: int, page: str) -> Any:
    return await asyncio.to_thread(told, cluster, node, page)


async def eventually(seconds: float, what: Callable[[], bool] | Callable[[], Awaitable[bool]]) -> float:
    """Return after how many seconds something was true; raise TimeoutError if that takes longer than ``seconds``."""
    started = time.monotonic()
    async with asyncio.timeout(seconds):
        while True:
            found = what()
            if found if isinstance(found, bool) else await found:
                return time.monotonic() - started
            await asyncio.sleep(0.05)


def nodes(redis: Redis, database: Path, count: int = 2, **environment: str) -> Cluster:
    return Cluster([redis.port] * count, environment={**PROJECT, "SQLITE_PATH": str(database), **environment})


async def test_people_at_three_nodes_see_each_other_and_a_killed_node_heals_within_two_leases(
    redis, database
):
    """X3, X4, X7."""
    async with nodes(redis, database, 3) as cluster, chatting(cluster, 0, 1, 2) as clients:
        await eventually(5, lambda: all(len(client.shown) == 3 for client in clients))

        async def listed(node: int, names: set[str]) -> bool:
            page = await asked(cluster, node, "/info/clients")
            rows = {row["id"]: row["node"] for row in page["clients"]}
            return set(rows.values()) == names and page["summary"]["open"] == len(rows) == len(names)

        for node in range(3):
            await eventually(5, lambda node=node: listed(node, {"node-0", "node-1", "node-2"}))
        stats = await asked(cluster, 1, "/info/stats")
        assert stats["cluster"]["connections"] == {"open": 3, "named": 0, "anonymous": 3}
        assert [one["name"] for one in stats["cluster"]["nodes"]] == ["node-1", "node-0", "node-2"]
        assert stats["connections"]["open"] == 1
        page = await asked(cluster, 0, "/info/clients?node=node-2")
        assert [row["id"] for row in page["clients"]] == [clients[2].id]

        await cluster.kill(2)
        started = time.monotonic()
        await eventually(2 * LEASE, lambda: all(len(client.shown) == 2 for client in clients[:2]))
        for node in range(2):
            await eventually(
                2 * LEASE + 0.5 - (time.monotonic() - started),
                lambda node=node: listed(node, {"node-0", "node-1"}),
            )
        assert [client.left for client in clients[:2]] == [1, 1]


async def test_an_operator_at_one_node_disconnects_a_client_of_another(redis, database):
    async with nodes(redis, database) as cluster, chatting(cluster, 0, 1) as clients:
        await eventually(5, lambda: len(clients[0].shown) == 2)
        code = f"from realtime.publish import disconnect_client_sync as d; d({clients[1].id!r})"
        url = f"redis://127.0.0.1:{redis.port}/0"
        environment = {**PROJECT, "SQLITE_PATH": str(database), "REDIS_URL": url}
        done = await asyncio.to_thread(run, manage("shell", "-c", code), environment)
        assert done.code == 0, done.stderr
        await eventually(5, lambda: clients[1].code == 4410)
        await eventually(5, lambda: len(clients[0].shown) == 1)
        assert clients[0].code is None


@pytest.mark.parametrize("keep", [True, False], ids=["with its data", "without its data"])
async def test_while_redis_is_away_health_says_so_sockets_stay_and_in_the_end_all_is_right(
    redis, database, keep
):
    async with nodes(redis, database) as cluster, chatting(cluster, 0, 1) as clients:
        await eventually(5, lambda: all(len(client.shown) == 2 for client in clients))
        before = [client.left for client in clients]
        redis.stop()
        if not keep:
            redis.forget()

        async def says_so() -> bool:
            health = await asked(cluster, 0, "/info/health")
            return health["status"] == "warning" and any(
                "cannot be reached since" in reason for reason in health["reasons"]
            )

        await eventually(5, says_so)
        assert (await asked(cluster, 0, "/health/ready"))["status"] == "ready"
        page = await asked(cluster, 0, "/info/clients")
        assert [row["id"] for row in page["clients"]] == [clients[0].id]
        assert "Redis" in page["summary"]["problem"]
        async with chatting(cluster, 0) as here:
            await eventually(5, lambda: here[0].id != "" and len(clients[0].shown) == 3)
            redis.start()
            await eventually(8, lambda: len(clients[1].shown) == 3)
            await eventually(8, lambda: len(here[0].shown) == 3)
        await eventually(8, lambda: all(len(client.shown) == 2 for client in clients))
        assert [client.code for client in clients] == [None, None]
        # Nobody but the one who came and went was ever seen to go.
        assert [client.left - left for client, left in zip(clients, before, strict=True)] == [1, 1]

        async def well() -> bool:
            health = await asked(cluster, 0, "/info/health")
            page = await asked(cluster, 0, "/info/clients")
            return health["status"] == "healthy" and len(page["clients"]) == 2

        await eventually(10, well)


async def test_a_heartbeat_worker_removes_what_dead_nodes_left_behind(redis):
    """X3: also where no server is left to do it."""
    url = f"redis://127.0.0.1:{redis.port}/0"
    state = RedisState(url)
    await state.renew_node("dead", b"{}", 0.1)
    await state.set_presence("lobby", "dead", {"somebody": b"[]"})
    await state.aclose()
    assert redis.server.command("EXISTS", "channels-ops:node:dead") == b":1\r\n"
    async with worker(manage("heartbeat"), {**PROJECT, "REDIS_URL": url}):
        await eventually(10, lambda: redis.server.command("EXISTS", "channels-ops:node:dead") == b":0\r\n")
        assert redis.server.command("EXISTS", "channels-ops:present-nodes:lobby") == b":0\r\n"
