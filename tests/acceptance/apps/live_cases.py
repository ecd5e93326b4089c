"""Live-server tests as users write them, run by Django's own test command."""

from __future__ import annotations

import asyncio
import urllib.request

from asgiref.sync import sync_to_async
from channels.testing import ChannelsLiveServerTestCase
from django.conf import settings
from django.contrib.auth.models import User
from websockets.sync.client import ClientConnection, connect

SOON = 10.0
"""Seconds within which anything a test waits for has long happened."""


class LiveServerTests(ChannelsLiveServerTestCase):
    @classmethod
    def setUpClass(cls) -> None:
        # Leaves a thread behind, as earlier tests do: a forked server must not count on it.
        asyncio.run(sync_to_async(len)(""))
        super().setUpClass()

    def open(self) -> ClientConnection:
        return connect(f"{self.live_server_ws_url}/", open_timeout=SOON)

    def test_sockets_see_what_the_test_has_stored(self) -> None:
        with self.open() as socket:
            for count in range(3):
                socket.send("how many?")
                assert socket.recv(SOON) == str(count)
                User.objects.create(username=f"user {count}")

    def test_an_empty_message_arrives(self) -> None:
        """Stock daphne drops it."""
        with self.open() as socket:
            socket.send("")
            assert socket.recv(SOON) == "0"

    def test_the_engine_of_the_settings_serves(self) -> None:
        """Only the native one compresses."""
        with self.open() as socket:
            assert socket.response is not None
            agreed = socket.response.headers.get("Sec-WebSocket-Extensions", "")
        assert ("permessage-deflate" in agreed) == (settings.REALTIME_ENGINE == "native")

    def test_pages_are_served(self) -> None:
        with urllib.request.urlopen(f"{self.live_server_url}/", timeout=SOON) as page:
            assert page.read() == b"a page"
