"""The application as a server runs it: static files without DEBUG, and sockets only from our own pages."""

from __future__ import annotations

import importlib

import daphne.server
import pytest
from asgiref.testing import ApplicationCommunicator
from daphne.cli import CommandLineInterface
from django.conf import settings as django_settings

import wsproject.asgi
from realtime.server.server import Server
from realtime.testing import Refused, connect
from wsproject.asgi import application

STATIC = django_settings.BASE_DIR / "wsproject" / "static" / "demo"
OWN = ((b"origin", b"http://localhost"), (b"host", b"localhost"))


async def fetch(path: str) -> tuple[int, bytes]:
    """Get ``path`` over HTTP and return the status and the body."""
    scope = {"type": "http", "method": "GET", "path": path, "headers": [], "query_string": b""}
    communicator = ApplicationCommunicator(application, scope)
    await communicator.send_input({"type": "http.request", "body": b"", "more_body": False})
    status = (await communicator.receive_output())["status"]
    body, more = b"", True
    while more:
        chunk = await communicator.receive_output()
        body += chunk.get("body", b"")
        more = chunk.get("more_body", False)
    await communicator.wait()
    return status, body


@pytest.mark.parametrize("name", ["demo.css", "main.js", "socket.js", "mark.svg", "contours.svg"])
async def test_static_files_are_served_without_debug(settings, name):
    assert settings.DEBUG is False
    assert await fetch(f"/static/demo/{name}") == (200, (STATIC / name).read_bytes())


async def test_missing_static_file_is_not_found():
    status, _ = await fetch("/static/demo/none.js")
    assert status == 404


@pytest.mark.django_db(transaction=True)
async def test_own_page_may_open_a_socket():
    async with connect(application, "/ws/echo/", headers=OWN) as socket:
        await socket.send_raw("hello")
        assert await socket.receive_raw() == "hello"


@pytest.mark.django_db(transaction=True)
async def test_page_of_another_site_may_not():
    with pytest.raises(Refused):
        async with connect(application, "/ws/echo/", headers=[(b"origin", b"https://elsewhere.example")]):
            pass


@pytest.mark.django_db(transaction=True)
async def test_flood_is_warned_and_then_closed_with_4429(settings):
    """C3: the limits stand in front of the consumers."""
    settings.RATELIMIT_MESSAGES_PER_WINDOW = 1
    settings.RATELIMIT_BURST_MULTIPLIER = 1
    async with connect(application, "/ws/chat/lobby/", headers=OWN) as socket:
        for _ in range(4):
            await socket.send("chat.send", {"text": "again"})
        await socket.expect("system.rate_limited")
        assert await socket.expect_close() == 4429


def test_daphne_runs_our_server_once_it_has_the_application(monkeypatch):
    monkeypatch.setattr(CommandLineInterface, "server_class", daphne.server.Server)
    importlib.reload(wsproject.asgi)
    assert CommandLineInterface.server_class is Server
