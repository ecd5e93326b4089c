"""A Redis of the benchmarks' own, which keeps nothing on disk, and what it tells of itself."""

from __future__ import annotations

import contextlib
import shutil
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass

from benchmarks import servers

START_TIMEOUT = 15.0
"""Seconds a Redis may take to answer."""

OURS_TO_ASK = frozenset({"info", "ping"})
"""Commands that the benchmarks send themselves."""


@dataclass(frozen=True, slots=True)
class Redis:
    """A Redis that runs."""

    server: servers.Server

    @property
    def url(self) -> str:
        """Where it is."""
        return f"redis://127.0.0.1:{self.server.port}/0"

    def memory(self) -> int:
        """Return the bytes of its data, with what it needs to keep them."""
        return int(_fields(self.ask("INFO", "memory"))["used_memory"])

    def calls(self) -> dict[str, int]:
        """Return how often each command was carried out, in scripts too."""
        rows = _fields(self.ask("INFO", "commandstats"))
        found = {name.removeprefix("cmdstat_"): value for name, value in rows.items()}
        return {
            name: int(value.partition(",")[0].removeprefix("calls="))
            for name, value in found.items()
            if name not in OURS_TO_ASK
        }

    def ask(self, *words: str) -> str:
        """Send one command over a connection of its own, and return its answer."""
        with socket.create_connection(("127.0.0.1", self.server.port), timeout=10) as connection:
            request = "".join(f"${len(word)}\r\n{word}\r\n" for word in words)
            connection.sendall(f"*{len(words)}\r\n{request}".encode())
            with connection.makefile("rb") as answer:
                head = answer.readline().decode()
                return answer.read(int(head[1:])).decode() if head.startswith("$") else head.strip()


def since(before: dict[str, int], after: dict[str, int]) -> dict[str, int]:
    """Return how often each command was carried out between two looks, the most frequent first."""
    counts = {name: count - before.get(name, 0) for name, count in after.items()}
    return dict(sorted(((n, c) for n, c in counts.items() if c), key=lambda pair: -pair[1]))


@contextlib.contextmanager
def running(core: int | None) -> Iterator[Redis]:
    """Run a Redis until the block ends. Raise RuntimeError if there is none, or if it does not answer."""
    binary = shutil.which("redis-server")
    if binary is None:
        raise RuntimeError("This needs redis-server (Debian: apt-get install redis-server).")
    with tempfile.TemporaryDirectory(prefix="channels-ops-bench-redis-") as folder:
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            port: int = probe.getsockname()[1]
        keeping_nothing = ("--save", "", "--appendonly", "no", "--dir", folder)
        process = subprocess.Popen(
            [binary, "--bind", "127.0.0.1", "--port", str(port), *keeping_nothing],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            preexec_fn=servers.pin(core),
        )
        try:
            redis = Redis(servers.Server(process, port))
            _wait_until_it_answers(redis)
            yield redis
        finally:
            process.terminate()
            process.wait()


def _wait_until_it_answers(redis: Redis) -> None:
    deadline = time.monotonic() + START_TIMEOUT
    while redis.server.process.poll() is None and time.monotonic() < deadline:
        with contextlib.suppress(OSError):
            if redis.ask("PING") == "+PONG":
                return
        time.sleep(0.02)
    raise RuntimeError("redis-server did not come up")


def _fields(text: str) -> dict[str, str]:
    return dict(line.split(":", 1) for line in text.splitlines() if ":" in line)
