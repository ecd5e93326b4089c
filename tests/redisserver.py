"""A real Redis of the tests' own: started on a free port, nothing kept on disk, ended by its process id."""

from __future__ import annotations

import contextlib
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

START_TIMEOUT = 15.0
"""Seconds a Redis may take to answer its first PING."""


@dataclass(frozen=True, slots=True)
class RedisServer:
    """A Redis that is running."""

    host: str
    port: int
    pid: int

    @property
    def url(self) -> str:
        """What ``REDIS_URL`` takes."""
        return f"redis://{self.host}:{self.port}/0"

    def command(self, *words: str) -> bytes:
        """Send one command over a connection of its own and return the first bytes of the raw answer."""
        request = b"*%d\r\n" % len(words) + b"".join(
            b"$%d\r\n%s\r\n" % (len(w.encode()), w.encode()) for w in words
        )
        with socket.create_connection((self.host, self.port), timeout=5) as connection:
            connection.sendall(request)
            return connection.recv(65536)


@contextlib.contextmanager
def running(
    binary: Path, *options: str, host: str = "127.0.0.1", port: int | None = None
) -> Iterator[RedisServer]:
    """
    Run ``binary`` until the block ends, on a free port if none is given.

    ``options`` come after our own and so win. Raise RuntimeError with its output if it does not come up.

    """
    with tempfile.TemporaryDirectory(prefix="channels-ops-redis-") as folder:
        port = port or free_port(host)
        log = Path(folder) / "redis.log"
        with log.open("wb") as output:
            process = subprocess.Popen(
                [
                    binary,
                    "--bind",
                    host,
                    "--port",
                    str(port),
                    "--dir",
                    folder,
                    "--save",
                    "",
                    "--appendonly",
                    "no",
                    *options,
                ],
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
            )
        try:
            server = RedisServer(host, port, process.pid)
            _wait_until_it_answers(server, process, log)
            yield server
        finally:
            process.terminate()
            try:
                process.wait(10)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()


def free_port(host: str) -> int:
    """Return a port on which nobody listens."""
    with socket.socket() as probe:
        probe.bind((host, 0))
        port: int = probe.getsockname()[1]
        return port


def _wait_until_it_answers(server: RedisServer, process: subprocess.Popen[bytes], log: Path) -> None:
    deadline = time.monotonic() + START_TIMEOUT
    while process.poll() is None and time.monotonic() < deadline:
        with contextlib.suppress(OSError):
            if server.command("PING") == b"+PONG\r\n":
                return
        # A process that is not listening yet gives nothing to wait on.
        time.sleep(0.02)
    raise RuntimeError(f"Redis did not come up on port {server.port}:\n{log.read_text(errors='replace')}")
