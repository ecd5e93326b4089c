"""Advice on compression, measured on real messages with the code that compresses them in the engine."""

from __future__ import annotations

import tracemalloc
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace

from realtime.server.deflate import NAME, Agreement, Deflater, Policy, compress_alone, negotiate

WINDOW_BITS = range(9, 16)
MEM_LEVELS = (1, 3, 5, 7, 9)

WORTH = 0.10
"""Compression that leaves out a smaller part of the bytes than this is not worth its time."""
CLOSE = 0.02
"""Sizes that differ by no more than this part of the input are as good as the same."""

ALIKE = 1.25
"""Costs that differ by less than this factor are within what a busy machine adds to a measurement."""

LEAST_BYTES = 64 * 1024
"""A sample smaller than this says little, and takes no time worth mentioning."""

_BROWSER = f"{NAME}; client_max_window_bits"
"""What Chrome, Firefox and Safari offer."""
_SAMPLES = 8
"""Compressors whose memory is measured together."""

Clock = Callable[[], float]
"""Returns seconds; only differences count."""


@dataclass(frozen=True, slots=True)
class Row:
    """What one policy does to the messages. Without a policy nothing is compressed."""

    policy: Policy | None
    size: float
    """Bytes sent per byte given, of the payloads alone."""
    microseconds: float
    """Time of one message, those too short to be compressed included."""
    kept_bytes: int
    """Memory one socket keeps once it has sent and received a compressed message."""
    working_bytes: int
    """Memory the process needs while it compresses one message; part of ``kept_bytes`` where that is not 0."""


@dataclass(frozen=True, slots=True)
class Advice:
    """What to set, and why."""

    row: Row
    reason: str
    with_memory: Row | None
    """What would be better if each socket could keep that much memory; ``None`` where nothing would."""


def policies(current: Policy) -> list[Policy]:
    """Return the policies worth comparing, in the order of window, level and takeover; ``current`` is among them."""
    levels = sorted({*MEM_LEVELS, current.mem_level})
    return [
        replace(current, window_bits=bits, mem_level=level, context_takeover=takeover)
        for bits in WINDOW_BITS
        for level in levels
        for takeover in (False, True)
    ]


def measure(
    messages: Sequence[bytes],
    wanted: Iterable[Policy],
    *,
    seconds: float,
    clock: Clock,
) -> Iterator[Row]:
    """
    Yield a row for each policy: first the one that compresses nothing.

    The messages are taken for what one socket is sent, in their order. ``seconds`` is about how long all of
    it may take; short files are gone through repeatedly in that time, and the fastest pass counts. Nothing
    is left out for lack of time: give no more than :func:`affordable` messages.

    """
    wanted = list(wanted)
    total = sum(map(len, messages))
    yield Row(None, 1.0, 0.0, 0, 0)
    for policy in wanted:
        sent, best = _passes(messages, policy, seconds / len(wanted), clock)
        kept, working = memory_of(policy)
        yield Row(policy, sent / total if total else 1.0, 1e6 * best / len(messages), kept, working)


def affordable(messages: Sequence[bytes], seconds: float, clock: Clock) -> int:
    """
    Return how many of the messages, from the first on, the slowest policy compresses in ``seconds``.

    However little time there is, no fewer than make up ``LEAST_BYTES``.

    """
    slowest = Deflater(_agreement(Policy(window_bits=15, mem_level=9, min_bytes=0)))
    end, compressed = clock() + seconds, 0
    for number, message in enumerate(messages, 1):
        slowest.compress(message)
        compressed += len(message)
        if compressed >= LEAST_BYTES and clock() >= end:
            return number
    return len(messages)


