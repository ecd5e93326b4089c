"""Limits and bans of real nodes over a real Redis, which fail for real."""

from __future__ import annotations

import asyncio
import json
import math
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from websockets.asyncio.client import ClientConnection
from websockets.asyncio.client import connect as ws_connect
from websockets.exceptions import InvalidStatus

from tests.acceptance.cluster import Cluster, Redis
from tests.acceptance.processes import manage, run

pytestmark = pytest.mark.redis

LEASE = 1.0
"""Seconds; the shortest that can be set."""
STATE_TIMEOUT = 0.5
OVER_ALL = "limits count over all nodes again"
ENVIRONMENT = {
    "ASGI_APPLICATION": "tests.acceptance.apps.limited.application",
    "RATELIMIT_SCOPE": "cluster",
    "RATELIMIT_TRUSTED_PROXIES": "127.0.0.1",
    "REALTIME_NODE_LEASE": str(LEASE),
    "REALTIME_STATE_TIMEOUT": str(STATE_TIMEOUT),
}


def two(redis: Redis, **environment: str) -> Cluster:
    return Cluster([redis.port] * 2, environment={**ENVIRONMENT, **environment})


class Clients:
    """Clients with an address, as a proxy tells it; all are gone in the end."""

    def __init__(self, cluster: Cluster) -> None:
        self.cluster = cluster
        self.open: list[ClientConnection] = []

    async def enter(self, node: int, address: str = "192.0.2.1", user: str = "") -> ClientConnection:
        connection = await ws_connect(
            f"ws://127.0.0.1:{self.cluster.ports[node]}/?{user}",
            additional_headers={"X-Forwarded-For": address},
            ping_interval=None,
            proxy=None,
        )
        self.open.append(connection)
        return connection

    async def refused(self, node: int, address: str = "192.0.2.1", user: str = "") -> dict[str, Any] | None:
        """Knock: return what a refusal says, or ``None``."""
        try:
            await self.enter(node, address, user)
        except InvalidStatus as error:
            answer = error.response
        else:
            return None
        assert answer.status_code == 429
        said: dict[str, Any] = json.loads(answer.body)
        assert int(answer.headers["Retry-After"]) == math.ceil(said["retry_after"])
        return said

    async def until_let_in(self, node: int, seconds: float) -> None:
        """Knock until let in; raise TimeoutError if that takes longer."""
        async with asyncio.timeout(seconds):
            # Nobody tells a client when a place becomes free.
            while await self.refused(node) is not None:  # noqa: ASYNC110
                await asyncio.sleep(0.1)


@asynccontextmanager
async def clients_of(cluster: Cluster) -> AsyncIterator[Clients]:
    clients = Clients(cluster)
    try:
        yield clients
    finally:
        for connection in clients.open:
            connection.transport.abort()


async def echo(connection: ClientConnection) -> float:
    """Return the seconds it takes to hear an echo."""
    started = time.monotonic()
    await connection.send('{"type":"echo"}')
    async with asyncio.timeout(10):
        while json.loads(await connection.recv())["type"] != "echoed":
            pass
    return time.monotonic() - started


async def closed_with(connection: ClientConnection, seconds: float = 5.0) -> int | None:
    async with asyncio.timeout(seconds):
        await connection.wait_closed()
    return connection.close_code


@pytest.mark.setting("RATELIMIT_SCOPE")
@pytest.mark.parametrize(("scope", "passing"), [("process", 6), ("cluster", 3)])
async def test_an_address_has_so_many_open_on_both_nodes(redis, scope, passing):
    """C2"""
    limit = {"RATELIMIT_SCOPE": scope, "RATELIMIT_MAX_CONNECTIONS_PER_IP": "3"}
    async with two(redis, **limit) as cluster, clients_of(cluster) as clients:
        refusals = [await clients.refused(number % 2) for number in range(8)]
        assert [refusal is None for refusal in refusals] == [True] * passing + [False] * (8 - passing)
        assert {refusal["error"] for refusal in refusals if refusal} == {"address_connections"}
        assert await clients.refused(1, "192.0.2.2") is None
        await clients.open[0].close()
        await clients.until_let_in(0 if scope == "process" else 1, 2.0)


