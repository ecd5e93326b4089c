"""``ratelimit`` and nothing else of ours, around a plain consumer, under the servers people run, unmodified."""

from __future__ import annotations

import asyncio
import json
import os
import queue
import re
import sqlite3
import subprocess
import sys
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import count
from pathlib import Path

import pytest
from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed, InvalidStatus

ROOT = Path(__file__).resolve().parents[2]

SETTINGS = {
    "RATELIMIT_MESSAGES_PER_WINDOW": 4,
    "RATELIMIT_MESSAGE_WINDOW": 2.0,
    "RATELIMIT_BURST_MULTIPLIER": 1,
    "RATELIMIT_DISCONNECT_AFTER": 3,
    "RATELIMIT_MAX_MESSAGE_BYTES": 100,
    "RATELIMIT_CONNECTIONS_PER_WINDOW": 6,
    "RATELIMIT_MAX_CONNECTIONS_PER_IP": 2,
    "RATELIMIT_MAX_CONNECTIONS": 8,
    "RATELIMIT_BAN_REFRESH": 0,
    "RATELIMIT_TRUSTED_PROXIES": ["127.0.0.1"],
}

COMMANDS = {
    "daphne": ["daphne", "-b", "127.0.0.1", "-p", "0"],
    "uvicorn": ["uvicorn", "--host", "127.0.0.1", "--port", "0", "--no-proxy-headers"],
}


@dataclass
class Server:
    """A server in a process of its own. Every visitor has an address of its own, told by the proxy that we are."""

    name: str
    database: Path
    port: int
    lines: list[str] = field(default_factory=list)
    addresses: Iterator[int] = field(default_factory=lambda: count(1))

    @property
    def can_deny(self) -> bool:
        """Whether it answers with an HTTP response of the application's, and closes with any code."""
        return self.name == "uvicorn"

    def address(self) -> str:
        return f"192.0.2.{next(self.addresses)}"

    def visit(self, address: str) -> connect:
        headers = {"X-Forwarded-For": f"10.9.9.9, {address}"}
        return connect(f"ws://127.0.0.1:{self.port}/", additional_headers=headers, proxy=None)

    def ban(self, network: str) -> None:
        """Add a ban as another process would."""
        with sqlite3.connect(self.database, timeout=10) as database:
            database.execute(
                "insert into ratelimit_ban (network, reason, created_at) values (?, '', '2030-01-01')",
                [network],
            )
        database.close()


def environment(database: Path) -> dict[str, str]:
    return {
        **os.environ,
        "DJANGO_SETTINGS_MODULE": "tests.ratelimit.alone",
        "ALONE_SETTINGS": json.dumps(SETTINGS),
        "ALONE_DATABASE": str(database),
        "PYTHONPATH": str(ROOT),
        "PYTHONUNBUFFERED": "1",
    }


