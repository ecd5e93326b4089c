"""Clients that mean harm: each costs bounded memory and time, is told what it did, and slows down nobody else."""

from __future__ import annotations

import socket
import time
import zlib
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

import pytest
from websockets.frames import Opcode

from tests.acceptance import rawclient
from tests.acceptance.neighbour import Neighbour, p99
from tests.acceptance.processes import ServerProcess, daphne, free_port
from tests.acceptance.rawclient import RawClient

MIB = 1024 * 1024
BEFORE = 0.5
"""How long the neighbour is listened to before an attack, in seconds."""
FLOOR = 0.1
FACTOR = 10
"""
How late all but a hundredth of the neighbour's answers may be: ``FLOOR`` seconds, or if that is more ``FACTOR`` times
what it was before the attack, or what the machine made the neighbour itself wait during it.

Undisturbed an answer takes a millisecond. During an attack three processes, the attacker, the server and the
neighbour, share what may be two cores, so some answers wait for a few time slices of the scheduler's, a few
milliseconds each, whatever the server does; and the fallback needs up to 30 ms for the smallest frames that fit into
one read. A server that works an attack off in one go keeps everybody waiting for as long as that takes: several
tenths of a second for each of the attacks below.
"""

ENGINES = ("native", "daphne")


@pytest.fixture(scope="module", params=ENGINES)
def engine(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture(scope="module")
def server(engine: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServerProcess]:
    port = free_port()
    environment = {
        "NOTES": str(tmp_path_factory.mktemp("hostile") / "notes"),
        "REALTIME_COMPRESSION": "deflate",
        "REALTIME_ENGINE": engine,
    }
    with ServerProcess(daphne("tests.acceptance.apps.plain:application", port), port, environment) as process:
        yield process
        assert process.stop().code == 0


def forget_peak(server: ServerProcess) -> None:
    Path(f"/proc/{server.process.pid}/clear_refs").write_text("5")


def peak(server: ServerProcess) -> int:
    """Return the most resident memory the server has had since ``forget_peak``, in bytes."""
    status = Path(f"/proc/{server.process.pid}/status").read_text()
    (kib,) = (line.split()[1] for line in status.splitlines() if line.startswith("VmHWM"))
    return int(kib) * 1024


@contextmanager
def nobody_else_notices(server: ServerProcess, most_memory: int = 8 * MIB) -> Iterator[None]:
    """Echo beside whatever happens inside: no answer may be late, and the server never may have grown by more."""
    with Neighbour(server.port) as neighbour:
        time.sleep(BEFORE)
        forget_peak(server)
        memory, began = server.memory(), time.monotonic()
        yield
        grown = peak(server) - memory
        answers = neighbour.stop()
    before = p99([answer.took for answer in answers if answer.asked < began])
    meanwhile = [answer for answer in answers if began <= answer.asked + answer.took]
    during, late = p99([answer.took for answer in meanwhile]), p99([answer.late for answer in meanwhile])
    assert during < max(FLOOR, FACTOR * before, FACTOR * late)
    assert grown < most_memory


NOT_AGREED = 1002
"""How a compressed frame is answered where no compression was agreed on: the fallback never does."""


def compressed(payload: bytes) -> bytes:
    frame = bytearray(rawclient.frame(Opcode.BINARY, payload))
    frame[0] |= 0x40
    return bytes(frame)


# Sizes


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
    with nobody_else_notices(server, most_memory=4 * MIB), RawClient(server.port, timeout=30) as client:
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
def test_deflate_bomb_is_refused_at_the_limit(server: ServerProcess, engine: str, size: int) -> None:
    compressor = zlib.compressobj(9, wbits=-15)
    block = bytes(MIB)
    bomb = b"".join(compressor.compress(block) for _ in range(size // MIB)) + compressor.flush(
        zlib.Z_SYNC_FLUSH
    )
    with nobody_else_notices(server), RawClient(server.port) as client:
        client.open("/echo", "Sec-WebSocket-Extensions: permessage-deflate")
        client.send(compressed(bomb[:-4]))
        assert client.close_frame()[0] == (1009 if engine == "native" else NOT_AGREED)


def test_blocks_that_inflate_to_nothing_are_refused(server: ServerProcess, engine: str) -> None:
    with nobody_else_notices(server), RawClient(server.port) as client:
        client.open("/echo", "Sec-WebSocket-Extensions: permessage-deflate")
        client.send(compressed(b"\x03\x00" * 400_000))
        assert client.close_frame()[0] == (1007 if engine == "native" else NOT_AGREED)


# Floods


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
        # Neither for ever: an application has five seconds to answer.
        client.socket.settimeout(10)
        assert client.response().status == 503


def test_messages_that_never_end_hold_twice_the_limit_at_most(server: ServerProcess, engine: str) -> None:
    """What has come of the message, and of the frame that is coming."""
    count, limit = 16, MIB
    most = (2 if engine == "native" else 1) * count * limit
    with nobody_else_notices(server, most_memory=most + most // 2), ExitStack() as stack:
        clients = [stack.enter_context(RawClient(server.port)) for _ in range(count)]
        for client in clients:
            client.open("/echo")
            client.send(rawclient.frame(Opcode.BINARY, b"x" * (limit - 1), fin=False))
            client.send(rawclient.frame(Opcode.CONT, b"x" * limit)[:-1])
        for client in clients:
            client.send(b"x")
            assert client.close_frame()[0] == 1009


# Connections


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


@pytest.mark.parametrize("engine", ["native"], indirect=True, scope="module")
def test_handshakes_that_dribble_are_dropped_in_time(server: ServerProcess) -> None:
    """The fallback leaves the head to Twisted, which bounds its size, and the time of a line."""
    whole = rawclient.handshake("/echo", "X-Long: " + "x" * 1000)
    started = time.monotonic()
    with nobody_else_notices(server), many(50, lambda sock: sock.sendall(whole[:10]), server.port) as sockets:
        waiting = set(sockets)
        for byte in whole[10:]:
            for sock in list(waiting):
                try:
                    sock.sendall(bytes([byte]))
                except OSError:
                    waiting.discard(sock)
            if not waiting:
                break
            assert time.monotonic() - started < 8
            time.sleep(0.1)
        assert time.monotonic() - started > 4


@pytest.fixture(scope="module")
def pinging(engine: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServerProcess]:
    """A server that pings twice a second, and waits a second for an answer."""
    port = free_port()
    environment = {"NOTES": str(tmp_path_factory.mktemp("pinging") / "notes"), "REALTIME_ENGINE": engine}
    options = ("--ping-interval", "1", "--ping-timeout", "1")
    command = daphne("tests.acceptance.apps.plain:application", port, *options)
    with ServerProcess(command, port, environment) as process:
        yield process


def test_clients_that_are_silently_gone_are_let_go(pinging: ServerProcess) -> None:
    """From here that looks like one who answers no ping."""
    opening = rawclient.handshake("/echo")
    started = time.monotonic()
    with (
        nobody_else_notices(pinging, most_memory=16 * MIB),
        many(200, lambda sock: sock.sendall(opening), pinging.port) as sockets,
    ):
        for sock in sockets:
            with suppress(ConnectionResetError):
                while sock.recv(65536):
                    assert time.monotonic() - started < 8
    assert 1 < time.monotonic() - started < 8


def test_half_a_head_and_a_closed_side_are_let_go_at_once(server: ServerProcess) -> None:
    def half(sock: socket.socket) -> None:
        sock.sendall(b"GET /")
        sock.shutdown(socket.SHUT_WR)

    with nobody_else_notices(server):
        started = time.monotonic()
        with many(50, half, server.port) as sockets:
            for sock in sockets:
                with suppress(ConnectionResetError):
                    assert sock.recv(1) == b""
        # A head that may still come is waited for five seconds.
        assert time.monotonic() - started < 3


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
        assert server.memory() - before < 8 * MIB
