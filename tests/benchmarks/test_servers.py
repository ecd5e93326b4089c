"""How the measured servers are started, and what is read of them."""

from __future__ import annotations

import subprocess
import sys

import pytest

from benchmarks import cases, peers, servers
from benchmarks.servers import Launch


@pytest.mark.parametrize(
    ("launch", "words"),
    [
        (
            Launch("daphne", "plain"),
            f"{sys.executable} -m daphne --verbosity 0 --bind 127.0.0.1 --port 99 benchmarks.served.plain:application",
        ),
        (
            Launch("serve", "ours", ("--workers", "2")),
            f"{sys.executable} -m django serve --host 127.0.0.1 --port 99 --workers 2",
        ),
        (Launch("script", "tcpraw"), f"{sys.executable} -m benchmarks.served.tcpraw 99"),
        (Launch("peer", "library", ("none",)), "/peers/python -m benchmarks.served.library 99 none"),
        (
            Launch("gunicorn", "flasked", ("--threads", "100")),
            "/peers/python -m gunicorn --bind 127.0.0.1:99 --log-level error --threads 100 benchmarks.served.flasked:app",
        ),
    ],
    ids=lambda value: value.kind if isinstance(value, Launch) else "",
)
def test_each_kind_has_its_command(launch, words):
    assert servers.command(launch, 99, lambda: "/peers/python") == words.split(" ")


def test_the_baseline_has_nothing_of_ours():
    assert cases.PLAIN.apps == "plain"
    assert Launch("daphne", "plainstack").apps == "stack"
    assert cases.SERVE.apps == "ours"


def test_processor_time_and_memory_are_those_of_the_whole_family():
    program = (
        "import subprocess, sys, time\n"
        "work = 'sum(i * i for i in range(3_000_000)); print(1, flush=True); import time; time.sleep(60)'\n"
        "child = subprocess.Popen([sys.executable, '-c', work])\n"
        "time.sleep(60)\n"
    )
    with subprocess.Popen(
        [sys.executable, "-c", program], stdout=subprocess.PIPE, start_new_session=True
    ) as process:
        try:
            assert process.stdout is not None
            process.stdout.readline()
            server = servers.Server(process, 0)
            alone = servers._cpu_seconds(process.pid)
            assert server.cpu_seconds() > alone + 0.05
            assert server.resident_bytes() > 10 * 1024 * 1024
        finally:
            servers._stop(process)
    assert process.returncode is not None


def test_a_server_that_ends_at_once_tells_why(monkeypatch):
    monkeypatch.setattr(
        servers, "command", lambda *_: [sys.executable, "-c", "raise SystemExit('no such thing')"]
    )
    with pytest.raises(RuntimeError, match="ended with 1 before it listened: no such thing"):  # noqa: SIM117
        with servers.serving(Launch("script", "tcpraw"), None):
            pass


def test_no_setting_of_the_surroundings_reaches_a_server(monkeypatch, tmp_path):
    monkeypatch.setenv("REALTIME_ENGINE", "daphne")
    monkeypatch.setenv("RATELIMIT_MESSAGE_WINDOW", "5")
    launch = Launch("script", "tcpraw", settings=(("REALTIME_COMPRESSION", "deflate"),))
    environment = servers._environment(launch, tmp_path / "none")
    assert {name for name in environment if name.startswith(servers.SETTINGS)} == {"REALTIME_COMPRESSION"}


def test_the_peers_are_those_of_the_extra():
    assert {"bustapi", "fastapi", "fastapi-websocket-stabilizer", "websockets"} <= set(
        map(peers.name_of, peers.wanted())
    )


@pytest.mark.parametrize(
    ("requirement", "name"),
    [("uvicorn[standard]>=0.35", "uvicorn"), ("uvloop; sys_platform != 'win32'", "uvloop")],
)
def test_a_requirement_names_its_package(requirement, name):
    assert peers.name_of(requirement) == name


def test_what_names_nothing_is_not_a_requirement():
    with pytest.raises(ValueError, match="not a requirement"):
        peers.name_of(">=1")
