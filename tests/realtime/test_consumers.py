"""The consumer base: handlers, errors, order, timeouts, and everything given back at the end."""

from __future__ import annotations

import asyncio
import logging
import re
from dataclasses import dataclass
from typing import Any

import msgspec
import pytest
from channels.generic.websocket import AsyncWebsocketConsumer
from channels.layers import get_channel_layer
from django.contrib.auth.models import AnonymousUser, User
from django.test import override_settings

from realtime import nodes, signals
from realtime.close_codes import FORBIDDEN
from realtime.consumers import RealtimeConsumer
from realtime.errors import ClientError, SessionDataError
from realtime.handlers import on
from realtime.limits import Limits
from realtime.testing import Refused, connect, until

ALICE = User(pk=7, username="alice")


class Line(msgspec.Struct):
    text: str


@dataclass
class Point:
    x: int
    y: int


class Chat(RealtimeConsumer):
    """A consumer with one handler of each kind, that remembers what happened to it."""

    seen: list[Any] = []

    async def connected(self) -> None:
        type(self).seen = [("connected", self.client_id)]

    @on("line")
    async def line(self, line: Line) -> None:
        await self.send_event("line", {"text": line.text})

    @on("point")
    async def point(self, point: Point) -> None:
        await self.send_event("point", point.x + point.y)

    @on("anything")
    async def anything(self, data: dict[str, Any]) -> None:
        await self.send_event("anything", data)

    @on("bare")
    async def bare(self) -> None:
        await self.send_event("bare")

    @on("slow")
    async def slow(self, line: Line) -> None:
        await asyncio.sleep(0.01)
        await self.send_event("slow", line.text)

    @on("forever", timeout=0.05)
    async def forever(self) -> None:
        await asyncio.Event().wait()

    @on("boom")
    async def boom(self) -> None:
        raise RuntimeError("this must not reach the client")

    @on("late_boom")
    async def late_boom(self) -> None:
        await asyncio.sleep(0)
        raise RuntimeError("nor this")

    @on("no")
    async def no(self) -> None:
        raise ClientError("not_today", "Come back tomorrow.")

    async def may_join(self, room: str) -> bool:
        return room.startswith("open")

    async def disconnect(self, code: int) -> None:
        self.seen.append(("disconnected", code))


# The welcome.


async def test_a_client_is_welcomed_with_what_it_needs_to_know() -> None:
    async with connect(Chat.as_asgi()) as socket:
        welcome = await socket.receive()
    assert welcome["type"] == "system.welcome"
    assert welcome["data"]["client_id"] == Chat.seen[0][1]
    assert welcome["data"]["heartbeat"] == 30.0
    assert welcome["data"]["version"] == 1
    assert welcome["data"]["resumed"] is False
    assert welcome["data"]["node"] == nodes.node_name()


async def test_two_sockets_have_two_ids() -> None:
    async with connect(Chat.as_asgi()) as one, connect(Chat.as_asgi()) as other:
        assert (await one.receive())["data"]["client_id"] != (await other.receive())["data"]["client_id"]


# Handlers and their payloads.


@pytest.mark.parametrize(
    ("type", "data", "answer"),
    [
        pytest.param("line", {"text": "hi"}, {"text": "hi"}, id="msgspec struct"),
        pytest.param("point", {"x": 1, "y": 2}, 3, id="dataclass"),
        pytest.param("anything", {"a": [1, None]}, {"a": [1, None]}, id="dict"),
        pytest.param("bare", {"ignored": True}, None, id="no argument"),
        pytest.param("slow", {"text": "x"}, "x", id="one that waits"),
    ],
)
async def test_a_message_reaches_its_handler(type: str, data: Any, answer: Any) -> None:
    """C1, R4"""
    async with connect(Chat.as_asgi()) as socket:
        await socket.send(type, data)
        assert (await socket.expect(type))["data"] == answer


async def test_unknown_keys_are_ignored() -> None:
    async with connect(Chat.as_asgi()) as socket:
        await socket.send_raw('{"type":"line","data":{"text":"hi","colour":"red"},"future":1}')
        assert (await socket.expect("line"))["data"] == {"text": "hi"}


