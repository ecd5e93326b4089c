"""The queue between a socket and its application."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from realtime.server.inbox import Inbox


class Brake:
    """Remembers what it was asked."""

    def __init__(self) -> None:
        self.asked: list[str] = []

    def pause(self) -> None:
        self.asked.append("pause")

    def resume(self) -> None:
        self.asked.append("resume")


@pytest.fixture
def brake() -> Brake:
    return Brake()


@pytest.fixture
def inbox(brake: Brake) -> Inbox:
    return Inbox(4, brake.pause, brake.resume)


def message(number: int) -> dict[str, Any]:
    return {"type": "websocket.receive", "text": str(number)}


def fill(inbox: Inbox, count: int) -> None:
    for number in range(count):
        inbox.put(message(number))


async def test_messages_come_out_as_they_went_in(inbox: Inbox) -> None:
    fill(inbox, 3)
    assert [await inbox.receive() for _ in range(3)] == [message(0), message(1), message(2)]


async def test_a_receiver_waits_for_a_message(inbox: Inbox) -> None:
    receiving = asyncio.ensure_future(inbox.receive())
    await asyncio.sleep(0)
    assert not receiving.done()
    inbox.put(message(1))
    assert await receiving == message(1)


async def test_reading_pauses_above_the_limit_and_resumes_at_half_of_it(inbox: Inbox, brake: Brake) -> None:
    fill(inbox, 4)
    assert brake.asked == []
    inbox.put(message(4))
    inbox.put(message(5))
    assert brake.asked == ["pause"]
    for _ in range(3):
        await inbox.receive()
    assert brake.asked == ["pause"]
    await inbox.receive()
    assert len(inbox) == 2
    assert brake.asked == ["pause", "resume"]


async def test_a_receiver_that_is_cancelled_takes_no_message_with_it(inbox: Inbox) -> None:
    receiving = asyncio.ensure_future(inbox.receive())
    await asyncio.sleep(0)
    receiving.cancel()
    await asyncio.gather(receiving, return_exceptions=True)
    inbox.put(message(1))
    assert await inbox.receive() == message(1)


async def test_a_receiver_cancelled_when_it_had_been_woken_wakes_the_next(inbox: Inbox) -> None:
    first, second = asyncio.ensure_future(inbox.receive()), asyncio.ensure_future(inbox.receive())
    await asyncio.sleep(0)
    inbox.put(message(1))
    first.cancel()
    assert await asyncio.wait_for(second, 1) == message(1)
    assert first.cancelled()


async def test_two_receivers_get_one_message_each(inbox: Inbox) -> None:
    receiving = [asyncio.ensure_future(inbox.receive()) for _ in range(2)]
    await asyncio.sleep(0)
    fill(inbox, 2)
    assert await asyncio.wait_for(asyncio.gather(*receiving), 1) == [message(0), message(1)]
