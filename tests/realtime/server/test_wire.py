"""Frames, compared with an implementation that is not ours."""

from __future__ import annotations

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from websockets.frames import Frame, Opcode
from websockets.protocol import CLIENT, Protocol, State

from realtime.server import wire

PAYLOADS = st.one_of(st.text(max_size=300), st.binary(max_size=300))


def masked(payload: str | bytes, *, opcode: Opcode | None = None, fin: bool = True) -> bytes:
    """Return a frame as a client sends it."""
    data = payload.encode() if isinstance(payload, str) else payload
    if opcode is None:
        opcode = Opcode.TEXT if isinstance(payload, str) else Opcode.BINARY
    return Frame(opcode, data, fin=fin).serialize(mask=True)


def read_by_a_client(data: bytes) -> list[Frame]:
    client = Protocol(CLIENT, state=State.OPEN, max_size=None)
    client.receive_data(data)
    return [event for event in client.events_received() if isinstance(event, Frame)]


@given(PAYLOADS)
@example("x" * 125)
@example("x" * 126)
@example("x" * 65535)
@example(b"x" * 65536)
def test_a_client_reads_what_was_written(payload: str | bytes) -> None:
    (frame,) = read_by_a_client(wire.frame(payload))
    assert frame.fin
    assert frame.opcode is (Opcode.TEXT if isinstance(payload, str) else Opcode.BINARY)
    assert frame.data == (payload.encode() if isinstance(payload, str) else payload)


@given(st.lists(PAYLOADS, max_size=5))
@example(["x" * 125, b"x" * 126, "x" * 65535])
def test_whole_messages_are_read_one_after_another(payloads: list[str | bytes]) -> None:
    data = b"".join(masked(payload) for payload in payloads)
    found, begin = [], 0
    while (message := wire.whole_message(data, begin, 0)) is not None:
        payload, begin = message
        found.append(payload)
    assert found == payloads
    assert begin == len(data)


@given(st.text(min_size=1, max_size=200), st.data())
def test_a_part_of_a_message_is_left_for_later(payload: str, data: st.DataObject) -> None:
    whole = masked(payload)
    end = data.draw(st.integers(min_value=0, max_value=len(whole) - 1))
    assert wire.whole_message(whole[:end], 0, 0) is None


@pytest.mark.parametrize(
    "data",
    [
        pytest.param(masked(b"", opcode=Opcode.PING), id="ping"),
        pytest.param(masked(b"\x03\xe8", opcode=Opcode.CLOSE), id="close"),
        pytest.param(masked("a", fin=False), id="first fragment"),
        pytest.param(masked(b"a", opcode=Opcode.CONT), id="last fragment"),
        pytest.param(Frame(Opcode.TEXT, b"abcd").serialize(mask=False), id="not masked"),
        pytest.param(b"\xc1" + masked("a")[1:], id="reserved bit"),
        pytest.param(b"\x83" + masked("a")[1:], id="reserved opcode"),
        pytest.param(b"\x81\xfe\x00\x05" + masked("hello")[2:], id="length in more bytes than it needs"),
        pytest.param(masked("x" * 65536), id="64 KiB"),
    ],
)
def test_what_is_not_a_whole_small_message_is_left_to_the_full_parser(data: bytes) -> None:
    assert wire.whole_message(data, 0, 0) is None


@pytest.mark.parametrize(
    ("size", "limit", "taken"),
    [
        pytest.param(10, 10, True, id="at the limit"),
        pytest.param(11, 10, False, id="one byte over"),
        pytest.param(11, 0, True, id="no limit"),
    ],
)
def test_a_message_above_the_limit_is_left_to_be_refused(size: int, limit: int, *, taken: bool) -> None:
    assert (wire.whole_message(masked("x" * size), 0, limit) is not None) is taken


@pytest.mark.parametrize("data", [b"\xff", b"\xed\xa0\x80", b"\xc0\x80", b"\xe2\x82"])
def test_text_that_is_not_utf8_is_an_error(data: bytes) -> None:
    with pytest.raises(UnicodeDecodeError):
        wire.whole_message(masked(data, opcode=Opcode.TEXT), 0, 0)


@pytest.mark.parametrize("code", [1000, 1001, 1002, 1003, 1007, 1011, 1012, 1013, 1014, 3000, 4999])
def test_these_codes_may_be_sent(code: int) -> None:
    assert wire.may_be_sent(code)


@pytest.mark.parametrize("code", [0, 999, 1004, 1005, 1006, 1015, 2999, 5000])
def test_these_codes_never_leave(code: int) -> None:
    assert not wire.may_be_sent(code)
