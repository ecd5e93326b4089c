"""The transport that daphne offers, on a protocol that only remembers."""

from __future__ import annotations

import asyncio
import struct
import time
from typing import Any, cast

import pytest

from realtime.frames import Frame
from realtime.server import wire
from realtime.server.protocol import WebSocketProtocol
from realtime.server.transport import DaphneTransport


class FakeProtocol:
    STATE_OPEN = 3

    def __init__(self) -> None:
        self.state = self.STATE_OPEN
        self.is_connected = True
        self.written: list[bytes] = []
        self.pings: list[bytes] = []
        self.ended: list[Any] = []

    def put(self, data: bytes) -> None:
        self.written.append(data)

    def sendPing(self, payload: bytes) -> None:
        self.pings.append(payload)

    def close(self, code: int, reason: str) -> None:
        self.ended.append((code, reason))

    def abort(self) -> None:
        self.ended.append("abort")

    def buffered_bytes(self) -> int:
        return 7


class Listener:
    def __init__(self) -> None:
        self.told: list[Any] = []

    def heard(self) -> None:
        self.told.append("heard")

    def ponged(self, rtt: float) -> None:
        self.told.append(rtt)

    def resume_writing(self) -> None:
        self.told.append("resume")


@pytest.fixture
def protocol() -> FakeProtocol:
    return FakeProtocol()


@pytest.fixture
def transport(protocol: FakeProtocol) -> DaphneTransport:
    made = DaphneTransport(cast("WebSocketProtocol", protocol))
    made.listener = Listener()
    return made


def told(transport: DaphneTransport) -> list[Any]:
    return cast("Listener", transport.listener).told


def test_a_frame_is_framed_once_for_all_sockets(monkeypatch: pytest.MonkeyPatch) -> None:
    protocols = [FakeProtocol(), FakeProtocol()]
    frame = Frame("hello")
    for protocol in protocols:
        DaphneTransport(cast("WebSocketProtocol", protocol)).write(frame)
    (first,), (second,) = (protocol.written for protocol in protocols)
    assert first == wire.frame("hello")
    assert first is second


def test_nothing_is_written_to_a_socket_that_is_not_open(
    transport: DaphneTransport, protocol: FakeProtocol
) -> None:
    protocol.state = 2
    transport.write(Frame("late"))
    assert protocol.written == []


def test_the_answer_to_a_ping_tells_how_long_it_took(
    transport: DaphneTransport, protocol: FakeProtocol
) -> None:
    transport.ping()
    started = time.monotonic()
    transport.ponged(protocol.pings[0])
    (rtt,) = told(transport)
    assert 0 <= rtt <= time.monotonic() - started + 0.01


@pytest.mark.parametrize(
    "payload",
    [
        pytest.param(b"", id="empty"),
        pytest.param(struct.pack("!d", 0.0) + b"1234", id="made up"),
    ],
)
def test_a_pong_that_nobody_asked_for_is_ignored(transport: DaphneTransport, payload: bytes) -> None:
    transport.ponged(payload)
    transport.ping()
    transport.ponged(payload)
    assert told(transport) == []


def test_a_pong_counts_once(transport: DaphneTransport, protocol: FakeProtocol) -> None:
    transport.ping()
    transport.ponged(protocol.pings[0])
    transport.ponged(protocol.pings[0])
    assert len(told(transport)) == 1


def test_it_is_not_writable_from_pause_to_resume_and_says_when(transport: DaphneTransport) -> None:
    assert transport.writable
    transport.pauseProducing()
    assert not transport.writable
    transport.resumeProducing()
    assert transport.writable
    assert told(transport) == ["resume"]


@pytest.mark.parametrize("end", ["resumeProducing", "stopProducing", "release"])
async def test_who_waits_goes_on_when_there_is_room_or_nobody_left(
    transport: DaphneTransport, end: str
) -> None:
    transport.pauseProducing()
    waiting = asyncio.ensure_future(transport.drained())
    await asyncio.sleep(0)
    assert not waiting.done()
    getattr(transport, end)()
    await asyncio.wait_for(waiting, 1)


def test_the_rest_is_asked_of_the_protocol(transport: DaphneTransport, protocol: FakeProtocol) -> None:
    transport.close(4001, "so it is")
    transport.abort()
    transport.heard()
    assert protocol.ended == [(4001, "so it is"), "abort"]
    assert transport.buffered_bytes == 7
    assert transport.is_open
    assert told(transport) == ["heard"]
