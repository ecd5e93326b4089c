"""``manage.py serve``."""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import ssl
import subprocess
import sys
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import AsyncExitStack
from pathlib import Path

import pytest
from websockets.asyncio.client import connect, unix_connect

from tests.acceptance import rawclient
from tests.acceptance.messages import expect
from tests.acceptance.processes import ROOT, ServerProcess, daphne, free_port, manage, run, taken_port
from tests.acceptance.rawclient import RawClient
from tests.certificates import new_key, self_signed
from tests.redisserver import RedisServer

PROJECT = {"DJANGO_SETTINGS_MODULE": "tests.acceptance.apps.settings"}
ENOUGH = {"RATELIMIT_MAX_CONNECTIONS": "100"}
"""So few connections that any machine can open the files for them."""


@pytest.mark.parametrize(
    ("words", "environment"),
    [
        pytest.param(lambda port: ["--port", str(port)], lambda port: {}, id="from the command line"),
        pytest.param(lambda port: [], lambda port: {"PORT": str(port)}, id="from the environment"),
    ],
)
async def test_it_says_in_one_line_where_it_serves_and_does(
    words: Callable[[int], list[str]], environment: Callable[[int], dict[str, str]]
) -> None:
    port = free_port()
    with ServerProcess(
        manage("serve", *words(port)), port, {**PROJECT, **ENOUGH, **environment(port)}
    ) as server:
        server.wait_for_output("Serving")
        assert rawclient.get(port, "/").body == b"home"
        async with connect(f"{server.ws}/echo") as socket:
            await socket.send("hello")
            assert await socket.recv() == "hello"
        ended = server.stop(signal.SIGINT)
    assert ended.stdout == f"Serving http://127.0.0.1:{port}/ (Ctrl-C stops)\n"
    assert ended.stderr == "Drained: 0 closed, 0 forced, 0.0 s.\n"
    assert ended.code == 0


def test_a_free_port_is_told() -> None:
    port = free_port()
    with ServerProcess(manage("serve", "--host", "localhost", "--port", str(port)), port, PROJECT) as server:
        server.wait_for_output(f":{port}/")


@pytest.mark.parametrize(
    ("words", "environment", "said"),
    [
        pytest.param(
            ["--host", "no.such.host.invalid"], {}, "Cannot listen on no.such.host.invalid", id="unknown host"
        ),
        pytest.param(
            ["--host", "192.0.2.1"], {}, "Cannot listen on 192.0.2.1", id="an address of somebody else"
        ),
        pytest.param(["--port", "70000"], {}, "'70000' is not a port", id="no such port"),
        pytest.param([], {"PORT": "http"}, "'http' is not a port", id="PORT is not a number"),
        pytest.param(
            [], {"ASGI_APPLICATION": "nowhere.application"}, "ASGI_APPLICATION", id="no application"
        ),
    ],
)
def test_what_is_wrong_is_said_in_one_line(words: list[str], environment: dict[str, str], said: str) -> None:
    ended = run(manage("serve", *words), {**PROJECT, **environment})
    assert ended.code != 0
    assert said in ended.stderr
    assert "Traceback" not in ended.stderr
    assert ended.stdout == ""


def test_a_port_in_use_is_said_in_one_line() -> None:
    with taken_port() as port:
        ended = run(manage("serve", "--port", str(port)), PROJECT)
    assert ended.code == 1
    hint = "stop what listens there, or choose another with --port."
    assert ended.stderr == f"CommandError: Port {port} of 127.0.0.1 is in use: {hint}\n"


# UNIX sockets


class Announced(ServerProcess):
    """A server that listens where its output says."""

    def wait_until_listening(self, seconds: float = 20.0) -> None:
        self.wait_for_output("Serving", seconds)


async def test_a_unix_socket_is_served_and_taken_away_in_the_end(tmp_path: Path) -> None:
    path = tmp_path / "socket"
    with Announced(manage("serve", "--uds", str(path)), 0, PROJECT) as server:
        server.wait_for_output(f"Serving unix:{path}")
        async with unix_connect(str(path), "ws://localhost/echo") as client:
            await client.send("hello")
            assert await client.recv() == "hello"
        assert server.stop().code == 0
    assert not path.exists()


# TLS


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> tuple[str, str]:
    cert, key = self_signed(tmp_path_factory.mktemp("tls"), "localhost")
    return str(cert), str(key)