@pytest.fixture(scope="module", params=COMMANDS)
def server(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    database = tmp_path_factory.mktemp(request.param) / "alone.sqlite3"
    options = {"cwd": ROOT, "env": environment(database), "text": True}
    subprocess.run([sys.executable, "-m", "django", "migrate", "-v", "0"], check=True, timeout=60, **options)
    command = [sys.executable, "-m", *COMMANDS[request.param], "tests.ratelimit.alone_asgi:application"]
    process = subprocess.Popen(command, stderr=subprocess.PIPE, stdout=subprocess.DEVNULL, **options)
    lines, ports = [], queue.SimpleQueue()

    def read() -> None:
        for line in process.stderr:
            lines.append(line)
            if found := re.search(
                r"(?:Listening on TCP address|running on http://)\D*127\.0\.0\.1:(\d+)", line
            ):
                ports.put(int(found[1]))
        ports.put(None)

    reader = threading.Thread(target=read)
    reader.start()
    try:
        port = ports.get(timeout=60)
        assert port is not None, "".join(lines)
        yield Server(request.param, database, port, lines)
    finally:
        process.terminate()
        process.wait(20)
        reader.join(20)
        process.stderr.close()
    # Whatever these clients did, nothing of it is an error of the server's or the application's.
    assert not [line for line in lines if re.search("Traceback|ERROR|CRITICAL", line)], "".join(lines)


async def echoed(socket: ClientConnection, text: str = "hello") -> bool:
    await socket.send(text)
    return await asyncio.wait_for(socket.recv(), 10) == text


async def warned(socket: ClientConnection, text: str = "hello") -> dict:
    await socket.send(text)
    message = json.loads(await asyncio.wait_for(socket.recv(), 10))
    assert message["type"] == "system.rate_limited"
    return message["data"]


async def close_code(socket: ClientConnection) -> int | None:
    with pytest.raises(ConnectionClosed):
        await asyncio.wait_for(socket.recv(), 10)
    return socket.close_code


async def code_if_closed(socket: ClientConnection) -> int | None:
    """Read one message, and return the close code if there was none."""
    try:
        await asyncio.wait_for(socket.recv(), 10)
    except ConnectionClosed:
        return socket.close_code
    return None


async def refused(server: Server, address: str) -> InvalidStatus:
    with pytest.raises(InvalidStatus) as caught:
        async with server.visit(address):
            pass
    return caught.value


def check_refusal(server: Server, error: InvalidStatus, status: int, name: str) -> None:
    """Stock daphne can only say 403; other servers say what the application says."""
    response = error.response
    if not server.can_deny:
        assert response.status_code == 403
        return
    body = json.loads(response.body)
    assert (response.status_code, body["error"]) == (status, name)
    assert response.headers["Content-Type"] == "application/json"
    if status == 403:
        assert "Retry-After" not in response.headers
    else:
        assert int(response.headers["Retry-After"]) >= body["retry_after"] > 0


async def test_messages_come_back_and_nothing_else_of_ours_is_loaded(server):
    async with server.visit(server.address()) as socket:
        assert await echoed(socket)
        assert await echoed(socket, "\u20ac" * 33)
        await socket.send(b"\x00\xff")
        assert await socket.recv() == b"\x00\xff"
        await socket.send("who else is here?")
        assert await socket.recv() == "nobody"


async def test_soft_warnings_then_4429(server):
    """C3, F5."""
    async with server.visit(server.address()) as socket:
        for _ in range(4):
            assert await echoed(socket)
        warnings = [await warned(socket) for _ in range(2)]
        assert [warning["violations_left"] for warning in warnings] == [2, 1]
        assert all(0 < warning["retry_after"] <= 0.501 for warning in warnings)
        await socket.send("once too often")
        assert await close_code(socket) == 4429


async def test_who_waits_as_long_as_told_is_served(server):
    """F3."""
    async with server.visit(server.address()) as socket:
        for _ in range(4):
            assert await echoed(socket)
        for _ in range(2):
            await asyncio.sleep((await warned(socket))["retry_after"])
            assert await echoed(socket)


async def test_system_messages_are_exempt(server):
    """F4."""
    async with server.visit(server.address()) as socket:
        for _ in range(20):
            assert await echoed(socket, '{"type":"system.pong"}')
        assert await echoed(socket)


async def test_a_flood_without_reading_ends_in_4429(server):
    async with server.visit(server.address()) as socket:
        for _ in range(500):
            try:
                await socket.send("flood")
            except ConnectionClosed:
                break
        code = None
        while code is None:
            code = await code_if_closed(socket)
        assert code == 4429


@pytest.mark.parametrize(
    "message", ["x" * 101, "\u20ac" * 34, b"x" * 101], ids=["text", "few characters", "bytes"]
)
async def test_a_message_that_is_too_big_closes(server, message):
    """C4: stock daphne refuses 1009, and closes with the stand-in."""
    async with server.visit(server.address()) as socket:
        await socket.send(message)
        assert await close_code(socket) == (1009 if server.can_deny else 4400)


async def test_too_many_open_connections_of_an_address_are_refused_before_accept(server):
    """C2."""
    address = server.address()
    async with server.visit(address), server.visit(address):
        check_refusal(server, await refused(server, address), 429, "address_connections")
        async with server.visit(server.address()) as other:
            assert await echoed(other)


async def test_connecting_too_often_is_refused_before_accept(server):
    """C2, F2."""
    address = server.address()
    errors = []
    for _ in range(60):
        try:
            async with server.visit(address):
                pass
        except InvalidStatus as error:
            errors.append(error)
            if not server.can_deny or b"address_rate" in error.response.body:
                break
    check_refusal(server, errors[-1], 429, "address_rate")


async def test_a_full_server_refuses_before_accept(server):
    """S7."""
    sockets: list[ClientConnection] = []
    error = await filled(server, sockets)
    assert len(sockets) <= 8
    check_refusal(server, error, 503, "at_capacity")
    for socket in sockets:
        await socket.close()
    async with asyncio.timeout(10):
        while not await is_let_in(server):  # noqa: ASYNC110 - another process is to let them go
            await asyncio.sleep(0.01)


async def filled(server: Server, sockets: list[ClientConnection]) -> InvalidStatus:
    """Open ``sockets`` until there is no room."""
    try:
        while len(sockets) < 20:
            sockets.append(await server.visit(server.address()))
    except InvalidStatus as error:
        return error
    pytest.fail("there was always room")


async def is_let_in(server: Server) -> bool:
    try:
        async with server.visit(server.address()):
            return True
    except InvalidStatus:
        return False


async def test_the_banned_are_refused_and_their_open_sockets_closed(server):
    address = server.address()
    async with server.visit(address) as socket:
        assert await echoed(socket)
        server.ban(f"{address}/32")
        check_refusal(server, await refused(server, address), 403, "banned")
        assert await close_code(socket) == (1008 if server.can_deny else 4403)
    async with server.visit(server.address()) as other:
        assert await echoed(other)
