"""Work in turns: some now, the rest later, in order, with turns for other work between."""

from __future__ import annotations

import asyncio

import pytest

from ratelimit import turns
from ratelimit.turns import in_turns


@pytest.fixture(autouse=True)
def two_at_once(monkeypatch):
    monkeypatch.setattr(turns, "AT_ONCE", 2)


async def turns_of(count: int) -> list[list[int]]:
    """Return what was done, of so many items, before each turn that other work got."""
    done: list[int] = []
    seen: list[list[int]] = []
    in_turns(asyncio.get_running_loop(), iter(range(count)), done.append)
    for _ in range(count + 2):
        seen.append(done[:])
        done.clear()
        await asyncio.sleep(0)
    return [some for some in seen if some]


@pytest.mark.parametrize(
    ("count", "expected"),
    [
        pytest.param(0, [], id="nothing"),
        pytest.param(1, [[0]], id="fewer than are done at once"),
        pytest.param(2, [[0, 1]], id="as many"),
        pytest.param(3, [[0, 1], [2]], id="one more"),
        pytest.param(6, [[0, 1], [2, 3], [4, 5]], id="several turns"),
    ],
)
async def test_at_most_so_many_are_done_in_a_turn_in_order(count, expected):
    assert await turns_of(count) == expected


async def test_the_first_are_done_at_once():
    done: list[int] = []
    in_turns(asyncio.get_running_loop(), iter(range(5)), done.append)
    assert done == [0, 1]


async def test_other_work_gets_a_turn_between():
    happened: list[object] = []
    loop = asyncio.get_running_loop()
    ended = loop.create_future()

    def do(item: int) -> None:
        happened.append(item)
        if item == 5:
            ended.set_result(None)
        elif item % 2:
            loop.call_soon(happened.append, "other")

    in_turns(loop, iter(range(6)), do)
    await ended
    assert happened == [0, 1, "other", 2, 3, "other", 4, 5]


async def test_two_works_take_turns():
    done: list[object] = []
    loop = asyncio.get_running_loop()
    in_turns(loop, iter(range(4)), done.append)
    in_turns(loop, iter("abc"), done.append)
    for _ in range(3):
        await asyncio.sleep(0)
    assert done == [0, 1, "a", "b", 2, 3, "c"]


async def test_it_ends_with_the_items():
    looks: list[int] = []

    class Empty:
        def __iter__(self):
            return self

        def __next__(self):
            looks.append(1)
            raise StopIteration

    in_turns(asyncio.get_running_loop(), iter(Empty()), looks.append)
    for _ in range(3):
        await asyncio.sleep(0)
    assert looks == [1], "nobody looks again"
