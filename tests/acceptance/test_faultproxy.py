"""The proxy of the fault tests fails as it is told to, and in no other way."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import pytest
import pytest_asyncio

from tests.acceptance.faultproxy import FaultProxy

Line = tuple[asyncio.StreamReader, asyncio.StreamWriter]


class Echo:
    """A server that sends everything back, and ``end`` when its peer has nothing more to say."""

    def __init__(self) -> None:
        self.received = b""
        self.ends: list[str] = []
        self.writers: list[asyncio.StreamWriter] = []

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.writers.append(writer)
        try:
            while data := await reader.read(65536):
                self.received += data
                writer.write(data)
            self.ends.append("eof")
            writer.write(b"end")
        except ConnectionResetError:
            self.ends.append("reset")
        writer.close()

    async def ended(self) -> str:
        async with asyncio.timeout(5):
            while not self.ends:  # noqa: ASYNC110
                await asyncio.sleep(0.001)
        return self.ends[0]


@pytest.fixture
def echo() -> Echo:
    return Echo()


@pytest_asyncio.fixture
async def proxy(echo: Echo) -> AsyncIterator[FaultProxy]:
    server = await asyncio.start_server(echo.serve, "127.0.0.1", 0)
    try:
        async with FaultProxy(server.sockets[0].getsockname()[1]) as proxy:
            yield proxy
    finally:
        server.close()


@pytest_asyncio.fixture
async def line(proxy: FaultProxy) -> AsyncIterator[Line]:
    reader, writer = await asyncio.open_connection("127.0.0.1", proxy.port)
    assert await answer((reader, writer), b"hello") == b"hello"
    yield reader, writer
    writer.close()


async def answer(line: Line, data: bytes, seconds: float = 5.0) -> bytes:
    reader, writer = line
    writer.write(data)
    async with asyncio.timeout(seconds):
        return await reader.readexactly(len(data))


async def silent(line: Line, data: bytes, seconds: float = 0.1) -> None:
    with pytest.raises(TimeoutError):
        await answer(line, data, seconds)


async def test_everything_is_carried_both_ways(proxy, line):
    big = bytes(range(256)) * 8192
    reader, writer = line
    writer.write(big)
    async with asyncio.timeout(10):
        assert await reader.readexactly(len(big)) == big
        writer.write_eof()
        assert await reader.read() == b"end"
    assert (proxy.accepted, proxy.carried) == (1, 2 * (5 + len(big)) + 3)


async def test_latency_is_there_and_back_and_keeps_order(proxy, line):
    proxy.latency = 0.1
    loop = asyncio.get_running_loop()
    started = loop.time()
    _, writer = line
    for number in range(20):
        writer.write(b"%02d" % number)
        await asyncio.sleep(0)
    reader, _ = line
    assert await reader.readexactly(40) == b"".join(b"%02d" % number for number in range(20))
    # Late, but not one after the other.
    assert 0.19 < loop.time() - started < 1
    proxy.latency = 0.0
    started = loop.time()
    await answer(line, b"quick")
    assert loop.time() - started < 0.1


async def test_frozen_it_carries_nothing_and_thawed_everything(proxy, line, echo):
    proxy.freeze()
    await silent(line, b"later")
    assert echo.received == b"hello"
    proxy.thaw()
    assert await asyncio.wait_for(line[0].readexactly(5), 5) == b"later"


async def test_a_new_connection_waits_for_the_thaw(proxy):
    proxy.freeze()
    line = await asyncio.open_connection("127.0.0.1", proxy.port)
    await silent(line, b"hello")
    proxy.thaw()
    assert await asyncio.wait_for(line[0].readexactly(5), 5) == b"hello"
    line[1].close()


async def test_a_cut_ends_by_itself(proxy, line):
    loop = asyncio.get_running_loop()
    started = loop.time()
    proxy.cut_for(0.2)
    assert await answer(line, b"late") == b"late"
    assert 0.19 < loop.time() - started < 2


async def test_what_is_swallowed_is_lost_and_the_line_with_it(proxy, line, echo):
    proxy.swallow()
    await silent(line, b"lost")
    proxy.clear()
    assert await echo.ended() == "reset"
    with pytest.raises(ConnectionResetError):
        await line[0].read()
    assert echo.received == b"hello"


async def test_a_line_that_lost_nothing_survives_the_black_hole(proxy, line):
    proxy.swallow()
    proxy.clear()
    assert await answer(line, b"fine") == b"fine"


async def test_the_end_of_one_side_is_swallowed_too(proxy, line, echo):
    proxy.swallow()
    line[1].close()
    await asyncio.sleep(0.1)
    assert echo.ends == []
    proxy.clear()
    assert await echo.ended() == "reset"


async def test_a_reset_reaches_both_sides(proxy, line, echo):
    assert proxy.reset() == 1
    with pytest.raises(ConnectionResetError):
        await line[0].read()
    assert await echo.ended() == "reset"


async def test_the_reset_of_one_side_is_passed_on(proxy, line, echo):
    line[1].transport.abort()
    echo.writers[0].transport.abort()
    with pytest.raises((ConnectionResetError, asyncio.IncompleteReadError)):
        await line[0].readexactly(1)
    async with asyncio.timeout(5):
        while proxy.open:  # noqa: ASYNC110
            await asyncio.sleep(0.001)


async def test_refusing_refuses_new_connections_only(proxy, line):
    proxy.refuse()
    with pytest.raises(ConnectionRefusedError):
        await asyncio.open_connection("127.0.0.1", proxy.port)
    assert await answer(line, b"still") == b"still"
    port = proxy.port
    await proxy.listen()
    assert proxy.port == port
    _, writer = await asyncio.open_connection("127.0.0.1", proxy.port)
    writer.close()


async def test_half_closed_the_other_direction_goes_on(proxy, line, echo):
    proxy.half_close("server")
    assert await echo.ended() == "eof"
    assert await asyncio.wait_for(line[0].read(), 5) == b"end"


async def test_a_server_that_is_away_resets_its_clients():
    async with FaultProxy(1) as proxy:
        reader, writer = await asyncio.open_connection("127.0.0.1", proxy.port)
        with pytest.raises(ConnectionResetError):
            await reader.read()
        writer.close()
