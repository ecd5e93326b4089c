"""Nodes and a Redis that fail for real, as the fault tests use them: each fault happens, and clients come back from it."""

from __future__ import annotations

import asyncio
import json
import time
from contextlib import AsyncExitStack
from typing import Any

import pytest
from websockets.asyncio.client import connect as ws_connect
from websockets.asyncio.server import ServerConnection, serve

from tests.acceptance.checker import Heard, Joined, Lost, Recovered, Welcomed, violations
from tests.acceptance.cluster import Cluster, RoomClient, all_of
from tests.acceptance.faultproxy import FaultProxy
from tests.acceptance.messages import message

pytestmark = pytest.mark.redis


async def join(stack: AsyncExitStack, cluster: Cluster, room: str, count: int) -> list[RoomClient]:
    """Return clients that are in the room, one after another on the nodes in turn."""
    clients = [
        await stack.enter_async_context(RoomClient(f"client-{number}", room, cluster.ports, first=number))
        for number in range(count)
    ]
    await all_of(clients, lambda client: client.is_member)
    return clients


def judge(clients: list[RoomClient]) -> list[str]:
    acked = [key for client in clients for key in client.acked]
    return violations({client.name: client.log for client in clients}, acked=acked)


async def test_a_room_spans_the_nodes_of_a_cluster(redis):
    """C11."""
    async with Cluster([redis.port] * 2) as cluster, AsyncExitStack() as stack:
        clients = await join(stack, cluster, "span", 4)
        assert {client.node for client in clients} == {"node-0", "node-1"}
        for number in range(20):
            await clients[number % 4].publish(f"m{number}")
        await all_of(clients, lambda client: len(client.heard) == 20)
        for client in clients:
            await client.until_answered()
        assert judge(clients) == []


async def test_the_clients_of_a_killed_node_come_back_on_another(redis):
    async with Cluster([redis.port] * 2) as cluster, AsyncExitStack() as stack:
        clients = await join(stack, cluster, "kill", 2)
        await cluster.kill(0)
        await clients[0].until(lambda client: client.node == "node-1" and client.is_member)
        assert clients[0].codes == [1006]
        assert clients[1].codes == []
        await clients[1].publish("after")
        await all_of(clients, lambda client: "after" in client.heard)
        await cluster.start(0)
        clients[1].drop()
        await clients[1].until(lambda client: client.node == "node-0" and client.is_member)


async def test_a_rolling_restart_sends_everybody_away_with_a_reason(redis):
    async with Cluster([redis.port] * 2, command="daphne") as cluster, AsyncExitStack() as stack:
        clients = await join(stack, cluster, "roll", 2)
        ended = await cluster.rolling_restart()
        assert [end.code for end in ended] == [0, 0]
        await all_of(clients, lambda client: client.is_member)
        assert {code for client in clients for code in client.codes} == {1012}


async def test_a_publish_that_was_not_answered_is_sent_again(redis):
    history = {"REALTIME_HISTORY_SIZE": "100"}
    async with Cluster([redis.port], environment=history) as cluster, AsyncExitStack() as stack:
        (client,) = await join(stack, cluster, "again", 1)
        cluster.freeze(0)
        await client.publish("unanswered")
        client.drop()
        cluster.thaw(0)
        await client.until_answered()
        assert client.acked == ["unanswered"]
        assert "unanswered" in client.heard


@pytest.mark.parametrize("keep", [True, False], ids=["with its data", "without its data"])
async def test_redis_comes_back(redis, keep):
    redis.server.command("SET", "mark", "1")
    redis.stop()
    with pytest.raises(ConnectionRefusedError):
        redis.server.command("PING")
    if not keep:
        redis.forget()
    redis.start()
    assert redis.server.command("EXISTS", "mark") == (b":1\r\n" if keep else b":0\r\n")


async def test_a_frozen_redis_answers_nobody_until_it_thaws(redis):
    redis.freeze()
    answer = asyncio.create_task(asyncio.to_thread(redis.server.command, "PING"))
    done, _ = await asyncio.wait([answer], timeout=0.2)
    assert not done
    redis.thaw()
    assert await answer == b"+PONG\r\n"


async def test_one_node_can_be_cut_off_from_redis(redis):
    async with (
        FaultProxy(redis.port) as proxy,
        Cluster([proxy.port, redis.port]) as cluster,
        AsyncExitStack() as stack,
    ):
        clients = await join(stack, cluster, "cut", 2)
        assert proxy.open > 0
        proxy.freeze()
        await clients[0].publish("here")
        await clients[0].until(lambda client: "here" in client.heard)
        assert clients[1].heard == []
        proxy.thaw()
        await clients[1].until(lambda client: "here" in client.heard)
        assert [client.codes for client in clients] == [[], []]


async def test_a_node_may_live_ten_minutes_ahead(redis):
    async with Cluster([redis.port] * 2) as cluster:
        await cluster.restart(1, CLOCK_OFFSET="600")
        stamps = []
        for process in (cluster[0], cluster[1]):
            async with ws_connect(f"{process.ws}/clock") as connection:
                await connection.send(json.dumps({"type": "say", "data": "now"}))
                stamps.append((await message(connection, "said"))["ts"] - time.time())
    assert stamps == [pytest.approx(0, abs=5), pytest.approx(600, abs=5)]


