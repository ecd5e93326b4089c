"""The wire format of Redis, read from a stream that may be cut anywhere."""

from __future__ import annotations

import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from realtime.state.resp import Decoder, ProtocolError, Refusal, encode

REPLIES = [
    pytest.param(b"+OK\r\n", b"OK", id="status"),
    pytest.param(b":-42\r\n", -42, id="number"),
    pytest.param(b"$5\r\na\r\nbc\r\n", b"a\r\nbc", id="bulk with a line end"),
    pytest.param(b"$0\r\n\r\n", b"", id="empty bulk"),
    pytest.param(b"$-1\r\n", None, id="no bulk"),
    pytest.param(b"*0\r\n", [], id="empty array"),
    pytest.param(b"*-1\r\n", None, id="no array"),
    pytest.param(b"*2\r\n*2\r\n:1\r\n$-1\r\n*1\r\n*0\r\n", [[1, None], [[]]], id="nested"),
]


@pytest.mark.parametrize(("wire", "value"), REPLIES)
def test_a_reply_is_read(wire, value):
    assert Decoder().feed(wire) == [value]


@pytest.mark.parametrize(("wire", "value"), REPLIES)
def test_a_reply_is_read_byte_by_byte(wire, value):
    decoder = Decoder()
    assert [decoder.feed(wire[i : i + 1]) for i in range(len(wire))] == [[]] * (len(wire) - 1) + [[value]]


def test_an_error_is_a_value():
    (refusal,) = Decoder().feed(b"-OOM command not allowed\r\n")
    assert isinstance(refusal, Refusal)
    assert str(refusal) == "OOM command not allowed"


values = st.recursive(
    st.none() | st.integers(-(2**63), 2**63 - 1) | st.binary(max_size=40),
    lambda inner: st.lists(inner, max_size=5),
)


def wire(value) -> bytes:
    if value is None:
        return b"$-1\r\n"
    if isinstance(value, int):
        return b":%d\r\n" % value
    if isinstance(value, bytes):
        return b"$%d\r\n%b\r\n" % (len(value), value)
    return b"*%d\r\n%b" % (len(value), b"".join(map(wire, value)))


@given(st.lists(values, max_size=6), st.lists(st.integers(1, 30), min_size=1, max_size=40))
def test_replies_are_the_same_however_they_are_cut(replies, sizes):
    data = b"".join(map(wire, replies))
    decoder = Decoder()
    found = []
    while data:
        for size in sizes:
            piece, data = data[:size], data[size:]
            if piece:
                found += decoder.feed(piece)
    assert found == replies


def test_a_large_reply_in_small_pieces_takes_time_by_its_size():
    """Twice the size must not take four times as long."""

    def seconds(rows: int) -> float:
        data = wire([b"x" * 100] * rows)
        decoder = Decoder()
        started = time.process_time()
        for at in range(0, len(data), 4096):
            replies = decoder.feed(data[at : at + 4096])
        assert len(replies[0]) == rows
        return time.process_time() - started

    seconds(1000)
    assert min(seconds(80_000) for _ in range(3)) < 8 * 3 * min(seconds(10_000) for _ in range(3))


@pytest.mark.parametrize("wire", [b"HTTP/1.1 400\r\n", b":x\r\n", b"$x\r\n", b"*x\r\n", b"\r\n"])
def test_what_is_no_reply_is_an_error(wire):
    with pytest.raises(ProtocolError):
        Decoder().feed(wire)


def test_a_request_is_an_array_of_words():
    assert encode(b"SET", b"k", b"\r\n") == b"*3\r\n$3\r\nSET\r\n$1\r\nk\r\n$2\r\n\r\n\r\n"
