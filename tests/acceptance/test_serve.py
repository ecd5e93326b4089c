"""``manage.py serve``."""

from __future__ import annotations

import asyncio
import datetime
import os
import signal
import ssl
import subprocess
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from websockets.asyncio.client import connect, unix_connect

from tests.acceptance import rawclient
from tests.acceptance.processes import ServerProcess, free_port, manage, run, taken_port
from tests.acceptance.rawclient import RawClient

PROJECT = {"DJANGO_SETTINGS_MODULE": "tests.acceptance.apps.settings"}


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
    with ServerProcess(manage("serve", *words(port)), port, {**PROJECT, **environment(port)}) as server:
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
    folder = tmp_path_factory.mktemp("tls")
    cert, key = str(folder / "cert.pem"), str(folder / "key.pem")
    made = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "localhost")])
    now = datetime.datetime.now(datetime.UTC)
    signed = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(made.public_key())
        .serial_number(1)
        .not_valid_before(now)
        .not_valid_after(now + datetime.timedelta(hours=1))
        .sign(made, hashes.SHA256())
    )
    pem, plain = serialization.Encoding.PEM, serialization.NoEncryption()
    Path(cert).write_bytes(signed.public_bytes(pem))
    Path(key).write_bytes(made.private_bytes(pem, serialization.PrivateFormat.PKCS8, plain))
    return cert, key


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


@pytest.mark.parametrize(
    ("words", "said"),
    [
        pytest.param(["--tls-cert", "x.pem"], "go together", id="certificate alone"),
        pytest.param(["--tls-key", "x.pem"], "go together", id="key alone"),
        pytest.param(
            ["--tls-cert", "x.pem", "--tls-key", "y.pem"], "There is no file x.pem", id="no such file"
        ),
        pytest.param(
            ["--tls-cert", __file__, "--tls-key", __file__], "cannot be used", id="not a certificate"
        ),
        pytest.param(["--workers", "0"], "not a number of workers", id="no worker"),
        pytest.param(["--uds", "/nowhere/socket"], "Cannot listen at /nowhere/socket", id="no such folder"),
        pytest.param(["--uds", __file__], "not a socket", id="a file that is not a socket"),
    ],
)
def test_wrong_options_are_said_in_one_line(words: list[str], said: str) -> None:
    ended = run(manage("serve", "--port", "0", *words), PROJECT)
    assert ended.code != 0
    assert said in ended.stderr
    assert "Traceback" not in ended.stderr


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
    command = manage("serve", "--port", str(port), "--workers", "2")
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
    command = manage("serve", "--port", str(port), "--workers", "2")
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
    command = manage("serve", "--port", str(port), "--workers", "2")
    with ServerProcess(command, port, PROJECT) as server:
        _until(lambda: len(_children(server)) == 2)
        assert rawclient.get(port, "/").body == b"home"
        workers = _children(server)
        server.process.kill()
        _until(lambda: not any(Path(f"/proc/{pid}").exists() for pid in workers))
