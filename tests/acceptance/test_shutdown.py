"""The end of a real server: everybody is told, everything is cleaned up, nothing is waited for in vain."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import time
from collections.abc import Iterator
from contextlib import AsyncExitStack, ExitStack, contextmanager
from pathlib import Path
from typing import Any

import pytest
from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed

from tests.acceptance import rawclient
from tests.acceptance.processes import (
    Ended,
    ServerProcess,
    daphne,
    free_port,
    manage,
    run,
    uvicorn,
    wait_for_lines,
)
from tests.acceptance.rawclient import RawClient

PLAIN = "tests.acceptance.apps.plain:application"
CONSUMERS = "tests.acceptance.apps.consumers:application"
SETTINGS = {"DJANGO_SETTINGS_MODULE": "tests.acceptance.apps.settings"}


class Noted(ServerProcess):
    """A server whose application writes notes."""

    notes: Path

    async def stopped(self, number: int = signal.SIGTERM) -> Ended:
        """Stop it without keeping the clients of this loop from answering."""
        return await asyncio.to_thread(self.stop, number)


@contextmanager
def serving(folder: Path, command: list[str], port: int, **environment: str) -> Iterator[Noted]:
    notes = folder / "notes"
    notes.touch()
    with Noted(command, port, {"NOTES": str(notes), **environment}) as server:
        server.notes = notes
        yield server


@contextmanager
def daphne_serving(folder: Path, application: str = PLAIN, **environment: str) -> Iterator[Noted]:
    port = free_port()
    with serving(folder, daphne(application, port), port, **environment) as server:
        yield server


async def end_of(socket: ClientConnection) -> tuple[int | None, list[Any]]:
    """Read until the end; return the close code and the messages before."""
    messages = []
    try:
        while True:
            messages.append(await socket.recv())
    except ConnectionClosed as closed:
        return (closed.rcvd.code if closed.rcvd is not None else None), messages


def wait_until_still(notes: Path) -> None:
    """Return when an application that writes notes all the time has stopped: it waits for its client."""
    before = -1
    while (now := len(wait_for_lines(notes, 1))) != before:
        before = now
        time.sleep(0.5)


def assert_orderly(ended: Ended, seconds: float) -> None:
    """The process ended by itself, without a complaint, in time."""
    assert ended.code == 0
    assert "Traceback" not in ended.stderr
    assert "Task was destroyed" not in ended.stderr
    assert ended.seconds < seconds


async def test_sigterm_tells_every_client_and_every_consumer_cleans_up(tmp_path: Path) -> None:
    with daphne_serving(tmp_path, CONSUMERS) as server:
        async with AsyncExitStack() as stack:
            plain = [await stack.enter_async_context(connect(f"{server.ws}/plain")) for _ in range(20)]
            ours = [await stack.enter_async_context(connect(f"{server.ws}/ours")) for _ in range(20)]
            for socket in ours:
                await socket.recv()
                await socket.recv()
            ending = asyncio.ensure_future(server.stopped())
            ends = await asyncio.gather(*(end_of(socket) for socket in [*plain, *ours]))
            ended = await ending
    assert {code for code, _ in ends} == {1012}
    for _, messages in ends[20:]:
        closing = json.loads(messages[-1])
        assert closing["type"] == "system.closing"
        assert (closing["data"]["code"], closing["data"]["retry"]) == (1012, True)
        assert 0 <= closing["data"]["retry_after"] <= 2
    assert (
        sorted((tmp_path / "notes").read_text().split("\n")[:-1]) == ["ours 1012"] * 20 + ["plain 1012"] * 20
    )
    assert "Drained: 40 closed, 0 forced" in ended.stderr
    assert_orderly(ended, seconds=5)


@pytest.mark.parametrize("delay", [0.0, 0.02, 0.3, 0.9])
@pytest.mark.parametrize("application", [PLAIN, CONSUMERS])
async def test_sigterm_right_after_an_upgrade(tmp_path: Path, application: str, delay: float) -> None:
    """daphne keeps the request of the upgrade for a second after it, and fell over it."""
    path = "/note" if application == PLAIN else "/ours"
    with daphne_serving(tmp_path, application) as server:
        async with connect(f"{server.ws}{path}") as socket:
            await asyncio.sleep(delay)
            ending = asyncio.ensure_future(server.stopped())
            code, _ = await end_of(socket)
            ended = await ending
    assert code == 1012
    assert "1012" in (tmp_path / "notes").read_text()
    assert_orderly(ended, seconds=5)


async def test_sigterm_with_nobody_there_ends_at_once(tmp_path: Path) -> None:
    with daphne_serving(tmp_path) as server:
        assert_orderly(server.stop(), seconds=2)


async def test_a_request_in_flight_gets_its_whole_response(tmp_path: Path) -> None:
    with daphne_serving(tmp_path) as server, RawClient(server.port) as client:
        client.send(b"GET /slow HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n")
        wait_for_lines(server.notes, 1)
        server.send_signal()
        response = client.response()
        ended = server.wait()
    assert (response.status, len(response.body)) == (200, 1_000_005)
    assert response.headers["connection"] == "close"
    assert_orderly(ended, seconds=5)


async def test_nothing_new_is_let_in(tmp_path: Path) -> None:
    with daphne_serving(tmp_path) as server, RawClient(server.port) as kept, RawClient(server.port) as busy:
        kept.send(b"GET / HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n")
        assert kept.response().body == b"home"
        busy.open("/slow-goodbye")
        server.send_signal()
        assert busy.close_frame()[0] == 1012
        response = kept.open("/echo")
        assert response.status == 503
        assert int(response.headers["retry-after"]) >= 1
        with pytest.raises(OSError, match="refused"):
            RawClient(server.port)
        busy.send(rawclient.close(1012))
        assert_orderly(server.wait(), seconds=5)
    assert (tmp_path / "notes").read_text() == "cleaned up after 1012\n"


async def test_a_handshake_that_waits_for_its_answer_gets_503(tmp_path: Path) -> None:
    with daphne_serving(tmp_path) as server, RawClient(server.port) as client:
        client.send(rawclient.handshake("/never-accepts"))
        wait_for_lines(server.notes, 1)
        server.send_signal()
        assert client.response().status == 503
        assert_orderly(server.wait(), seconds=5)
    assert (tmp_path / "notes").read_text() == "waiting\nwebsocket.disconnect\n"


async def test_so_it_does_at_a_consumer_of_ours(tmp_path: Path) -> None:
    with (
        daphne_serving(tmp_path, CONSUMERS, REALTIME_DRAIN_TIMEOUT="1") as server,
        RawClient(server.port) as client,
    ):
        client.send(rawclient.handshake("/hesitating"))
        wait_for_lines(server.notes, 1)
        server.send_signal()
        assert client.response().status == 503
        assert_orderly(server.wait(), seconds=5)


async def test_a_client_that_never_answers_holds_nobody_up(tmp_path: Path) -> None:
    with daphne_serving(tmp_path) as server, RawClient(server.port) as dead:
        dead.open("/note")
        async with connect(f"{server.ws}/note") as alive:
            ending = asyncio.ensure_future(server.stopped())
            assert (await end_of(alive))[0] == 1012
            ended = await ending
        assert dead.close_frame()[0] == 1012
    assert len((tmp_path / "notes").read_text().splitlines()) == 2
    assert "Drained: 1 closed, 1 forced" in ended.stderr
    assert_orderly(ended, seconds=6)


@pytest.mark.parametrize(("application", "path"), [(PLAIN, "/note"), (CONSUMERS, "/ours")])
async def test_of_clients_that_never_answer_each_is_counted_as_forced(
    tmp_path: Path, application: str, path: str
) -> None:
    """They are told over five seconds, and the server gives up by itself who has not answered for five."""
    how = {"REALTIME_DRAIN_BATCH": "1", "REALTIME_DRAIN_TIMEOUT": "20"}
    with daphne_serving(tmp_path, application, **how) as server, ExitStack() as stack:
        for _ in range(26):
            stack.enter_context(RawClient(server.port)).open(path)
        ended = await server.stopped()
    assert "Drained: 0 closed, 26 forced" in ended.stderr
    assert_orderly(ended, seconds=12)


async def test_a_client_that_does_not_read_holds_nobody_up(tmp_path: Path) -> None:
    with daphne_serving(tmp_path) as server, RawClient(server.port) as client:
        client.open("/pour")
        wait_until_still(server.notes)
        assert_orderly(server.stop(), seconds=8)


async def test_a_kept_connection_ends_with_its_last_response(tmp_path: Path) -> None:
    with (
        daphne_serving(tmp_path, REALTIME_DRAIN_TIMEOUT="4") as server,
        RawClient(server.port) as stuck,
        RawClient(server.port) as client,
    ):
        stuck.open("/never-ends")
        client.send(b"GET /slow HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n")
        wait_for_lines(server.notes, 1)
        server.send_signal()
        client.response()
        assert client.rest() == b""
        assert server.notes.read_text() == "request began\n"
        assert_orderly(server.wait(), seconds=6)


@pytest.mark.setting("REALTIME_DRAIN_TIMEOUT")
async def test_a_consumer_that_never_ends_is_cancelled_when_the_time_is_over(tmp_path: Path) -> None:
    with daphne_serving(tmp_path, REALTIME_DRAIN_TIMEOUT="1") as server:
        async with connect(f"{server.ws}/never-ends") as socket:
            ending = asyncio.ensure_future(server.stopped())
            assert (await end_of(socket))[0] == 1012
            ended = await ending
    assert (tmp_path / "notes").read_text() == "cancelled\n"
    assert "Drained: 0 closed, 1 forced" in ended.stderr
    assert ended.seconds >= 1
    assert_orderly(ended, seconds=4)


async def test_without_a_drain_timeout_nobody_is_waited_for(tmp_path: Path) -> None:
    with daphne_serving(tmp_path, REALTIME_DRAIN_TIMEOUT="0") as server, RawClient(server.port) as client:
        client.open("/note")
        assert_orderly(server.stop(), seconds=2)
        assert client.close_frame()[0] == 1012


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
async def test_a_second_signal_ends_the_process_at_once(tmp_path: Path, number: int) -> None:
    with daphne_serving(tmp_path) as server:
        async with connect(f"{server.ws}/never-ends") as socket:
            server.send_signal(number)
            assert (await end_of(socket))[0] == 1012
            ended = await server.stopped(number)
    assert ended.code == -number
    assert ended.seconds < 1
    assert "Traceback" not in ended.stderr


COMMANDS = {
    "daphne": lambda port: daphne(CONSUMERS, port),
    "serve": lambda port: manage("serve", "--port", str(port)),
    "runserver --noreload": lambda port: manage("runserver", "--noreload", str(port)),
    "runserver": lambda port: manage("runserver", str(port)),
}


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
@pytest.mark.parametrize("name", COMMANDS)
async def test_every_command_ends_in_order(tmp_path: Path, name: str, number: int) -> None:
    port = free_port()
    project = {**SETTINGS, "ASGI_APPLICATION": CONSUMERS.replace(":", ".")}
    with serving(tmp_path, COMMANDS[name](port), port, **project) as server:
        async with connect(f"{server.ws}/ours") as ours, connect(f"{server.ws}/plain") as plain:
            # Of a reloader's two processes the server is the lower one; the upper one kills it when asked to stop.
            os.kill(server.child() if name == "runserver" else server.process.pid, number)
            assert (await end_of(ours))[0] == 1012
            assert (await end_of(plain))[0] == 1012
            ended = await asyncio.to_thread(server.wait)
    assert sorted((tmp_path / "notes").read_text().splitlines()) == ["ours 1012", "plain 1012"]
    assert_orderly(ended, seconds=8)


INTERRUPTED = "tests.acceptance.apps.interrupted:application"
EARLY = {
    **{name: command for name, command in COMMANDS.items() if name != "runserver"},
    "daphne": lambda port: daphne(INTERRUPTED, port),
    "serve with workers": lambda port: [*COMMANDS["serve"](port), "--workers", "2", "--allow-split-rooms"],
}


def interrupted(folder: Path, name: str, number: int, port: int, **environment: str) -> Ended:
    """Run a server that is sent a signal before its loop runs, in which it could mind it; return how it ended."""
    own = {"ASGI_APPLICATION": INTERRUPTED.replace(":", "."), "INTERRUPT": str(int(number)), **environment}
    return run(EARLY[name](port), {**SETTINGS, "NOTES": str(folder / "notes"), **own})


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
@pytest.mark.parametrize("name", EARLY)
def test_a_signal_in_the_moment_in_which_the_port_is_taken(tmp_path: Path, name: str, number: int) -> None:
    port = free_port()
    assert_orderly(interrupted(tmp_path, name, number, port, AT_PORT=str(port)), seconds=20)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
@pytest.mark.parametrize("name", ["daphne", "runserver --noreload"])
def test_a_signal_in_the_moment_in_which_it_says_that_it_listens(
    tmp_path: Path, name: str, number: int
) -> None:
    """daphne does, some milliseconds before its reactor runs; ``serve`` says nothing of that."""
    ended = interrupted(tmp_path, name, number, free_port())
    assert "Listening on TCP address" in ended.stderr or name != "daphne"
    assert "Drained: 0 closed, 0 forced" in ended.stderr
    assert_orderly(ended, seconds=20)


async def test_ctrl_c_at_a_reloading_runserver_makes_no_traceback(tmp_path: Path) -> None:
    """A terminal sends it to both processes; the upper one leaves the lower a quarter of a second."""
    port = free_port()
    with serving(tmp_path, COMMANDS["runserver"](port), port, **SETTINGS) as server:
        async with connect(f"{server.ws}/note") as socket:
            for process in (server.child(), server.process.pid):
                os.kill(process, signal.SIGINT)
            assert (await end_of(socket))[0] == 1012
            ended = await asyncio.to_thread(server.wait)
    assert (tmp_path / "notes").read_text().startswith("1012")
    assert "Traceback" not in ended.stderr


async def test_uvicorn_serves_and_ends_without_a_complaint(tmp_path: Path) -> None:
    port = free_port()
    with serving(tmp_path, uvicorn(CONSUMERS, port, "--timeout-graceful-shutdown", "5"), port) as server:
        async with connect(f"{server.ws}/ours") as ours, connect(f"{server.ws}/plain") as plain:
            assert json.loads(await ours.recv())["type"] == "system.welcome"
            await plain.send("hello")
            assert await plain.recv() == "hello"
            ended = await server.stopped()
    assert "Traceback" not in ended.stderr
