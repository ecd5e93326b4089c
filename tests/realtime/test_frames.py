"""One outbound message: encoded once, measured in bytes, framed once for each wire format."""

from __future__ import annotations

import dataclasses
import datetime
import json
import uuid
from decimal import Decimal
from typing import Any

import pytest
from django.utils.translation import gettext_lazy
from hypothesis import given
from hypothesis import strategies as st

from ratelimit.sizes import text_size
from realtime.frames import Frame


@dataclasses.dataclass
class Line:
    text: str


@pytest.mark.parametrize(
    ("text", "size"),
    [
        pytest.param("", 0, id="empty"),
        pytest.param("abc", 3, id="ASCII"),
        pytest.param("é", 2, id="two bytes"),
        pytest.param("€", 3, id="three bytes"),
        pytest.param("😀", 4, id="four bytes"),
        pytest.param("\x00", 1, id="NUL"),
        pytest.param("\ud800", 3, id="lone surrogate, though no server will send it"),
    ],
)
def test_size_is_counted_in_bytes_not_characters(text, size):
    assert text_size(text) == Frame(text).size == size


@given(st.binary())
def test_the_size_of_a_binary_message_is_its_length(payload):
    frame = Frame(payload)
    assert (frame.size, frame.is_text) == (len(payload), False)


def test_a_string_is_a_text_message():
    assert Frame("").is_text


def test_a_size_that_is_known_is_not_measured_again():
    assert Frame("abc", size=7).size == 7
    assert Frame("abc", size=0).size == 0


def test_a_frame_is_not_coalesced_unless_it_has_a_key():
    assert Frame("a").key is None
    assert Frame("a", key=("room", "type")).key == ("room", "type")
    assert Frame.json({}, key="k").key == "k"


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        pytest.param({"a": [1, None, True, 1.5, "é"]}, {"a": [1, None, True, 1.5, "é"]}, id="plain"),
        pytest.param({"a": gettext_lazy("Yes")}, {"a": "Yes"}, id="lazy translation"),
        pytest.param({gettext_lazy("Yes"): [gettext_lazy("No")]}, {"Yes": ["No"]}, id="lazy key"),
        pytest.param(
            datetime.datetime(2025, 1, 2, tzinfo=datetime.UTC), "2025-01-02T00:00:00Z", id="datetime"
        ),
        pytest.param(uuid.UUID(int=1), "00000000-0000-0000-0000-000000000001", id="UUID"),
        pytest.param(Decimal("1.10"), "1.10", id="Decimal"),
        pytest.param(Line("hi"), {"text": "hi"}, id="dataclass"),
        pytest.param((1, 2), [1, 2], id="tuple"),
    ],
)
def test_values_of_django_applications_are_json(value, expected):
    frame = Frame.json(value)
    assert isinstance(frame.payload, str)
    assert json.loads(frame.payload) == expected


def test_json_is_compact_text_with_its_size_in_bytes():
    frame = Frame.json({"a": "é", "b": 1})
    assert frame.payload == '{"a":"é","b":1}'
    assert frame.is_text
    assert frame.size == len('{"a":"é","b":1}'.encode())


def test_what_json_cannot_hold_is_named_with_its_type():
    with pytest.raises(TypeError, match=r"1j is a complex, which JSON cannot hold\. Send a str"):
        Frame.json({"a": 1j})


def itself() -> list[Any]:
    inner: list[Any] = []
    inner.append(inner)
    return inner


@pytest.mark.parametrize(
    "message", [pytest.param("\ud800", id="lone surrogate"), pytest.param(itself(), id="holds itself")]
)
def test_what_utf8_or_the_stack_cannot_hold_is_a_type_error_too(message):
    with pytest.raises(TypeError, match="cannot be sent as JSON"):
        Frame.json(message)


def test_a_wire_form_is_built_once_and_shared():
    built: list[Any] = []

    def build(payload: str | bytes) -> bytes:
        built.append(payload)
        return b"wire"

    frame = Frame("hello")
    first = frame.wire("plain", build)
    assert frame.wire("plain", build) is first == b"wire"
    assert built == ["hello"]


def test_each_wire_format_has_its_own_form():
    frame = Frame(b"x")
    assert frame.wire("plain", lambda payload: b"p" + bytes(payload)) == b"px"  # type: ignore[arg-type]
    assert frame.wire(("deflate", 12), lambda payload: b"z" + bytes(payload)) == b"zx"  # type: ignore[arg-type]
    assert frame.wire("plain", lambda _: b"other") == b"px"


def test_an_empty_wire_form_is_kept_too():
    frame = Frame("")
    assert frame.wire("plain", lambda _: b"") == b""
    assert frame.wire("plain", lambda _: b"again") == b""


def test_frames_share_no_wire_forms():
    one, other = Frame("a"), Frame("a")
    assert one.wire("k", lambda _: b"1") == b"1"
    assert other.wire("k", lambda _: b"2") == b"2"


def test_a_frame_costs_no_dict():
    """One frame exists for each message that waits for a slow reader."""
    assert not hasattr(Frame("a"), "__dict__")


def test_a_log_does_not_tell_what_a_frame_says() -> None:
    assert repr(Frame("secret")) == "<Frame of 6 bytes>"
