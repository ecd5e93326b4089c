"""The turns of the loop, and the hook that makes daphne's commands run our server."""

from __future__ import annotations

import asyncio
import sys

from daphne.cli import CommandLineInterface
from daphne.management.commands.runserver import Command
from django.test import override_settings

from realtime.server import install
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


def test_under_another_server_no_reactor_is_installed() -> None:
    code = """
import sys
from django.conf import settings
settings.configure(INSTALLED_APPS=["ratelimit", "realtime"])
import django; django.setup()
from realtime.server import install
install()
print([name for name in ("daphne.server", "autobahn", "twisted.internet.reactor") if name in sys.modules])
"""
    ended = run([sys.executable, "-c", code])
    assert (ended.stdout, ended.stderr) == ("[]\n", "")
