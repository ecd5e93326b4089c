"""A consumer's own channel: made when it is asked for, heard as long as the socket lives, and gone with it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import pytest
from channels.layers import InMemoryChannelLayer

from realtime import layer as module
from realtime.errors import ChannelLayerMissing
from realtime.layer import OwnChannel
from realtime.testing import until


class TalkingLayer(InMemoryChannelLayer):
    """Has to talk to a server before it can name a channel, as Redis pub/sub does."""

    async def new_channel(self, prefix: str = "specific.") -> str:
        await asyncio.sleep(0)
        return str(await super().new_channel(prefix))


class FailingLayer(InMemoryChannelLayer):
    """Loses its server for the first few receives."""

    failures = 1

    async def receive(self, channel: str) -> dict[str, Any]:
        if self.failures:
            self.failures -= 1
            raise ConnectionError("the server went away")
        received: dict[str, Any] = await super().receive(channel)
        return received


class Consumer:
    """Keeps what it is delivered."""

    def __init__(self) -> None:
        self.got: list[dict[str, Any]] = []

    async def deliver(self, message: dict[str, Any]) -> None:
        await asyncio.sleep(0)
        self.got.append(message)


@pytest.fixture
def consumer() -> Consumer:
    return Consumer()


@pytest.fixture
async def layer() -> InMemoryChannelLayer:
    return InMemoryChannelLayer()


@pytest.fixture
async def channel(layer: InMemoryChannelLayer, consumer: Consumer) -> AsyncIterator[OwnChannel]:
    channel = OwnChannel(layer, consumer.deliver)
    yield channel
    await channel.close()


def listeners() -> int:
    return sum(task.get_name() == "realtime.own-channel" for task in asyncio.all_tasks())


async def test_a_channel_nobody_asks_for_is_never_made(layer, channel):
    await asyncio.sleep(0)
    assert (channel.listening, listeners(), layer.channels) == (False, 0, {})


async def test_asking_for_the_name_makes_it(channel):
    name = channel.name()
    assert channel.listening
    assert InMemoryChannelLayer().require_valid_channel_name(name)
    assert listeners() == 1


async def test_the_name_stays_the_same_and_has_one_listener(channel):
    assert len({channel.name() for _ in range(3)}) == 1
    await channel.prepare()
    assert listeners() == 1


async def test_two_sockets_have_two_channels(layer, consumer, channel):
    other = OwnChannel(layer, consumer.deliver)
    assert other.name() != channel.name()
    await other.close()


async def test_messages_arrive_in_order(layer, channel, consumer):
    messages = [{"type": "chat.line", "number": number} for number in range(5)]
    for message in messages:
        await layer.send(channel.name(), message)
    await until(lambda: len(consumer.got) == 5)
    assert consumer.got == messages


async def test_messages_of_a_group_arrive(layer, channel, consumer):
    await layer.group_add("lobby", channel.name())
    await layer.group_send("lobby", {"type": "chat.line"})
    await until(lambda: bool(consumer.got))
    assert consumer.got == [{"type": "chat.line"}]


async def test_a_prepared_channel_is_listened_to(layer, channel, consumer):
    await channel.prepare()
    assert channel.listening
    await layer.send(channel.name(), {"type": "chat.line"})
    await until(lambda: bool(consumer.got))


async def test_preparing_twice_makes_one_channel(channel):
    await channel.prepare()
    name = channel.name()
    await channel.prepare()
    assert (channel.name(), listeners()) == (name, 1)


async def test_a_layer_that_has_to_talk_first_is_prepared_for(consumer):
    layer = TalkingLayer()
    channel = OwnChannel(layer, consumer.deliver)
    await channel.prepare()
    await layer.send(channel.name(), {"type": "chat.line"})
    await until(lambda: bool(consumer.got))
    await channel.close()


async def test_a_layer_that_has_to_talk_first_cannot_answer_at_once(consumer):
    channel = OwnChannel(TalkingLayer(), consumer.deliver)
    with pytest.raises(ChannelLayerMissing, match=r"TalkingLayer cannot name .* uses_channel_layer = True"):
        channel.name()
    assert (channel.listening, listeners()) == (False, 0)
    await channel.prepare()
    assert channel.name()
    await channel.close()


async def test_without_a_layer_asking_says_what_is_missing(consumer):
    channel = OwnChannel(None, consumer.deliver)
    with pytest.raises(ChannelLayerMissing, match="CHANNEL_LAYERS has no 'default'"):
        channel.name()
    with pytest.raises(ChannelLayerMissing, match="CHANNEL_LAYERS has no 'default'"):
        await channel.prepare()
    assert not channel.listening
    await channel.close()


async def test_a_closed_channel_is_not_listened_to(layer, channel, consumer):
    name = channel.name()
    await channel.close()
    assert listeners() == 0
    await layer.send(name, {"type": "chat.line"})
    await asyncio.sleep(0.01)
    assert consumer.got == []


async def test_nothing_can_come_from_a_closed_channel(channel):
    channel.name()
    await channel.close()
    assert not channel.listening


async def test_a_closed_channel_keeps_its_name(channel):
    """``disconnect()`` runs after it was closed, and leaves groups by it."""
    name = channel.name()
    await channel.close()
    assert channel.name() == name
    assert listeners() == 0


async def test_a_name_first_asked_for_after_closing_starts_no_listener(consumer, layer):
    """A ``disconnect()`` that leaves a group it may never have entered: nobody would ever stop that listener."""
    channel = OwnChannel(layer, consumer.deliver)
    await channel.close()
    assert channel.name()
    left = listeners()
    await channel.close()
    assert left == 0


async def test_closing_twice_or_unused_is_nothing(channel):
    await channel.close()
    channel.name()
    await channel.close()
    await channel.close()
    assert listeners() == 0


async def test_closing_waits_for_what_is_being_delivered(layer):
    ended: list[str] = []

    async def deliver(message: dict[str, Any]) -> None:
        ended.append("begun")
        try:
            await asyncio.Event().wait()
        finally:
            await asyncio.sleep(0)
            ended.append("ended")

    channel = OwnChannel(layer, deliver)
    await layer.send(channel.name(), {"type": "chat.line"})
    await until(lambda: ended == ["begun"])
    await channel.close()
    assert ended == ["begun", "ended"]


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "RETRY", 0.01)


async def test_a_layer_that_fails_for_a_while_does_not_make_the_socket_deaf(consumer, impatient, caplog):
    """Redis going away does not close sockets, nor silence them for ever; and it is said once each time."""
    layer = FailingLayer()
    channel = OwnChannel(layer, consumer.deliver)
    for outage in (1, 2):
        layer.failures = 3
        await layer.send(channel.name(), {"type": "chat.line"})
        await until(lambda outage=outage: len(consumer.got) == outage)
    await channel.close()
    warnings = [record.getMessage() for record in caplog.records if record.name == "realtime"]
    assert warnings == ["channel layer does not deliver"] * 2


async def test_a_layer_that_fails_is_not_asked_without_a_pause(consumer):
    layer = FailingLayer()
    layer.failures = 10_000
    channel = OwnChannel(layer, consumer.deliver)
    channel.name()
    for _ in range(50):
        await asyncio.sleep(0)
    assert layer.failures == 9_999
    await channel.close()
    assert listeners() == 0
