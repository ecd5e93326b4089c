"""Admin and metrics read from other threads what sockets of a real server do, whichever engine carries them."""

from __future__ import annotations

import json
import urllib.request

import pytest
from websockets.asyncio.client import connect as ws_connect

from tests.acceptance.processes import ServerProcess, free_port, manage, run

TOKEN = "a token for the tests"


@pytest.mark.parametrize("engine", ["native", "daphne"])
async def test_open_sockets_are_seen_by_every_page(tmp_path, engine: str) -> None:
    """C7, F8, F9"""
    environment = {
        "DJANGO_SETTINGS_MODULE": "wsproject.settings",
        "REALTIME_ENGINE": engine,
        "DASHBOARD_TOKEN": TOKEN,
        "SQLITE_PATH": str(tmp_path / "db.sqlite3"),
    }
    assert run(manage("migrate", "-v0"), environment).code == 0
    port = free_port()
    with ServerProcess(manage("serve", "--port", str(port)), port, environment) as server:
        origin = server.url
        async with ws_connect(f"{server.ws}/ws/chat/lobby/", origin=origin) as socket:
            welcome = json.loads(await socket.recv())
            clients = json.loads(_get(f"{server.url}/info/clients"))
            assert [client["id"] for client in clients["clients"]] == [welcome["data"]["client_id"]]
            assert json.loads(_get(f"{server.url}/info/stats"))
            assert json.loads(_get(f"{server.url}/info/health"))["status"] == "healthy"
            assert "channels_ops_active_connections 1.0" in _get(f"{server.url}/metrics")
            assert "channels_ops_buffered_bytes" in _get(f"{server.url}/metrics")
        assert "Traceback" not in server.stderr


def _get(url: str) -> str:
    request = urllib.request.Request(url, headers={"Authorization": f"Bearer {TOKEN}"})
    with urllib.request.urlopen(request, timeout=10) as response:
        body: bytes = response.read()
    return body.decode()
