"""Messages of the protocol itself."""

from __future__ import annotations

import json

import pytest

from ratelimit import notices
from ratelimit.limits import Violation
from ratelimit.notices import is_system, rate_limited

PADDED = '{"type":"system.pong","data":"' + "x" * (16 * 1024 - 32) + '"}'


def of_client(text: str) -> bool:
    return is_system(text, len(text.encode("utf-8", "surrogatepass")))


@pytest.mark.parametrize(
    "text",
    [
        pytest.param('{"type":"system.pong"}', id="plain"),
        pytest.param('{ "type" : "system.pong", "data": {"ts": 1.5} }', id="with spaces and data"),
        pytest.param(
            '{"id":"c1","data":{"type":"chat.send"},"type":"system.join"}', id="type last, another inside"
        ),
        pytest.param('{"type":"chat.send","type":"system.pong"}', id="of a repeated key the last counts"),
        pytest.param('{"\\u0074ype":"system.pong"}', id="key written with an escape"),
        pytest.param(PADDED, id="just small enough"),
    ],
)
def test_a_system_message_is_recognised(text):
    assert of_client(text)


@pytest.mark.parametrize(
    "text",
    [
        pytest.param('{"type":"chat.send"}', id="ordinary"),
        pytest.param('{"data":"\\"system.","type":"chat.send"}', id="the mark inside a string"),
        pytest.param('{"data":{"type":"system.pong"},"type":"chat.send"}', id="the mark inside data"),
        pytest.param('{"type":"system.x","type":"chat.send"}', id="of a repeated key the last counts"),
        pytest.param('{"type":"system.x","\\u0074ype":"chat.send"}', id="repeated with an escape"),
        pytest.param('{"kind":"system.pong"}', id="no type"),
        pytest.param('{"type":["system.pong"]}', id="type is no string"),
        pytest.param('["system.pong"]', id="no object"),
        pytest.param('"system.pong"', id="only a string"),
        pytest.param('{"type":"system.pong"', id="not closed"),
        pytest.param('{"type":"system.pong"} {"type":"chat.send"}', id="two messages"),
        pytest.param('{"type":"system.pong","data":NaN}', id="no JSON"),
        pytest.param('{"type":"Xsystem.pong"}', id="something before it"),
        pytest.param('{"type":"system"}', id="only the word"),
        pytest.param('{"type": "\\u0073ystem.pong"}', id="type written with an escape"),
        pytest.param('{"data":"' + "x" * 256 + '","type":"system.pong"}', id="type too far behind"),
        pytest.param('{"type":"system.pong","data":"' + "x" * 16 * 1024 + '"}', id="too big"),
        pytest.param('{"type":"system.pong","data":"' + "\u20ac" * 6 * 1024 + '"}', id="too big in bytes"),
        pytest.param('{"type":"system.x","data":' + "[" * 8000 + "]" * 8000 + "}", id="nested too deeply"),
        pytest.param('{"type":"system.\ud800"}', id="a lone surrogate"),
        pytest.param('system."system.', id="garbage"),
        pytest.param("", id="empty"),
    ],
)
def test_anything_else_is_ordinary(text):
    assert not of_client(text)


@pytest.mark.parametrize(
    "text",
    [
        pytest.param('{"type":"chat.send","data":1}', id="ordinary"),
        pytest.param(
            '{"type":"chat.send","data":"' + "x" * 300 + '","also":"system."}', id="the mark too far behind"
        ),
        pytest.param('{"type":"system.x","data":"' + "x" * 16 * 1024 + '"}', id="too big"),
    ],
)
def test_an_ordinary_message_is_not_parsed(text, monkeypatch):
    """Only its first characters are looked at."""
    monkeypatch.setattr(notices, "_decode", lambda text: pytest.fail("parsed"))
    assert not of_client(text)


def test_the_warning_says_all_a_client_needs():
    """C3, F3."""
    text = rate_limited(Violation("messages", 1.25, 60, 60.0, 2, warn=True))
    assert json.loads(text) == {
        "type": "system.rate_limited",
        "data": {"retry_after": 1.25, "limit": 60, "window": 60.0, "scope": "messages", "violations_left": 2},
    }


def test_a_warning_of_a_socket_that_is_never_closed_counts_nothing_down():
    text = rate_limited(Violation("bytes", 1.0, 60, 60.0, None, warn=True))
    assert json.loads(text)["data"]["violations_left"] is None
