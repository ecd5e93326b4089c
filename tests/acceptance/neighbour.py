"""A well-behaved client in a process of its own, so that nothing but the server can make it wait."""

from __future__ import annotations

import json
import select
import subprocess
import sys
import time
from types import TracebackType
from typing import NamedTuple, Self

from websockets.frames import Opcode

from tests.acceptance import rawclient
from tests.acceptance.processes import ROOT
from tests.acceptance.rawclient import RawClient

PAUSE = 0.002
"""Seconds between two messages: it is there to measure, not to keep the server busy."""


class Answer(NamedTuple):
    """One answer. Times are in seconds."""

    asked: float
    """When, by the clock ``time.monotonic``."""
    took: float
    late: float
    """How much later than it wanted to the neighbour got to ask: what the machine makes everybody wait."""


class Neighbour:
    """Sends a message to ``/echo`` again and again, and times the answers."""

    def __init__(self, port: int) -> None:
        self._port = port
        self._process: subprocess.Popen[str]

    def __enter__(self) -> Self:
        self._process = subprocess.Popen(
            [sys.executable, "-m", __name__, str(self._port)],
            cwd=ROOT,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        assert self._process.stdout is not None
        assert self._process.stdout.readline() == "talking\n"
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._process.poll() is None:
            self._process.kill()
        self._process.communicate()

    def stop(self) -> list[Answer]:
        """Ask once more, so that no moment was too short to be seen; return every answer there was."""
        output, _ = self._process.communicate(timeout=30)
        return [Answer(*figures) for figures in json.loads(output)]


def p99(times: list[float]) -> float:
    """Return the time that all but a hundredth of the answers took at most."""
    return sorted(times)[int(len(times) * 0.99)]


def _talk(port: int) -> None:
    """Echo until the standard input is closed, and once more, then print the times."""
    times = []
    with RawClient(port, timeout=30) as client:
        assert client.open("/echo").status == 101
        _say("talking")
        paused, is_last = time.monotonic(), False
        while not is_last:
            is_last = bool(select.select([sys.stdin], [], [], PAUSE)[0])
            asked = time.monotonic()
            late = asked - paused - PAUSE
            client.send(rawclient.text("ping"))
            while client.frame().opcode is not Opcode.TEXT:
                """A ping, which is answered by whatever is sent next."""
            paused = time.monotonic()
            times.append((asked, paused - asked, late))
    _say(json.dumps(times))


def _say(line: str) -> None:
    sys.stdout.write(line + "\n")
    sys.stdout.flush()


if __name__ == "__main__":
    _talk(int(sys.argv[1]))
