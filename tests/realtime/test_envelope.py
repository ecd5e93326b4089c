"""The wire protocol: every text is a message or a ClientError, whatever a client makes up."""

from __future__ import annotations

import json
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from realtime import envelope
from realtime.envelope import Envelope, depth, parse
from realtime.errors import ClientError
from realtime.frames import Frame

scalars = (
    st.none()
    | st.booleans()
    | st.integers(-(2**63), 2**64 - 1)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text()
)
values = st.recursive(
    scalars,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=5), inner, max_size=4),
    max_leaves=12,
)

any_character = st.characters(exclude_categories=())
"""Every code point: NUL, lone surrogates, all of them."""

hostile = st.one_of(
    st.text(any_character),
    st.text(st.sampled_from('{}[]",:\\ \x00\n0123456789eE+-.utfalsn\ud800\udfff')),
    st.builds(
        lambda opening, times: opening * times,
        st.sampled_from(["[", "{", '{"a":', "[[{"]),
        st.integers(0, 5000),
    ),
    st.builds(
        lambda n, tail: '{"type":"a","data":' + "9" * n + tail,
        st.integers(0, 6000),
        st.sampled_from(["}", "e999}", ""]),
    ),
    st.builds(
        lambda key, text: f'{{"type":"a","{key}":"{text}"}}',
        st.sampled_from(["id", "data", "x"]),
        st.text(any_character),
    ),
    st.builds(lambda code: f'{{"type":"\\u{code:04x}","data":"\\u{code:04x}"}}', st.integers(0, 0xFFFF)),
    st.builds(lambda value: json.dumps({"type": value, "id": value, "data": value}), values),
)


def nested(levels: int) -> str:
    """A message of ``levels`` levels, its own braces being the first."""
    return '{"type":"a","data":' + "[" * (levels - 1) + "]" * (levels - 1) + "}"


def said(frame: Frame) -> Any:
    assert isinstance(frame.payload, str)
    return json.loads(frame.payload)


def outcome(text: str) -> Envelope | ClientError:
    try:
        return parse(text)
    except ClientError as problem:
        return problem


# What clients send.


def test_a_message_is_taken_apart():
    message = parse('{"type": "chat.send", "data": {"text": "hi"}, "id": "c7"}')
    assert (message.type, bytes(message.data), message.id) == ("chat.send", b'{"text": "hi"}', "c7")


def test_only_the_type_is_needed():
    message = parse('{"type": "bye"}')
    assert (message.type, bytes(message.data), message.id) == ("bye", b"null", None)


@pytest.mark.parametrize(
    "text",
    [
        pytest.param('{"type": "a", "room": "lobby", "x": [1, {"y": 2}]}', id="unknown keys"),
        pytest.param('{"type": "a", "id": null}', id="id null"),
        pytest.param(' \n{"type": "a"}\t', id="white space around"),
        pytest.param(json.dumps({"type": "a" * 128}), id="longest type"),
        pytest.param(json.dumps({"type": "é" * 128}, ensure_ascii=False), id="longest type, not ASCII"),
        pytest.param(json.dumps({"type": "a", "id": "x" * 128}), id="longest id"),
        pytest.param('{"type": "a", "data": 1e999}', id="number out of range, left to the handler"),
        pytest.param('{"type": "a", "data": "\\u0000"}', id="escaped NUL"),
        pytest.param('{"type": "b", "type": "a"}', id="the last of two types counts"),
        pytest.param(nested(64), id="as deep as allowed"),
        pytest.param(json.dumps({"type": "a", "data": [[]] * 500}), id="wide is not deep"),
        pytest.param(json.dumps({"type": "a", "data": "[{" * 500}), id="brackets in a string"),
        pytest.param(
            json.dumps({"type": "a", "data": '"\\' + "[" * 500}), id="brackets after an escaped quote"
        ),
    ],
)
def test_what_is_a_message(text):
    assert parse(text).type.strip("aé") == ""


@pytest.mark.parametrize(
    ("text", "code"),
    [
        pytest.param("", "empty", id="nothing"),
        pytest.param(" ", "malformed", id="white space"),
        pytest.param("hello", "malformed", id="prose"),
        pytest.param('{"type": "a"', "malformed", id="cut off"),
        pytest.param('{"type": "a"} {"type": "b"}', "malformed", id="two messages"),
        pytest.param("{'type': 'a'}", "malformed", id="Python, not JSON"),
        pytest.param('{"type": "a", "data": NaN}', "malformed", id="NaN"),
        pytest.param('{"type": "a", "data": \x00}', "malformed", id="NUL"),
        pytest.param('{"type": "a", "data": "\x00"}', "malformed", id="NUL in a string"),
        pytest.param('{"type": "a", "data": "\ud800"}', "malformed", id="lone surrogate"),
        pytest.param('{"type": "\\ud800"}', "malformed", id="escaped lone surrogate"),
        pytest.param("null", "bad_envelope", id="null"),
        pytest.param("[]", "bad_envelope", id="list"),
        pytest.param('"a"', "bad_envelope", id="string"),
        pytest.param("{}", "bad_envelope", id="no type"),
        pytest.param('{"Type": "a"}', "bad_envelope", id="type in capitals"),
        pytest.param('{"type": null}', "bad_envelope", id="type null"),
        pytest.param('{"type": 1}', "bad_envelope", id="type a number"),
        pytest.param('{"type": ""}', "bad_envelope", id="type empty"),
        pytest.param(json.dumps({"type": "a" * 129}), "bad_envelope", id="type too long"),
        pytest.param('{"type": "a", "id": 7}', "bad_envelope", id="id a number"),
        pytest.param(json.dumps({"type": "a", "id": "x" * 129}), "bad_envelope", id="id too long"),
        pytest.param(nested(65), "too_deep", id="one level too deep"),
        pytest.param("[" * 200_000, "too_deep", id="200,000 levels"),
        pytest.param('{"a":' * 200_000, "too_deep", id="200,000 objects"),
        pytest.param('{"type":"a","data":"","x":' + "[" * 99_999, "too_deep", id="deep in an unknown key"),
    ],
)
def test_what_is_not_a_message(text, code):
    with pytest.raises(ClientError) as caught:
        parse(text)
    assert caught.value.code == code
    assert caught.value.message.endswith(".")