async def test_tls_serves_https_and_wss(certificate: tuple[str, str]) -> None:
    cert, key = certificate
    port = free_port()
    command = manage("serve", "--port", str(port), "--tls-cert", cert, "--tls-key", key)
    trusting = ssl.create_default_context(cafile=cert)
    trusting.check_hostname = False
    with ServerProcess(command, port, PROJECT) as server:
        server.wait_for_output(f"Serving https://127.0.0.1:{port}/")
        async with connect(f"wss://127.0.0.1:{port}/scope", ssl=trusting) as client:
            assert '"scheme": "wss"' in await client.recv()
        reader, writer = await asyncio.open_connection("127.0.0.1", port, ssl=trusting)
        writer.write(b"GET / HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
        assert b"home" in await reader.read()
        writer.close()
        assert server.stop().code == 0


@pytest.fixture(scope="module")
def locked_key(tmp_path_factory: pytest.TempPathFactory) -> str:
    path = tmp_path_factory.mktemp("locked") / "key.pem"
    new_key(path, password=b"secret")
    return str(path)


@pytest.mark.parametrize(
    ("words", "said"),
    [
        pytest.param(
            ["--tls-cert", "x.pem"], "--tls-cert and --tls-key go together.", id="certificate alone"
        ),
        pytest.param(["--tls-key", "x.pem"], "--tls-cert and --tls-key go together.", id="key alone"),
        pytest.param(
            ["--tls-cert", "x.pem", "--tls-key", "y.pem"], "There is no file x.pem.", id="no such file"
        ),
        pytest.param(
            ["--tls-cert", "{cert}", "--tls-key", "y.pem"], "There is no file y.pem.", id="no such key"
        ),
        pytest.param(
            ["--tls-cert", __file__, "--tls-key", __file__],
            f"{__file__} cannot be used as a certificate in PEM: no start line.",
            id="not a certificate",
        ),
        pytest.param(
            ["--tls-cert", "{cert}", "--tls-key", "{cert}"],
            "{cert} cannot be used as a key in PEM.",
            id="not a key",
        ),
        pytest.param(
            ["--tls-cert", "{cert}", "--tls-key", "{locked_key}"],
            "{locked_key} has a pass phrase: give a key without one.",
            id="a key with a pass phrase",
        ),
        pytest.param(
            ["--tls-cert", "{cert}", "--tls-key", "{other_key}"],
            "{other_key} is not the key of {cert}.",
            id="the key of another certificate",
        ),
        pytest.param(["--workers", "0"], "'0' is not a number of workers: use 1 to 1000.", id="no worker"),
        pytest.param(
            ["--uds", "/nowhere/socket"],
            "Cannot listen at /nowhere/socket: No such file or directory. Check --uds.",
            id="no such folder",
        ),
        pytest.param(
            ["--uds", "/proc/socket"], "Cannot listen at /proc/socket: ", id="a folder nobody may write to"
        ),
        pytest.param(["--uds", "x" * 200], "path too long", id="a path that is too long"),
        pytest.param(
            ["--uds", __file__],
            f"Cannot listen at {__file__}: there is a file that is not a socket. Check --uds.",
            id="a file that is not a socket",
        ),
        pytest.param(
            ["--uds", "/nowhere/socket", "--workers", "2", "--allow-split-rooms"],
            "Cannot listen at /nowhere/socket",
            id="no such folder, with workers",
        ),
        pytest.param(
            ["--workers", "2"],
            "--workers is 2: CHANNEL_LAYERS['default'] is channels.layers.InMemoryChannelLayer, which does not leave"
            " its process.",
            id="rooms that would be split",
        ),
    ],
)
def test_wrong_options_are_said_in_one_line(
    words: list[str], said: str, certificate: tuple[str, str], locked_key: str, tmp_path: Path
) -> None:
    other_key = tmp_path / "other.pem"
    new_key(other_key)
    names = {"cert": certificate[0], "locked_key": locked_key, "other_key": other_key}
    ended = run(manage("serve", "--port", "0", *(word.format(**names) for word in words)), PROJECT)
    assert ended.code != 0
    assert said.format(**names) in ended.stderr
    lines = [line for line in ended.stderr.splitlines() if not line.startswith("usage:") and line[:1] != " "]
    assert len(lines) == 1
    assert ended.stdout == ""


# Workers


def _children(server: ServerProcess) -> set[int]:
    found = subprocess.run(
        ["pgrep", "-P", str(server.process.pid)], capture_output=True, text=True, check=False
    )
    return {int(pid) for pid in found.stdout.split()}


def _until(condition: Callable[[], object]) -> None:
    deadline = time.monotonic() + 20
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.05)


