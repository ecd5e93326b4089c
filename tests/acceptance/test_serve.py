"""``manage.py serve``."""

from __future__ import annotations

import signal
from collections.abc import Callable

import pytest
from websockets.asyncio.client import connect

from tests.acceptance import rawclient
from tests.acceptance.processes import ServerProcess, free_port, manage, run, taken_port

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