async def test_an_id_asks_for_an_acknowledgement() -> None:
    async with connect(Chat.as_asgi()) as socket:
        await socket.send("line", {"text": "hi"}, id="c7")
        assert (await socket.expect("system.ack"))["data"] == {"id": "c7"}
        assert [message["type"] for message in socket.skipped] == ["system.welcome", "line"]


async def test_what_failed_is_not_acknowledged() -> None:
    async with connect(Chat.as_asgi()) as socket:
        await socket.send("no", id="c8")
        assert (await socket.expect("system.error"))["data"]["id"] == "c8"
        await socket.expect_nothing()


async def test_handlers_run_in_order_even_when_the_first_is_slow() -> None:
    """X10"""
    async with connect(Chat.as_asgi()) as socket:
        await socket.expect("system.welcome")
        await socket.send("slow", {"text": "first"})
        await socket.send("line", {"text": "second"})
        assert [(await socket.receive())["type"] for _ in range(2)] == ["slow", "line"]


@pytest.mark.setting("REALTIME_HANDLER_CONCURRENCY")
async def test_handlers_may_run_beside_each_other_if_the_setting_says_so() -> None:
    with override_settings(REALTIME_HANDLER_CONCURRENCY=2):
        async with connect(Chat.as_asgi()) as socket:
            await socket.expect("system.welcome")
            await socket.send("slow", {"text": "first"})
            await socket.send("line", {"text": "second"})
            assert [(await socket.receive())["type"] for _ in range(2)] == ["line", "slow"]


async def test_concurrency_is_bounded() -> None:
    running, most, release = 0, 0, asyncio.Event()

    class Busy(RealtimeConsumer):
        concurrency = 3

        @on("work")
        async def work(self) -> None:
            nonlocal running, most
            running += 1
            most = max(most, running)
            await release.wait()
            running -= 1
            await self.send_event("done")

    async with connect(Busy.as_asgi()) as socket:
        for _ in range(8):
            await socket.send("work")
        await until(lambda: running == 3)
        await socket.expect("system.welcome")
        await socket.expect_nothing()
        release.set()
        for _ in range(8):
            await socket.expect("done")
    assert most == 3


@pytest.mark.setting("REALTIME_HANDLER_TIMEOUT")
async def test_a_handler_that_takes_too_long_costs_an_error_not_the_socket() -> None:
    class Stuck(RealtimeConsumer):
        @on("stuck")
        async def stuck(self) -> None:
            await asyncio.Event().wait()

        @on("fine")
        async def fine(self) -> None:
            await self.send_event("fine")

    with override_settings(REALTIME_HANDLER_TIMEOUT=0.05):
        async with connect(Stuck.as_asgi()) as socket:
            await socket.send("stuck")
            assert (await socket.expect("system.error"))["data"]["code"] == "handler_timeout"
            await socket.send("fine")
            await socket.expect("fine")


async def test_a_handlers_own_timeout_comes_before_the_setting() -> None:
    async with connect(Chat.as_asgi()) as socket:
        await socket.send("forever")
        error = (await socket.expect("system.error"))["data"]
    assert error["code"] == "handler_timeout"
    assert "0.05 seconds" in error["message"]


async def test_a_timeout_inside_a_handler_is_the_handlers_own_failure() -> None:
    class Impatient(RealtimeConsumer):
        @on("call")
        async def call(self) -> None:
            async with asyncio.timeout(0.01):
                await asyncio.Event().wait()

    async with connect(Impatient.as_asgi()) as socket:
        await socket.send("call")
        assert (await socket.expect("system.error"))["data"]["code"] == "handler_failed"


# Bad input (X11).