def test_workers_share_the_port_are_replaced_when_they_die_and_drain_together(tmp_path: Path) -> None:
    port, notes = free_port(), tmp_path / "notes"
    command = manage("serve", "--port", str(port), "--workers", "2", "--allow-split-rooms")
    with ServerProcess(command, port, {**PROJECT, "NOTES": str(notes)}) as server:
        server.wait_for_output("with 2 workers")
        _until(lambda: len(_children(server)) == 2)
        assert rawclient.get(port, "/").body == b"home"
        first, second = sorted(_children(server))
        os.kill(first, signal.SIGKILL)
        _until(lambda: len(_children(server)) == 2 and first not in _children(server))
        assert second in _children(server)
        clients = [RawClient(port) for _ in range(6)]
        for client in clients:
            assert client.open("/note").status == 101
        with ThreadPoolExecutor() as pool:
            ending = pool.submit(server.stop)
            for client in clients:
                assert client.close_frame()[0] == 1012
                client.send(rawclient.close(1012))
                client.socket.close()
            ended = ending.result()
    assert ended.code == 0
    assert "is started again" in ended.stderr
    assert [line.split()[0] for line in notes.read_text().splitlines()] == ["1012"] * 6


def test_hangup_replaces_the_workers_while_the_port_is_served() -> None:
    port = free_port()
    command = manage("serve", "--port", str(port), "--workers", "2", "--allow-split-rooms")
    with ServerProcess(command, port, PROJECT) as server:
        _until(lambda: len(_children(server)) == 2)
        assert rawclient.get(port, "/").body == b"home"
        before = _children(server)
        server.process.send_signal(signal.SIGHUP)
        while before & _children(server):
            assert rawclient.get(port, "/").body == b"home"
        _until(lambda: len(_children(server)) == 2)
        assert server.stop().code == 0


def test_workers_do_not_outlive_their_parent() -> None:
    port = free_port()
    command = manage("serve", "--port", str(port), "--workers", "2", "--allow-split-rooms")
    with ServerProcess(command, port, PROJECT) as server:
        _until(lambda: len(_children(server)) == 2)
        assert rawclient.get(port, "/").body == b"home"
        workers = _children(server)
        server.process.kill()
        _until(lambda: not any(Path(f"/proc/{pid}").exists() for pid in workers))


