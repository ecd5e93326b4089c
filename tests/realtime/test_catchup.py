"""Waiting for slow readers: for all of them, no longer than told, and without leaving anything behind."""

from __future__ import annotations

import asyncio
from typing import Any

from realtime.catchup import CatchUp


class Reader:
    """A connection as a wait sees it."""

    def __init__(self, *, is_behind: bool = True) -> None:
        self.is_behind = is_behind
        self.stalled = False
        self.followers: list[CatchUp] = []

    def follow(self, waiting: CatchUp) -> None:
        self.followers.append(waiting)

    def unfollow(self, waiting: CatchUp) -> None:
        self.followers.remove(waiting)

    def catch_up(self) -> None:
        self.is_behind = False
        followers, self.followers = self.followers, []
        for waiting in followers:
            waiting.caught_up(self)  # type: ignore[arg-type]


def waiting_for(*readers: Any, seconds: float | None = None) -> asyncio.Task[Any]:
    return asyncio.create_task(CatchUp(readers).wait(seconds))


async def is_waiting(task: asyncio.Task[Any]) -> bool:
    for _ in range(5):
        await asyncio.sleep(0)
    return not task.done()


async def test_it_ends_with_the_last_that_catches_up():
    one, other = Reader(), Reader()
    task = waiting_for(one, other)
    one.catch_up()
    assert await is_waiting(task)
    other.catch_up()
    assert await task == []
    assert not one.stalled
    assert not other.stalled


async def test_who_is_not_behind_is_not_waited_for():
    quick = Reader(is_behind=False)
    assert await CatchUp([quick]).wait() == []  # type: ignore[list-item]
    assert quick.followers == []


async def test_who_catches_up_before_anybody_waits_is_not_waited_for():
    reader = Reader()
    waiting = CatchUp([reader])  # type: ignore[list-item]
    assert len(waiting) == 1
    reader.catch_up()
    assert await waiting.wait() == []


async def test_its_time_is_bounded_and_who_is_late_is_known_and_marked():
    quick, late = Reader(), Reader()
    task = waiting_for(quick, late, seconds=0.05)
    await asyncio.sleep(0)
    quick.catch_up()
    assert await task == [late]
    assert (quick.stalled, late.stalled) == (False, True)


async def test_who_is_late_is_left_alone_afterwards():
    late = Reader()
    await CatchUp([late]).wait(0.01)  # type: ignore[list-item]
    assert late.followers == []


async def test_a_wait_that_is_cancelled_leaves_nothing_behind():
    reader = Reader()
    task = waiting_for(reader)
    await asyncio.sleep(0)
    assert len(reader.followers) == 1
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
    assert reader.followers == []
    assert not reader.stalled


async def test_several_may_wait_for_one():
    reader = Reader()
    tasks = [waiting_for(reader) for _ in range(3)]
    await asyncio.sleep(0)
    reader.catch_up()
    assert await asyncio.gather(*tasks) == [[], [], []]
