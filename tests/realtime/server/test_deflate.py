"""permessage-deflate: negotiation and compression."""

from __future__ import annotations

import zlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from realtime.server.deflate import Agreement, Deflater, Policy, compress_alone, negotiate
from realtime.server.messages import INVALID_DATA, TOO_BIG, Violation

DEFAULT = Policy()
TAKEOVER = Policy(context_takeover=True)


def agreed(*offers: str, policy: Policy = DEFAULT) -> Agreement:
    agreement = negotiate(offers, policy)
    assert agreement is not None
    return agreement


def client_inflate(packed: bytes, bits: int = 15) -> bytes:
    return zlib.decompressobj(-bits).decompress(packed + b"\x00\x00\xff\xff")


def client_deflate(data: bytes) -> bytes:
    compressor = zlib.compressobj(wbits=-15)
    return (compressor.compress(data) + compressor.flush(zlib.Z_SYNC_FLUSH))[:-4]


@pytest.mark.parametrize(
    ("offer", "response"),
    [
        pytest.param(
            "permessage-deflate",
            "permessage-deflate; server_no_context_takeover; client_no_context_takeover",
            id="bare",
        ),
        pytest.param(
            "permessage-deflate; client_max_window_bits",
            "permessage-deflate; server_no_context_takeover; client_no_context_takeover; client_max_window_bits=12",
            id="Chrome and Firefox",
        ),
        pytest.param(
            "permessage-deflate; client_max_window_bits=10",
            "permessage-deflate; server_no_context_takeover; client_no_context_takeover; client_max_window_bits=10",
            id="client limits itself",
        ),
        pytest.param(
            "permessage-deflate; server_max_window_bits=9",
            "permessage-deflate; server_no_context_takeover; client_no_context_takeover; server_max_window_bits=9",
            id="client limits us",
        ),
        pytest.param(
            'permessage-deflate; server_max_window_bits="15"',
            "permessage-deflate; server_no_context_takeover; client_no_context_takeover; server_max_window_bits=12",
            id="quoted value, and we take less",
        ),
        pytest.param(
            "x-webkit-deflate-frame, permessage-deflate; unknown, Permessage-Deflate",
            "permessage-deflate; server_no_context_takeover; client_no_context_takeover",
            id="first offer that can be met",
        ),
    ],
)
def test_offer_is_answered(offer: str, response: str) -> None:
    assert agreed(offer).response == response


@pytest.mark.parametrize(
    "offer",
    [
        pytest.param("", id="nothing"),
        pytest.param("x-webkit-deflate-frame", id="another extension"),
        pytest.param("permessage-deflate; unknown", id="unknown parameter"),
        pytest.param("permessage-deflate; server_max_window_bits", id="value missing"),
        pytest.param("permessage-deflate; server_max_window_bits=16", id="value too large"),
        pytest.param("permessage-deflate; server_max_window_bits=09", id="leading zero"),
        pytest.param("permessage-deflate; client_max_window_bits=x", id="not a number"),
        pytest.param("permessage-deflate; server_no_context_takeover=1", id="value where none belongs"),
        pytest.param(
            "permessage-deflate; server_max_window_bits=10; server_max_window_bits=11", id="given twice"
        ),
        pytest.param("permessage-deflate; server_max_window_bits=8", id="a window zlib cannot make"),
    ],
)
def test_offer_that_cannot_be_met_is_declined(offer: str) -> None:
    assert negotiate([offer], DEFAULT) is None


def test_offers_may_come_in_several_lines() -> None:
    assert negotiate(["x-other", "permessage-deflate"], DEFAULT) is not None


@pytest.mark.parametrize(
    ("offer", "keeps"),
    [
        ("permessage-deflate", (True, True)),
        ("permessage-deflate; server_no_context_takeover", (False, True)),
        ("permessage-deflate; client_no_context_takeover", (True, False)),
    ],
)
def test_context_is_kept_where_the_policy_and_the_client_allow(offer: str, keeps: tuple[bool, bool]) -> None:
    agreement = agreed(offer, policy=TAKEOVER)
    assert (agreement.keeps_outbound, agreement.keeps_inbound) == keeps
    assert not agreed(offer).keeps_outbound


@given(st.binary(max_size=5000), st.integers(9, 15), st.integers(1, 9))
def test_client_reads_what_was_compressed(data: bytes, bits: int, level: int) -> None:
    assert client_inflate(compress_alone(data, bits, level), bits) == data


@given(st.lists(st.binary(max_size=300), max_size=10), st.booleans())
def test_messages_come_back_as_they_were_with_and_without_context(messages: list[bytes], keeps: bool) -> None:
    agreement = agreed("permessage-deflate", policy=Policy(context_takeover=keeps))
    server, client = Deflater(agreement), zlib.compressobj(wbits=-15)
    reader = zlib.decompressobj(-15)
    for message in messages:
        packed = (
            (client.compress(message) + client.flush(zlib.Z_SYNC_FLUSH))[:-4]
            if keeps
            else client_deflate(message)
        )
        assert server.inflate(packed, 0) == message
        out = server.compress(message)
        if out is None:
            continue
        if not keeps:
            reader = zlib.decompressobj(-15)
        assert reader.decompress(out + b"\x00\x00\xff\xff") == message


