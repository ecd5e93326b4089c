"""The loads against small servers, honest and not: what is lost, wrong, twice or out of order must not become a number."""

from __future__ import annotations

import argparse
import asyncio
import gc
import threading
import types
from collections.abc import Callable

import pytest
from websockets.asyncio.server import ServerConnection, broadcast, serve
from websockets.sync.server import serve as serve_in_thread

from benchmarks import handshakes, holding, load, marks, opening


@pytest.fixture(autouse=True)
def _garbage():
    """A load turns the collector off."""
    yield
    gc.enable()


def options(url: str, **more: object) -> argparse.Namespace:
    parsed = load.parsed(["echo", url, "--seconds", "0.15", "--warmup", "0.05", "--connections", "4"])
    return argparse.Namespace(**{**vars(parsed), **more})


async def run(kind: str, handle: Callable, *, compression: str | None = None, **more: object):
    meter = load.Meter()
    # Without a bound of its own: a server that has stopped reading would not see the load leave.
    async with serve(handle, "127.0.0.1", 0, compression=compression, max_queue=None) as server:
        port = server.sockets[0].getsockname()[1]
        result = await load.LOADS[kind](options(f"ws://127.0.0.1:{port}/", **more), meter)
        return result, meter.problems


@pytest.fixture(autouse=True)
def _patience(monkeypatch):
    """Not to wait long for what is lost, and not to mind a machine that does other things as well."""
    monkeypatch.setattr(load, "ANSWER_TIMEOUT", 0.7)
    monkeypatch.setattr(load, "KEPT_UP", 0.3)


async def honest(socket: ServerConnection) -> None:
    async for message in socket:
        await socket.send(message)


def forgetting(number: int, count: int = 0) -> Callable:
    async def handle(socket: ServerConnection) -> None:
        seen = 0
        async for message in socket:
            seen += 1
            if seen != number:
                await socket.send(message)
            for _ in range(count if seen == number else 0):
                await socket.send(message)

    return handle


async def closing(socket: ServerConnection) -> None:
    await socket.recv()
    await socket.close(1011)


@pytest.mark.parametrize("kind", ["echo", "paced"])
async def test_an_honest_echo_is_counted(kind):
    result, problems = await run(kind, honest, rate=400.0)
    assert problems == []
    assert result["answers"] > 20
    assert 0 < result["p50_ms"] <= result["p99_ms"]
    assert result["load_share"] > 0


@pytest.mark.parametrize("kind", ["echo", "paced"])
async def test_a_lost_message_is_a_problem(kind):
    _, problems = await run(kind, forgetting(3), rate=400.0)
    assert problems != []


async def test_one_lost_message_among_many_sockets_is_a_problem():
    lossy = forgetting(3)
    opened = 0

    async def handle(socket: ServerConnection) -> None:
        nonlocal opened
        opened += 1
        await (lossy if opened == 1 else honest)(socket)

    result, problems = await run("echo", handle)
    assert result["answers"] > 4
    assert problems == ["1 sockets still wait 0.7 s after the last message"]


@pytest.mark.parametrize("kind", ["echo", "paced"])
async def test_an_answer_that_comes_twice_is_a_problem(kind):
    _, problems = await run(kind, forgetting(3, count=2), rate=400.0)
    assert any("not the answer that was due" in problem for problem in problems)


@pytest.mark.parametrize("kind", ["echo", "paced"])
async def test_a_wrong_answer_is_a_problem(kind):
    async def handle(socket: ServerConnection) -> None:
        async for message in socket:
            await socket.send(message + "!")

    _, problems = await run(kind, handle, rate=400.0)
    assert any("not the answer that was due" in problem for problem in problems)


async def test_a_socket_that_is_closed_is_a_problem():
    _, problems = await run("echo", closing)
    assert any("closed with" in problem for problem in problems)


async def test_what_the_server_puts_in_front_is_expected():
    async def handle(socket: ServerConnection) -> None:
        async for message in socket:
            await socket.send(f"Echo: {message}")

    _, problems = await run("echo", handle, prefix="Echo: ")
    assert problems == []


async def test_a_server_that_falls_behind_the_rate_is_a_problem():
    async def slow(socket: ServerConnection) -> None:
        async for message in socket:
            await asyncio.sleep(0.15)
            await socket.send(message)

    _, problems = await run("paced", slow, rate=60.0, connections=1)
    assert any(problem.startswith("only") for problem in problems)


