"""The memory of sockets: what is counted, who has to go, and that nobody else does."""

from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import AsyncIterator, Iterable
from contextlib import AsyncExitStack
from typing import Any

import pytest
from django.test import override_settings
from hypothesis import given
from hypothesis import strategies as st

from realtime import nodes
from realtime.close_codes import DONE
from realtime.connections import Connection
from realtime.consumers import RealtimeConsumer
from realtime.frames import Frame
from realtime.handlers import on
from realtime.memory import CONNECTION_BYTES, Usage, choose, held_by, total
from realtime.testing import Socket, connect, until
from tests.realtime.server.engines import SOON, native
from tests.realtime.turns import each_turn

KIB = 1024
MIB = 1024 * KIB


# The choice.


def usage(key: str, held: int, opened: float = 0, last_used: float = 0) -> Usage[str]:
    return Usage(key, held, opened, last_used)


OLD = usage("old", 20, opened=1, last_used=9)
QUIET = usage("quiet", 10, opened=2, last_used=3)
LARGE = usage("large", 30, opened=3, last_used=8)
ALL = [LARGE, OLD, QUIET]
"""Sixty bytes, and a hundred more for each of the three where ``base`` is 100."""


def chosen(*usages: Usage[str], policy: Any = "lru", max_each: int = 0, max_total: int = 0) -> list[str]:
    going = choose(usages, policy=policy, max_each=max_each, max_total=max_total, base=100)
    return [usage.key for usage in going]


@pytest.mark.parametrize(
    ("limits", "going"),
    [
        pytest.param({}, [], id="no limit"),
        pytest.param({"max_total": 360}, [], id="all that is allowed"),
        pytest.param({"max_total": 359}, ["quiet"], id="one byte over, used longest ago"),
        pytest.param({"max_total": 359, "policy": "fifo"}, ["old"], id="one byte over, opened first"),
        pytest.param({"max_total": 359, "policy": "largest"}, ["large"], id="one byte over, holds most"),
        pytest.param({"max_total": 250}, ["quiet"], id="one is enough, to the byte"),
        pytest.param({"max_total": 249}, ["quiet", "large"], id="one is not enough"),
        pytest.param({"max_total": 240, "policy": "fifo"}, ["old"], id="the first is enough"),
        pytest.param({"max_total": 1}, ["quiet", "large", "old"], id="nobody fits"),
        pytest.param({"max_each": 30}, [], id="each holds what it may"),
        pytest.param({"max_each": 29}, ["large"], id="one holds a byte too much"),
        pytest.param({"max_each": 15}, ["large", "old"], id="two hold too much"),
        pytest.param({"max_each": 29, "max_total": 230}, ["large"], id="who goes anyway makes room"),
        pytest.param({"max_each": 29, "max_total": 229}, ["large", "quiet"], id="not enough room"),
    ],
)
def test_who_has_to_go(limits, going):
    assert chosen(*ALL, **limits) == going


def test_nobody_is_chosen_where_nobody_is():
    assert chosen(max_each=1, max_total=1) == []


@given(
    st.lists(st.tuples(st.integers(0, 500), st.integers(0, 5), st.integers(0, 5)), max_size=20),
    st.sampled_from(["lru", "fifo", "largest"]),
    st.integers(0, 600),
    st.integers(0, 5000),
)
def test_what_stays_is_within_the_limits_and_none_went_in_vain(rows, policy, max_each, max_total):
    usages = [Usage(number, *row) for number, row in enumerate(rows)]
    going = choose(usages, policy=policy, max_each=max_each, max_total=max_total, base=100)
    gone = {usage.key for usage in going}
    assert len(gone) == len(going)
    stay = [usage for usage in usages if usage.key not in gone]
    assert not max_each or all(usage.held <= max_each for usage in stay)
    assert not max_total or total(stay, 100) <= max_total
    place = {"lru": lambda u: u.last_used, "fifo": lambda u: u.opened, "largest": lambda u: -u.held}[policy]
    for_the_others = [usage for usage in going if not max_each or usage.held <= max_each]
    if for_the_others:
        # The last that went was still needed, and nobody before it in the order stayed.
        last = for_the_others[-1]
        assert total([*stay, last], 100) > max_total
        assert all(place(last) <= place(usage) for usage in stay)


# What is counted.


class Keeping(RealtimeConsumer):
    """Keeps what it is told to."""

    @on("keep")
    async def keep(self, text: str) -> None:
        self.set_session("kept", text)
        await self.send_event("kept")


APP = Keeping.as_asgi()


async def grow(socket: Socket, size: int) -> Connection:
    """Have the socket hold ``size`` bytes of session data."""
    await socket.send("keep", "x" * (size - len('{"kept":""}')))
    await socket.expect("kept")
    connection = nodes.current().registry.get(socket.client_id)
    assert connection is not None
    assert held_by(connection) == size
    return connection


