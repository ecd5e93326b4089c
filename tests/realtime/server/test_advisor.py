"""Advice on compression."""

from __future__ import annotations

import itertools
import json
import time
import tracemalloc
import zlib
from collections.abc import Sequence

import pytest

from realtime.server.advisor import (
    LEAST_BYTES,
    MEM_LEVELS,
    WINDOW_BITS,
    Row,
    advise,
    affordable,
    measure,
    memory_of,
    policies,
)
from realtime.server.deflate import Policy, compress_alone

KIB = 1024
DEFAULT = Policy()
ALONE = Policy(min_bytes=0)
TAKEOVER = Policy(min_bytes=0, context_takeover=True)
LINES = [
    json.dumps({"type": "chat.line", "data": {"user": f"guest-{n}", "text": "hello " * 20}}).encode()
    for n in range(20)
]


def ticks(step: float = 1.0):
    """Return a clock that is ``step`` seconds later at every look."""
    seconds = itertools.count()
    return lambda: next(seconds) * step


def measured(messages: Sequence[bytes], *wanted: Policy) -> list[Row]:
    return list(measure(messages, wanted, seconds=0.0, clock=time.perf_counter))


def row(size: float, microseconds: float = 10, kept: int = 0, **policy: int) -> Row:
    return Row(Policy(context_takeover=kept > 0, **policy), size, microseconds, kept, 50 * KIB)


NOTHING = Row(None, 1.0, 0.0, 0, 0)


# What is compared.


def test_every_window_and_the_telling_levels_are_compared_with_and_without_takeover() -> None:
    found = policies(DEFAULT)
    assert len(found) == len(WINDOW_BITS) * len(MEM_LEVELS) * 2
    assert {(policy.window_bits, policy.context_takeover) for policy in found} == set(
        itertools.product(range(9, 16), (False, True))
    )
    assert {policy.min_bytes for policy in found} == {DEFAULT.min_bytes}


@pytest.mark.parametrize(
    "current", [DEFAULT, Policy(mem_level=8), Policy(window_bits=9, context_takeover=True, min_bytes=0)]
)
def test_what_is_set_now_is_among_them(current: Policy) -> None:
    assert policies(current).count(current) == 1


# What is measured.


def test_nothing_is_the_first_row() -> None:
    assert measured(LINES, ALONE)[0] == NOTHING


def test_size_is_what_the_engine_would_send() -> None:
    _, found = measured(LINES, ALONE)
    sent = sum(len(compress_alone(line, 12, 5)) for line in LINES)
    assert found.size == sent / sum(map(len, LINES))


def test_with_takeover_messages_refer_to_those_before() -> None:
    _, alone, kept = measured(LINES, ALONE, TAKEOVER)
    assert kept.size < alone.size / 3


def test_messages_below_the_least_size_are_sent_as_they_are() -> None:
    short, long = b"x" * 99, b"x" * 100
    _, found = measured([short, long], Policy(min_bytes=100))
    assert found.size == (99 + len(compress_alone(long, 12, 5))) / 199


def test_what_cannot_be_compressed_is_sent_as_it_is() -> None:
    noise = zlib.compress(b"".join(LINES))
    assert measured([noise], ALONE)[1].size == 1.0


def test_time_is_that_of_one_message_in_the_fastest_pass() -> None:
    """Each look at this clock takes a second, so a pass does."""
    (_, found) = measure(LINES, [ALONE], seconds=0.0, clock=ticks())
    assert found.microseconds == 1e6 / len(LINES)


@pytest.mark.parametrize(("seconds", "passes"), [(0.0, 1), (10.0, 5)])
def test_short_files_are_gone_through_until_the_time_is_over(seconds: float, passes: int) -> None:
    looks = itertools.count()
    list(measure(LINES, [ALONE], seconds=seconds, clock=lambda: float(next(looks))))
    # One look before, and two for each pass; the next pass would end too late.
    assert next(looks) == 1 + 2 * passes


@pytest.mark.parametrize(("seconds", "count"), [(0.5, 1), (5.0, 5), (1000.0, len(LINES))])
def test_no_more_messages_are_taken_than_there_is_time_for(seconds: float, count: int) -> None:
    large = [bytes(LEAST_BYTES)] * len(LINES)
    assert affordable(large, seconds, ticks()) == count