DEEP = "[" * 100 + "]" * 100
BAD_INPUT = [
    pytest.param("", "empty", id="empty text"),
    pytest.param("{", "malformed", id="cut off"),
    pytest.param("nonsense", "malformed", id="not JSON"),
    pytest.param("[1]", "bad_envelope", id="an array"),
    pytest.param('"x"', "bad_envelope", id="a string"),
    pytest.param("{}", "bad_envelope", id="no type"),
    pytest.param('{"type": 5}', "bad_envelope", id="type is a number"),
    pytest.param('{"type": ""}', "bad_envelope", id="type is empty"),
    pytest.param('{"type": "line", "id": 5}', "bad_envelope", id="id is a number"),
    pytest.param('{"type": "nobody"}', "unknown_type", id="unknown type"),
    pytest.param('{"type": "system.nonsense"}', "unknown_type", id="unknown system type"),
    pytest.param('{"type": "line"}', "bad_payload", id="no data"),
    pytest.param('{"type": "line", "data": {}}', "bad_payload", id="missing field"),
    pytest.param('{"type": "line", "data": {"text": 5}}', "bad_payload", id="wrong type of field"),
    pytest.param('{"type": "line", "data": {"text": 1e999}}', "bad_payload", id="number that overflows"),
    pytest.param('{"type": "point", "data": {"x": 1e999, "y": 1}}', "bad_payload", id="float for an int"),
    pytest.param('{"type": "anything", "data": {"deep": ' + DEEP + "}}", "too_deep", id="100 levels"),
    pytest.param(
        '{"type": "anything", "data": ' + "[" * 50_000 + "]" * 50_000 + "}", "too_deep", id="50,000 levels"
    ),
    pytest.param('{"type": "li\x00ne"}', "malformed", id="raw NUL"),
    pytest.param('{"type": "li\\u0000ne"}', "unknown_type", id="escaped NUL"),
    pytest.param('{"type": "\\ud800"}', "malformed", id="lone surrogate"),
    pytest.param(
        '{"type": "line", "data": {"text": "\\ud800"}}', "malformed", id="lone surrogate in the data"
    ),
    pytest.param('{"type": "anything", "data": {"a": NaN}}', "malformed", id="NaN"),
    pytest.param("x" * 5_000_000, "malformed", id="5 MB of text, where a route takes as much"),
    pytest.param(b"\x00\x01", "text_expected", id="binary"),
    pytest.param(b"", "text_expected", id="empty binary"),
]


@pytest.mark.parametrize(("payload", "code"), BAD_INPUT)
async def test_bad_input_gets_an_error_and_nothing_else(
    payload: str | bytes, code: str, caplog: pytest.LogCaptureFixture
) -> None:
    """A stable code, the way out, no traceback, and the socket stays."""
    async with connect(Chat.as_asgi()) as socket:
        await socket.send_raw(payload)
        error = (await socket.expect("system.error"))["data"]
        assert error["code"] == code
        assert len(error["message"]) > 10
        assert error["errors_left"] == 9
        await socket.send("line", {"text": "still here"})
        await socket.expect("line")
    assert not [record for record in caplog.records if record.exc_info or record.levelno >= logging.WARNING]


@pytest.mark.setting("REALTIME_MAX_CLIENT_ERRORS")
async def test_errors_in_a_row_are_bounded() -> None:
    with override_settings(REALTIME_MAX_CLIENT_ERRORS=3):
        async with connect(Chat.as_asgi()) as socket:
            left = []
            for _ in range(3):
                await socket.send_raw("{")
                left.append((await socket.expect("system.error"))["data"]["errors_left"])
            assert left == [2, 1, 0]
            assert (await socket.expect("system.closing"))["data"]["retry"] is False
            assert await socket.expect_close() == 4400


async def test_a_good_message_starts_the_count_of_errors_again() -> None:
    with override_settings(REALTIME_MAX_CLIENT_ERRORS=2):
        async with connect(Chat.as_asgi()) as socket:
            for _ in range(3):
                await socket.send_raw("{")
                assert (await socket.expect("system.error"))["data"]["errors_left"] == 1
                await socket.send("bare")
                await socket.expect("bare")


async def test_messages_behind_the_last_error_are_not_handled() -> None:
    with override_settings(REALTIME_MAX_CLIENT_ERRORS=1):
        async with connect(Chat.as_asgi()) as socket:
            await socket.send_raw("{")
            await socket.send("line", {"text": "too late"})
            assert await socket.expect_close() == 4400
    assert "line" not in [message["type"] for message in socket.skipped]