async def member(stack: AsyncExitStack, size: int = 0) -> Socket:
    """Connect, and hold so many bytes; each member is opened and used after those before it."""
    socket = await stack.enter_async_context(connect(APP))
    await socket.expect("system.welcome")
    if size:
        await grow(socket, size)
    return socket


async def test_an_idle_socket_holds_nothing_and_counts_all_the_same():
    async with AsyncExitStack() as stack:
        socket = await member(stack)
        connection = nodes.current().registry.get(socket.client_id)
        assert connection is not None
        assert held_by(connection) == 0
        assert nodes.snapshot().memory_bytes == CONNECTION_BYTES
    assert nodes.snapshot().memory_bytes == 0


class Holding:
    """The transport of a peer that reads nothing, with some of its own messages unread too."""

    writable = False
    buffered_bytes = 300
    closed = False
    name = "holding"
    can_ping = False

    def __init__(self, inner: Any) -> None:
        self.inner = inner
        self.listener = inner.listener

    def inbound_size(self) -> int:
        return 5000

    def close(self, code: int, reason: str) -> None:
        self.inner.close(code, reason)

    def abort(self) -> None:
        self.inner.abort()


async def test_everything_that_waits_is_counted():
    """S10: outbox, the transport's buffers both ways and session data."""
    async with AsyncExitStack() as stack:
        connection = await grow(await member(stack), 100)
        connection.transport = Holding(connection.transport)
        connection.offer(Frame("y" * 2000))
        assert connection.outbox.bytes >= 2000
        held = 100 + connection.outbox.bytes + 300 + 5000
        assert held_by(connection) == held
        assert nodes.snapshot().memory_bytes == CONNECTION_BYTES + held


class Behind(RealtimeConsumer):
    """Has begun something that takes its time."""

    @on("work")
    async def work(self) -> None:
        await asyncio.Event().wait()


