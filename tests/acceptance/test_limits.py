"""Size limits of a route as a real server keeps them: a message is refused when its header comes."""

from __future__ import annotations

import json
import struct
from collections.abc import Iterator

import pytest
from websockets.asyncio.client import connect as ws_connect

from tests.acceptance.messages import expect
from tests.acceptance.processes import ServerProcess, daphne, free_port
from tests.acceptance.rawclient import RawClient


@pytest.fixture(scope="module")
def server() -> Iterator[ServerProcess]:
    """A daphne whose settings allow one megabyte, and two routes that say otherwise."""
    port = free_port()
    with ServerProcess(daphne("tests.acceptance.apps.rooms:application", port), port) as process:
        yield process


@pytest.mark.parametrize(
    ("path", "limit"),
    [
        pytest.param("/narrow", 100_000, id="a route that takes less"),
        pytest.param("/roomy", 3_000_000, id="a route that takes more"),
        pytest.param("/other", 1024 * 1024, id="a route that says nothing"),
    ],
)
def test_a_message_that_is_too_big_is_refused_on_its_header(
    server: ServerProcess, path: str, limit: int
) -> None:
    """B1, C4"""
    with RawClient(server.port) as client:
        assert client.open(path).status == 101
        # The header of a masked text frame, and not one byte of what it announces.
        client.send(b"\x81" + bytes([0x80 | 127]) + struct.pack("!Q", limit + 1) + b"\0\0\0\0")
        assert client.close_frame()[0] == 1009


async def test_a_route_that_takes_more_does(server: ServerProcess) -> None:
    async with ws_connect(f"{server.ws}/roomy", max_size=None) as client:
        await client.send(json.dumps({"type": "say", "data": "x" * 2_000_000}))
        assert len(await expect(client, "said")) == 2_000_000