async def test_errors_are_not_counted_where_the_setting_is_off() -> None:
    with override_settings(REALTIME_MAX_CLIENT_ERRORS=0):
        async with connect(Chat.as_asgi()) as socket:
            for _ in range(20):
                await socket.send_raw("{")
                assert (await socket.expect("system.error"))["data"]["errors_left"] is None


@pytest.mark.parametrize("type", ["boom", "late_boom"])
async def test_a_handler_that_raises_costs_an_error_frame_and_one_log_entry(
    type: str, caplog: pytest.LogCaptureFixture
) -> None:
    before = None
    async with connect(Chat.as_asgi()) as socket:
        before = nodes.current().counters.handler_errors
        await socket.send(type)
        error = (await socket.expect("system.error"))["data"]
        assert error["code"] == "handler_failed"
        assert "must not" not in error["message"]
        assert nodes.current().counters.handler_errors == before + 1
        await socket.send("bare")
        await socket.expect("bare")
    (record,) = [record for record in caplog.records if record.levelno == logging.ERROR]
    assert record.exc_info is not None


async def test_a_client_error_reaches_the_client_as_it_was_raised() -> None:
    async with connect(Chat.as_asgi()) as socket:
        await socket.send("no")
        error = (await socket.expect("system.error"))["data"]
    assert (error["code"], error["message"]) == ("not_today", "Come back tomorrow.")


# The protocol's own messages.


async def test_a_ping_of_the_client_is_answered_with_its_time() -> None:
    async with connect(Chat.as_asgi()) as socket:
        await socket.send("system.ping", {"ts": 12.5})
        assert (await socket.expect("system.pong"))["data"] == {"ts": 12.5}


async def test_a_client_joins_the_rooms_the_route_lets_it_join() -> None:
    async with connect(Chat.as_asgi()) as socket:
        await socket.send("system.join", {"room": "open.1"})
        assert (await socket.expect("system.joined"))["data"] == {"room": "open.1"}
        await socket.send("system.leave", {"room": "open.1"})
        assert (await socket.expect("system.left"))["data"] == {"room": "open.1"}


async def test_no_other_room_is_entered() -> None:
    async with connect(Chat.as_asgi()) as socket:
        await socket.send("system.join", {"room": "secret"})
        assert (await socket.expect("system.error"))["data"]["code"] == "forbidden"
        assert "secret" not in nodes.current().hub.rooms


@pytest.mark.parametrize(
    "data",
    [None, {}, {"room": 5}, {"room": ""}, {"room": "open" * 1000}],
    ids=["none", "missing", "number", "empty", "long"],
)
async def test_a_room_that_cannot_be_is_a_bad_payload(data: Any) -> None:
    async with connect(Chat.as_asgi()) as socket:
        await socket.send("system.join", data)
        assert (await socket.expect("system.error"))["data"]["code"] == "bad_payload"


@pytest.mark.setting("REALTIME_MAX_ROOMS")
async def test_rooms_of_one_connection_are_bounded() -> None:
    with override_settings(REALTIME_MAX_ROOMS=2):
        async with connect(Chat.as_asgi()) as socket:
            for number in (1, 2, 2):
                await socket.send("system.join", {"room": f"open.{number}"})
                await socket.expect("system.joined")
            await socket.send("system.join", {"room": "open.3"})
            assert (await socket.expect("system.error"))["data"]["code"] == "too_many_rooms"


# What Channels' consumers have.


async def test_groups_and_layer_messages_work_as_in_channels() -> None:
    class Old(RealtimeConsumer):
        groups = ["news"]

        async def news_item(self, event: dict[str, Any]) -> None:
            await self.send_json({"type": "news", "data": event["text"]})

    async with connect(Old.as_asgi()) as socket:
        await get_channel_layer().group_send("news", {"type": "news.item", "text": "hello"})
        assert (await socket.expect("news"))["data"] == "hello"


