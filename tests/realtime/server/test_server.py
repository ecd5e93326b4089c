"""The turns of the loop, and the hook that makes daphne's commands run our server."""

from __future__ import annotations

import asyncio
import sys
from types import SimpleNamespace
from typing import Any

import pytest
from daphne.cli import CommandLineInterface
from daphne.management.commands.runserver import Command
from django.test import override_settings

from ratelimit.limits import Limits
from realtime.server import install
from realtime.server.engine import Options
from realtime.server.inbox import Inbox
from realtime.server.server import Server, Turns
from tests.acceptance.processes import run


async def test_a_turn_has_one_number_and_the_next_has_another() -> None:
    turns = Turns()
    first = turns.current()
    assert turns.current() == first
    await asyncio.sleep(0)
    second = turns.current()
    assert second != first
    assert turns.current() == second


def test_install_is_safe_to_repeat() -> None:
    install()
    install()
    assert CommandLineInterface.server_class is Server
    assert Command.server_cls is Server


@override_settings(RATELIMIT_MAX_MESSAGE_BYTES=5000)
def test_a_server_takes_its_message_limit_from_the_settings() -> None:
    server = Server(application=None, endpoints=["tcp:port=0"])
    assert server.websocket_max_message_size == 5000


class Link:
    """What a server needs of a socket whose size of messages it bounds."""

    def __init__(self, own: int | None = None, *, watched: bool = True) -> None:
        self.listener = SimpleNamespace(limits=Limits(max_message_bytes=own)) if watched else None
        self.size: int | None = None

    def limit_messages(self, size: int) -> None:
        self.size = size


class Factory:
    """What a server needs of its factory."""

    def __init__(self) -> None:
        self.options: dict[str, int] = {}

    def setProtocolOptions(self, **options: int) -> None:
        self.options = options


@pytest.mark.parametrize(
    ("said", "size", "sizes"),
    [
        pytest.param({}, 9000, [9000, 9000, None], id="what a route says itself stays"),
        pytest.param(
            {"websocket_max_message_size": 7000}, 7000, [None] * 3, id="what the command line says stays"
        ),
    ],
)
def test_another_limit_of_messages_is_that_of_open_sockets_and_new_ones(
    said: dict[str, int], size: int, sizes: list[int | None]
) -> None:
    with override_settings(RATELIMIT_MAX_MESSAGE_BYTES=5000):
        server = Server(application=None, endpoints=["tcp:port=0"], **said)
    links = [Link(), Link(watched=False), Link(own=300)]
    engine = SimpleNamespace(options=Options(max_message_bytes=5000), sockets=links)
    server.native = SimpleNamespace(engine=engine)  # type: ignore[assignment]
    server.ws_factory = Factory()
    server.connections = {}
    with override_settings(RATELIMIT_MAX_MESSAGE_BYTES=9000):
        server.limit_messages()
    assert [link.size for link in links] == sizes
    assert server.websocket_max_message_size == size
    assert server.ws_factory.options == (
        {} if said else {"maxMessagePayloadSize": 9000, "maxFramePayloadSize": 9000}
    )
    assert engine.options.max_message_bytes == (5000 if said else 9000)


class FakeProtocol:
    """What a server needs of a WebSocket."""

    def __init__(self) -> None:
        self.inbox = Inbox(32, lambda: None, lambda: None)
        self.ended: list[bool] = []

    async def send(self, message: dict[str, Any]) -> None: ...

    def application_ended(self, *, failed: bool) -> None:
        self.ended.append(failed)


async def reads_once(scope: Any, receive: Any, send: Any) -> None:
    await receive()


async def fails(scope: Any, receive: Any, send: Any) -> None:
    raise RuntimeError("on purpose")


def connected(application: Any) -> tuple[Server, FakeProtocol]:
    server = Server(application=application, endpoints=["tcp:port=0"])
    server.connections = {}
    protocol = FakeProtocol()
    server.protocol_connected(protocol)
    server.create_application(protocol, {"type": "websocket"})
    return server, protocol


async def test_a_socket_is_forgotten_when_it_and_its_application_have_ended() -> None:
    server, protocol = connected(reads_once)
    server.protocol_disconnected(protocol)
    assert protocol in server.connections
    protocol.inbox.put({"type": "websocket.disconnect"})
    await server.quiet()
    assert server.connections == {}
    assert protocol.ended == []


async def test_or_the_other_way_round() -> None:
    server, protocol = connected(reads_once)
    protocol.inbox.put({"type": "websocket.receive"})
    await server.quiet()
    assert protocol.ended == [False]
    assert protocol in server.connections
    server.protocol_disconnected(protocol)
    assert server.connections == {}


async def test_an_application_that_fails_is_reported_to_its_socket_and_logged_once(
    caplog: pytest.LogCaptureFixture,
) -> None:
    server, protocol = connected(fails)
    await server.quiet()
    assert protocol.ended == [True]
    assert [record.getMessage() for record in caplog.records] == ["Exception inside application: on purpose"]


def test_under_another_server_no_reactor_is_installed() -> None:
    code = """
import sys
from django.conf import settings
settings.configure(INSTALLED_APPS=["ratelimit", "realtime"])
import django; django.setup()
from ratelimit.limits import Limits
from realtime.server import install
from realtime.server.engine import Options
from realtime.server.inbox import Inbox
install()
print([name for name in ("daphne.server", "autobahn", "twisted.internet.reactor") if name in sys.modules])
"""
    ended = run([sys.executable, "-c", code])
    assert (ended.stdout, ended.stderr) == ("[]\n", "")