@pytest.mark.parametrize("whole", [True, False], ids=["whole messages", "one that was begun"])
async def test_messages_that_wait_for_their_handler_are_counted_and_evicted(whole):
    """S10: a client sends faster than its handler works."""
    async with (
        native(Behind.as_asgi(), max_message_bytes=2 * MIB) as server,
        server.connect(max_size=None) as client,
    ):
        await client.recv()
        (connection,) = nodes.current().registry
        await client.send('{"type": "work"}')
        if whole:
            for _ in range(4):
                await client.send(json.dumps({"type": "work", "data": "x" * MIB}))
        else:
            # The last of it never comes.
            parts = ("x" * (MIB // 5) for _ in range(4))
            sending = asyncio.create_task(client.send(_begun(parts)))
        at_least = 4 * (MIB if whole else MIB // 5)
        await until(lambda: held_by(connection) >= at_least)
        assert held_by(connection) < at_least + KIB
        keeper = nodes.current().memory
        with override_settings(REALTIME_MAX_MEMORY_PER_CONNECTION=at_least + KIB):
            assert await keeper.check() == 0
        with override_settings(REALTIME_MAX_MEMORY_PER_CONNECTION=at_least - 1):
            assert await keeper.check() == 1
        async with asyncio.timeout(SOON):
            await client.wait_closed()
        assert client.close_code == 4503
        if not whole:
            sending.cancel()


async def _begun(parts: Iterable[str]) -> AsyncIterator[str]:
    """Yield the parts, and then wait for ever."""
    for part in parts:
        yield part
    await asyncio.Event().wait()


# The check.


@pytest.mark.setting("REALTIME_MAX_MEMORY_PER_CONNECTION")
async def test_a_socket_that_comes_to_hold_too_much_is_closed_and_nobody_else():
    """S10: also when it grows long after it was opened."""
    async with AsyncExitStack() as stack:
        small, large = await member(stack, KIB), await member(stack, KIB)
        node = nodes.current()
        with override_settings(REALTIME_MAX_MEMORY_PER_CONNECTION=KIB):
            assert await node.memory.check() == 0
            await grow(large, KIB + 1)
            assert await node.memory.check() == 1
            assert await large.expect_close() == 4503
            assert await node.memory.check() == 0
        await grow(small, KIB)
        assert node.counters.evictions == nodes.snapshot().totals.evictions == 1


async def test_an_evicted_client_is_told_when_to_come_back():
    async with AsyncExitStack() as stack:
        socket = await member(stack, KIB)
        with override_settings(REALTIME_MAX_MEMORY_PER_CONNECTION=1, REALTIME_RECONNECT_SPREAD=8.0):
            await nodes.current().memory.check()
        told = (await socket.expect("system.closing"))["data"]
        assert (told["code"], told["retry"]) == (4503, True)
        assert 0 <= told["retry_after"] <= 8
        assert await socket.expect_close() == 4503


@pytest.mark.setting("REALTIME_MAX_TOTAL_MEMORY")
async def test_sockets_go_until_the_rest_fits():
    async with AsyncExitStack() as stack:
        sockets = [await member(stack, KIB) for _ in range(5)]
        node = nodes.current()
        each = CONNECTION_BYTES + KIB
        assert nodes.snapshot().memory_bytes == 5 * each
        with override_settings(REALTIME_MAX_TOTAL_MEMORY=5 * each):
            assert await node.memory.check() == 0
        with override_settings(REALTIME_MAX_TOTAL_MEMORY=3 * each + 1):
            assert await node.memory.check() == 2
            for socket in sockets[:2]:
                assert await socket.expect_close() == 4503
            await until(lambda: nodes.snapshot().memory_bytes == 3 * each)
            assert await node.memory.check() == 0
        for socket in sockets[2:]:
            await grow(socket, KIB)


@pytest.mark.setting("REALTIME_MEMORY_EVICTION_POLICY")
@pytest.mark.parametrize(("policy", "goes"), [("fifo", 0), ("lru", 1), ("largest", 2)])
async def test_the_policy_says_who_goes(policy, goes):
    async with AsyncExitStack() as stack:
        sockets = [await member(stack, size * KIB) for size in (1, 2, 3)]
        await grow(sockets[0], KIB)
        limit = nodes.snapshot().memory_bytes - 1
        with override_settings(REALTIME_MEMORY_EVICTION_POLICY=policy, REALTIME_MAX_TOTAL_MEMORY=limit):
            assert await nodes.current().memory.check() == 1
        assert await sockets[goes].expect_close() == 4503


@pytest.mark.setting("REALTIME_MEMORY_CHECK_INTERVAL")
async def test_the_check_is_made_at_its_interval():
    with override_settings(REALTIME_MEMORY_CHECK_INTERVAL=0.1, REALTIME_MAX_MEMORY_PER_CONNECTION=KIB):
        async with AsyncExitStack() as stack:
            socket = await member(stack, KIB)
            await socket.expect_nothing(0.25)
            started = asyncio.get_running_loop().time()
            await grow(socket, 2 * KIB)
            assert await socket.expect_close() == 4503
            assert asyncio.get_running_loop().time() - started < 1


async def test_a_run_logs_one_line_however_many_go(caplog):
    async with AsyncExitStack() as stack:
        for _ in range(4):
            await member(stack, KIB)
        caplog.clear()
        with override_settings(REALTIME_MAX_MEMORY_PER_CONNECTION=1), caplog.at_level(logging.WARNING):
            await nodes.current().memory.check()
        (record,) = [record for record in caplog.records if "evicted" in record.getMessage()]
        assert record.__dict__["evicted"] == 4


async def test_nothing_is_looked_at_without_a_limit(monkeypatch):
    async with AsyncExitStack() as stack:
        await member(stack)
        keeper = nodes.current().memory
        monkeypatch.setattr(keeper, "_usages", lambda: pytest.fail("every socket was looked at"))
        assert await keeper.check() == 0


async def test_a_socket_that_is_closing_is_not_counted_against_the_others():
    async with AsyncExitStack() as stack:
        leaving, staying = await member(stack, KIB), await member(stack, KIB)
        each = CONNECTION_BYTES + KIB
        connection = nodes.current().registry.get(leaving.client_id)
        assert connection is not None
        connection.closed = True
        with override_settings(REALTIME_MAX_TOTAL_MEMORY=each):
            assert await nodes.current().memory.check() == 0
        await grow(staying, KIB)


async def test_a_socket_that_leaves_by_itself_is_no_eviction(monkeypatch):
    async with AsyncExitStack() as stack:
        leaving, large = await member(stack, KIB), await member(stack, KIB)
        keeper = nodes.current().memory
        look = keeper._usages

        async def look_and_leave() -> Any:
            usages = await look()
            connection = nodes.current().registry.get(leaving.client_id)
            assert connection is not None
            connection.close(DONE)
            return usages

        monkeypatch.setattr(keeper, "_usages", look_and_leave)
        with override_settings(REALTIME_MAX_MEMORY_PER_CONNECTION=1):
            assert await keeper.check() == 1
        assert nodes.current().counters.evictions == 1
        assert await large.expect_close() == 4503


async def test_other_work_goes_on_while_many_sockets_are_looked_at(monkeypatch):
    monkeypatch.setattr("realtime.memory.SLICE", 1)
    async with AsyncExitStack() as stack:
        for _ in range(3):
            await member(stack)
        limit = override_settings(REALTIME_MAX_TOTAL_MEMORY=10 * CONNECTION_BYTES)
        with limit, each_turn(lambda: None) as turns:
            await nodes.current().memory.check()
        assert len(turns) >= 3
