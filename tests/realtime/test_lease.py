"""The lease of a node."""

from __future__ import annotations

import asyncio
import time

import msgspec
import pytest

from realtime import lease as module
from realtime.state import MemoryState
from realtime.testing import until
from tests.realtime.clusternodes import ClusterNode


@pytest.fixture
async def node():
    node = ClusterNode(MemoryState(), "blue")
    yield node
    await node.stop()


async def living(node):
    return [row.id for row in await node.state.state.nodes()]


async def test_nothing_is_asked_of_the_state_before_the_lease_is_kept(node):
    await asyncio.sleep(0.01)
    assert node.state.calls == []


async def test_a_node_enters_as_it_describes_itself(node):
    node.lease.keep()
    await node.lease.asked()
    (row,) = await node.state.state.nodes()
    assert row.id == node.lease.id
    assert row.id.startswith("blue.")
    assert msgspec.json.decode(row.row)["name"] == "blue"


async def test_two_lives_of_one_node_are_two(node):
    assert ClusterNode(node.state.state, "blue").lease.id != node.lease.id


async def test_keeping_it_twice_is_keeping_it_once(node):
    node.lease.keep()
    node.lease.keep()
    await node.lease.asked()
    assert node.state.calls.count("renew_node") == 1


@pytest.mark.setting("REALTIME_NODE_LEASE")
@pytest.mark.parametrize("seconds", [1, 3])
async def test_it_lasts_as_long_as_the_setting_says_and_is_renewed_three_times_in_it(node, settings, seconds):
    """X3."""
    settings.REALTIME_NODE_LEASE = seconds
    started = time.monotonic()
    node.lease.keep()
    await until(lambda: node.state.calls.count("renew_node") == 2)
    assert time.monotonic() - started == pytest.approx(seconds / 3, abs=0.25)
    await node.kill()
    assert await living(node) == [node.lease.id]
    state = node.state.state
    now = state._clock()
    state._clock = lambda: now + seconds - 0.2
    assert await living(node) == [node.lease.id]
    state._clock = lambda: now + seconds
    assert await living(node) == []


@pytest.mark.parametrize(
    ("ages", "seconds"),
    [
        pytest.param([], 5.0, id="nobody"),
        pytest.param([0.0, 2.0, 5.1], 5.0, id="all renew in time"),
        pytest.param([0.0, 11.0], 4.0 + module.MARGIN, id="one is about to run out"),
        pytest.param([14.9, 13.0], 0.1 + module.MARGIN, id="the first of two"),
        pytest.param([15.0, 3000.0], 5.0, id="a longer lease than ours"),
    ],
)
def test_nodes_are_looked_at_when_a_lease_runs_out(ages, seconds):
    """X3."""
    assert module.next_look(15.0, ages) == pytest.approx(seconds)


async def test_it_is_given_back_in_the_end(node):
    node.lease.keep()
    await node.lease.asked()
    await node.stop()
    assert await living(node) == []


async def test_whoever_holds_something_hears_when_the_state_knew_nothing_of_the_node(node):
    heard = []
    node.lease.on_fresh.append(lambda: heard.append("again"))
    node.lease.keep()
    await node.lease.asked()
    assert heard == ["again"]
    await node.state.state.drop_node(node.lease.id)
    node.state.mend()
    await until(lambda: len(heard) == 2)


async def test_a_state_that_is_back_is_asked_at_once(node, settings):
    settings.REALTIME_NODE_LEASE = 3600
    node.state.cut = True
    node.lease.keep()
    await node.lease.asked()
    assert await living(node) == []
    node.state.mend()
    await until(lambda: "sweep" in node.state.calls)
    assert await living(node) == [node.lease.id]


async def test_the_state_s_clock_counts_and_not_the_node_s(node, monkeypatch):
    node.lease.keep()
    await node.lease.asked()
    right = time.time()
    monkeypatch.setattr(module.time, "time", lambda: right + 600)
    assert node.lease.shared_time(time.monotonic()) == pytest.approx(right, abs=1)


async def test_one_node_removes_what_the_dead_left(node, settings):
    other = ClusterNode(node.state.state, "green")
    node.lease.keep()
    await until(lambda: "sweep" in node.state.calls)
    other.lease.keep()
    await until(lambda: "lead" in other.state.calls)
    assert "sweep" not in other.state.calls
    await other.stop()
