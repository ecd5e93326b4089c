"""Clients that mean harm: each costs bounded memory and time, is told what it did, and slows down nobody else."""

from __future__ import annotations

import socket
import threading
import time
import zlib
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress

import pytest
from websockets.frames import Opcode

from tests.acceptance import rawclient
from tests.acceptance.processes import ServerProcess, daphne, free_port
from tests.acceptance.rawclient import RawClient

MIB = 1024 * 1024
QUIET = 0.3
"""The longest that a well-behaved client may have to wait for its echo while others attack, in seconds."""


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServerProcess]:
    port = free_port()
    environment = {
        "NOTES": str(tmp_path_factory.mktemp("hostile") / "notes"),
        "REALTIME_COMPRESSION": "deflate",
        "REALTIME_ENGINE": "native",
    }
    with ServerProcess(daphne("tests.acceptance.apps.plain:application", port), port, environment) as process:
        yield process
        assert process.stop().code == 0


@contextmanager
def nobody_else_notices(server: ServerProcess, most_memory: int = 8 * MIB) -> Iterator[None]:
    """Echo beside whatever happens inside: no answer may be late, and the server may not have grown."""
    late: list[float] = []
    talking, stop = threading.Event(), threading.Event()

    def talk() -> None:
        with RawClient(server.port) as client:
            client.open("/echo")
            while not stop.is_set():
                started = time.monotonic()
                client.send(rawclient.text("ping"))
                client.frame()
                late.append(time.monotonic() - started)
                talking.set()

    before = server.memory()
    neighbour = threading.Thread(target=talk)
    neighbour.start()
    assert talking.wait(10)
    try:
        yield
        grown = server.memory() - before
    finally:
        stop.set()
        neighbour.join()
    assert sorted(late)[int(len(late) * 0.99)] < QUIET
    assert grown < most_memory


def compressed(payload: bytes) -> bytes:
    frame = bytearray(rawclient.frame(Opcode.BINARY, payload))
    frame[0] |= 0x40
    return bytes(frame)


def test_header_that_claims_a_gibibyte_is_refused_before_its_payload(server: ServerProcess) -> None:
    with nobody_else_notices(server), RawClient(server.port) as client:
        client.open("/echo")
        client.send(b"\x82\xff" + (1 << 30).to_bytes(8, "big") + b"abcd")
        assert client.close_frame()[0] == 1009


def test_client_that_sends_on_after_its_refusal_reads_it_all_the_same(server: ServerProcess) -> None:
    with nobody_else_notices(server), RawClient(server.port) as client:
        client.open("/echo")
        client.send(b"\x82\xff" + (1 << 30).to_bytes(8, "big") + b"abcd" + b"x" * (16 * MIB))
        assert client.close_frame()[0] == 1009


def test_a_hundred_thousand_fragments_are_counted_by_their_bytes(server: ServerProcess) -> None:
    with nobody_else_notices(server), RawClient(server.port, timeout=30) as client:
        client.open("/echo")
        client.send(
            rawclient.frame(Opcode.BINARY, b"", fin=False)
            + rawclient.frame(Opcode.CONT, b"", fin=False) * 100_000
            + rawclient.frame(Opcode.CONT, b"end")
        )
        assert client.frame().data == b"end"


def test_fragments_without_an_end_are_refused_at_the_limit(server: ServerProcess) -> None:
    with nobody_else_notices(server), RawClient(server.port, timeout=30) as client:
        client.open("/echo")
        part = rawclient.frame(Opcode.CONT, b"x" * 1000, fin=False)
        client.send(rawclient.frame(Opcode.BINARY, b"", fin=False) + part * 1100)
        assert client.close_frame()[0] == 1009


