"""Listening sockets."""

from __future__ import annotations

import socket
from pathlib import Path

import pytest

from realtime.server.listeners import (
    CannotListen,
    address_of,
    inherited_listener,
    tcp_listener,
    unix_listener,
)


def test_tcp_listener_takes_connections() -> None:
    with tcp_listener("127.0.0.1", 0) as listener, socket.create_connection(listener.getsockname()):
        connected, _ = listener.accept()
        connected.close()
        port = listener.getsockname()[1]
        assert address_of(listener, encrypted=False) == f"http://127.0.0.1:{port}/"
        assert address_of(listener, encrypted=True) == f"https://127.0.0.1:{port}/"


def test_address_of_ipv6_is_in_brackets() -> None:
    class Listener:
        def getsockname(self) -> tuple[str, int, int, int]:
            return "::1", 8000, 0, 0

    assert address_of(Listener(), encrypted=False) == "http://[::1]:8000/"  # type: ignore[arg-type]


def test_port_in_use_is_said() -> None:
    with tcp_listener("127.0.0.1", 0) as taken, pytest.raises(CannotListen, match="is in use"):
        tcp_listener("127.0.0.1", taken.getsockname()[1])


@pytest.mark.parametrize("host", ["no.such.host.invalid", "192.0.2.1"])
def test_host_that_is_not_ours_is_said(host: str) -> None:
    with pytest.raises(CannotListen, match=f"Cannot listen on {host}, port 1234: .* Check --host"):
        tcp_listener(host, 1234)


def test_unix_listener_takes_connections(tmp_path: Path) -> None:
    path = str(tmp_path / "socket")
    with unix_listener(path) as listener, socket.socket(socket.AF_UNIX) as client:
        client.connect(path)
        assert address_of(listener, encrypted=False) == f"unix:{path}"


def test_socket_that_was_left_behind_is_replaced(tmp_path: Path) -> None:
    path = str(tmp_path / "socket")
    unix_listener(path).close()
    with unix_listener(path), socket.socket(socket.AF_UNIX) as client:
        client.connect(path)


def test_socket_that_somebody_listens_at_is_not(tmp_path: Path) -> None:
    path = str(tmp_path / "socket")
    with unix_listener(path), pytest.raises(CannotListen, match="somebody listens there"):
        unix_listener(path)


def test_file_is_not_overwritten(tmp_path: Path) -> None:
    path = tmp_path / "precious"
    path.write_text("data")
    with pytest.raises(CannotListen, match="not a socket"):
        unix_listener(str(path))
    assert path.read_text() == "data"


def test_inherited_listener_is_the_same_socket() -> None:
    with tcp_listener("127.0.0.1", 0) as listener, inherited_listener(listener.dup().detach()) as inherited:
        assert inherited.getsockname() == listener.getsockname()
        assert inherited.family == listener.family
