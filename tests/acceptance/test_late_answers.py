"""An answer to a socket that is closing already holds nobody up: the consumer ends at once, with the code of the close."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from websockets.frames import Opcode

from tests.acceptance import rawclient
from tests.acceptance.processes import ServerProcess, daphne, free_port, wait_for_lines
from tests.acceptance.rawclient import RawClient

AT_ONCE = 3.0
"""Seconds; what is held up is only cancelled after daphne's ten."""


@dataclass(frozen=True)
class Served:
    """A server that listens, and the file its consumer writes to."""

    port: int
    notes: Path


@pytest.fixture(scope="module", params=["native", "daphne"])
def server(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    served = Served(free_port(), tmp_path_factory.mktemp("late") / "notes")
    environment = {
        "NOTES": str(served.notes),
        "REALTIME_ENGINE": request.param,
        "RATELIMIT_CONNECTIONS_PER_WINDOW": "0",
    }
    command = daphne("tests.acceptance.apps.late:application", served.port)
    with ServerProcess(command, served.port, environment):
        yield served


@pytest.mark.parametrize(
    ("last", "code"),
    [
        pytest.param(rawclient.close(1000), 1000, id="the client closes"),
        pytest.param(rawclient.frame(Opcode.CONT, b"of nothing"), 1002, id="the client breaks the protocol"),
    ],
)
def test_consumer_ends_when_the_close_comes_right_behind_a_message(
    server: Served, last: bytes, code: int
) -> None:
    server.notes.unlink(missing_ok=True)
    with RawClient(server.port) as client:
        client.open("/")
        client.send(rawclient.text("hello") + last)
        client.rest()
        assert wait_for_lines(server.notes, 2, AT_ONCE) == ["answered", f"disconnected with {code}"]