def test_a_small_sample_is_taken_whole_though_time_is_over() -> None:
    assert affordable(LINES, 0.0, ticks()) == len(LINES)
    assert affordable([bytes(LEAST_BYTES // 3 + 1)] * 9, 0.0, ticks()) == 3


# Memory.


@pytest.mark.parametrize(("bits", "level"), [(9, 1), (12, 5), (15, 9)])
def test_kept_memory_is_what_zlib_documents_and_some_kilobytes(bits: int, level: int) -> None:
    kept, working = memory_of(Policy(window_bits=bits, mem_level=level, context_takeover=True))
    compressor, window = (1 << (bits + 2)) + (1 << (level + 9)), 1 << bits
    assert compressor + window < kept < compressor + window + 24 * KIB
    assert compressor < working < compressor + 64 * KIB


def test_nothing_is_kept_without_takeover() -> None:
    assert memory_of(DEFAULT)[0] == 0


def test_tracing_of_somebody_else_goes_on() -> None:
    tracemalloc.start()
    try:
        memory_of(DEFAULT)
        assert tracemalloc.is_tracing()
    finally:
        tracemalloc.stop()
    memory_of(DEFAULT)
    assert not tracemalloc.is_tracing()


# Advice.


def chosen(rows: list[Row], current: Policy | None = None, memory: int = 0) -> Row:
    return advise([NOTHING, *rows], current, memory_bytes=memory).row


def test_the_fastest_of_the_smallest_is_chosen() -> None:
    fast = row(0.51, 10, window_bits=10)
    assert chosen([row(0.50, 20), fast, row(0.60, 1)]) is fast


def test_less_memory_decides_between_times_that_do_not_differ() -> None:
    small, large = row(0.5, 11, window_bits=9), row(0.5, 10, window_bits=15)
    small = Row(small.policy, small.size, small.microseconds, 0, 10 * KIB)
    assert chosen([large, small]) is small


def test_what_is_set_is_left_alone_where_nothing_is_better() -> None:
    other, current = row(0.5, 10, window_bits=9), row(0.51, 12, window_bits=15)
    assert chosen([other, current], current.policy) is current
    assert chosen([other, row(0.51, 13, window_bits=15)], current.policy) is other


@pytest.mark.parametrize(("size", "compress"), [(0.89, True), (0.91, False)])
def test_a_tenth_has_to_be_saved(size: float, compress: bool) -> None:
    found = advise([NOTHING, row(size)], None)
    assert (found.row is not NOTHING) is compress
    assert ("less than 10%" in found.reason) is not compress


def test_takeover_is_chosen_where_a_socket_may_keep_its_memory() -> None:
    alone, kept = row(0.7), row(0.3, 5, 40 * KIB)
    assert chosen([alone, kept], memory=40 * KIB - 1) is alone
    assert chosen([alone, kept], memory=40 * KIB) is kept


def test_of_those_that_keep_memory_the_least_is_chosen() -> None:
    less = row(0.31, 20, 20 * KIB)
    assert chosen([row(0.7), row(0.3, 5, 40 * KIB), less], memory=100 * KIB) is less


def test_memory_is_not_kept_where_that_saves_nothing() -> None:
    alone = row(0.51)
    assert chosen([alone, row(0.5, 1, 20 * KIB)], memory=100 * KIB) is alone


def test_what_memory_would_bring_is_said() -> None:
    alone, kept = row(0.7), row(0.3, 5, 40 * KIB)
    assert advise([NOTHING, alone, kept], None).with_memory is kept
    assert advise([NOTHING, alone, kept], None, memory_bytes=40 * KIB).with_memory is None
    assert advise([NOTHING, alone, row(0.65, 5, 40 * KIB)], None).with_memory is None


@pytest.mark.parametrize(
    ("found", "words"),
    [
        (row(0.25, 12.4), ["75%", "12 microseconds", "keeps nothing"]),
        (row(0.25, 12.4, 40 * KIB), ["75%", "12 microseconds", "40 KiB for each socket"]),
    ],
)
def test_the_reason_has_the_figures(found: Row, words: list[str]) -> None:
    reason = advise([NOTHING, found], None, memory_bytes=100 * KIB).reason
    assert all(word in reason for word in words)
