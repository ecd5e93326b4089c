"""The benchmarks of a cluster: what is lost or wrong must not become a number, and numbers find their place."""

from __future__ import annotations

import asyncio
import json
import os
import time
from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack
from typing import Any

import pytest
from websockets.asyncio.server import ServerConnection, serve

from benchmarks import cluster, crowd, load, redisserver, servers

Handle = Callable[[ServerConnection], Awaitable[None]]


@pytest.fixture(autouse=True)
def _patience(monkeypatch):
    """Not to wait long for what is lost."""
    monkeypatch.setattr(load, "ANSWER_TIMEOUT", 0.5)
    monkeypatch.setattr(crowd, "PATIENCE", 0.5)
    monkeypatch.setattr(crowd, "SETTLING", 0.05)


class Room:
    """A room on several ports, as honest as ``passes`` makes it: that is given every delivery, and says what arrives."""

    def __init__(self, passes: Callable[[str, int], list[str]] = lambda text, number: [text]) -> None:
        self.members: list[ServerConnection] = []
        self.passes = passes

    async def __call__(self, socket: ServerConnection) -> None:
        self.members.append(socket)
        async for text in socket:
            for number, member in enumerate(list(self.members)):
                for one in self.passes(str(text), number):
                    await member.send(one)


async def on_two_ports(handle: Handle, run: Callable[[list[int]], Awaitable[Any]]) -> Any:
    async with AsyncExitStack() as stack:
        found = [
            await stack.enter_async_context(
                serve(handle, "127.0.0.1", 0, compression=None, max_queue=None, ping_interval=None)
            )
            for _ in range(2)
        ]
        return await run([server.sockets[0].getsockname()[1] for server in found])


async def broadcast(room: Room) -> dict[str, Any]:
    return await on_two_ports(room, lambda ports: crowd.broadcast(ports, 4, 0.15, lambda: 1.0))


async def test_a_broadcast_counts_what_every_member_gets_on_all_nodes():
    room = Room()
    taken = await broadcast(room)
    assert taken["problems"] == []
    assert taken["answers"] > 4
    assert taken["p50_ms"] <= taken["p99_ms"]
    assert len({member.local_address[1] for member in room.members}) == 2


@pytest.mark.parametrize(
    ("passes", "problem"),
    [
        pytest.param(lambda text, n: [] if n == 3 else [text], "still wait", id="lost"),
        pytest.param(lambda text, n: [text, text] if n == 3 else [text], "where", id="twice"),
        pytest.param(lambda text, n: [], "nothing arrived", id="silent"),
    ],
)
async def test_a_broadcast_that_is_not_whole_is_a_problem(passes, problem):
    assert problem in str((await broadcast(Room(passes)))["problems"])


async def test_latency_is_that_of_the_other_node_only():
    late: list[float] = []

    class Slow(Room):
        async def __call__(self, socket: ServerConnection) -> None:
            self.members.append(socket)
            async for text in socket:
                far = [m for m in self.members if m.local_address != socket.local_address]
                for member in [m for m in self.members if m not in far]:
                    await member.send(text)
                await asyncio.sleep(0.02)
                late.append(0.02)
                for member in far:
                    await member.send(text)

    taken = await on_two_ports(Slow(), lambda ports: crowd.latency(ports, 4, 20, 0.3, lambda: None))
    assert taken["problems"] == []
    assert taken["p50_ms"] >= 20
    # Two of the four members are on the other node.
    assert taken["answers"] <= 2 * len(late)


class Chat:
    """Remembers what was said, and gives it to those who come back; ``forgets`` loses one message."""

    def __init__(self, forgets: int = -1, complete: bool = True) -> None:
        self.said: list[int] = []
        self.forgets = forgets
        self.complete = complete

    async def __call__(self, socket: ServerConnection) -> None:
        await self.tell(socket, "system.welcome", {"session": "a token"})
        await self.tell(socket, "system.joined", {"room": "chat", "epoch": "e", "offset": len(self.said)})
        async for text in socket:
            message = json.loads(text)
            if message["type"] == "say":
                self.said.append(message["data"])
                await self.tell(socket, "said", message["data"])
            elif message["type"] == "system.resume":
                assert message["data"]["session"] == "a token"
                missed = self.said[message["data"]["rooms"]["chat"]["offset"] :]
                data = {"room": "chat", "complete": self.complete, "count": len(missed)}
                await self.tell(socket, "system.recovered", data)
                for number in missed:
                    if number != self.forgets:
                        await self.tell(socket, "said", number)

    async def tell(self, socket: ServerConnection, type: str, data: Any) -> None:
        await socket.send(json.dumps({"type": type, "data": data}))


async def recover(chat: Chat, asked: crowd.Asked = dict) -> dict[str, Any]:
    async def run(ports: list[int]) -> dict[str, Any]:
        clients, _ = await crowd.crowd(ports, 6)
        await crowd.leave(clients)
        assert await crowd.publish(ports[0], 5) == []
        return await crowd.come_back(ports, clients, 5, asked)

    return await on_two_ports(chat, run)


@pytest.fixture
def nothing_is_written(monkeypatch):
    monkeypatch.setattr(crowd, "WRITTEN", 0.0)


@pytest.mark.usefixtures("nothing_is_written")
async def test_clients_that_come_back_have_all_they_missed():
    assert (await recover(Chat()))["problems"] == []


