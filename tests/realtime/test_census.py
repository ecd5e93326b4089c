"""Which nodes live."""

from __future__ import annotations

import time

import msgspec
import pytest

from realtime import census as module
from realtime.census import Census
from realtime.courier import PROCESS
from realtime.state import MemoryState
from realtime.testing import until
from tests.realtime.clusternodes import ClusterNode


@pytest.fixture
async def node(settings):
    settings.REALTIME_NODE_LEASE = 1
    node = ClusterNode(MemoryState(), "blue")
    node.lease.describe = lambda: row(PROCESS)
    yield node
    await node.stop()


@pytest.fixture
async def census(node):
    census = Census(node.state, node.lease)
    node.lease.keep()
    node.supervisor.start("census", census.run)
    return census


def row(process: str) -> bytes:
    return msgspec.json.encode({"process": process})


async def test_processes_are_counted_and_the_loops_of_one_process_once(node, census):
    state = node.state.state
    await state.renew_node("green.1", row("green"), 60)
    await state.renew_node("green.2", row("green"), 60)
    await state.renew_node("red", b"written by another version", 60)
    await until(lambda: census.processes == 3)


async def test_a_node_that_dies_is_told_of_within_two_leases(node, census):
    """X3"""
    gone: list[str] = []
    census.on_gone.append(gone.extend)
    await node.state.state.renew_node("green", row("green"), 1)
    await until(lambda: census.processes == 2)
    started = time.monotonic()
    await until(lambda: gone == ["green"])
    assert time.monotonic() - started < 2
    assert census.processes == 1


async def test_while_the_state_is_away_all_count_as_they_did(node, census):
    gone: list[str] = []
    census.on_gone.append(gone.extend)
    await node.state.state.renew_node("green", row("green"), 0.6)
    await until(lambda: census.processes == 2)
    node.state.cut = True
    count = len(node.state.calls)
    await until(lambda: node.state.calls[count:].count("nodes") == 2)
    assert (census.processes, gone) == (2, [])


async def test_a_state_that_is_back_is_believed_when_all_have_had_time_to_come_back(
    node, census, monkeypatch
):
    monkeypatch.setattr(module, "GRACE", 0.5)
    gone: list[str] = []
    trusted: list[bool] = []
    census.on_gone.append(gone.extend)
    census.on_trusted.append(lambda: trusted.append(census.trusted))
    state = node.state.state
    await state.renew_node("green", row("green"), 60)
    await until(lambda: census.processes == 2)
    await state.drop_node("green")
    node.state.mend()
    assert not census.trusted
    count = node.state.calls.count("nodes")
    await state.renew_node("green", row("green"), 60)
    await until(lambda: trusted)
    assert trusted == [True]
    assert (node.state.calls.count("nodes"), gone, census.processes) == (count + 1, [], 2)


async def test_a_node_that_has_just_begun_believes_the_state(node, census):
    await node.lease.asked()
    assert census.trusted
