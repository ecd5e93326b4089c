"""Measure compression on one's own messages, and say what to set."""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Iterable, Iterator
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any, BinaryIO

from django.core.management.base import BaseCommand, CommandError, CommandParser

from realtime.conf import RealtimeSettings, get_settings
from realtime.server.advisor import Advice, Row, advise, affordable, measure, policies
from realtime.server.deflate import Policy

MOST_BYTES = 64 * 1024 * 1024
"""Bytes of messages that are read at most; what comes after them is left out, and that is said."""
PATIENCE = 2.0
"""Seconds between two lines that say how far it is."""


class Command(BaseCommand):
    """``manage.py compression_advisor``."""

    help = (
        "Compresses the messages of FILE as the engine would, with every sensible choice of the"
        " REALTIME_COMPRESSION_* settings, and says how much smaller they get, how long that takes, how much memory"
        " it keeps, and what to set."
    )

    def add_arguments(self, parser: CommandParser) -> None:
        """Declare the options."""
        parser.add_argument(
            "file",
            metavar="FILE",
            help="One message per line, in the order one socket is sent them; or a .json file with an array of"
            " messages, a directory with one message per file, or - for standard input.",
        )
        parser.add_argument(
            "--memory",
            type=_number,
            default=0,
            metavar="KIB",
            help="Memory each socket may keep for compression, in KiB (default: 0).",
        )
        parser.add_argument(
            "--min-bytes",
            type=_number,
            default=None,
            metavar="N",
            help="In place of REALTIME_COMPRESSION_MIN_BYTES.",
        )
        parser.add_argument(
            "--seconds",
            type=_seconds,
            default=10.0,
            help="About how long it may take (default: 10); longer is more exact, and looks at more messages.",
        )
        parser.add_argument("--json", action="store_true", help="Print everything as one JSON object.")

    def handle(self, *args: Any, **options: Any) -> None:
        """Read, measure, and print."""
        settings = get_settings()
        messages = self._messages(options["file"])
        policy = _policy(settings)
        if options["min_bytes"] is not None:
            policy = replace(policy, min_bytes=options["min_bytes"])
        wanted = policies(policy)
        count = affordable(messages, options["seconds"] / len(wanted), time.perf_counter)
        if count < len(messages):
            self._say(f"Measuring the first {count:,} of {len(messages):,} messages; --seconds takes more.")
        messages = messages[:count]
        rows = self._measured(messages, wanted, options["seconds"])
        current = policy if settings.compression == "deflate" else None
        report = Report(
            options["file"],
            messages,
            rows,
            current,
            policy,
            advise(rows, current, memory_bytes=1024 * options["memory"]),
        )
        self.stdout.write(json.dumps(report.as_json()) if options["json"] else report.as_text())

    def _messages(self, name: str) -> list[bytes]:
        try:
            messages, left_out = _within_bound(_read(name))
        except OSError as error:
            raise CommandError(f"{name} cannot be read: {error.strerror or error}.") from error
        if not messages:
            raise CommandError(f"{_called(name)} has no messages. Put one on each line.")
        if left_out:
            self._say(f"Read the first {MOST_BYTES >> 20} MiB of {_called(name)}; the rest is left out.")
        return messages

    def _measured(self, messages: list[bytes], wanted: list[Policy], seconds: float) -> list[Row]:
        rows: list[Row] = []
        said = time.perf_counter()
        for row in measure(messages, wanted, seconds=seconds, clock=time.perf_counter):
            rows.append(row)
            if time.perf_counter() - said > PATIENCE:
                said = time.perf_counter()
                self._say(f"{len(rows)} of {len(wanted) + 1} measured ...")
        return rows

    def _say(self, line: str) -> None:
        self.stderr.write(line, self.style.NOTICE)
        self.stderr.flush()