def memory_of(policy: Policy) -> tuple[int, int]:
    """
    Return what one socket keeps, and what compressing takes, in bytes, as allocated by the zlib of this machine.

    zconf.h says ``(1 << (window_bits + 2)) + (1 << (mem_level + 9))`` for a compressor and ``1 << window_bits``
    for a decompressor, plus a few kilobytes each; other builds of zlib need more.

    """
    message = bytes(range(256)) * 4
    packed = compress_alone(message, policy.window_bits, policy.mem_level)
    deflaters = [Deflater(_agreement(policy)) for _ in range(_SAMPLES)]

    def use() -> None:
        for deflater in deflaters:
            deflater.compress(message)
            deflater.inflate(packed, 0)

    kept, _ = _traced(use)
    _, working = _traced(lambda: compress_alone(message, policy.window_bits, policy.mem_level))
    return kept // _SAMPLES, working


def advise(rows: Sequence[Row], current: Policy | None, *, memory_bytes: int = 0) -> Advice:
    """
    Return which row to choose where a socket may keep ``memory_bytes``. The first row must be the one without a policy.

    Of the rows that fit and come within ``CLOSE`` of the smallest output the one with the least cost: memory
    for each socket, or time where none is kept. Costs within ``ALIKE`` of each other are no reason to change
    what is ``current``. None of them where that saves less than ``WORTH``.

    """
    nothing, *compressing = rows
    row = _best([row for row in compressing if row.kept_bytes <= memory_bytes], nothing, current)
    larger = _best(compressing, nothing, current)
    if larger.kept_bytes <= row.kept_bytes or row.size - larger.size < WORTH:
        return Advice(row, _reason(row), None)
    return Advice(row, _reason(row), larger)


def _best(rows: Sequence[Row], nothing: Row, current: Policy | None) -> Row:
    smallest = min((row.size for row in rows), default=1.0)
    if 1.0 - smallest < WORTH:
        return nothing
    good = [row for row in rows if row.size <= smallest + CLOSE]

    def cost(row: Row) -> float:
        # Memory is paid for every socket, time only for its messages.
        return row.kept_bytes if least_kept else row.microseconds

    least_kept = min(row.kept_bytes for row in good)
    if not least_kept:
        good = [row for row in good if not row.kept_bytes]
    most = ALIKE * min(map(cost, good))
    alike = [row for row in good if cost(row) <= most]
    return min(alike, key=lambda row: (row.policy != current, row.kept_bytes, row.working_bytes))


def _reason(row: Row) -> str:
    if row.policy is None:
        return f"Compression would leave out less than {WORTH:.0%} of the bytes."
    saved = f"It leaves out {1 - row.size:.0%} of the bytes in {row.microseconds:.0f} microseconds a message"
    if row.kept_bytes:
        return f"{saved} and keeps {row.kept_bytes / 1024:.0f} KiB for each socket."
    return f"{saved} and keeps nothing for a socket; other settings of that kind are no better."


def _passes(messages: Sequence[bytes], policy: Policy, seconds: float, clock: Clock) -> tuple[int, float]:
    """Return the bytes sent, and the seconds of the fastest pass."""
    agreement = _agreement(policy)
    began, best, sent = clock(), float("inf"), 0
    while True:
        started = clock()
        sent = _send(messages, Deflater(agreement))
        ended = clock()
        best = min(best, ended - started)
        # Another pass of the same length has to fit.
        if ended - began + best > seconds:
            return sent, best


def _send(messages: Sequence[bytes], deflater: Deflater) -> int:
    """Return how many bytes the engine would send, frame headers apart."""
    sent, least = 0, deflater.min_bytes
    for message in messages:
        packed = deflater.compress(message) if len(message) >= least else None
        sent += len(message if packed is None else packed)
    return sent


def _agreement(policy: Policy) -> Agreement:
    agreement = negotiate([_BROWSER], policy)
    assert agreement is not None  # noqa: S101 - every policy can meet this offer
    return agreement


def _traced(act: Callable[[], object]) -> tuple[int, int]:
    """Return the bytes that ``act()`` leaves allocated, zlib's among them, and the most that it had."""
    others = tracemalloc.is_tracing()
    if not others:
        tracemalloc.start()
    try:
        tracemalloc.reset_peak()
        before, _ = tracemalloc.get_traced_memory()
        act()
        after, peak = tracemalloc.get_traced_memory()
        return after - before, peak - before
    finally:
        if not others:
            tracemalloc.stop()
