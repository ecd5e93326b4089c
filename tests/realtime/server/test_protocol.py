"""What of the protocol can be seen without a socket; tests/acceptance/test_daphne.py has the rest."""

from __future__ import annotations

import time
from types import SimpleNamespace
from typing import Any

import pytest
from django.test import override_settings

from realtime.server.protocol import WebSocketProtocol, message_limits

DEFAULT = 1024 * 1024


@pytest.mark.parametrize(
    ("message", "frame", "expected"),
    [
        pytest.param(DEFAULT, DEFAULT, (5000, 5000), id="nothing said: the setting"),
        pytest.param(100, DEFAULT, (100, 100), id="a message limit is one of frames too"),
        pytest.param(DEFAULT, 100, (5000, 100), id="a frame limit alone"),
        pytest.param(0, 0, (0, 0), id="no limits"),
        pytest.param(0, DEFAULT, (0, 0), id="no limit of messages"),
    ],
)
@override_settings(RATELIMIT_MAX_MESSAGE_BYTES=5000)
def test_flags_go_before_the_setting(message: int, frame: int, expected: tuple[int, int]) -> None:
    assert message_limits(message, frame) == expected


@override_settings(RATELIMIT_MAX_MESSAGE_BYTES=0)
def test_the_setting_may_be_off() -> None:
    assert message_limits(DEFAULT, DEFAULT) == (0, 0)


def idle(**attributes: Any) -> Any:
    """A socket of a server with a ping interval of 20 s that has been silent for longer."""
    protocol: Any = WebSocketProtocol.__new__(WebSocketProtocol)
    protocol.server = SimpleNamespace(ping_interval=20)
    protocol.last_ping = time.time() - 21
    protocol.autoPingTimeoutCall = None
    protocol.pings_itself = True
    protocol.link = SimpleNamespace(listener=None)
    for name, value in attributes.items():
        setattr(protocol, name, value)
    return protocol


def test_a_silent_socket_of_a_plain_consumer_is_pinged_by_the_server() -> None:
    assert idle()._wants_ping()


@pytest.mark.parametrize(
    "attributes",
    [
        pytest.param({"last_ping": time.time() + 86_400}, id="it was not silent for long"),
        pytest.param({"autoPingTimeoutCall": object()}, id="a ping is out: another would hide its timeout"),
        pytest.param({"_reading_paused": True}, id="nothing is read: the answer would not be seen"),
        pytest.param({"link": SimpleNamespace(listener=object())}, id="our heartbeat looks after it"),
    ],
)
def test_a_socket_is_not_pinged_by_the_server_when(attributes: dict[str, Any]) -> None:
    assert not idle(**attributes)._wants_ping()


def test_without_our_heartbeat_the_server_pings_everybody() -> None:
    assert idle(link=SimpleNamespace(listener=object()), pings_itself=False)._wants_ping()


def test_after_a_violation_nothing_of_the_peer_is_looked_at(monkeypatch: pytest.MonkeyPatch) -> None:
    looked_at: list[bytes] = []
    monkeypatch.setattr(WebSocketProtocol, "_dataReceived", lambda self, data: looked_at.append(data))
    socket = idle(state=WebSocketProtocol.STATE_CLOSING)
    socket.dataReceived(b"before")
    socket._deaf = True
    socket.dataReceived(b"after")
    assert looked_at == [b"before"]


def test_a_ping_is_not_answered_while_answers_pile_up(monkeypatch: pytest.MonkeyPatch) -> None:
    answered: list[bytes] = []
    monkeypatch.setattr(WebSocketProtocol, "sendPong", lambda self, payload: answered.append(payload))
    idle(link=SimpleNamespace(writable=True)).onPing(b"answered")
    idle(link=SimpleNamespace(writable=False)).onPing(b"left")
    assert answered == [b"answered"]
