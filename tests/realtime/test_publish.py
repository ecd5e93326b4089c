"""Sending from anywhere: coroutines, threads, other loops, and what a target must be."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Callable
from typing import Any

import pytest
from asgiref.sync import sync_to_async
from channels.layers import BaseChannelLayer
from django.contrib.auth.models import User
from django.test import override_settings
from django.utils.translation import gettext_lazy

from realtime import nodes, publish
from realtime.close_codes import FORBIDDEN
from realtime.consumers import RealtimeConsumer
from realtime.errors import MissingTarget, PublishError, PublishQueueFull
from realtime.testing import Socket, connect, until

ANN = User(pk=1, username="ann")


class Member(RealtimeConsumer):
    async def connected(self) -> None:
        await self.join("lobby")


APP = Member.as_asgi()


async def settled(*sockets: Socket) -> None:
    for socket in sockets:
        await socket.expect("system.welcome")
        await socket.expect("system.joined")


# F11: one, many, all.


async def test_broadcast_reaches_everybody_but_who_is_excluded() -> None:
    """S6"""
    async with connect(APP) as one, connect(APP) as two, connect(APP) as three:
        await settled(one, two, three)
        result = await publish.broadcast("note", 1, exclude=[two.client_id])
        assert (result.targets, result.failed, result.nodes) == (2, 0, 1)
        await one.expect("note")
        await three.expect("note")
        await two.expect_nothing()


async def test_a_client_is_reached_by_its_id() -> None:
    async with connect(APP) as one, connect(APP) as two:
        await settled(one, two)
        assert (await publish.send_to_client(two.client_id, "note", {"n": 1})).targets == 1
        assert (await two.expect("note"))["data"] == {"n": 1}
        await one.expect_nothing()


async def test_a_user_is_reached_on_every_socket() -> None:
    async with connect(APP, user=ANN) as one, connect(APP, user=ANN) as two, connect(APP) as other:
        await settled(one, two, other)
        for target in (ANN, 1, "1"):
            assert (await publish.send_to_user(target, "note")).targets == 2
            await one.expect("note")
            await two.expect("note")
        await other.expect_nothing()


async def test_a_client_that_is_gone_is_nobody() -> None:
    async with connect(APP) as one:
        await settled(one)
    assert (await publish.send_to_client(one.client_id, "note")).targets == 0


async def test_a_client_is_disconnected_with_the_reason_of_operators() -> None:
    async with connect(APP) as one, connect(APP) as two:
        await settled(one, two)
        assert (await publish.disconnect_client(one.client_id)).targets == 1
        closing = (await one.expect("system.closing"))["data"]
        assert (closing["code"], closing["retry"]) == (4410, False)
        assert await one.expect_close() == 4410
        await two.expect_nothing()


async def test_a_user_is_disconnected_everywhere_with_a_reason_of_choice() -> None:
    async with connect(APP, user=ANN) as one, connect(APP, user=ANN) as two, connect(APP) as other:
        await settled(one, two, other)
        assert (await publish.disconnect_user(ANN, FORBIDDEN)).targets == 2
        assert [await one.expect_close(), await two.expect_close()] == [4403, 4403]
        await other.expect_nothing()


# Targets and data.

TARGETED: list[Any] = [
    pytest.param(lambda target: publish.publish(target, "t"), id="publish"),
    pytest.param(lambda target: publish.send_to_user(target, "t"), id="send_to_user"),
    pytest.param(lambda target: publish.send_to_client(target, "t"), id="send_to_client"),
    pytest.param(publish.disconnect_client, id="disconnect_client"),
    pytest.param(publish.disconnect_user, id="disconnect_user"),
]


@pytest.mark.parametrize("target", [None, ""])
@pytest.mark.parametrize("function", TARGETED)
async def test_no_target_is_an_error_and_never_everybody(function: Callable[[Any], Any], target: Any) -> None:
    async with connect(APP) as one:
        await settled(one)
        with pytest.raises(MissingTarget, match="broadcast"):
            await function(target)
        await one.expect_nothing()


async def test_a_user_that_is_not_saved_is_no_target() -> None:
    with pytest.raises(MissingTarget):
        await publish.send_to_user(User(username="new"), "note")


@pytest.mark.parametrize("type", ["", "system.closing", None])
async def test_a_type_of_the_protocol_cannot_be_published(type: Any) -> None:
    with pytest.raises(ValueError, match="cannot be published"):
        await publish.broadcast(type)


async def test_data_that_json_cannot_hold_is_the_publishers_error_and_reaches_nobody() -> None:
    async with connect(APP) as one:
        await settled(one)
        with pytest.raises(TypeError, match="JSON cannot hold"):
            await publish.publish("lobby", "note", object())
        await publish.publish("lobby", "note", 2)
        assert (await one.expect("note"))["data"] == 2


async def test_lazy_strings_are_sent_as_text() -> None:
    async with connect(APP) as one:
        await settled(one)
        await publish.publish("lobby", "note", gettext_lazy("hello"))
        assert (await one.expect("note"))["data"] == "hello"


# From sync code.

SYNC: list[Any] = [
    pytest.param(lambda socket: publish.publish_sync("lobby", "note", 1), id="publish"),
    pytest.param(lambda socket: publish.broadcast_sync("note", 1), id="broadcast"),
    pytest.param(
        lambda socket: publish.send_to_client_sync(socket.client_id, "note", 1), id="send_to_client"
    ),
    pytest.param(lambda socket: publish.send_to_user_sync(1, "note", 1), id="send_to_user"),
]


@pytest.mark.parametrize("function", SYNC)
async def test_sync_code_in_a_thread_reaches_the_sockets(function: Callable[[Socket], Any]) -> None:
    async with connect(APP, user=ANN) as one:
        await settled(one)
        result = await sync_to_async(function)(one)
        assert result.targets == 1
        assert (await one.expect("note"))["data"] == 1


async def test_a_thread_that_django_knows_nothing_of_reaches_the_sockets() -> None:
    async with connect(APP) as one:
        await settled(one)
        thread = threading.Thread(target=publish.publish_sync, args=("lobby", "note", 1))
        thread.start()
        await one.expect("note")
        await asyncio.to_thread(thread.join)


async def test_another_event_loop_reaches_the_sockets() -> None:
    async with connect(APP) as one:
        await settled(one)
        result = await asyncio.to_thread(lambda: asyncio.run(publish.publish("lobby", "note", 1)))
        assert result.targets == 1
        await one.expect("note")


async def test_sync_functions_close_sockets() -> None:
    async with connect(APP, user=ANN) as one, connect(APP) as two:
        await settled(one, two)
        await sync_to_async(publish.disconnect_user_sync)(ANN)
        await sync_to_async(publish.disconnect_client_sync)(two.client_id)
        assert [await one.expect_close(), await two.expect_close()] == [4410, 4410]


async def test_a_sync_function_in_the_event_loop_is_an_error_not_a_deadlock() -> None:
    with pytest.raises(PublishError, match="await the function without _sync"):
        publish.publish_sync("lobby", "note")


def test_without_a_server_in_this_process_nobody_is_reached() -> None:
    assert not nodes.live()
    assert publish.publish_sync("lobby", "note").targets == 0


async def test_a_beat_has_every_node_look_after_its_sockets() -> None:
    with override_settings(REALTIME_HEARTBEAT_ENABLED=False, REALTIME_HEARTBEAT_INTERVAL=0.05):
        async with connect(APP) as one:
            await settled(one)
            (connection,) = nodes.current().registry
            await until(lambda: time.monotonic() > connection.opened + 0.05)
            await one.expect_nothing()
            await publish.beat()
            await one.expect("system.ping")


# Publishing as fast as the readers take it (R5); tests/realtime/test_hub.py has them on real sockets.


class Gated(BaseChannelLayer):
    """A channel layer that takes messages when it is told to, and never delivers any."""

    def __init__(self) -> None:
        super().__init__()
        self.open = asyncio.Event()
        self.taken: list[Any] = []

    async def new_channel(self, prefix: str = "specific") -> str:
        return f"{prefix}.channel"

    async def receive(self, channel: str) -> Any:
        await asyncio.Event().wait()

    async def group_add(self, group: str, channel: str) -> None:
        """Know nothing of groups."""

    async def group_discard(self, group: str, channel: str) -> None:
        """Know nothing of groups."""

    async def group_send(self, group: str, message: dict[str, Any]) -> None:
        await self.open.wait()
        self.taken.append(message.get("to"))


GATED = {"default": {"BACKEND": f"{__name__}.Gated"}}


async def test_a_publish_that_waits_has_been_handed_to_the_channel_layer() -> None:
    with override_settings(CHANNEL_LAYERS=GATED):
        layer: Any = nodes.current().hub.layer
        publishing = asyncio.create_task(publish.publish("lobby", "note", 1, wait=True))
        await until(lambda: nodes.current().hub.queue_size)
        await asyncio.sleep(0.02)
        assert not publishing.done()
        layer.open.set()
        async with asyncio.timeout(2):
            await publishing
        assert "lobby" in layer.taken
        await nodes.current().aclose()


async def test_a_publish_waits_for_the_channel_layer_no_longer_than_told() -> None:
    with override_settings(CHANNEL_LAYERS=GATED):
        nodes.current()
        started = time.monotonic()
        await publish.publish("lobby", "note", 1, wait=0.1)
        assert 0.1 <= time.monotonic() - started < 1
        started = time.monotonic()
        await publish.publish("lobby", "note", 1)
        assert time.monotonic() - started < 0.05
        await nodes.current().aclose()


async def test_a_thread_that_publishes_waits_too() -> None:
    async with connect(APP) as one:
        await settled(one)
        result = await sync_to_async(publish.publish_sync)("lobby", "note", 1, wait=True)
        assert (result.targets, result.behind) == (1, 0)


async def test_waiting_less_than_no_time_is_an_error() -> None:
    with pytest.raises(ValueError, match="cannot wait -1 seconds"):
        await publish.publish("lobby", "note", wait=-1)


# Rooms with history.


async def test_every_way_to_publish_gets_an_offset() -> None:
    with override_settings(REALTIME_HISTORY_SIZE=10):
        async with connect(APP) as one:
            await settled(one)
            results = [
                await publish.publish("lobby", "note", 1),
                await publish.publish("lobby", "note", 2, wait=True),
                await sync_to_async(publish.publish_sync)("lobby", "note", 3),
                await asyncio.to_thread(lambda: asyncio.run(publish.publish("lobby", "note", 4))),
            ]
            assert [(result.offset, result.targets, result.failed) for result in results] == [
                (number, 1, 0) for number in (1, 2, 3, 4)
            ]
            notes = [await one.expect("note") for _ in results]
            assert [(note["offset"], note["data"], note["room"]) for note in notes] == [
                (number, number, "lobby") for number in (1, 2, 3, 4)
            ]


async def test_what_is_relayed_has_no_place_in_a_history() -> None:
    with override_settings(REALTIME_HISTORY_SIZE=10):
        async with connect(APP) as one:
            await settled(one)
            await publish.relay("lobby", "as it is")
            assert await one.receive_raw() == "as it is"
            assert (await publish.publish("lobby", "note")).offset == 1


async def test_a_full_queue_refuses_before_the_history_has_it() -> None:
    with override_settings(REALTIME_HISTORY_SIZE=10, CHANNEL_LAYERS=GATED, REALTIME_MAX_QUEUE_SIZE=1):
        node = nodes.current()
        await publish.publish("elsewhere", "note")
        await until(lambda: node.hub.queue_size)
        with pytest.raises(PublishQueueFull):
            await publish.publish("lobby", "note")
        assert await node.state.top(["lobby"]) == [None]
        await node.aclose()


def test_a_process_without_a_server_has_no_history_in_memory() -> None:
    with (
        override_settings(REALTIME_HISTORY_SIZE=10, CHANNEL_LAYERS=GATED),
        pytest.raises(PublishError, match="Set REALTIME_STATE_URL to a Redis"),
    ):
        publish.publish_sync("lobby", "note")