class Report:
    """What was measured, and the advice, for people and for programs."""

    def __init__(
        self,
        name: str,
        messages: list[bytes],
        rows: list[Row],
        current: Policy | None,
        asked: Policy,
        advice: Advice,
    ) -> None:
        self._name = name
        self._count = len(messages)
        self._bytes = sum(map(len, messages))
        self._short = sum(len(message) < asked.min_bytes for message in messages)
        self._min_bytes = asked.min_bytes
        self._rows = rows
        self._current = current
        self._advice = advice

    def as_json(self) -> dict[str, Any]:
        """Return everything; times are in microseconds, memory in bytes."""
        larger = self._advice.with_memory
        return {
            "messages": self._count,
            "bytes": self._bytes,
            "min_bytes": self._min_bytes,
            "messages_below_min_bytes": self._short,
            "rows": [self._row_as_json(row) for row in self._rows],
            "recommended": settings_of(self._advice.row.policy),
            "reason": self._advice.reason,
            "with_memory": larger and {**settings_of(larger.policy), "kept_bytes": larger.kept_bytes},
        }

    def _row_as_json(self, row: Row) -> dict[str, Any]:
        policy = row.policy
        return {
            "window_bits": policy and policy.window_bits,
            "mem_level": policy and policy.mem_level,
            "context_takeover": policy and policy.context_takeover,
            "size": round(row.size, 4),
            "microseconds": round(row.microseconds, 2),
            "kept_bytes": row.kept_bytes,
            "working_bytes": row.working_bytes,
            "current": policy == self._current,
            "recommended": row is self._advice.row,
        }

    def as_text(self) -> str:
        """Return the table and, to be pasted, the settings."""
        return "\n".join([*self._heading(), "", *self._table(), "", *self._recommendation()])

    def _heading(self) -> Iterator[str]:
        yield f"{self._count:,} messages, {self._bytes:,} bytes, from {_called(self._name)}"
        if self._short:
            yield (
                f"{self._short:,} of them are shorter than {self._min_bytes} bytes"
                " (REALTIME_COMPRESSION_MIN_BYTES) and sent as they are"
            )

    def _table(self) -> Iterator[str]:
        yield "                each message alone             with context takeover"
        yield "window level     size  us/message  KiB kept     size  us/message  KiB kept"
        nothing, *rows = self._rows
        yield f"  no compression {self._cells(nothing)}".rstrip()
        for alone, kept in list(pairwise(rows))[::2]:
            policy = alone.policy
            assert policy is not None  # noqa: S101 - only the first row has none
            yield (
                f"{policy.window_bits:6} {policy.mem_level:5}    {self._cells(alone)} {self._cells(kept)}".rstrip()
            )
        yield ""
        yield "> recommended   * current   KiB kept: for each socket, on this machine"

    def _cells(self, row: Row) -> str:
        marks = (">" if row is self._advice.row else "") + ("*" if row.policy == self._current else "")
        return f"{row.size:5.1%} {row.microseconds:10.1f} {row.kept_bytes / 1024:9.1f} {marks:2}"

    def _recommendation(self) -> Iterator[str]:
        advice = self._advice
        yield f"# {advice.reason}"
        if advice.row.policy == self._current:
            yield "# This is what is set."
        yield from _assignments(advice.row.policy)
        larger = advice.with_memory
        if larger is not None:
            yield ""
            yield (
                f"# A socket that may keep {larger.kept_bytes / 1024:.0f} KiB would send {larger.size:.0%} of the bytes, not"
                f" {advice.row.size:.0%},"
            )
            yield "# where each message goes to one socket: a broadcast is then compressed for every socket anew."
            yield f"# See it with --memory {-(-larger.kept_bytes // 1024)}."


def settings_of(policy: Policy | None) -> dict[str, Any]:
    """Return the Django settings that mean ``policy``."""
    if policy is None:
        return {"REALTIME_COMPRESSION": "none"}
    return {
        "REALTIME_COMPRESSION": "deflate",
        "REALTIME_COMPRESSION_WINDOW_BITS": policy.window_bits,
        "REALTIME_COMPRESSION_MEM_LEVEL": policy.mem_level,
        "REALTIME_COMPRESSION_CONTEXT_TAKEOVER": policy.context_takeover,
        "REALTIME_COMPRESSION_MIN_BYTES": policy.min_bytes,
    }


def _assignments(policy: Policy | None) -> Iterator[str]:
    for name, value in settings_of(policy).items():
        shown = json.dumps(value) if isinstance(value, str) else repr(value)
        yield f"{name} = {shown}"


def _policy(settings: RealtimeSettings) -> Policy:
    return Policy(
        window_bits=settings.compression_window_bits,
        mem_level=settings.compression_mem_level,
        context_takeover=settings.compression_context_takeover,
        min_bytes=settings.compression_min_bytes,
    )


def _called(name: str) -> str:
    return "standard input" if name == "-" else name


def _read(name: str) -> Iterator[bytes]:
    if name == "-":
        yield from _lines(sys.stdin.buffer)
        return
    path = Path(name)
    if path.is_dir():
        yield from (file.read_bytes() for file in sorted(path.iterdir()) if file.is_file())
    elif path.suffix == ".json":
        yield from _elements(path)
    else:
        with path.open("rb") as file:
            yield from _lines(file)


def _lines(file: BinaryIO) -> Iterator[bytes]:
    # A file without line ends is one long message.
    while line := file.readline(MOST_BYTES):
        yield line.rstrip(b"\r\n")


def _elements(path: Path) -> Iterator[bytes]:
    try:
        found = json.loads(path.read_bytes())
    except ValueError as error:
        raise CommandError(
            f"{path} is not JSON: {error}. Lines with a message each go into a .jsonl."
        ) from error
    if not isinstance(found, list):
        raise CommandError(f"{path} is not an array of messages. Lines with a message each go into a .jsonl.")
    for element in found:
        text = (
            element
            if isinstance(element, str)
            else json.dumps(element, separators=(",", ":"), ensure_ascii=False)
        )
        yield text.encode()


def _within_bound(messages: Iterable[bytes]) -> tuple[list[bytes], bool]:
    """Return the messages that are not empty, and whether there were too many to keep."""
    kept: list[bytes] = []
    room = MOST_BYTES
    for message in messages:
        if not message:
            continue
        if len(message) > room:
            return kept, True
        room -= len(message)
        kept.append(message)
    return kept, False


def _number(text: str) -> int:
    if not text.isdecimal():
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number.")
    return int(text)


def _seconds(text: str) -> float:
    try:
        seconds = float(text)
    except ValueError:
        seconds = 0.0
    if not 0 < seconds <= 3600:
        raise argparse.ArgumentTypeError(f"{text!r} is not a time in seconds: use more than 0, at most 3600.")
    return seconds