def test_workers_serve_https(certificate: tuple[str, str]) -> None:
    cert, key = certificate
    port = free_port()
    words = ["--workers", "2", "--allow-split-rooms", "--tls-cert", cert, "--tls-key", key]
    trusting = ssl.create_default_context(cafile=cert)
    trusting.check_hostname = False
    with ServerProcess(manage("serve", "--port", str(port), *words), port, PROJECT) as server:
        server.wait_for_output(f"Serving https://127.0.0.1:{port}/ with 2 workers")
        with trusting.wrap_socket(RawClient(port).socket) as client:
            client.sendall(b"GET / HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
            assert b"200 OK" in client.recv(65536)
        assert server.stop().code == 0


async def test_workers_share_a_unix_socket_though_one_was_left_behind(tmp_path: Path) -> None:
    path = tmp_path / "socket"
    with socket.socket(socket.AF_UNIX) as left_behind:
        left_behind.bind(str(path))
    command = manage("serve", "--uds", str(path), "--workers", "2", "--allow-split-rooms")
    with Announced(command, 0, PROJECT) as server:
        for _ in range(6):
            async with unix_connect(str(path), "ws://localhost/echo") as client:
                await client.send("hello")
                assert await client.recv() == "hello"
        second = run(manage("serve", "--uds", str(path)), PROJECT)
        assert (second.code, second.stderr) == (
            1,
            f"CommandError: Cannot listen at {path}: somebody listens there. Check --uds.\n",
        )
        assert path.exists()
        assert server.stop().code == 0
    assert not path.exists()


CALL = """
import os, signal, sys
sys.path[:0] = {path!r}
os.environ["DJANGO_SETTINGS_MODULE"] = "found_only_there"
import django
from django.core.management import call_command
django.setup()
del os.environ["DJANGO_SETTINGS_MODULE"]
before = signal.getsignal(signal.SIGTERM)
call_command("serve", workers=2, port={port}, allow_split_rooms=True)
print("returned", signal.getsignal(signal.SIGTERM) is before)
"""


def test_a_program_can_call_the_command_with_workers(tmp_path: Path) -> None:
    """The workers have its settings and its modules, which a command line of theirs would not find."""
    (tmp_path / "found_only_there.py").write_text("from tests.acceptance.apps.settings import *\n")
    port = free_port()
    script = CALL.format(path=[str(tmp_path), str(ROOT)], port=port)
    with ServerProcess([sys.executable, "-c", script], port, {"PYTHONPATH": ""}) as server:
        _until(lambda: len(_children(server)) == 2)
        assert rawclient.get(port, "/").body == b"home"
        first = min(_children(server))
        os.kill(first, signal.SIGKILL)
        _until(lambda: len(_children(server)) == 2 and first not in _children(server))
        ended = server.stop()
    assert ended.code == 0
    assert ended.stdout.splitlines() == [
        f"Serving http://127.0.0.1:{port}/ with 2 workers (Ctrl-C stops)",
        "returned True",
    ]
    assert "Traceback" not in ended.stderr


@pytest.mark.parametrize(
    ("call", "said"),
    [
        pytest.param("workers=0", "'0' is not a number of workers", id="no worker"),
        pytest.param(
            "workers=2", "--workers is 2: CHANNEL_LAYERS['default'] is", id="rooms that would be split"
        ),
    ],
)
def test_a_program_that_calls_it_with_wrong_options_is_told(call: str, said: str) -> None:
    script = f"""
import django
from django.core.management import CommandError, call_command
django.setup()
try:
    call_command("serve", port=0, {call})
except CommandError as error:
    print(error)
"""
    ended = run([sys.executable, "-c", script], PROJECT)
    assert said in ended.stdout


@pytest.mark.redis
async def test_a_room_spans_the_workers_on_redis(redis_server: RedisServer) -> None:
    port = free_port()
    environment = {
        "DJANGO_SETTINGS_MODULE": "tests.acceptance.apps.redis_settings",
        "REDIS_URL": redis_server.url,
        "ASGI_APPLICATION": "tests.acceptance.apps.rooms.application",
        "RATELIMIT_CONNECTIONS_PER_WINDOW": "0",
    }
    with ServerProcess(manage("serve", "--port", str(port), "--workers", "2"), port, environment) as server:
        _until(lambda: len(_children(server)) == 2)
        async with AsyncExitStack() as stack:
            members = []
            # Who accepts is the kernel's choice: with so many, both workers have some.
            for _ in range(16):
                members.append(await stack.enter_async_context(connect(f"{server.ws}/span")))
                await expect(members[-1], "system.joined")
            await members[0].send('{"type": "say", "data": "hello"}')
            assert [await expect(member, "said") for member in members] == ["hello"] * 16


# Open files


def _with_few_files(files: int, command: list[str]) -> list[str]:
    return ["sh", "-c", f'ulimit -n {files}; exec "$@"', "sh", *command]


@pytest.mark.parametrize(
    "command",
    [
        pytest.param(lambda port: manage("serve", "--port", str(port)), id="serve"),
        pytest.param(
            lambda port: manage("serve", "--port", str(port), "--workers", "2", "--allow-split-rooms"),
            id="serve with workers",
        ),
        pytest.param(lambda port: daphne("tests.acceptance.apps.plain:application", port), id="daphne"),
    ],
)
@pytest.mark.parametrize(
    ("connections", "said"),
    [
        pytest.param(
            "1000",
            [
                "RATELIMIT_MAX_CONNECTIONS is 1000 connections, and this process may open 512 files (ulimit -n)."
            ],
            id="more than there can be",
        ),
        pytest.param("400", [], id="as many as there can be"),
        pytest.param(
            "0",
            ["This process may open 512 files (ulimit -n), enough for about 412 connections."],
            id="any number",
        ),
    ],
)
def test_too_few_open_files_are_said_once_at_the_start(
    command: Callable[[int], list[str]], connections: str, said: list[str]
) -> None:
    """B7"""
    port = free_port()
    environment = {**PROJECT, "RATELIMIT_MAX_CONNECTIONS": connections}
    with ServerProcess(_with_few_files(512, command(port)), port, environment) as server:
        assert rawclient.get(port, "/").body == b"home"
        ended = server.stop()
    assert ended.code == 0
    lines = [line for line in ended.stderr.splitlines() if "ulimit" in line]
    assert [line[: len(words)] for line, words in zip(lines, said, strict=True)] == said