async def test_commands_that_nobody_waited_for_are_counted(monkeypatch):
    """Whether they fall into the recovery would depend on how long that takes."""
    monkeypatch.setattr(crowd, "WRITTEN", 0.3)
    asked: list[float] = []

    def calls() -> dict[str, int]:
        asked.append(time.monotonic())
        return {"set": len(asked) * 10}

    taken = await recover(Chat(), calls)
    assert taken["commands"] == {"set": 10}
    assert asked[1] - asked[0] >= 0.3


@pytest.mark.parametrize(
    ("chat", "problem"),
    [
        pytest.param(Chat(forgets=2), "6 clients were not told all they had missed", id="a message is lost"),
        pytest.param(
            Chat(complete=False), "6 clients got something else", id="the server says it is not all"
        ),
    ],
)
@pytest.mark.usefixtures("nothing_is_written")
async def test_a_recovery_that_is_not_whole_is_a_problem(chat, problem):
    assert problem in str((await recover(chat))["problems"])


# What Redis says.


@pytest.mark.redis
def test_commands_and_memory_are_what_redis_counts():
    with redisserver.running(None) as redis:
        before, empty = redis.calls(), redis.memory()
        redis.ask("SET", "a", "x" * 100_000)
        redis.ask("EVAL", "redis.call('get', 'a') redis.call('get', 'a') return 1", "0")
        assert redisserver.since(before, redis.calls()) == {"get": 2, "set": 1, "eval": 1}
        assert redis.memory() - empty >= 100_000


# What is told of it.


def taken(per_second: float, **more: Any) -> dict[str, Any]:
    return {"problems": [], "per_second": per_second, "p50_ms": 1.0, "p99_ms": 2.0, **more}


def result() -> dict[str, Any]:
    rates = {"stock": 100.0, "pubsub": 200.0, "ours": 2600.0, "kept": 2400.0}
    came_back = {
        "clients": 1000,
        "missed": 100,
        "seconds": 1.26,
        "connect_seconds": 0.7,
        "commands_per_client": 6.4,
        "commands": {"get": 2000, "set": 1000},
        "problems": [],
    }
    idle = {
        "clients": 10_000,
        "bytes_per_client": 512.3,
        "commands_per_second": 30.0,
        "commands_per_second_without": 0.5,
        "commands": {"hset": 20},
        "problems": [],
    }
    turns = {key: [taken(rate)] for key, rate in rates.items()}
    return {
        "options": {"turns": 1, "seconds": 5.0, "rate": 5.0},
        "groups": {
            "broadcast": turns,
            "latency": turns,
            "recovery": {"kept": [came_back]},
            "idle": {"kept": [idle]},
        },
    }


def test_ratios_have_verdicts():
    found = [(row["ratio"], row["verdict"]) for row in cluster.ratios(result()["groups"]["broadcast"])]
    assert found == [(26.0, "met"), (13.0, "missed"), (24.0, "missed"), (12.0, "missed")]


def test_a_problem_fails_the_run_and_its_ratios():
    groups = result()["groups"]
    groups["broadcast"]["stock"][0]["problems"] = ["lost"]
    assert {row["verdict"] for row in cluster.ratios(groups["broadcast"])} == {"failed", "missed"}
    assert cluster.failed(groups)
    assert cluster.failed({"idle": {"kept": [{"problems": ["lost"]}]}})
    assert not cluster.failed({"idle": {"kept": [{"problems": []}]}})


def test_the_tables_say_what_was_found():
    text = cluster.block(result())
    assert "| ours | 2,600 | 1.00 ms | 2.00 ms |" in text
    assert "1,000 clients" in text
    assert "after 1.3 s" in text
    assert "6.4 commands for each: 2,000 `get`, 1,000 `set`" in text
    assert "512 bytes of Redis each" in text


def test_a_failed_group_says_what_went_wrong():
    failing = result()
    failing["groups"]["recovery"]["kept"][0]["problems"] = ["6 clients"]
    assert "Recovery failed: ['6 clients']" in cluster.block(failing)


def test_the_tables_have_a_place_in_the_documentation(tmp_path):
    document = tmp_path / "x.md"
    document.write_text("before\n<!-- measured: cluster -->\nold\n<!-- end measured -->\nafter\n")
    cluster.write(result(), document)
    text = document.read_text()
    assert text.startswith("before\n<!-- measured: cluster -->\n`python -m benchmarks.cluster`")
    assert text.endswith("\n<!-- end measured -->\nafter\n")


def test_a_group_that_there_is_not_is_refused(capsys):
    with pytest.raises(SystemExit):
        cluster.parsed(["--only", "broadcast,broadcats"])
    assert "there is no broadcats" in capsys.readouterr().err


@pytest.mark.redis
def test_nodes_and_redis_have_a_core_that_the_load_has_not(monkeypatch, tmp_path):
    """Whose own process is pinned first, and would pass its core on."""
    seen = []

    async def look(nodes):
        seen.extend(os.sched_getaffinity(one.process.pid) for one in nodes._every)
        seen.append(os.sched_getaffinity(0))
        return {"problems": []}

    before = os.sched_getaffinity(0)
    first, last = servers.cores() or (min(before), min(before))
    monkeypatch.setitem(cluster.GROUPS, "idle", (cluster.GROUPS["idle"][0], lambda options: look))
    monkeypatch.setattr(cluster, "block", lambda result: "")
    monkeypatch.setattr("sys.argv", ["cluster", "--only", "idle", "--json", str(tmp_path / "result.json")])
    try:
        cluster.main()
    finally:
        os.sched_setaffinity(0, before)
    assert seen == [{first}] * 3 + [{last}]
