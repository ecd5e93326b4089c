"""The turns of the loop, and the hook that makes daphne's commands run our server."""

from __future__ import annotations

import asyncio
import gc
import sys
from typing import Any

import pytest
from daphne.cli import CommandLineInterface
from daphne.management.commands.runserver import Command
from django.test import override_settings

from realtime.server import install
from realtime.server.inbox import Inbox
from realtime.server.server import Server, Turns, _settle
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


def test_what_was_loaded_is_not_looked_through_for_garbage_again() -> None:
    before = gc.get_freeze_count()
    try:
        _settle()
        assert gc.get_freeze_count() > before + 10_000
    finally:
        gc.unfreeze()


def test_under_another_server_no_reactor_is_installed() -> None:
    code = """
import sys
from django.conf import settings
settings.configure(INSTALLED_APPS=["ratelimit", "realtime"])
import django; django.setup()
from realtime.server import install
from realtime.server.inbox import Inbox
install()
print([name for name in ("daphne.server", "autobahn", "twisted.internet.reactor") if name in sys.modules])
"""
    ended = run([sys.executable, "-c", code])
    assert (ended.stdout, ended.stderr) == ("[]\n", "")