@pytest.mark.parametrize("size", [64 * MIB, 1024 * MIB], ids=["64 MiB", "1 GiB"])
def test_deflate_bomb_is_refused_at_the_limit(server: ServerProcess, size: int) -> None:
    compressor = zlib.compressobj(9, wbits=-15)
    block = bytes(MIB)
    bomb = b"".join(compressor.compress(block) for _ in range(size // MIB)) + compressor.flush(
        zlib.Z_SYNC_FLUSH
    )
    with nobody_else_notices(server), RawClient(server.port) as client:
        client.open("/echo", "Sec-WebSocket-Extensions: permessage-deflate")
        client.send(compressed(bomb[:-4]))
        assert client.close_frame()[0] == 1009


def test_blocks_that_inflate_to_nothing_are_refused(server: ServerProcess) -> None:
    with nobody_else_notices(server), RawClient(server.port) as client:
        client.open("/echo", "Sec-WebSocket-Extensions: permessage-deflate")
        client.send(compressed(b"\x03\x00" * 400_000))
        assert client.close_frame()[0] == 1007


def _flood(server: ServerProcess, path: str, data: bytes, seconds: float) -> int:
    """Send without reading until nobody takes it, or time is over; return how many bytes went."""
    sent = 0
    with RawClient(server.port, timeout=0.5) as client:
        client.open(path)
        until = time.monotonic() + seconds
        while time.monotonic() < until:
            try:
                sent += client.socket.send(data)
            except TimeoutError:
                break
    return sent


@pytest.mark.parametrize(
    ("path", "frame"),
    [
        pytest.param("/echo", rawclient.frame(Opcode.PING, b"x" * 100), id="pings"),
        pytest.param("/echo", rawclient.frame(Opcode.PING), id="small pings"),
        pytest.param("/echo", rawclient.frame(Opcode.PONG), id="pongs"),
        pytest.param("/echo", rawclient.text("x"), id="messages that are echoed"),
        pytest.param("/note", rawclient.text("x"), id="messages that are dropped"),
    ],
)
def test_flood_from_a_client_that_never_reads(server: ServerProcess, path: str, frame: bytes) -> None:
    with nobody_else_notices(server):
        _flood(server, path, frame * (65536 // len(frame)), seconds=1.5)


def test_client_that_never_reads_is_not_sent_more_than_fits(server: ServerProcess) -> None:
    with nobody_else_notices(server), RawClient(server.port) as client:
        client.open("/pour")
        time.sleep(0.5)


def test_bytes_before_accept_stay_with_the_kernel(server: ServerProcess) -> None:
    with nobody_else_notices(server), RawClient(server.port, timeout=0.5) as client:
        client.send(rawclient.handshake("/never-accepts"))
        with pytest.raises(TimeoutError):
            client.send(b"\x82" * (64 * MIB))


@contextmanager
def many(number: int, prepare: Callable[[socket.socket], None], port: int) -> Iterator[list[socket.socket]]:
    with ExitStack() as stack:
        found = [
            stack.enter_context(socket.create_connection(("127.0.0.1", port), timeout=10))
            for _ in range(number)
        ]
        for sock in found:
            prepare(sock)
        yield found


@pytest.mark.parametrize(
    "start",
    [
        pytest.param(b"", id="nothing"),
        pytest.param(b"GET /echo HTTP/1.1\r\nHost: x\r\n", id="half a head"),
        pytest.param(rawclient.handshake("/echo"), id="a handshake, and then nothing"),
    ],
)
def test_hundreds_of_half_open_connections_are_cheap(server: ServerProcess, start: bytes) -> None:
    with (
        nobody_else_notices(server, most_memory=16 * MIB),
        many(300, lambda sock: sock.sendall(start), server.port),
    ):
        time.sleep(0.3)


def test_half_a_head_and_a_closed_side_are_let_go_at_once(server: ServerProcess) -> None:
    def half(sock: socket.socket) -> None:
        sock.sendall(b"GET /")
        sock.shutdown(socket.SHUT_WR)

    started = time.monotonic()
    with nobody_else_notices(server), many(50, half, server.port) as sockets:
        for sock in sockets:
            with suppress(ConnectionResetError):
                assert sock.recv(1) == b""
    assert time.monotonic() - started < 2


def test_large_messages_leave_no_memory_behind(server: ServerProcess) -> None:
    with ExitStack() as stack:
        clients = [stack.enter_context(RawClient(server.port)) for _ in range(40)]
        for client in clients:
            client.open("/echo")
        before = server.memory()
        for client in clients:
            client.send(rawclient.frame(Opcode.BINARY, b"x" * 900_000))
            assert len(client.frame().data) == 900_000
            # The application keeps its last message while it waits for the next.
            client.send(rawclient.text("small"))
            assert client.frame().data == b"small"
        assert server.memory() - before < 16 * MIB