def test_context_makes_repetitions_small() -> None:
    message = bytes(range(256)) * 2
    kept = Deflater(agreed("permessage-deflate", policy=TAKEOVER))
    first, second = kept.compress(message), kept.compress(message)
    assert first is not None
    assert second is not None
    assert len(second) < len(first) / 4


def test_what_does_not_get_smaller_is_sent_as_it_is() -> None:
    deflater = Deflater(agreed("permessage-deflate"))
    assert deflater.compress(b"abc") is None
    assert deflater.wire_alone("abc") == b"\x81\x03abc"


def test_frame_is_the_same_for_sockets_that_share_parameters() -> None:
    one, other = Deflater(agreed("permessage-deflate")), Deflater(agreed("permessage-deflate"))
    smaller = Deflater(agreed("permessage-deflate; server_max_window_bits=9"))
    assert one.share_key == other.share_key != smaller.share_key
    text = "all work and no play " * 50
    wire = one.wire_alone(text)
    assert wire == other.wire_alone(text)
    assert wire[0] == 0xC1
    assert client_inflate(wire[4:] if wire[1] == 126 else wire[2:]) == text.encode()


def test_frame_cannot_be_shared_where_context_is_kept() -> None:
    assert Deflater(agreed("permessage-deflate", policy=TAKEOVER)).share_key is None


@pytest.mark.parametrize(("size", "fits"), [(1000, True), (1001, False)])
def test_inflated_size_is_bounded(size: int, fits: bool) -> None:
    packed = client_deflate(b"x" * size)
    deflater = Deflater(agreed("permessage-deflate"))
    if fits:
        assert deflater.inflate(packed, 1000) == b"x" * size
    else:
        with pytest.raises(Violation) as violation:
            deflater.inflate(packed, 1000)
        assert violation.value.code == TOO_BIG


def test_bomb_is_refused_without_being_inflated(monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[bytes] = []
    packed = client_deflate(bytes(64 << 20))
    real = zlib.decompressobj
    monkeypatch.setattr(
        "realtime.server.deflate.zlib.decompressobj", lambda *args: _watching(real(*args), made)
    )
    with pytest.raises(Violation):
        Deflater(agreed("permessage-deflate")).inflate(packed, 1 << 20)
    assert sum(map(len, made)) == (1 << 20) + 1


def _watching(inner: object, made: list[bytes]) -> object:
    class Watched:
        eof = False

        def decompress(self, data: bytes, limit: int) -> bytes:
            made.append(inner.decompress(data, limit))  # type: ignore[attr-defined]
            return made[-1]

    return Watched()


@pytest.mark.parametrize("data", [b"\xff\xff\xff", b"\x07"])
def test_what_cannot_be_inflated_is_refused(data: bytes) -> None:
    with pytest.raises(Violation) as violation:
        Deflater(agreed("permessage-deflate")).inflate(data, 1000)
    assert violation.value.code == INVALID_DATA


def test_message_whose_stream_ends_is_read() -> None:
    """RFC 7692, 7.2.3.4: a final block, and an empty one behind it."""
    assert (
        Deflater(agreed("permessage-deflate")).inflate(bytes.fromhex("f348cdc9c90700") + b"\x00", 100)
        == b"Hello"
    )


def test_message_of_several_streams_is_read_and_bounded() -> None:
    compressor = zlib.compressobj(wbits=-15)
    stream = compressor.compress(b"x" * 600) + compressor.flush()
    deflater = Deflater(agreed("permessage-deflate"))
    assert deflater.inflate(stream + stream + b"\x00", 2000) == b"x" * 1200
    with pytest.raises(Violation):
        deflater.inflate(stream + stream + b"\x00", 1000)


@given(st.binary(max_size=300))
def test_any_bytes_are_inflated_within_the_bound_or_refused(data: bytes) -> None:
    try:
        inflated = Deflater(agreed("permessage-deflate")).inflate(data, 200)
    except Violation:
        return
    assert len(inflated) <= 200


def test_streams_of_one_message_are_counted() -> None:
    """Each of them costs a copy of the rest: half a million in a megabyte would keep the server busy for minutes."""
    deflater = Deflater(agreed("permessage-deflate"))
    with pytest.raises(Violation) as violation:
        deflater.inflate(b"\x03\x00" * 500_000, 1 << 20)
    assert violation.value.code == INVALID_DATA


def test_several_streams_without_a_bound() -> None:
    stream = zlib.compressobj(wbits=-15)
    packed = stream.compress(b"abc") + stream.flush()
    assert Deflater(agreed("permessage-deflate")).inflate(packed * 3 + b"\x00", 0) == b"abc" * 3
