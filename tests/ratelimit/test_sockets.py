"""What passes between a server and an application."""

from __future__ import annotations

import asyncio

import pytest

from ratelimit import guards
from ratelimit.close_codes import POLICY
from ratelimit.conf import get_settings
from ratelimit.sockets import guarded


class Wire:
    """The server's side of a socket."""

    def __init__(self, *incoming):
        self.incoming, self.sent = list(incoming), []
        self.gone = False

    async def receive(self):
        return self.incoming.pop(0)

    async def send(self, message):
        if self.gone:
            raise OSError("gone")
        self.sent.append(message)


CONNECT = {"type": "websocket.connect"}
DISCONNECT = {"type": "websocket.disconnect", "code": 1000}


def said(text):
    return {"type": "websocket.receive", "text": text}


def opened(wire, **scope):
    return guarded({"type": "websocket", **scope}, wire.receive, wire.send, get_settings(), lambda: 0.0)


async def test_the_scope_carries_the_guard_and_the_caller_s_scope_is_left_alone():
    wire, scope = Wire(), {"type": "websocket", "client": ("192.0.2.1", 5)}
    with guarded(scope, wire.receive, wire.send, get_settings()) as socket:
        assert socket.scope["ratelimit"] is socket.guard
        assert (socket.guard.address, socket.guard.label) == ("192.0.2.1", "192.0.2.1:5")
        assert "ratelimit" not in scope


async def test_a_socket_has_one_guard_and_one_wrapper():
    wire = Wire(said("a"))
    with opened(wire) as outer, guarded(outer.scope, outer.receive, outer.send, get_settings()) as inner:
        assert inner == outer
        assert await inner.receive() == said("a")


async def test_the_guard_is_known_as_long_as_the_socket_is():
    with opened(Wire()) as outer:
        assert guards.open_guards == {outer.guard}
        with guarded(outer.scope, outer.receive, outer.send, get_settings()):
            pass
        assert guards.open_guards == {outer.guard}, "the outermost lets it go"
    assert guards.open_guards == set()


async def test_what_the_socket_holds_is_given_back_whatever_happens():
    async def fail():
        with opened(Wire()) as socket:
            await socket.guard.enter(get_settings(), 0.0)
            assert guards.door.total == 1
            raise KeyError

    with pytest.raises(KeyError):
        await fail()
    assert guards.door.total == 0
    assert guards.open_guards == set()


async def test_messages_that_pass_are_handed_on_as_they_are():
    wire = Wire(CONNECT, said("a"), DISCONNECT)
    messages = list(wire.incoming)
    with opened(wire) as socket:
        received = [await socket.receive() for _ in range(3)]
    assert all(got is sent for got, sent in zip(received, messages, strict=True))


async def test_a_refused_message_is_answered_and_the_next_one_is_waited_for():
    wire = Wire(said("a"), said("b"), DISCONNECT)
    with opened(wire) as socket:
        socket.guard.enforce(messages_per_window=1)
        assert await socket.receive() == said("a")
        assert await socket.receive() == DISCONNECT
    (warning,) = wire.sent
    assert warning["type"] == "websocket.send"
    assert '"system.rate_limited"' in warning["text"]


async def test_after_closing_messages_are_swallowed_until_the_disconnect():
    wire = Wire(said("big" * 10), *[said("x")] * 50, DISCONNECT)
    with opened(wire) as socket:
        socket.guard.enforce(max_message_bytes=10)
        assert await socket.receive() == DISCONNECT
        await asyncio.sleep(0)
    assert [message["code"] for message in wire.sent] == [1009]


async def test_after_closing_the_application_s_messages_are_dropped():
    """Servers raise for a message after the close, and the application cannot know yet."""
    wire = Wire()
    with opened(wire) as socket:
        socket.guard.close(POLICY)
        await socket.send({"type": "websocket.send", "text": "late"})
        await asyncio.sleep(0)
        await socket.send({"type": "websocket.close", "code": 1000})
    assert [message["type"] for message in wire.sent] == ["websocket.close"]
    assert wire.sent[0]["code"] == 1008


async def test_a_socket_that_the_application_closed_is_neither_warned_nor_closed_again():
    wire = Wire(said("a"), said("b"), said("c"), DISCONNECT)
    with opened(wire) as socket:
        socket.guard.enforce(messages_per_window=1, disconnect_after=2)
        assert await socket.receive() == said("a")
        await socket.send({"type": "websocket.close", "code": 1000})
        assert await socket.receive() == DISCONNECT
        await asyncio.sleep(0)
    assert wire.sent == [{"type": "websocket.close", "code": 1000}]


async def test_a_peer_that_is_gone_when_it_is_warned_is_no_error():
    """ASGI 2.4: send raises OSError then; the disconnect follows."""
    wire = Wire(said("a"), said("b"), DISCONNECT)
    with opened(wire) as socket:
        socket.guard.enforce(messages_per_window=1)
        await socket.receive()
        wire.gone = True
        assert await socket.receive() == DISCONNECT


async def test_an_application_that_closes_its_own_way_is_asked_to():
    """``guard.closer`` replaced: the application's own close still passes."""
    wire, asked = Wire(said("big" * 10), DISCONNECT), []
    with opened(wire) as socket:
        socket.guard.enforce(max_message_bytes=10)
        socket.guard.closer = asked.append
        assert await socket.receive() == DISCONNECT
        assert [reason.code for reason in asked] == [1009]
        await socket.send({"type": "websocket.close", "code": 4000})
    assert wire.sent == [{"type": "websocket.close", "code": 4000}]