async def test_an_address_connects_so_often_to_both_nodes(redis):
    """C2, F2"""
    limit = {"RATELIMIT_CONNECTIONS_PER_WINDOW": "4", "RATELIMIT_CONNECTION_WINDOW": "4"}
    async with two(redis, **limit) as cluster, clients_of(cluster) as clients:
        refusals = [await clients.refused(number % 2) for number in range(5)]
        assert refusals[:4] == [None] * 4
        assert refusals[4]["error"] == "address_rate"
        assert 0 < refusals[4]["retry_after"] <= 1
        await asyncio.sleep(refusals[4]["retry_after"])
        assert await clients.refused(1) is None


async def test_a_node_that_was_killed_counts_no_longer_than_two_leases(redis):
    """X3"""
    async with two(redis, RATELIMIT_MAX_CONNECTIONS_PER_IP="2") as cluster, clients_of(cluster) as clients:
        await clients.enter(0)
        await clients.enter(0)
        await cluster.kill(0)
        assert await clients.refused(1) is not None
        await clients.until_let_in(1, 2 * LEASE)


async def test_a_node_that_stops_in_order_gives_back_what_it_held(redis):
    limit = {"RATELIMIT_MAX_CONNECTIONS_PER_IP": "2", "REALTIME_NODE_LEASE": "60"}
    async with two(redis, **limit) as cluster, clients_of(cluster) as clients:
        held = [await clients.enter(0) for _ in range(2)]
        ended = await cluster.stop(0)
        assert ended.code == 0
        assert [connection.close_code for connection in held] == [1012, 1012]
        await clients.until_let_in(1, 2.0)
        assert "Traceback" not in ended.stderr


@pytest.mark.parametrize("minutes", [-10, 10])
async def test_the_clock_of_one_node_does_not_matter(redis, minutes):
    """X3: neither is its lease short or long, nor does a wait take longer, nor is an old socket a new one."""
    limit = {
        "RATELIMIT_MAX_CONNECTIONS_PER_IP": "3",
        "RATELIMIT_CONNECTIONS_PER_WINDOW": "3",
        "RATELIMIT_CONNECTION_WINDOW": "3",
        "RATELIMIT_MAX_CONNECTIONS_PER_USER": "1",
        "RATELIMIT_USER_LIMIT_POLICY": "newest",
    }
    async with two(redis, **limit) as cluster, clients_of(cluster) as clients:
        await cluster.restart(0, CLOCK_OFFSET=str(60 * minutes))
        oldest = await clients.enter(0, user="7")
        await clients.enter(1)
        await clients.enter(0)
        assert (await clients.refused(1))["error"] == "address_connections"
        await oldest.close()
        for node in (0, 1):
            refusal = await clients.refused(node, "192.0.2.1")
            if refusal is not None and refusal["error"] == "address_rate":
                assert refusal["retry_after"] <= 1
        await asyncio.sleep(1.5 * LEASE)
        first = await clients.enter(0, "192.0.2.7", user="7")
        assert await echo(first) < 5
        second = await clients.enter(1, "192.0.2.7", user="7")
        assert await closed_with(first) == 4409
        third = await clients.enter(0, "192.0.2.7", user="7")
        assert await closed_with(second) == 4409
        assert await echo(third) < 5
        full = [await clients.refused(1, "192.0.2.1") for _ in range(4)]
        assert full[-1] is not None, "a node with a wrong clock lives"


async def test_the_newest_socket_of_a_user_wins_wherever_the_oldest_is(redis):
    limit = {"RATELIMIT_MAX_CONNECTIONS_PER_USER": "2", "RATELIMIT_USER_LIMIT_POLICY": "newest"}
    async with two(redis, **limit) as cluster, clients_of(cluster) as clients:
        sockets = [await clients.enter(number % 2, user="7") for number in range(4)]
        other = await clients.enter(0, user="8")
        assert [await closed_with(socket) for socket in sockets[:2]] == [4409, 4409]
        for socket in (*sockets[2:], other):
            await echo(socket)