async def test_latency_counts_from_when_a_message_was_due():
    """The server answers at once, after a pause in which twenty messages were due."""

    async def pausing(socket: ServerConnection) -> None:
        first = True
        async for message in socket:
            if not first:
                await asyncio.sleep(0.05)
            first = False
            await socket.send(message)

    result, _ = await run("paced", pausing, rate=40.0, connections=1)
    assert result["p99_ms"] > 60


async def test_a_broadcast_reaches_everybody_in_order():
    members: set[ServerConnection] = set()

    async def room(socket: ServerConnection) -> None:
        members.add(socket)
        async for message in socket:
            broadcast(members, message)

    result, problems = await run("broadcast", room)
    assert problems == []
    assert result["answers"] % 4 <= 4
    assert result["answers"] > 20


async def test_a_member_that_misses_a_message_is_a_problem():
    members: list[ServerConnection] = []
    told = 0

    async def room(socket: ServerConnection) -> None:
        nonlocal told
        members.append(socket)
        async for message in socket:
            told += 1
            broadcast(members[1:] if told == 5 else members, message)

    _, problems = await run("broadcast", room)
    assert any("came where" in problem for problem in problems)


@pytest.mark.parametrize(
    ("server", "client"), [("deflate", False), (None, True)], ids=["not agreed", "not done"]
)
async def test_a_broadcast_is_compressed_where_that_is_demanded(server, client):
    members: set[ServerConnection] = set()

    async def room(socket: ServerConnection) -> None:
        members.add(socket)
        async for message in socket:
            broadcast(members, message)

    _, problems = await run("broadcast", room, compression=server, compressed=client)
    assert any("compressed" in problem for problem in problems) is client
    if server:
        assert (await run("broadcast", room, compression=server, compressed=True))[1] == []


async def test_the_raw_load_takes_an_answer_that_comes_in_pieces():
    async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while data := await reader.read(1000):
            writer.write(data[:10])
            await writer.drain()
            await asyncio.sleep(0.001)
            writer.write(data[10:])
        writer.close()

    meter = load.Meter()
    async with await asyncio.start_server(handle, "127.0.0.1", 0) as server:
        port = server.sockets[0].getsockname()[1]
        result = await load.tcp(options(f"ws://127.0.0.1:{port}/"), meter)
        # The server's side of each connection ends with the client's.
        await asyncio.sleep(0.05)
    assert meter.problems == []
    assert result["answers"] > 4


class TestPace:
    """Times are nanoseconds; a message each millisecond."""

    pace = load.Pace(1_000_000_000, 1000.0)

    @pytest.mark.parametrize(
        ("now", "due"),
        [(999_999_999, 0), (1_000_000_000, 1), (1_000_999_999, 1), (1_001_000_000, 2)],
        ids=str,
    )
    def test_messages_become_due_one_by_one(self, now, due):
        assert self.pace.due(now) == due

    def test_each_message_has_its_time(self):
        assert [self.pace.at(number) for number in (0, 1, 1000)] == [
            1_000_000_000,
            1_001_000_000,
            2_000_000_000,
        ]


class TestPacer:
    """A message each millisecond, by two sockets; the loop and the clock are moved by hand."""

    @pytest.fixture
    def paced(self, monkeypatch):
        def make(tick: float) -> tuple[types.SimpleNamespace, Callable[[float], None]]:
            state = types.SimpleNamespace(sent=[], scheduled=[], meter=load.Meter(open=True))
            now = 5_000_000
            monkeypatch.setattr(load.time, "monotonic_ns", lambda: now)
            loop = types.SimpleNamespace(
                call_soon=lambda beat: state.scheduled.append(("soon", beat)),
                call_later=lambda delay, beat: state.scheduled.append((delay, beat)),
            )
            monkeypatch.setattr(load.asyncio, "get_running_loop", lambda: loop)
            sockets = [
                types.SimpleNamespace(
                    send=lambda number, due_at, name=name: state.sent.append((name, number))
                )
                for name in "ab"
            ]
            pacer = load.Pacer(state.meter, sockets, 1000.0, tick)

            def beat(milliseconds: float) -> None:
                nonlocal now
                now = 5_000_000 + int(milliseconds * 1e6)
                pacer.beat()

            return state, beat

        return make

    def test_what_is_due_is_sent_by_the_sockets_in_turn(self, paced):
        state, beat = paced(0.0)
        beat(0.0)
        beat(0.9)
        assert state.sent == [("a", 0)]
        beat(3.5)
        assert state.sent == [("a", 0), ("b", 1), ("a", 2), ("b", 3)]
        assert state.meter.late == [0, 2_500_000, 1_500_000, 500_000]

    @pytest.mark.parametrize(("tick", "comes_again"), [(0.0, "soon"), (0.002, 0.002)])
    def test_it_looks_again_in_the_next_turn_or_after_a_tick(self, paced, tick, comes_again):
        state, beat = paced(tick)
        beat(0.0)
        assert [when for when, _ in state.scheduled] == [comes_again]

    def test_it_ends_with_the_measurement(self, paced):
        state, beat = paced(0.0)
        state.meter.stopped = True
        beat(10.0)
        assert state.sent == state.scheduled == []


