"""Messages between nodes through their Redis: each once, in order, and none lost in a short break."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator
from typing import Any

import msgspec
import pytest

from realtime.errors import StateUnavailable
from realtime.state import RedisState, bus
from tests.realtime.state.test_redis import Proxy, commands, opened, server

THERE = "another.1"
"""A channel of another process."""


@contextlib.asynccontextmanager
async def listening(url: str, prefix: str, *groups: str, timeout: float = 1.0) -> AsyncIterator[RedisState]:
    """The state of another process, whose channel is in these groups."""
    async with opened(url, prefix, timeout=timeout) as state:
        for group in groups:
            await state.bus.group_add(group, THERE)
        yield state


async def heard(state: RedisState, count: int) -> list[Any]:
    async with asyncio.timeout(5):
        return [(await state.bus.receive(THERE))["n"] for _ in range(count)]


async def say(state: RedisState, *numbers: int, group: str = "g") -> None:
    await asyncio.gather(*(state.bus.group_send(group, {"n": number}) for number in numbers))


async def test_what_is_sent_to_a_group_comes_to_another_process_in_order(redis_server, prefix):
    async with (
        listening(redis_server.url, prefix, "g", "h") as there,
        opened(redis_server.url, prefix) as here,
    ):
        await say(here, *range(100))
        await say(here, 1000, group="nobody's")
        await say(here, 100, group="h")
        assert await heard(there, 101) == list(range(101))


@pytest.mark.parametrize("payload", ["text €", b"\x00\xff", None, ["x"], {"a": 1.5}], ids=repr)
async def test_messages_come_as_they_were(redis_server, prefix, payload):
    async with listening(redis_server.url, prefix, "g") as there, opened(redis_server.url, prefix) as here:
        await here.bus.group_send("g", {"payload": payload})
        assert await there.bus.receive(THERE) == {"payload": payload}


async def test_the_process_of_the_sender_is_told_nothing(redis_server, prefix):
    async with opened(redis_server.url, prefix) as here:
        own = await here.bus.new_channel("realtime")
        assert own != await here.bus.new_channel("realtime")
        await here.bus.group_add("g", own)
        await here.bus.group_add("g", THERE)
        await say(here, 1)
        assert redis_server.command("EXISTS", f"{prefix}:inbox:{own}") == b":0\r\n"
        assert redis_server.command("EXISTS", f"{prefix}:inbox:{THERE}") == b":1\r\n"


async def test_who_has_left_a_group_or_been_in_it_too_long_is_told_nothing(redis_server, prefix, monkeypatch):
    monkeypatch.setattr(bus, "GROUP_TTL", 0.1)
    async with (
        listening(redis_server.url, prefix, "left", "over", "g") as there,
        opened(redis_server.url, prefix) as here,
    ):
        await there.bus.group_discard("left", THERE)
        await say(here, 1, group="left")
        await asyncio.sleep(0.15)
        await say(here, 2, group="over")
        await there.bus.group_add("g", THERE)
        await say(here, 3)
        assert await heard(there, 1) == [3]


async def test_a_connection_that_breaks_loses_nothing(redis_server, prefix):
    async with (
        Proxy(redis_server.port) as proxy,
        listening(proxy.url, prefix, "g") as there,
        opened(redis_server.url, prefix) as here,
    ):
        await say(here, 0)
        assert await heard(there, 1) == [0]
        for round in range(1, 4):
            proxy.cut()
            await say(here, 2 * round - 1, 2 * round)
            with pytest.raises(StateUnavailable, match="closed"):
                await heard(there, 1)
            assert await heard(there, 2) == [2 * round - 1, 2 * round]


async def test_a_connection_that_says_nothing_is_given_up(redis_server, prefix, monkeypatch):
    monkeypatch.setattr(bus, "_BLOCK", 0.1)
    async with (
        Proxy(redis_server.port) as proxy,
        listening(proxy.url, prefix, "g", timeout=0.3) as there,
        opened(redis_server.url, prefix) as here,
    ):
        await say(here, 1)
        assert await heard(there, 1) == [1]
        proxy.deaf = True
        started = time.monotonic()
        with pytest.raises(StateUnavailable, match=r"Nothing came from Redis for 0\.4 seconds"):
            await heard(there, 1)
        assert time.monotonic() - started < 2


async def test_a_redis_that_forgot_everything_is_heard_again(prefix):
    with server() as own:
        async with listening(own.url, prefix, "g") as there, opened(own.url, prefix) as here:
            await say(here, 1)
            assert await heard(there, 1) == [1]
            own.command("FLUSHALL")
            # Entries are numbered by the millisecond, and nobody loses all data within one.
            await asyncio.sleep(0.005)
            await there.bus.group_add("g", THERE)
            await say(here, 2)
            assert await heard(there, 1) == [2]


async def test_after_a_break_a_redis_with_an_earlier_clock_is_heard_too(redis_server, prefix):
    """A replica that took over without the last of it, whose clock is behind."""
    inbox = f"{prefix}:inbox:{THERE}".encode()
    async with (
        Proxy(redis_server.port) as proxy,
        listening(proxy.url, prefix, "g") as there,
        opened(redis_server.url, prefix) as here,
    ):

        async def put(id: bytes, number: int) -> None:
            message = msgspec.msgpack.encode({"n": number})
            await here._links[0].call(None, 0, [b"XADD", inbox, id, b"m", message])

        await put(b"5-1", 5)
        await put(b"9-0", 9)
        assert await heard(there, 2) == [5, 9]
        await here._links[0].call(None, 0, [b"DEL", inbox])
        await put(b"5-1", 5)
        proxy.cut()
        with pytest.raises(StateUnavailable):
            await heard(there, 1)
        receiving = asyncio.ensure_future(heard(there, 1))
        await asyncio.sleep(0.1)
        await put(b"6-0", 6)
        assert await receiving == [6]


async def test_what_cannot_be_read_is_told_once(redis_server, prefix):
    async with listening(redis_server.url, prefix, "g") as there, opened(redis_server.url, prefix) as here:
        redis_server.command("XADD", f"{prefix}:inbox:{THERE}", "*", "m", "\xc1")
        with pytest.raises(StateUnavailable, match="cannot be read"):
            await heard(there, 1)
        await say(here, 1)
        assert await heard(there, 1) == [1]


async def test_what_was_read_is_not_kept_and_what_is_not_read_is_bounded(redis_server, prefix, monkeypatch):
    monkeypatch.setattr(bus, "MOST_WAITING", 200)
    inbox = f"{prefix}:inbox:{THERE}"
    async with listening(redis_server.url, prefix, "g") as there, opened(redis_server.url, prefix) as here:
        await say(here, *range(1000))
        assert 200 <= int(redis_server.command("XLEN", inbox)[1:]) < 400
        assert 0 < int(redis_server.command("PTTL", inbox)[1:]) <= bus.INBOX_TTL * 1000
        last = -1
        while last < 999:
            (last,) = await heard(there, 1)
        async with asyncio.timeout(2):
            while redis_server.command("XLEN", inbox) != b":1\r\n":  # noqa: ASYNC110
                await asyncio.sleep(0.01)


async def test_a_message_is_one_command_and_silence_one_a_second(redis_server, prefix):
    async with listening(redis_server.url, prefix, "g") as there, opened(redis_server.url, prefix) as here:
        await say(here, 0)
        await heard(there, 1)
        before = commands(redis_server)
        receiving = asyncio.ensure_future(there.bus.receive(THERE))
        await asyncio.sleep(1.2)
        silent = commands(redis_server)
        assert silent["xread"] - before.get("xread", 0) <= 2
        await say(here, *range(10))
        await receiving
        await heard(there, 9)
        spent = commands(redis_server)
        assert spent["evalsha"] - silent["evalsha"] == spent["xadd"] - silent["xadd"] == 10


async def test_while_redis_is_away_it_is_said(prefix):
    with server() as own:
        url = own.url
    async with opened(url, prefix) as state:
        with pytest.raises(StateUnavailable):
            await state.bus.group_send("g", {})
        with pytest.raises(StateUnavailable):
            await state.bus.receive(THERE)


async def test_a_state_that_is_closed_lets_nobody_wait(redis_server, prefix):
    async with listening(redis_server.url, prefix, "g") as there:
        waiting = asyncio.ensure_future(there.bus.receive(THERE))
        await asyncio.sleep(0.05)
        await there.aclose()
        with pytest.raises(StateUnavailable, match="closed"):
            await waiting
