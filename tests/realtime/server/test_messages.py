"""Messages out of frames."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from realtime.server.messages import (
    BINARY,
    CONTINUATION,
    INVALID_DATA,
    NO_CODE,
    PROTOCOL_ERROR,
    TEXT,
    TOO_BIG,
    Assembly,
    Violation,
    close_payload,
    header,
    read_close,
)


def feed(
    assembly: Assembly,
    opcode: int,
    payload: bytes = b"",
    *,
    fin: int = 1,
    rsv1: int = 0,
    rsv2: int = 0,
    rsv3: int = 0,
) -> str | bytes | None:
    return assembly.feed(opcode, payload, fin=fin, rsv1=rsv1, rsv2=rsv2, rsv3=rsv3)


def refused(assembly: Assembly, *args: object, **kwargs: int) -> int:
    with pytest.raises(Violation) as violation:
        feed(assembly, *args, **kwargs)  # type: ignore[arg-type]
    assert violation.value.text
    return violation.value.code


def test_whole_frame_is_a_message() -> None:
    assembly = Assembly(100)
    assert feed(assembly, TEXT, "grüße".encode()) == "grüße"
    assert feed(assembly, BINARY, b"\xff") == b"\xff"
    assert feed(assembly, TEXT) == ""
    assert feed(assembly, BINARY) == b""


@given(st.lists(st.binary(max_size=20), min_size=2, max_size=20))
def test_fragments_make_one_message_and_leave_nothing_behind(parts: list[bytes]) -> None:
    assembly = Assembly(1000)
    for number, part in enumerate(parts[:-1]):
        assert feed(assembly, CONTINUATION if number else BINARY, part, fin=0) is None
        assert assembly.opcode
    assert feed(assembly, CONTINUATION, parts[-1]) == b"".join(parts)
    assert not assembly.opcode
    assert assembly.buffered_bytes == 0


@given(st.text(min_size=1), st.data())
def test_text_may_be_cut_anywhere(text: str, data: st.DataObject) -> None:
    encoded = text.encode()
    cut = data.draw(st.integers(0, len(encoded)))
    assembly = Assembly(0)
    assert feed(assembly, TEXT, encoded[:cut], fin=0) is None
    assert feed(assembly, CONTINUATION, encoded[cut:]) == text


@pytest.mark.parametrize("bits", [{"rsv2": 1}, {"rsv3": 1}, {"rsv1": 1}])
@pytest.mark.parametrize("opcode", [TEXT, BINARY])
def test_reserved_bit_that_was_not_agreed_on_is_refused(opcode: int, bits: dict[str, int]) -> None:
    assert refused(Assembly(100), opcode, **bits) == PROTOCOL_ERROR


def test_bit_of_compression_belongs_to_the_first_frame_of_a_message() -> None:
    assembly = Assembly(100, lambda payload, limit: payload)
    feed(assembly, TEXT, b"a", fin=0, rsv1=1)
    assert refused(assembly, CONTINUATION, b"b", rsv1=1) == PROTOCOL_ERROR


def test_continuation_of_nothing_is_refused() -> None:
    assert refused(Assembly(100), CONTINUATION) == PROTOCOL_ERROR


@pytest.mark.parametrize("fin", [0, 1])
def test_new_message_inside_another_is_refused(fin: int) -> None:
    assembly = Assembly(100)
    feed(assembly, TEXT, b"a", fin=0)
    assert refused(assembly, TEXT, b"b", fin=fin) == PROTOCOL_ERROR


@pytest.mark.parametrize(
    "payload",
    [
        pytest.param(b"\xff", id="no such byte"),
        pytest.param(b"\xe2\x82", id="cut character"),
        pytest.param(b"\xed\xa0\x80", id="surrogate"),
        pytest.param(b"\xc0\x80", id="overlong"),
        pytest.param(b"\xf4\x90\x80\x80", id="beyond Unicode"),
    ],
)
def test_text_that_is_not_utf8_is_refused(payload: bytes) -> None:
    assert refused(Assembly(100), TEXT, payload) == INVALID_DATA
    assembly = Assembly(100)
    feed(assembly, TEXT, b"ok ", fin=0)
    assert refused(assembly, CONTINUATION, payload) == INVALID_DATA


def test_text_is_checked_before_it_is_complete() -> None:
    assert refused(Assembly(100), TEXT, b"\xff", fin=0) == INVALID_DATA


@pytest.mark.parametrize(
    ("sizes", "fits"),
    [
        pytest.param([10], True, id="at the limit"),
        pytest.param([11], False, id="one byte over"),
        pytest.param([5, 5], True, id="two parts at the limit"),
        pytest.param([5, 6], False, id="two parts one byte over"),
        pytest.param([10, 0, 0, 1], False, id="many parts"),
    ],
)
def test_size_of_a_message_is_bounded_over_all_its_parts(sizes: list[int], fits: bool) -> None:
    assembly = Assembly(10)
    *first, last = [b"x" * size for size in sizes]
    opcode = BINARY
    for part in first:
        feed(assembly, opcode, part, fin=0)
        opcode = CONTINUATION
    if fits:
        assert feed(assembly, opcode, last) == b"x" * sum(sizes)
    else:
        assert refused(assembly, opcode, last) == TOO_BIG


def test_size_without_a_bound() -> None:
    assert feed(Assembly(0), BINARY, b"x" * 100_000) == b"x" * 100_000


def test_fragments_that_never_end_are_refused_at_the_bound() -> None:
    assembly = Assembly(1000)
    feed(assembly, BINARY, b"x", fin=0)
    for _ in range(999):
        feed(assembly, CONTINUATION, b"x", fin=0)
    assert refused(assembly, CONTINUATION, b"x", fin=0) == TOO_BIG
    assert assembly.buffered_bytes <= 1000


def test_compressed_message_is_inflated_once_it_is_whole_and_within_the_bound() -> None:
    asked: list[tuple[bytes, int]] = []

    def inflate(payload: bytes, limit: int) -> bytes:
        asked.append((payload, limit))
        return b"inflated"

    assembly = Assembly(100, inflate)
    assert feed(assembly, TEXT, b"ab", fin=0, rsv1=1) is None
    assert feed(assembly, CONTINUATION, b"cd") == "inflated"
    assert asked == [(b"abcd", 100)]
    assert feed(assembly, TEXT, b"plain") == "plain", "each message says for itself whether it is compressed"


def test_compressed_bytes_are_bounded_too() -> None:
    """Blocks that inflate to nothing can be sent for ever."""
    assembly = Assembly(1000, lambda payload, limit: b"")
    feed(assembly, BINARY, b"", fin=0, rsv1=1)
    for _ in range(10):
        feed(assembly, CONTINUATION, b"\x00" * 100, fin=0)
    assert refused(assembly, CONTINUATION, b"\x00" * 100, fin=0) == TOO_BIG


@pytest.mark.parametrize("code", [1000, 1001, 1011, 1014, 3000, 4999])
def test_close_frame_is_read_as_it_was_written(code: int) -> None:
    assert read_close(close_payload(code, "grüße")) == (code, "grüße")


def test_close_frame_may_be_empty() -> None:
    assert read_close(b"") == (NO_CODE, "")


@pytest.mark.parametrize("code", [0, 999, 1004, 1005, 1006, 1015, 1016, 2999, 5000, 65535])
def test_close_code_that_never_leaves_a_machine_is_refused(code: int) -> None:
    with pytest.raises(Violation) as violation:
        read_close(code.to_bytes(2, "big"))
    assert violation.value.code == PROTOCOL_ERROR
    with pytest.raises(ValueError, match=str(code)):
        close_payload(code, "")


def test_half_a_close_code_is_refused() -> None:
    with pytest.raises(Violation) as violation:
        read_close(b"\x03")
    assert violation.value.code == PROTOCOL_ERROR


def test_close_reason_is_text() -> None:
    with pytest.raises(Violation) as violation:
        read_close(b"\x03\xe8\xff")
    assert violation.value.code == INVALID_DATA


@given(st.text())
def test_close_reason_is_cut_to_fit_between_two_characters(reason: str) -> None:
    payload = close_payload(1000, reason)
    assert len(payload) <= 125
    assert reason.startswith(read_close(payload)[1])


@pytest.mark.parametrize(
    ("size", "expected"),
    [
        (0, b"\x81\x00"),
        (125, b"\x81\x7d"),
        (126, b"\x81\x7e\x00\x7e"),
        (65535, b"\x81\x7e\xff\xff"),
        (65536, b"\x81\x7f\x00\x00\x00\x00\x00\x01\x00\x00"),
    ],
)
def test_header_has_the_shortest_length(size: int, expected: bytes) -> None:
    assert header(TEXT, size) == expected


def test_header_of_a_compressed_message() -> None:
    assert header(BINARY, 5, rsv1=True) == b"\xc2\x05"
