"""One socket: liveness, closing, slow readers and what observers see."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from django.contrib.auth.models import AnonymousUser, User
from django.test import override_settings

from realtime import connections, nodes
from realtime.close_codes import KICKED, RESTART
from realtime.connections import Connection, identity_of
from realtime.consumers import RealtimeConsumer
from realtime.handlers import on
from realtime.limits import Limits
from realtime.outbox import FRAME_OVERHEAD
from realtime.testing import connect, until


class Talker(RealtimeConsumer):
    @on("echo")
    async def echo(self, data: dict[str, Any]) -> None:
        await self.send_event("echo", data)


APP = Talker.as_asgi()


def only() -> Connection:
    (connection,) = nodes.current().registry
    return connection


# Liveness (C6, S2).


@pytest.mark.setting("REALTIME_HEARTBEAT_INTERVAL")
async def test_a_silent_socket_is_pinged_within_the_interval() -> None:
    with override_settings(REALTIME_HEARTBEAT_INTERVAL=0.1):
        async with connect(APP) as socket:
            await socket.expect("system.welcome")
            ping = await socket.expect("system.ping", timeout=0.3)
            await socket.send("system.pong", ping["data"])
            await until(lambda: only().rtt is not None)
            assert 0 < (only().rtt or 0) < 0.3


@pytest.mark.setting("REALTIME_HEARTBEAT_TIMEOUT")
async def test_a_socket_that_stays_silent_is_closed_and_counted() -> None:
    with override_settings(REALTIME_HEARTBEAT_INTERVAL=0.05, REALTIME_HEARTBEAT_TIMEOUT=0.2):
        async with connect(APP) as socket:
            await socket.expect("system.welcome")
            loop = asyncio.get_running_loop()
            started = loop.time()
            assert await socket.expect_close() == 4408
            assert 0.15 < loop.time() - started < 1.0
            assert nodes.current().counters.heartbeat_timeouts == 1


async def test_a_socket_that_answers_lives_on() -> None:
    """Rivals disconnect healthy clients."""
    with override_settings(REALTIME_HEARTBEAT_INTERVAL=0.05, REALTIME_HEARTBEAT_TIMEOUT=0.2):
        async with connect(APP) as socket:
            await socket.expect("system.welcome")
            loop = asyncio.get_running_loop()
            ends = loop.time() + 0.6
            while loop.time() < ends:
                await socket.send("system.pong", (await socket.expect("system.ping"))["data"])


async def test_any_message_is_a_sign_of_life() -> None:
    with override_settings(REALTIME_HEARTBEAT_INTERVAL=0.1, REALTIME_HEARTBEAT_TIMEOUT=0.2):
        async with connect(APP) as socket:
            for _ in range(5):
                await socket.send("echo", {})
                await socket.expect("echo")
                await socket.expect("system.ping")


@pytest.mark.setting("REALTIME_HEARTBEAT_TYPE")
async def test_protocol_pings_are_not_replaced_by_messages_where_the_setting_says_ping() -> None:
    with override_settings(REALTIME_HEARTBEAT_TYPE="ping", REALTIME_HEARTBEAT_INTERVAL=0.05):
        async with connect(APP) as socket:
            await socket.expect("system.welcome")
            await socket.expect_nothing(0.2)


@pytest.mark.setting("REALTIME_HEARTBEAT_ENABLED")
async def test_no_socket_is_pinged_where_the_heartbeat_is_left_to_another_process() -> None:
    with override_settings(REALTIME_HEARTBEAT_ENABLED=False, REALTIME_HEARTBEAT_INTERVAL=0.05):
        async with connect(APP) as socket:
            await socket.expect("system.welcome")
            await socket.expect_nothing(0.2)
            await nodes.current().heartbeat.beat()
            await socket.expect("system.ping")


@pytest.mark.setting("REALTIME_IDLE_TIMEOUT")
async def test_a_socket_that_only_answers_pings_is_idle() -> None:
    with override_settings(REALTIME_IDLE_TIMEOUT=0.2):
        async with connect(APP) as socket:
            await socket.expect("system.welcome")
            assert await socket.expect_close() == 4408


@pytest.mark.setting("REALTIME_MAX_CONNECTION_AGE")
async def test_an_old_socket_is_sent_away_to_come_back() -> None:
    with override_settings(REALTIME_MAX_CONNECTION_AGE=0.2):
        async with connect(APP) as socket:
            closing = (await socket.expect("system.closing"))["data"]
            assert closing["retry"] is True
            assert closing["retry_after"] >= 0
            assert await socket.expect_close() == 1012


async def test_a_route_has_patience_of_its_own() -> None:
    """B1"""

    class Strict(RealtimeConsumer):
        limits = Limits(heartbeat_interval=0.05, heartbeat_timeout=0.1)

    class Idle(RealtimeConsumer):
        limits = Limits(idle_timeout=0.1)

    for consumer in (Strict, Idle):
        async with connect(consumer.as_asgi()) as socket:
            assert await socket.expect_close() == 4408


# Closing.


async def test_the_client_is_told_why_before_the_close() -> None:
    async with connect(APP) as socket:
        await socket.expect("system.welcome")
        only().close(RESTART, retry_after=1.25)
        assert (await socket.expect("system.closing"))["data"] == {
            "code": 1012,
            "reason": RESTART.text,
            "retry": True,
            "retry_after": 1.25,
        }
        assert await socket.expect_close() == 1012


async def test_closing_twice_is_closing_once() -> None:
    async with connect(APP) as socket:
        await socket.expect("system.welcome")
        only().close(KICKED)
        only().close(RESTART)
        assert await socket.expect_close() == 4410
        await socket.expect_nothing()


async def test_nothing_is_sent_after_the_close() -> None:
    async with connect(APP) as socket:
        await socket.expect("system.welcome")
        connection = only()
        connection.close(KICKED)
        assert connection.offer(None) is False  # type: ignore[arg-type]
        await socket.expect_close()
        await socket.expect_nothing()


async def test_a_peer_that_does_not_answer_the_close_is_dropped(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(connections, "CLOSE_GRACE", 0.05)
    with override_settings(REALTIME_HANDLER_TIMEOUT=0.05):
        async with connect(APP) as socket:
            await socket.expect("system.welcome")
            only().close(KICKED)
            assert await socket.expect_close() == 4410
            await until(lambda: len(nodes.current().registry) == 0)


async def test_a_handler_at_work_is_not_cut_off_by_a_close(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(connections, "CLOSE_GRACE", 0.01)
    done = asyncio.Event()

    class Works(RealtimeConsumer):
        @on("work")
        async def work(self) -> None:
            self.connection.close(KICKED)
            await asyncio.sleep(0.1)
            done.set()

    async with connect(Works.as_asgi()) as socket:
        await socket.send("work")
        assert await socket.expect_close() == 4410
        async with asyncio.timeout(1):
            await done.wait()


# Slow readers (R5).


class SlowSend:
    """A server's send that stops when it is told to."""

    def __init__(self) -> None:
        self.flowing = asyncio.Event()
        self.flowing.set()

    def around(self, app: Any) -> Any:
        async def wrapped(scope: Any, receive: Any, send: Any) -> None:
            async def slow(message: Any) -> None:
                await self.flowing.wait()
                await send(message)

            await app(scope, receive, slow)

        return wrapped


