"""Ten thousand clients of one server that stops."""

from __future__ import annotations

import asyncio
import json
import resource
import struct
import time
from collections import Counter
from collections.abc import Iterator

import pytest

from tests.acceptance import rawclient
from tests.acceptance.processes import ServerProcess, free_port, manage

CROWD = 10_000
AT_ONCE = 200
"""Handshakes that are under way together."""
PATIENCE = 10.0
"""Seconds that a server which is busy with the rest of the crowd may take for one of it."""
DRAIN_TIMEOUT = 12.0
WINDOW = DRAIN_TIMEOUT / 2
"""The half of the time in which everybody is told; the other half is for answers and cleaning up."""
A_MOMENT = 3.0
"""Seconds that a process which has held ten thousand sockets may take to end."""
SPREAD = 8.0


@pytest.fixture
def _many_files() -> Iterator[None]:
    """As many open files as the crowd needs; the server inherits that."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = CROWD + 500
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, wanted), hard))
    yield
    resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


class Client(asyncio.Protocol):
    """Says nothing, answers the close, and remembers when and how it was told to go."""

    def __init__(self) -> None:
        self.joined = asyncio.get_running_loop().create_future()
        self.gone = asyncio.get_running_loop().create_future()
        self.told: dict[str, object] = {}
        self.code = 0
        self.closed_at = 0.0
        self._buffer = b""
        self._upgraded = False

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport
        transport.write(rawclient.handshake("/crowd"))

    def data_received(self, data: bytes) -> None:
        self._buffer += data
        if not self._upgraded:
            head, end, rest = self._buffer.partition(b"\r\n\r\n")
            if not end:
                return
            self._upgraded, self._buffer = head.startswith(b"HTTP/1.1 101"), rest
            if not self._upgraded:
                self.joined.set_exception(AssertionError(f"refused: {data!r}"))
                return
        while frame := self._next_frame():
            self._take(*frame)

    def _next_frame(self) -> tuple[int, bytes] | None:
        if len(self._buffer) < 4:
            return None
        size, begin = self._buffer[1], 2
        if size == 126:
            (size,), begin = struct.unpack_from("!H", self._buffer, 2), 4
        if len(self._buffer) < begin + size:
            return None
        opcode, payload = self._buffer[0] & 0x0F, self._buffer[begin : begin + size]
        self._buffer = self._buffer[begin + size :]
        return opcode, payload

    def _take(self, opcode: int, payload: bytes) -> None:
        if opcode == 8:
            self.closed_at = time.monotonic()
            (self.code,) = struct.unpack_from("!H", payload)
            self._transport.write(rawclient.close(self.code))
        elif b'"system.joined"' in payload:
            self.joined.set_result(None)
        elif b'"system.closing"' in payload:
            self.told = json.loads(payload)["data"]

    def connection_lost(self, error: Exception | None) -> None:
        if not self.joined.done():
            self.joined.set_exception(error or EOFError("the server ended the connection"))
        self.gone.set_result(error)


async def crowd_of(number: int, port: int) -> list[Client]:
    """Return clients that are all in the room."""
    loop = asyncio.get_running_loop()
    turn = asyncio.Semaphore(AT_ONCE)

    async def one() -> Client:
        async with turn:
            _, client = await loop.create_connection(Client, "127.0.0.1", port)
            async with asyncio.timeout(PATIENCE):
                await client.joined
            return client

    return await asyncio.gather(*(one() for _ in range(number)))


@pytest.mark.usefixtures("_many_files")
async def test_ten_thousand_clients_are_sent_away_one_batch_after_the_other() -> None:
    """X2, X3"""
    port = free_port()
    environment = {
        "ASGI_APPLICATION": "tests.acceptance.apps.rooms.application",
        "DJANGO_SETTINGS_MODULE": "tests.acceptance.apps.settings",
        "RATELIMIT_CONNECTIONS_PER_WINDOW": "0",
        "RATELIMIT_MAX_CONNECTIONS_PER_IP": "0",
        "REALTIME_HEARTBEAT_ENABLED": "0",
        "REALTIME_DRAIN_TIMEOUT": str(DRAIN_TIMEOUT),
        "REALTIME_RECONNECT_SPREAD": str(SPREAD),
    }
    with ServerProcess(manage("serve", "--port", str(port)), port, environment) as server:
        clients = await crowd_of(CROWD, port)
        ending = asyncio.ensure_future(asyncio.to_thread(server.stop, seconds=DRAIN_TIMEOUT + 10))
        ended = await ending
        async with asyncio.timeout(PATIENCE):
            await asyncio.gather(*(client.gone for client in clients))

    assert ended.code == 0
    assert ended.seconds < DRAIN_TIMEOUT + A_MOMENT
    assert f"Drained: {CROWD} closed, 0 forced" in ended.stderr
    assert Counter(client.code for client in clients) == {1012: CROWD}

    # When they were told: evenly over the window, a tenth of which takes no more than a fifth of them.
    moments = sorted(client.closed_at for client in clients)
    assert 0.8 * WINDOW < moments[-1] - moments[0] < 1.5 * WINDOW
    slots = Counter(int((moment - moments[0]) / (WINDOW / 10)) for moment in moments)
    assert max(slots.values()) <= CROWD / 5

    # When they come back: a tenth of the time is chosen by a tenth of them, give or take a quarter.
    delays = [client.told["retry_after"] for client in clients]
    assert all(isinstance(delay, float | int) and 0 <= delay <= SPREAD for delay in delays)
    tenths = Counter(min(9, int(float(str(delay)) / SPREAD * 10)) for delay in delays)
    assert all(0.75 * CROWD / 10 < tenths[tenth] < 1.25 * CROWD / 10 for tenth in range(10))