async def test_a_user_has_so_many_open_on_both_nodes(redis):
    async with two(redis, RATELIMIT_MAX_CONNECTIONS_PER_USER="2") as cluster, clients_of(cluster) as clients:
        refusals = [await clients.refused(number % 2, user="7") for number in range(3)]
        assert [refusal and refusal["error"] for refusal in refusals] == [None, None, "user_connections"]
        assert await clients.refused(0, user="8") is None


async def test_a_frozen_redis_holds_up_nobody(redis):
    """C2: who comes is judged by the limits of the process; afterwards all of them count again, once."""
    async with two(redis, RATELIMIT_MAX_CONNECTIONS_PER_IP="3") as cluster, clients_of(cluster) as clients:
        talker = await clients.enter(0, "192.0.2.9")
        calm = sorted([await echo(talker) for _ in range(200)])
        (await clients.enter(0), await clients.enter(1))
        redis.freeze()
        try:
            started = time.monotonic()
            knocking = asyncio.gather(*(clients.refused(0) for _ in range(3)))
            frozen = []
            while len(frozen) < 200 or not knocking.done():
                frozen.append(await echo(talker))
            refusals = await knocking
            assert [refusal and refusal["error"] for refusal in refusals].count("address_connections") == 1
            assert time.monotonic() - started < 10
            started = time.monotonic()
            assert await clients.refused(0, "192.0.2.2") is None
            assert time.monotonic() - started < STATE_TIMEOUT, "known to be away"
        finally:
            redis.thaw()
        frozen.sort()
        assert frozen[-len(frozen) // 100] < max(0.05, 5 * calm[-2])
        await asyncio.to_thread(cluster[0].wait_for_output, OVER_ALL)
        # Three at node 0 and one at node 1: more than there may be, and none of them is closed.
        refusal = await clients.refused(1)
        if refusal is None:
            # It may have found out a moment later than node 0 that Redis is back: then it says that it judged alone.
            await asyncio.to_thread(cluster[1].wait_for_output, OVER_ALL)
            refusal = await clients.refused(1)
        assert refusal["error"] == "address_connections"
        assert cluster[0].stderr.count("limits count in this process only") == 1
        assert "Traceback" not in cluster[0].stderr


async def test_who_comes_while_redis_is_frozen_waits_no_longer_than_its_timeout(redis):
    async with two(redis, RATELIMIT_MAX_CONNECTIONS_PER_IP="3") as cluster, clients_of(cluster) as clients:
        await clients.enter(0)
        redis.freeze()
        try:
            started = time.monotonic()
            await clients.enter(0)
            assert time.monotonic() - started < STATE_TIMEOUT + 0.3
        finally:
            redis.thaw()


async def test_a_redis_that_lost_its_data_is_told_again(redis):
    async with two(redis, RATELIMIT_MAX_CONNECTIONS_PER_IP="2") as cluster, clients_of(cluster) as clients:
        await clients.enter(0)
        await clients.enter(1)
        redis.stop()
        redis.forget()
        redis.start()
        async with asyncio.timeout(10):
            while await clients.refused(0) is None:
                # Let in before the nodes were heard: judged by the process alone, or by an empty Redis.
                connection = clients.open.pop()
                await connection.close()
                await asyncio.sleep(0.1)


async def test_a_ban_closes_sockets_on_every_node_at_once(redis, tmp_path: Path):
    database = {
        "DJANGO_SETTINGS_MODULE": "tests.acceptance.apps.shared_settings",
        "DATABASE": str(tmp_path / "shared.sqlite3"),
    }
    migrated = run(manage("migrate", "-v", "0"), {**database, "REDIS_URL": f"redis://127.0.0.1:{redis.port}"})
    assert migrated.code == 0, migrated.stderr
    async with two(redis, **database) as cluster, clients_of(cluster) as clients:
        admin = await clients.enter(0, "198.51.100.1")
        addresses = [f"192.0.2.{number}" for number in range(1, 5)]
        banned = [[await clients.enter(node, address) for node in (0, 1)] for address in addresses]
        # Each node looks at the table every five seconds anyway: no two of these can be closed by that.
        async with asyncio.timeout(4):
            for address, sockets in zip(addresses, banned, strict=True):
                await admin.send(json.dumps({"type": "ban", "data": address}))
                assert [await closed_with(socket) for socket in sockets] == [1008, 1008]
        await echo(admin)
