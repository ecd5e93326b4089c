"""A socket's frames, parsed in C: what a parser leaves behind."""

from __future__ import annotations

import gc
from collections.abc import Iterator

import pytest
from websockets.frames import Opcode

from realtime.server.parser import ParsedFrame, Parser, Parsers
from tests.acceptance import rawclient

READ_BYTES = 4096
LARGE = 900_000
BOUND = 1024 * 1024


class Reader:
    """Remembers what it read."""

    def __init__(self) -> None:
        self.sizes: list[int] = []
        self.plain: list[bool] = []
        self.violations: list[int] = []

    def on_frame(self, frame: ParsedFrame, is_plain: bool) -> None:
        self.sizes.append(len(frame.get_payload_as_bytes()))
        self.plain.append(is_plain)

    def violated(self, code: int, reason: str) -> None:
        self.violations.append(code)


@pytest.fixture
def no_collector() -> Iterator[None]:
    gc.collect()
    gc.disable()
    yield
    gc.enable()


def feed(parser: Parser, data: bytes, reader: Reader) -> None:
    room = parser.room
    while data:
        size = min(len(room), len(data))
        room[:size] = data[:size]
        data = data[size:]
        parser.feed(size, reader)
        room = parser.more_room()


def alive() -> int:
    return sum(isinstance(one, Parser) for one in gc.get_objects())


@pytest.mark.parametrize(
    ("data", "sizes", "violations"),
    [
        pytest.param(rawclient.frame(Opcode.BINARY, b"x" * LARGE), [LARGE], [], id="a large message"),
        pytest.param(
            rawclient.frame(Opcode.BINARY, b"x" * LARGE)[:-1], [], [], id="a part of a large message"
        ),
        pytest.param(b"\x82\xff" + (1 << 30).to_bytes(8, "big") + b"abcd", [], [1009], id="a violation"),
    ],
)
async def test_a_parser_that_is_let_go_is_freed_without_the_garbage_collector(
    no_collector: None, data: bytes, sizes: list[int], violations: list[int]
) -> None:
    """With its buffer, which is as large as the largest frame it has read."""
    shared, reader, before = Parsers(READ_BYTES).of(BOUND), Reader(), alive()
    parser = shared.parser
    shared.replace()
    feed(parser, data, reader)
    assert (reader.sizes, reader.violations) == (sizes, violations)
    assert alive() == before + 1
    shared.give_back(parser)
    del parser
    assert alive() == before


async def test_a_parser_that_has_not_grown_is_used_again() -> None:
    shared, reader = Parsers(READ_BYTES).of(BOUND), Reader()
    parser = shared.parser
    shared.replace()
    feed(parser, rawclient.text("small"), reader)
    shared.give_back(parser)
    shared.replace()
    assert shared.parser is parser


async def test_no_more_than_a_few_parsers_are_spare() -> None:
    shared = Parsers(READ_BYTES).of(BOUND)
    parsers = []
    for _ in range(10):
        parsers.append(shared.parser)
        shared.replace()
    for parser in parsers:
        shared.give_back(parser)
    assert shared._spare == parsers[:4]


async def test_each_bound_has_its_own() -> None:
    parsers = Parsers(READ_BYTES)
    assert parsers.of(1) is parsers.of(1) is not parsers.of(2)
    for bound in range(1000):
        parsers.of(bound)
    assert len(parsers._shared) <= 32


@pytest.mark.parametrize(
    ("data", "plain"),
    [
        pytest.param(rawclient.text("one"), [True], id="text"),
        pytest.param(
            rawclient.text("one") + rawclient.frame(Opcode.PING), [True, False], id="only the first"
        ),
    ],
)
async def test_only_what_the_first_byte_tells_is_known_to_be_plain(data: bytes, plain: list[bool]) -> None:
    parser, reader = Parsers(READ_BYTES).of(BOUND).parser, Reader()
    parser.room[: len(data)] = data
    assert parser.feed(len(data), reader, True)
    assert reader.plain == plain


async def test_what_is_known_of_the_first_byte_does_not_outlast_its_read() -> None:
    parser, reader = Parsers(READ_BYTES).of(BOUND).parser, Reader()
    parser.room[:1] = b"\x81"
    assert not parser.feed(1, reader, True)
    rest = rawclient.text("one")[1:]
    parser.more_room()[: len(rest)] = rest
    assert parser.feed(len(rest), reader)
    assert reader.plain == [False]


@pytest.mark.parametrize("read_bytes", [1024, 2048, 4096, 65536])
async def test_what_fits_never_makes_an_empty_parser_grow(read_bytes: int) -> None:
    """Its room is written to again and again: it must be where it was."""
    parser, reader = Parsers(read_bytes).of(BOUND).parser, Reader()
    for size in {*range(read_bytes - 600, read_bytes + 1, 7), read_bytes}:
        frame = rawclient.frame(Opcode.BINARY, b"x" * (size - 8))
        parser.room[: len(frame)] = frame
        assert parser.feed(len(frame), reader)
        assert parser.is_as_new
        assert len(parser.room) == read_bytes