@pytest.mark.parametrize(
    ("policy", "arrive"),
    [
        pytest.param("drop_oldest", [0, 15, 16, 17, 18, 19], id="drop_oldest"),
        pytest.param("drop_newest", [0, 1, 2, 3, 4, 5], id="drop_newest"),
        pytest.param("coalesce", [0, 19], id="coalesce"),
    ],
)
@pytest.mark.setting("REALTIME_SLOW_CONSUMER")
async def test_what_waits_for_a_slow_reader_follows_the_policy(policy: str, arrive: list[int]) -> None:
    """X5: the first message is with the server already; five of the others fit."""
    server = SlowSend()
    bound = 5 * (260 + FRAME_OVERHEAD)
    with override_settings(REALTIME_SLOW_CONSUMER=policy, REALTIME_MAX_OUTBOUND_BYTES=bound):
        async with connect(server.around(APP)) as socket:
            await socket.expect("system.welcome")
            await until(lambda: only().transport.writable)
            server.flowing.clear()
            for number in range(20):
                only().offer(connections.envelope.event("n", f"{number:0200d}"))
            assert nodes.current().counters.slow_consumers[policy] == 20 - len(arrive)
            assert only().outbox.bytes <= bound
            server.flowing.set()
            assert [int((await socket.expect("n"))["data"]) for _ in arrive] == arrive


