"""One node: made once for a loop, kept clean, seen from any thread."""

from __future__ import annotations

import asyncio
import re
import threading

import pytest
from django.contrib.auth.models import User
from django.test import override_settings

from realtime import nodes
from realtime.consumers import RealtimeConsumer
from realtime.errors import StateUnavailable
from realtime.state import RedisState
from realtime.testing import connect, stop_node, until


class Member(RealtimeConsumer):
    async def connected(self) -> None:
        await self.join("lobby")


APP = Member.as_asgi()


async def test_a_loop_has_one_node() -> None:
    assert nodes.current() is nodes.current()
    assert nodes.live() == [nodes.current()]


async def test_another_loop_has_another() -> None:
    async def other() -> nodes.Node:
        return nodes.current()

    assert await asyncio.to_thread(lambda: asyncio.run(other())) is not nodes.current()


def test_a_loop_that_ended_is_not_live() -> None:
    async def make() -> nodes.Node:
        return nodes.current()

    node = asyncio.run(make())
    assert node not in nodes.live()


async def test_stopping_leaves_no_task_behind() -> None:
    nodes.current()
    assert [task for task in asyncio.all_tasks() if task.get_name().startswith("realtime.")]
    await stop_node()
    assert not [task for task in asyncio.all_tasks() if task.get_name().startswith("realtime.")]
    assert nodes.live() == []


async def test_a_node_has_what_nodes_share_until_it_stops() -> None:
    with override_settings(REALTIME_STATE_URL="redis://127.0.0.1:1/0"):
        state = nodes.current().state
        assert isinstance(state, RedisState)
        await stop_node()
        with pytest.raises(StateUnavailable, match="closed"):
            await state.top(["room"])


@pytest.mark.setting("REALTIME_NODE_NAME")
async def test_the_name_is_the_setting_or_the_host() -> None:
    assert nodes.node_name()
    with override_settings(REALTIME_NODE_NAME="blue"):
        assert nodes.current().name == "blue"
        assert nodes.snapshot().name == "blue"


async def test_a_snapshot_counts() -> None:
    async with connect(APP, user=User(pk=1, username="ann")) as one, connect(APP) as two:
        for socket in (one, two):
            await socket.expect("system.joined")
        snapshot = await asyncio.to_thread(nodes.snapshot)
        assert (snapshot.connections, snapshot.named, snapshot.anonymous, snapshot.rooms) == (2, 1, 1, 1)
        assert snapshot.totals.connections == 2
        assert snapshot.totals.messages_out == 4
        assert {task.name: task.alive for task in snapshot.tasks} == {
            "heartbeat": True,
            "housekeeping": True,
            "memory": True,
            "sessions": True,
            "lease": True,
        }
    snapshot = nodes.snapshot()
    assert snapshot.connections == 0
    assert snapshot.totals.disconnections_by_code == {"done": 2}


async def test_infos_are_newest_first_and_bounded() -> None:
    async with connect(APP) as one, connect(APP) as two:
        for socket in (one, two):
            await socket.expect("system.welcome")
        infos = await asyncio.to_thread(nodes.connection_infos)
        assert [info.id for info in infos] == [two.client_id, one.client_id]
        assert [info.id for info in nodes.connection_infos(limit=1)] == [two.client_id]


async def test_reading_from_threads_while_sockets_come_and_go_is_safe() -> None:
    stop = threading.Event()
    failures: list[BaseException] = []

    def read() -> None:
        while not stop.is_set():
            try:
                nodes.snapshot()
                nodes.connection_infos()
            except BaseException as error:
                failures.append(error)

    reader = threading.Thread(target=read)
    reader.start()
    try:
        for _ in range(40):
            async with connect(APP) as socket:
                await socket.expect("system.joined")
    finally:
        stop.set()
        await asyncio.to_thread(reader.join)
    assert failures == []


@pytest.mark.setting("REALTIME_TASK_RESTART_INTERVAL")
async def test_a_background_task_that_dies_is_seen_and_started_again(
    caplog: pytest.LogCaptureFixture,
) -> None:
    """F15"""
    node = nodes.current()
    runs = 0

    async def dies_once() -> None:
        nonlocal runs
        runs += 1
        if runs == 1:
            raise LookupError("gone")
        await asyncio.Event().wait()

    with override_settings(REALTIME_TASK_RESTART_INTERVAL=0.05):
        node.supervisor.start("fragile", dies_once)
        await until(lambda: not _task("fragile").alive and bool(_task("fragile").last_error))
        assert _task("fragile").last_error == "LookupError: gone"
        await until(lambda: _task("fragile").alive)
    assert _task("fragile").restarts == 1
    assert nodes.snapshot().totals.task_restarts == 1
    assert "background task failed" in caplog.text


def _task(name: str) -> nodes.TaskState:
    (state,) = [task for task in nodes.snapshot().tasks if task.name == name]
    return state


async def test_a_state_that_cannot_be_reached_is_a_problem_since_then() -> None:
    with override_settings(REALTIME_STATE_URL="redis://127.0.0.1:1/0"):
        node = nodes.current()
        await until(lambda: not node.state.available)
        problem = nodes.snapshot().state_problem
        assert re.match(
            r"since \d{4}-\d\d-\d\d \d\d:\d\d:\d\d: Redis at 127.0.0.1:1 cannot be reached: ", problem
        )
        await stop_node()


async def test_a_state_of_this_process_alone_costs_nothing() -> None:
    """No lease, no census, no rows: there is nobody to tell."""
    node = nodes.current()
    await asyncio.sleep(0)
    assert {"lease", "census", "registrar", "presence"}.isdisjoint(
        state.name for state in node.supervisor.states()
    )