def test_a_bad_envelope_says_which_part_is_wrong_and_what_is_right():
    with pytest.raises(ClientError, match=r"Expected `str`, got `int`.*\$\.type.*Send \{\"type\""):
        parse('{"type": 1}')


@given(hostile)
def test_no_text_raises_anything_but_a_client_error(text):
    """X11. And the error can be told to the client, whatever of its text it repeats."""
    result = outcome(text)
    if isinstance(result, ClientError):
        told = said(envelope.error(result, errors_left=1))["data"]
        assert (told["code"], told["message"]) == (result.code, result.message)
    else:
        assert 1 <= len(result.type) <= 128
        json.loads(bytes(result.data), parse_int=str)
        said(envelope.event(result.type, result.id))


@given(type=st.text(min_size=1, max_size=128), data=values, id=st.none() | st.text(max_size=128))
def test_every_message_arrives_as_it_was_sent(type, data, id):
    message = parse(msgspec.json.encode({"type": type, "data": data, "id": id}).decode())
    assert message == Envelope(type, message.data, id)
    assert msgspec.json.decode(message.data) == data


@given(values)
def test_depth_is_that_of_the_value(value):
    def levels(part: Any) -> int:
        if not isinstance(part, dict | list):
            return 0
        return 1 + max(map(levels, part.values() if isinstance(part, dict) else part), default=0)

    assert depth(json.dumps(value)) == depth(json.dumps(value, ensure_ascii=False)) == levels(value)


# What the server says.


def test_an_event_carries_type_room_data_and_time():
    frame = envelope.event("chat.line", {"text": "hi"}, room="lobby", now=1760000000.1234)
    assert said(frame) == {"type": "chat.line", "room": "lobby", "data": {"text": "hi"}, "ts": 1760000000.123}


def test_an_event_outside_a_room_names_none():
    assert said(envelope.event("tick", now=1)) == {"type": "tick", "data": None, "ts": 1}


def test_an_event_without_a_time_is_of_now(monkeypatch):
    monkeypatch.setattr(envelope.time, "time", lambda: 12.3456)
    assert said(envelope.event("tick"))["ts"] == 12.346


def test_an_event_replaces_older_ones_of_its_type_and_room():
    keys = {
        envelope.event(type, room=room).key for type in "ab" for room in (None, "x", "y") for _ in range(2)
    }
    assert len(keys) == 6


def itself() -> list[Any]:
    inner: list[Any] = []
    inner.append(inner)
    return inner


@pytest.mark.parametrize(
    "data",
    [
        pytest.param(object(), id="any object"),
        pytest.param({(1, 2): 3}, id="a key that is no string"),
        pytest.param([{"deep": [object()]}], id="inside"),
        pytest.param("\ud800", id="lone surrogate"),
        pytest.param(itself(), id="a list that holds itself"),
    ],
)
def test_data_that_json_cannot_hold_is_a_type_error(data):
    with pytest.raises(TypeError):
        envelope.event("a", data)


def test_system_messages_have_the_prefix_and_are_never_coalesced():
    frame = envelope.system("joined", {"room": "lobby"})
    assert said(frame) == {"type": "system.joined", "data": {"room": "lobby"}}
    assert frame.key is None


@pytest.mark.parametrize(
    ("given_", "expected"),
    [
        pytest.param({"errors_left": 3}, {"errors_left": 3}, id="counted"),
        pytest.param({"errors_left": None}, {"errors_left": None}, id="not counted"),
        pytest.param(
            {"errors_left": 0, "id": "c7"}, {"errors_left": 0, "id": "c7"}, id="of a message with an id"
        ),
        pytest.param({"errors_left": 0, "id": ""}, {"errors_left": 0, "id": ""}, id="empty id"),
    ],
)
def test_an_error_says_code_message_and_errors_left(given_, expected):
    frame = envelope.error(ClientError("forbidden", "You may not."), **given_)
    assert said(frame) == {
        "type": "system.error",
        "data": {"code": "forbidden", "message": "You may not.", **expected},
    }


def test_presence_tells_differences():
    frame = envelope.presence("lobby", joins=({"id": i} for i in "ab"), leaves=())
    assert said(frame) == {
        "type": "system.presence",
        "data": {"room": "lobby", "joins": [{"id": "a"}, {"id": "b"}], "leaves": []},
    }
