"""What the other nodes can know of a node's connections: what has changed is written, and nothing else."""

from __future__ import annotations

import time
from contextlib import AsyncExitStack

import msgspec
import pytest

from realtime import nodes
from realtime import registrar as module
from realtime.consumers import RealtimeConsumer
from realtime.errors import StateUnavailable
from realtime.registrar import Registrar
from realtime.registry import ConnectionInfo
from realtime.state import MemoryState
from realtime.testing import connect, until
from tests.realtime.clusternodes import ClusterNode


class Quiet(RealtimeConsumer):
    """Is in a room."""

    async def connected(self) -> None:
        await self.join("lobby")


APP = Quiet.as_asgi()


@pytest.fixture
async def node():
    node = ClusterNode(MemoryState(), "blue")
    yield node
    await node.stop()


@pytest.fixture
async def registrar(node):
    registrar = Registrar(nodes.current().registry, node.state, node.lease)
    node.lease.on_fresh.append(registrar._forget)
    node.lease.keep()
    await node.lease.asked()
    return registrar


async def rows(node: ClusterNode) -> dict[str, ConnectionInfo]:
    found = await node.state.state.registry(node.lease.id)
    return {id: msgspec.json.decode(row, type=ConnectionInfo) for id, row in found.items()}


def writes(node: ClusterNode) -> int:
    return node.state.calls.count("write_registry")


async def test_a_connection_is_written_as_it_is(registrar, node):
    """C7"""
    async with connect(APP) as socket:
        await socket.expect("system.joined")
        await registrar.write()
        (info,) = (await rows(node)).values()
        assert info == next(iter(nodes.current().registry)).info()
        assert (info.id, info.rooms) == (socket.client_id, ("lobby",))


async def test_what_does_not_change_is_not_written_again(registrar, node):
    async with connect(APP) as socket:
        await socket.expect("system.joined")
        await registrar.write()
        for _ in range(3):
            await registrar.write()
        assert writes(node) == 1


async def test_what_has_happened_since_is_written(registrar, node):
    async with connect(APP) as socket:
        await socket.expect("system.joined")
        await registrar.write()
        await socket.send("system.ping", {})
        await socket.expect("system.pong")
        await registrar.write()
        (info,) = (await rows(node)).values()
        assert (info.messages_in, writes(node)) == (1, 2)


async def test_one_that_has_gone_is_taken_out(registrar, node):
    async with connect(APP) as socket:
        await socket.expect("system.joined")
        await registrar.write()
    await until(lambda: len(nodes.current().registry) == 0)
    await registrar.write()
    assert await rows(node) == {}
    await registrar.write()
    assert writes(node) == 2


async def test_what_could_not_be_written_is_written_the_next_time(registrar, node):
    async with connect(APP) as socket:
        await socket.expect("system.joined")
        node.state.cut = True
        with pytest.raises(StateUnavailable):
            await registrar.write()
        node.state.cut = False
        await registrar.write()
        assert list(await rows(node)) == [socket.client_id]


async def test_a_state_that_lost_everything_is_told_again(registrar, node):
    async with connect(APP) as socket:
        await socket.expect("system.joined")
        await registrar.write()
        await node.state.state.drop_node(node.lease.id)
        node.state.mend()
        await until(lambda: node.state.calls.count("renew_node") == 2)
        await registrar.write()
        assert list(await rows(node)) == [socket.client_id]


async def test_where_all_talk_each_gets_its_turn(registrar, node, monkeypatch):
    monkeypatch.setattr(module, "MOST_CHANGED", 2)
    monkeypatch.setattr(module, "AT_ONCE", 2)
    async with AsyncExitStack() as stack:
        sockets = [await stack.enter_async_context(connect(APP)) for _ in range(5)]
        for socket in sockets:
            await socket.expect("system.joined")
        await registrar.write()
        assert (len(await rows(node)), writes(node)) == (5, 3)
        talked = []
        for _ in range(3):
            for socket in sockets:
                await socket.send("system.ping", {})
                await socket.expect("system.pong")
            await registrar.write()
            talked.append(sorted(info.messages_in for info in (await rows(node)).values()))
        assert talked == [[0, 0, 0, 1, 1], [0, 1, 1, 2, 2], [1, 2, 2, 3, 3]]


async def test_what_the_connections_hold_is_added_up(registrar):
    async with connect(APP) as socket:
        await socket.expect("system.joined")
        await registrar.write()
        assert registrar.held.memory == nodes.snapshot().memory_bytes > 0


@pytest.mark.setting("REALTIME_REGISTRY_SYNC_INTERVAL")
@pytest.mark.parametrize("seconds", [0.1, 0.4])
async def test_it_is_written_as_often_as_the_setting_says(node, settings, seconds):
    settings.REALTIME_REGISTRY_SYNC_INTERVAL = seconds
    registrar = Registrar(nodes.current().registry, node.state, node.lease)
    node.lease.keep()
    node.supervisor.start("registrar", registrar.run)
    async with connect(APP) as socket:
        await socket.expect("system.joined")
        await until(lambda: writes(node) == 1)
        started = time.monotonic()
        await socket.send("system.ping", {})
        await until(lambda: writes(node) == 2)
        assert time.monotonic() - started == pytest.approx(seconds, abs=0.09)