@pytest.fixture
def threaded():
    """Return a function that serves with ``websockets`` in a thread, and returns the address."""
    running = []

    def start(handle: Callable, **more: object) -> str:
        server = serve_in_thread(handle, "127.0.0.1", 0, **more)
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        running.append((server, thread))
        return f"ws://127.0.0.1:{server.socket.getsockname()[1]}/echo"

    yield start
    for server, thread in running:
        server.shutdown()
        thread.join()


def echo(socket) -> None:
    for message in socket:
        socket.send(message)


def uncompressed(socket) -> None:
    """Answer as if nothing about compression had been agreed."""
    socket.protocol.extensions.clear()
    socket.send("short")


class TestHandshakes:
    def run(self, url: str) -> tuple[dict, list[str]]:
        meter = handshakes.Meter()
        words = [url, "--connections", "3", "--seconds", "0.2", "--warmup", "0"]
        return handshakes.run(handshakes.parsed(words), meter), meter.problems

    def test_each_lane_opens_one_after_the_other(self, threaded):
        result, problems = self.run(threaded(echo))
        assert problems == []
        assert result["answers"] > 6
        assert result["p50_ms"] > 0

    def test_a_refusal_is_a_problem(self, threaded):
        refuse = lambda connection, request: connection.respond(403, "no")  # noqa: E731
        _, problems = self.run(threaded(echo, process_request=refuse))
        assert problems[0].startswith("refused: b'HTTP/1.1 403")


class TestHolding:
    def run(self, url: str, *more: str) -> dict:
        return holding.run(holding.parsed([url, "--first", "2", "--connections", "3", *more]))

    @pytest.fixture(autouse=True)
    def _answered(self, monkeypatch):
        monkeypatch.setattr("benchmarks.marks.tell_and_wait", lambda mark: None)
        monkeypatch.setattr(holding, "SETTLING", 0.05)

    @pytest.mark.parametrize("more", [(), ("--compressed",)], ids=["silent", "compressed"])
    def test_sockets_are_opened_and_stay_open(self, threaded, more):
        assert self.run(threaded(echo), *more) == {"answers": 3, "problems": []}

    def test_a_server_that_does_not_compress_is_refused(self, threaded):
        with pytest.raises(holding.Refused, match="not agreed to"):
            self.run(threaded(echo, compression=None), "--compressed")

    def test_a_server_that_agrees_and_does_not_compress_is_refused(self, threaded):
        with pytest.raises(holding.Refused, match="not compressed"):
            self.run(threaded(uncompressed), "--compressed")

    def test_a_server_that_answers_something_else_is_refused(self, threaded):
        with pytest.raises(holding.Refused, match="not what was sent"):
            self.run(threaded(lambda socket: socket.send("short")), "--compressed")

    def test_a_socket_that_is_closed_is_a_problem(self, threaded, monkeypatch):
        closed = threading.Semaphore(0)

        def closes(socket):
            socket.close_socket()
            closed.release()

        def wait_until_all_are(mark):
            for _ in range({marks.BEGIN: 2, marks.END: 3}[mark]):
                assert closed.acquire(timeout=5)

        monkeypatch.setattr("benchmarks.marks.tell_and_wait", wait_until_all_are)
        assert self.run(threaded(closes))["problems"] == ["5 sockets were closed while they were held"]


def test_a_masked_frame_carries_its_length():
    assert opening.masked(0x81, b"hi") == b"\x81\x82\0\0\0\0hi"
    assert opening.masked(0x81, bytes(300))[:8] == b"\x81\xfe\x01\x2c\0\0\0\0"


def test_what_is_deflated_can_be_inflated():
    said = opening.text(1000)
    assert len(said) == 1000
    assert opening.inflated(opening.deflated(said)) == said
    assert len(opening.deflated(said)) < 500
