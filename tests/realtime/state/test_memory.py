"""The state in memory alone: threads, loops, and that it does not grow."""

from __future__ import annotations

import asyncio
import sys
import threading
import time
from collections.abc import Iterator

import pytest

from realtime.state import MemoryState, State, memory, open_state
from tests.realtime.state.conftest import Clock

LONG = 600.0


async def test_all_loops_of_a_process_share_it():
    """``publish_sync`` has a loop of its own, and publishes to the same rooms."""
    mine = open_state("memory://")

    async def theirs() -> State:
        return open_state("memory://")

    assert await asyncio.to_thread(lambda: asyncio.run(theirs())) is mine
    assert open_state("memory://") is mine


def test_it_lasts_as_long_as_a_loop_that_uses_it():
    async def use() -> State:
        return open_state("memory://")

    assert asyncio.run(use()) is not asyncio.run(use())


async def test_closing_one_use_leaves_the_others():
    one, two = open_state("memory://"), open_state("memory://")
    await one.append("room", b"x", size=9, ttl=LONG)
    await one.aclose()
    assert (await two.append("room", b"x", size=9, ttl=LONG)).offset == 2


@pytest.fixture
def hasty_threads() -> Iterator[None]:
    """Let threads take turns in the middle of everything."""
    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    yield
    sys.setswitchinterval(before)


@pytest.mark.usefixtures("hasty_threads")
def test_threads_get_no_offset_twice():
    state = MemoryState()
    found: list[int] = []

    async def publish() -> None:
        for number in range(500):
            found.append((await state.append("room", b"x", size=10, ttl=LONG)).offset)
            if number % 50 == 0:
                await state.claim(f"{number}", 0.001)
                await state.sweep()

    threads = [threading.Thread(target=lambda: asyncio.run(publish())) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(found) == list(range(1, 4001))


async def test_what_is_over_does_not_pile_up():
    clock = Clock()
    state = MemoryState(clock)
    for number in range(5000):
        clock.now += 1.0
        await state.append(f"room-{number}", b"x", size=9, ttl=60, dedupe="m", window=60)
        await state.claim(f"{number}", 60)
        await state.save_session(f"{number}", b"x", 60)
        await state.enter("ip", f"{number}", "n", rate=1, window=60)
        await state.lead("n", f"{number}", 60)
    kept = [state._entries, state._firsts, state._claims, state._sessions, state._meters, state._leads]
    assert max(map(len, kept)) < 200
    clock.now += memory.POSITION_TTL
    await state.sweep()
    assert [len(timed) for timed in (*kept, state._tops)] == [0] * 7


async def test_what_clients_leave_behind_is_nothing():
    state = MemoryState(Clock())
    await state.renew_node("n", b"", LONG)
    for number in range(100):
        await state.set_presence(f"room-{number}", "n", {"c": b"1"})
        await state.drop_presence(f"room-{number}", "n", ["c"])
        await state.enter("ip", f"{number}", "n", max_concurrent=1)
        await state.leave("ip", f"{number}", "n")
        await state.write_registry("n", {f"{number}": b"1"})
        await state.write_registry("n", {}, [f"{number}"])
    node = state._nodes["n"]
    assert (state._present, node.rooms, node.held, node.registry) == ({}, set(), {}, {})


async def test_a_clock_that_is_set_ends_no_lease(monkeypatch):
    state = MemoryState()
    await state.renew_node("n", b"", LONG)
    monkeypatch.setattr(time, "time", lambda: 9e9)
    assert [node.id for node in await state.nodes()] == ["n"]


def test_times_are_those_of_the_day():
    assert abs(memory.steady_time() - time.time()) < 60