async def test_group_add_with_channel_name_works_as_in_channels() -> None:
    class Old(RealtimeConsumer):
        async def connect(self) -> None:
            await self.channel_layer.group_add("late", self.channel_name)
            await self.accept()

        async def late_item(self, event: dict[str, Any]) -> None:
            await self.send_json({"type": "late"})

    async with connect(Old.as_asgi()) as socket:
        await get_channel_layer().group_send("late", {"type": "late.item"})
        await socket.expect("late")


async def test_no_channel_is_made_for_a_consumer_that_does_not_ask_for_one() -> None:
    async with connect(Chat.as_asgi()) as socket:
        await socket.expect("system.welcome")
        assert not [task for task in asyncio.all_tasks() if task.get_name() == "realtime.own-channel"]


async def test_layer_messages_and_socket_messages_are_handled_one_at_a_time() -> None:
    inside: list[str] = []

    class Both(RealtimeConsumer):
        groups = ["both"]

        @on("work")
        async def work(self) -> None:
            await self.alone("socket")

        async def both_item(self, event: dict[str, Any]) -> None:
            await self.alone("layer")

        async def alone(self, what: str) -> None:
            inside.append(what)
            assert len(inside) == 1
            await asyncio.sleep(0.01)
            inside.remove(what)
            await self.send_event(what)

    async with connect(Both.as_asgi()) as socket:
        await socket.send("work")
        await get_channel_layer().group_send("both", {"type": "both.item"})
        assert {(await socket.receive())["type"] for _ in range(3)} == {"system.welcome", "socket", "layer"}


async def test_a_layer_handler_that_raises_ends_the_consumer_with_its_error() -> None:
    class Breaks(RealtimeConsumer):
        groups = ["breaks"]
        left: list[int] = []

        async def breaks_now(self, event: dict[str, Any]) -> None:
            raise LookupError("as in Channels")

        async def disconnect(self, code: int) -> None:
            self.left.append(code)

    async with connect(Breaks.as_asgi()) as socket:
        await get_channel_layer().group_send("breaks", {"type": "breaks.now"})
        with pytest.raises(LookupError, match="as in Channels"):
            await socket.communicator.wait(1)
    assert Breaks.left == [1006]


async def test_receive_json_is_called_as_in_channels() -> None:
    class Old(RealtimeConsumer):
        async def receive_json(self, content: Any, **kwargs: Any) -> None:
            await self.send_json({"type": "got", "data": content})

    async with connect(Old.as_asgi()) as socket:
        await socket.send_raw("[1, 2]")
        assert (await socket.expect("got"))["data"] == [1, 2]
        await socket.send_raw("{")
        assert (await socket.expect("system.error"))["data"]["code"] == "malformed"


async def test_receive_is_called_as_in_channels_with_text_and_with_bytes() -> None:
    class Old(RealtimeConsumer):
        async def receive(self, text_data: str | None = None, bytes_data: bytes | None = None) -> None:
            await self.send_json({"type": "got", "data": [text_data, bytes_data and bytes_data.decode()]})

    async with connect(Old.as_asgi()) as socket:
        await socket.send_raw("t")
        assert (await socket.expect("got"))["data"] == ["t", None]
        await socket.send_raw(b"b")
        assert (await socket.expect("got"))["data"] == [None, "b"]


async def test_binary_messages_reach_receive_bytes_untouched() -> None:
    class Binary(RealtimeConsumer):
        async def receive_bytes(self, data: bytes) -> None:
            await self.send(bytes_data=data[::-1])

    async with connect(Binary.as_asgi()) as socket:
        await socket.expect("system.welcome")
        await socket.send_raw(b"\x00\xff")
        assert await socket.receive_raw() == b"\xff\x00"


@pytest.mark.django_db  # Channels looks after database connections at each message
async def test_a_plain_channels_consumer_lives_beside_ours() -> None:
    class Plain(AsyncWebsocketConsumer):
        async def receive(self, text_data: str | None = None, bytes_data: bytes | None = None) -> None:
            await self.send(text_data=text_data)

    async with connect(Plain.as_asgi()) as plain, connect(Chat.as_asgi()) as ours:
        await plain.send_raw("hello")
        assert await plain.receive_raw() == "hello"
        await ours.expect("system.welcome")


