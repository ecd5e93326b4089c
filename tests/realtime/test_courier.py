"""Messages on their way to the channel layer: order, batches, retries and giving up."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest

from realtime import courier as courier_module
from realtime.counters import Counters
from realtime.courier import BATCH_BYTES, BATCH_MESSAGES, PROCESS, Courier
from realtime.testing import until


class Layer:
    """A channel layer that takes messages while it is open, and fails as often as it is told."""

    def __init__(self) -> None:
        self.taken: list[tuple[str, dict[str, Any]]] = []
        self.open = asyncio.Event()
        self.open.set()
        self.failures = 0

    async def group_send(self, group: str, message: dict[str, Any]) -> None:
        await self.open.wait()
        if self.failures:
            self.failures -= 1
            raise ConnectionError("no layer")
        self.taken.append((group, message))

    @property
    def said(self) -> list[Any]:
        return [one["n"] for _, message in self.taken for one in message.get("ops", [message])]


def message(n: int, group: str = "g", **more: Any) -> dict[str, Any]:
    return {"group": group, "op": "room", "n": n, **more}


@asynccontextmanager
async def running(**options: Any) -> AsyncIterator[tuple[Courier, Layer]]:
    layer = Layer()
    courier = Courier(layer, Counters(), **options)
    task = asyncio.create_task(courier.run())
    try:
        yield courier, layer
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


async def test_one_alone_is_what_it_always_was() -> None:
    """Processes of an earlier version read it."""
    async with running() as (courier, layer):
        courier.send(message(1))
        await until(lambda: layer.taken)
        assert layer.taken == [("g", {"type": "realtime.deliver", "from": PROCESS, **message(1)})]


async def test_a_thousand_go_in_a_handful_of_messages_and_in_order() -> None:
    async with running() as (courier, layer):
        for number in range(1000):
            courier.send(message(number))
        await until(lambda: len(layer.said) == 1000)
        assert layer.said == list(range(1000))
        assert len(layer.taken) == -(-1000 // BATCH_MESSAGES)


async def test_what_comes_in_the_same_turn_of_the_loop_goes_along() -> None:
    async with running() as (courier, layer):
        await until(lambda: True)
        courier.send(message(1))
        # The courier is woken, and then three more come before the loop has looked at its sockets again.
        asyncio.get_running_loop().call_soon(lambda: [courier.send(message(number)) for number in (2, 3, 4)])
        await until(lambda: len(layer.said) == 4)
        assert len(layer.taken) == 1


async def test_nothing_is_handed_over_while_it_is_held_back() -> None:
    async with running() as (courier, layer):
        courier.send(message(0))
        courier.hold_back()
        for number in (1, 2):
            courier.send(message(number))
        for _ in range(20):
            await asyncio.sleep(0)
        assert not layer.taken
        assert len(courier) == 3
        courier.let_go()
        await until(lambda: layer.said == [0, 1, 2])
        assert len(layer.taken) == 1
        courier.send(message(3))
        await until(lambda: layer.said == [0, 1, 2, 3])


async def test_messages_to_other_groups_keep_their_turn() -> None:
    async with running() as (courier, layer):
        for number, group in enumerate("aabba"):
            courier.send(message(number, group))
        await until(lambda: len(layer.said) == 5)
        assert [(group, len(carried.get("ops", [0]))) for group, carried in layer.taken] == [
            ("a", 2),
            ("b", 2),
            ("a", 1),
        ]
        assert layer.said == [0, 1, 2, 3, 4]


async def test_large_messages_do_not_make_a_huge_one() -> None:
    async with running() as (courier, layer):
        for number in range(3):
            courier.send(message(number, payload="x" * (BATCH_BYTES // 2)))
        courier.send(message(3, payload="x" * (BATCH_BYTES * 2)))
        await until(lambda: len(layer.said) == 4)
        assert [len(carried.get("ops", [0])) for _, carried in layer.taken] == [2, 1, 1]


async def test_a_layer_that_fails_is_tried_again(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(courier_module, "_RETRY", 0.001)
    async with running() as (courier, layer):
        layer.failures = 3
        for number in range(5):
            courier.send(message(number))
        await until(lambda: len(layer.said) == 5)
        assert layer.said == [0, 1, 2, 3, 4]


async def test_what_waited_too_long_is_given_up_and_its_publisher_told(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(courier_module, "_RETRY", 0.001)
    monkeypatch.setattr(courier_module, "GIVE_UP_WITH_HISTORY", 0.01)
    async with running() as (courier, layer):
        layer.failures = 10**9
        gone: asyncio.Future[Exception | None] = asyncio.get_running_loop().create_future()
        courier.send(message(1, epoch="e"), gone)
        courier.send(message(2))
        assert str(await asyncio.wait_for(gone, 2)) == "no layer"
        # The history has the first one; the second is nowhere else.
        assert len(courier) == 1
        layer.failures = 0
        await until(lambda: layer.said == [2])


async def test_without_patience_a_failure_is_told_at_once() -> None:
    async with running(patience=0.0) as (courier, layer):
        layer.failures = 1
        gone: asyncio.Future[Exception | None] = asyncio.get_running_loop().create_future()
        courier.send(message(1), gone)
        assert isinstance(await gone, ConnectionError)
        later: asyncio.Future[Exception | None] = asyncio.get_running_loop().create_future()
        courier.send(message(2), later)
        assert await later is None
        assert layer.said == [2]


async def test_who_waits_is_told_when_the_message_is_handed_over() -> None:
    async with running() as (courier, layer):
        layer.open.clear()
        gone: asyncio.Future[Exception | None] = asyncio.get_running_loop().create_future()
        courier.send(message(1), gone)
        await asyncio.sleep(0.01)
        assert not gone.done()
        layer.open.set()
        assert await gone is None