@pytest.mark.setting("REALTIME_MAX_OUTBOUND_BYTES")
async def test_a_reader_too_slow_for_the_bound_is_closed() -> None:
    server = SlowSend()
    with override_settings(REALTIME_MAX_OUTBOUND_BYTES=1024 + 2 * FRAME_OVERHEAD):
        async with connect(server.around(APP)) as socket:
            await socket.expect("system.welcome")
            await until(lambda: only().transport.writable)
            server.flowing.clear()
            taken = [only().offer(connections.envelope.event("n", "x" * 400)) for _ in range(4)]
            assert taken == [True, True, True, False]
            server.flowing.set()
            assert await socket.expect_close() == 4413


async def test_a_handler_that_sends_waits_for_a_slow_reader() -> None:
    server = SlowSend()
    sent: list[int] = []

    class Pours(RealtimeConsumer):
        @on("pour")
        async def pour(self) -> None:
            for number in range(10):
                await self.send_event("drop", number)
                sent.append(number)

    async with connect(server.around(Pours.as_asgi())) as socket:
        await socket.expect("system.welcome")
        await until(lambda: only().transport.writable)
        server.flowing.clear()
        await socket.send("pour")
        await until(lambda: len(only().outbox) == 1)
        assert sent == [0]
        server.flowing.set()
        assert [(await socket.expect("drop"))["data"] for _ in range(10)] == list(range(10))


# What observers see.


async def test_info_says_who_and_what() -> None:
    """S1"""
    user = User(pk=3, username="cleo")
    scope = {"url_route": {"args": (), "kwargs": {"room": "blue"}}}
    headers = [(b"user-agent", b"Test/1.0")]
    async with connect(
        APP, "/ws/chat/blue/", user=user, scope=scope, headers=headers, address="192.0.2.7"
    ) as socket:
        await socket.send("echo", {})
        await socket.expect("echo")
        (info,) = nodes.connection_infos()
    assert (info.user_id, info.user, info.address) == ("3", "cleo", "192.0.2.7")
    assert (info.path, info.route) == ("/ws/chat/blue/", "/ws/chat/<room>/")
    assert (info.messages_in, info.messages_out) == (1, 2)
    assert info.bytes_in == len('{"type":"echo","data":{}}')
    assert info.user_agent == "Test/1.0"
    assert info.transport == "asgi"
    assert info.opened_at <= info.last_seen


@pytest.mark.parametrize(
    ("user", "identity"),
    [
        pytest.param(User(pk=5, username="eve"), ("5", "eve"), id="a user"),
        pytest.param(AnonymousUser(), (None, ""), id="anonymous"),
        pytest.param(None, (None, ""), id="no authentication middleware"),
    ],
)
def test_identity_comes_from_authentication_only(user: Any, identity: tuple[str | None, str]) -> None:
    scope = {"user": user, "query_string": b"user=admin", "headers": [(b"x-user", b"admin")]}
    assert identity_of(scope) == identity