# Opening.


async def test_a_consumer_can_refuse() -> None:
    class Closed(RealtimeConsumer):
        async def connect(self) -> None:
            await self.close(FORBIDDEN)

    with pytest.raises(Refused) as refused:
        async with connect(Closed.as_asgi()):
            pass
    assert refused.value.code == 4403
    assert len(nodes.current().registry) == 0


@pytest.mark.parametrize(
    ("offered", "chosen"),
    [
        pytest.param(["chat.v1", "chat.v2"], "chat.v2", id="the consumer's order decides"),
        pytest.param(["other", "chat.v1"], "chat.v1", id="the one both know"),
        pytest.param(["other"], None, id="none in common"),
        pytest.param([], None, id="none offered"),
    ],
)
async def test_a_subprotocol_is_negotiated(offered: list[str], chosen: str | None) -> None:
    class Versions(RealtimeConsumer):
        subprotocols = ("chat.v2", "chat.v1")

    async with connect(Versions.as_asgi(), subprotocols=offered):
        (connection,) = nodes.current().registry
        assert connection.subprotocol == (chosen or "")


async def test_a_draining_node_lets_nobody_in() -> None:
    async with connect(Chat.as_asgi()) as socket:
        await socket.expect("system.welcome")
        nodes.current().draining = True
        with pytest.raises(Refused) as refused:
            async with connect(Chat.as_asgi()):
                pass
    assert refused.value.code in (1012, 503)


async def test_the_label_of_a_user_is_the_user_name_and_of_a_visitor_a_guest() -> None:
    async with connect(Chat.as_asgi(), user=ALICE) as socket:
        assert (await socket.expect("system.welcome"))["data"]["user"] == "alice"
    async with connect(Chat.as_asgi(), user=AnonymousUser()) as socket:
        assert re.fullmatch("guest-[0-9a-f]{4}", (await socket.expect("system.welcome"))["data"]["user"])


# Closing.


async def test_disconnect_runs_with_the_code_of_the_client() -> None:
    async with connect(Chat.as_asgi()) as socket:
        await socket.expect("system.welcome")
        await socket.disconnect(4321)
    assert Chat.seen[-1] == ("disconnected", 4321)


async def test_disconnect_runs_once_whatever_raised() -> None:
    class Crashes(RealtimeConsumer):
        left: list[int] = []

        async def connected(self) -> None:
            await self.join("crash")
            raise LookupError("connected() failed")

        async def disconnect(self, code: int) -> None:
            self.left.append(code)

    with pytest.raises(LookupError):
        async with connect(Crashes.as_asgi()) as socket:
            await socket.communicator.wait(1)
    assert Crashes.left == [1006]
    assert len(nodes.current().registry) == 0
    assert "crash" not in nodes.current().hub.rooms


async def test_disconnect_runs_when_the_server_cancels_the_consumer() -> None:
    async with connect(Chat.as_asgi()) as socket:
        await socket.expect("system.welcome")
        socket.communicator.future.cancel()
        await until(lambda: not len(nodes.current().registry))
    assert Chat.seen[-1] == ("disconnected", 1006)


async def test_rooms_are_left_even_if_disconnect_raises(caplog: pytest.LogCaptureFixture) -> None:
    class Leaves(RealtimeConsumer):
        async def connected(self) -> None:
            await self.join("leaving")

        async def disconnect(self, code: int) -> None:
            raise LookupError("disconnect() failed")

    async with connect(Leaves.as_asgi()) as socket:
        await socket.expect("system.joined")
    assert nodes.current().hub.rooms == {}
    assert "disconnect() failed" in caplog.text


async def test_a_disconnect_that_never_ends_is_cut_off(caplog: pytest.LogCaptureFixture) -> None:
    class Hangs(RealtimeConsumer):
        async def disconnect(self, code: int) -> None:
            await asyncio.Event().wait()

    with override_settings(REALTIME_HANDLER_TIMEOUT=0.05):
        async with connect(Hangs.as_asgi()) as socket:
            await socket.expect("system.welcome")
    assert len(nodes.current().registry) == 0
    assert "disconnect() failed" in caplog.text