# The client, against a server that does as it is told.


class Script:
    """A node that plays its part of the protocol line by line."""

    def __init__(self, *visits: list[dict[str, Any] | int | str]) -> None:
        self.visits = list(visits)
        self.received: list[list[dict[str, Any]]] = []

    async def serve(self, connection: ServerConnection) -> None:
        """Send what is a message, wait for a message where a type is named, close with what is a code."""
        received: list[dict[str, Any]] = []
        self.received.append(received)
        for line in self.visits.pop(0):
            if isinstance(line, int):
                await connection.close(line)
            elif isinstance(line, dict):
                await connection.send(json.dumps(line))
            else:
                while not received or received[-1]["type"] != line:
                    received.append(json.loads(await connection.recv()))
        await connection.wait_closed()


async def refused_client(script: Script, *keys: str) -> RoomClient:
    """Have a client publish these, and return it when the script has turned it away for good."""
    async with serve(script.serve, "127.0.0.1", 0) as server:
        port = next(iter(server.sockets)).getsockname()[1]
        async with RoomClient("one", "r", [port]) as client:
            for key in keys:
                await client.publish(key)
            with pytest.raises(ConnectionAbortedError, match="4410"):
                await client.until(lambda _: False)
    return client


def system(name: str, **data: Any) -> dict[str, Any]:
    return {"type": f"system.{name}", "data": data}


def said(key: str, offset: int) -> dict[str, Any]:
    return {"type": "said", "room": "r", "data": key, "offset": offset}


def welcome(session: str, *, resumed: bool) -> dict[str, Any]:
    return system("welcome", session=session, resumed=resumed, node="n")


def resume(session: str, epoch: str, offset: int) -> dict[str, Any]:
    rooms = {"r": {"epoch": epoch, "offset": offset}}
    return {**system("resume", session=session, rooms=rooms), "id": "resume"}


async def test_a_stranger_that_is_about_to_be_resumed_is_not_the_client():
    """What it is told and given as such is for somebody else; a connection lost meanwhile leaves the client as it was."""
    stranger = [
        welcome("stranger", resumed=False),
        system("joined", room="r", epoch="a", offset=6),
        said("m7", 7),
    ]
    script = Script(
        [welcome("s1", resumed=False), system("joined", room="r", epoch="a", offset=4), said("m5", 5), 1012],
        ["system.resume", *stranger, 1012],
        [
            *("system.resume", *stranger, welcome("s2", resumed=True), said("m8", 8)),
            system("recovered", room="r", complete=True, **{"from": 5, "to": 8}, epoch="a", count=3),
            *(said("m6", 6), said("m7", 7), said("m8", 8), 1012),
        ],
        [
            "system.resume",
            *stranger,
            system("error", id="resume", code="session_expired"),
            said("m8", 8),
            1012,
        ],
        ["system.resume", 4410],
    )
    client = await refused_client(script)
    assert [received[0] for received in script.received[1:]] == [
        *(resume("s1", "a", 5), resume("s1", "a", 5), resume("s2", "a", 8), resume("stranger", "a", 8))
    ]
    assert client.heard == ["m5", "m6", "m7", "m8", "m7", "m8"]
    assert client.log[-5:-1] == [Joined("a", 6), Heard("m7", 7), Heard("m8", 8), Lost()]


async def test_a_client_resumes_with_its_session_and_its_place_and_sends_again_what_was_not_answered():
    script = Script(
        [
            welcome("s1", resumed=False),
            system("joined", room="r", epoch="a", offset=4),
            said("m5", 5),
            "say",
            system("closing", retry_after=0.0),
            1012,
        ],
        [
            "system.resume",
            welcome("s2", resumed=True),
            system("recovered", room="r", complete=True, **{"from": 5, "to": 6}, epoch="a", count=1),
            said("m6", 6),
            "say",
            system("ack", id="own"),
            1012,
        ],
        [
            "system.resume",
            welcome("s3", resumed=True),
            system("recovered", room="r", complete=False, **{"from": 6, "to": 2}, epoch="b", count=0),
            said("m3", 3),
            1012,
        ],
        ["system.resume", 4410],
    )
    client = await refused_client(script, "own")
    first, second, third, last = script.received
    assert [message["type"] for message in first] == ["say"]
    assert second[0] == resume("s1", "a", 5)
    assert second[1:] == first == [{"type": "say", "data": "own", "id": "own"}]
    assert third == [resume("s2", "a", 6)]
    assert last == [resume("s3", "b", 3)]
    assert client.acked == ["own"]
    assert client.codes == [1012, 1012, 1012, 4410]
    assert [type(entry) for entry in client.log] == [
        *(Welcomed, Joined, Heard, Lost),
        *(Welcomed, Recovered, Heard, Lost),
        *(Welcomed, Recovered, Heard, Lost),
        Lost,
    ]
    assert violations({"one": client.log}) == []