@pytest.mark.setting("REALTIME_MAX_CONCURRENT_CLEANUP")
async def test_cleanup_is_bounded() -> None:
    """S11"""
    running, most = 0, 0

    class Cleans(RealtimeConsumer):
        async def disconnect(self, code: int) -> None:
            nonlocal running, most
            running += 1
            most = max(most, running)
            await asyncio.sleep(0.005)
            running -= 1

    with override_settings(REALTIME_MAX_CONCURRENT_CLEANUP=2):
        sockets = [connect(Cleans.as_asgi()) for _ in range(6)]
        opened = [await socket.__aenter__() for socket in sockets]
        await asyncio.gather(*(socket.disconnect() for socket in opened))
    assert most == 2


async def test_signals_tell_of_opening_and_closing() -> None:
    """S15: lifecycle hooks"""
    told: list[tuple[str, Any]] = []

    async def opened(sender: Any, connection: Any, **kwargs: Any) -> None:
        told.append(("opened", connection.id))

    def closed(sender: Any, connection: Any, code: Any, **kwargs: Any) -> None:
        told.append(("closed", code))

    signals.client_connected.connect(opened)
    signals.client_disconnected.connect(closed)
    try:
        async with connect(Chat.as_asgi()) as socket:
            await socket.expect("system.welcome")
            await socket.disconnect(1001)
    finally:
        signals.client_connected.disconnect(opened)
        signals.client_disconnected.disconnect(closed)
    assert told == [("opened", socket.client_id), ("closed", 1001)]


async def test_a_signal_receiver_that_raises_hurts_nobody(caplog: pytest.LogCaptureFixture) -> None:
    def broken(**kwargs: Any) -> None:
        raise LookupError("receiver failed")

    signals.client_connected.connect(broken)
    try:
        async with connect(Chat.as_asgi()) as socket:
            await socket.expect("system.welcome")
            await socket.send("bare")
            await socket.expect("bare")
    finally:
        signals.client_connected.disconnect(broken)
    assert "signal receiver failed" in caplog.text


# Session data (S1).


async def test_a_socket_keeps_data() -> None:
    class Keeps(RealtimeConsumer):
        @on("count")
        async def count(self) -> None:
            self.set_session("count", self.get_session("count", 0) + 1)
            await self.send_event("count", self.get_session("count"))

    async with connect(Keeps.as_asgi()) as socket:
        for number in (1, 2):
            await socket.send("count")
            assert (await socket.expect("count"))["data"] == number


@pytest.mark.setting("REALTIME_MAX_SESSION_DATA_BYTES")
async def test_session_data_is_bounded_and_must_be_json() -> None:
    failures: list[str] = []

    class Keeps(RealtimeConsumer):
        async def connected(self) -> None:
            self.set_session("a", "x" * 10)
            for value in ("x" * 100, object()):
                try:
                    self.set_session("b", value)
                except SessionDataError as error:
                    failures.append(str(error))
            await self.send_event("kept", [self.get_session("a"), self.get_session("b")])

    with override_settings(REALTIME_MAX_SESSION_DATA_BYTES=50):
        async with connect(Keeps.as_asgi()) as socket:
            assert (await socket.expect("kept"))["data"] == ["x" * 10, None]
    assert "REALTIME_MAX_SESSION_DATA_BYTES is 50" in failures[0]
    assert "cannot be kept" in failures[1]


async def test_a_route_has_limits_of_its_own() -> None:
    """B1"""

    class Quick(RealtimeConsumer):
        limits = Limits(handler_timeout=0.02)

        @on("stuck")
        async def stuck(self) -> None:
            await asyncio.Event().wait()

    async with connect(Quick.as_asgi()) as socket:
        await socket.send("stuck")
        assert "0.02 seconds" in (await socket.expect("system.error"))["data"]["message"]
