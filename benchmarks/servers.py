"""The measured server: the stock daphne command, in a process of its own on a core of its own."""

from __future__ import annotations

import contextlib
import os
import resource
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

Apps = Literal["plain", "ours"]

START_TIMEOUT = 30.0
"""Seconds a server may take to listen."""

FILES_WANTED = 65536


@dataclass(frozen=True, slots=True)
class Server:
    """A server that listens."""

    process: subprocess.Popen[bytes]
    port: int

    def cpu_seconds(self) -> float | None:
        """Return the processor time it has used; None where the system does not tell."""
        fields = self._proc("stat")
        if fields is None:
            return None
        after_name = fields[fields.rindex(")") + 2 :].split()
        return (int(after_name[11]) + int(after_name[12])) / os.sysconf("SC_CLK_TCK")

    def resident_bytes(self) -> int | None:
        """Return its resident memory; None where the system does not tell."""
        fields = self._proc("statm")
        return None if fields is None else int(fields.split()[1]) * os.sysconf("SC_PAGE_SIZE")

    def terminate(self) -> None:
        """Ask it to stop."""
        self.process.send_signal(signal.SIGTERM)

    def _proc(self, name: str) -> str | None:
        path = Path(f"/proc/{self.process.pid}/{name}")
        return path.read_text() if path.exists() else None


def cores() -> tuple[int, int] | None:
    """Return a core for the server and another for the load; None where processes cannot be pinned."""
    if not hasattr(os, "sched_getaffinity"):
        return None
    allowed = sorted(os.sched_getaffinity(0))
    return (allowed[0], allowed[-1]) if len(allowed) > 1 else None


def pin(core: int | None) -> Callable[[], None] | None:
    """Return what to run in a new process so that it stays on ``core``."""
    return None if core is None else lambda: os.sched_setaffinity(0, {core})


def raise_file_limit() -> int:
    """Raise this process's limit of open files, which its children inherit, and return it."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = FILES_WANTED if hard == resource.RLIM_INFINITY else min(FILES_WANTED, hard)
    if soft < wanted:
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))
    return max(soft, wanted)


@contextlib.contextmanager
def serving(apps: Apps, core: int | None, settings: Mapping[str, object] | None = None) -> Iterator[Server]:
    """Run ``daphne benchmarks.served.<apps>:application`` until the block ends."""
    with tempfile.TemporaryDirectory(prefix="channels-ops-bench-") as folder:
        environment = {
            **os.environ,
            "DJANGO_SETTINGS_MODULE": "benchmarks.served.settings",
            "BENCH_APPS": apps,
            "BENCH_DATABASE": str(Path(folder) / "bench.sqlite3"),
            **{name: str(value) for name, value in (settings or {}).items()},
        }
        if apps == "ours":
            migrate = [sys.executable, "-m", "django", "migrate", "--verbosity", "0"]
            subprocess.run(migrate, env=environment, check=True)
        port = _free_port()
        command = [
            sys.executable,
            "-m",
            "daphne",
            "--verbosity",
            "0",
            "--bind",
            "127.0.0.1",
            "--port",
            str(port),
        ]
        process = subprocess.Popen(
            [*command, f"benchmarks.served.{apps}:application"], env=environment, preexec_fn=pin(core)
        )
        try:
            _wait_until_it_listens(process, port)
            yield Server(process, port)
        finally:
            if process.poll() is None:
                process.terminate()
                try:
                    process.wait(15)
                except subprocess.TimeoutExpired:
                    process.kill()
                    process.wait()


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def _wait_until_it_listens(process: subprocess.Popen[bytes], port: int) -> None:
    deadline = time.monotonic() + START_TIMEOUT
    while time.monotonic() < deadline:
        if process.poll() is not None:
            raise RuntimeError(f"The server ended with {process.returncode} before it listened.")
        with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), timeout=1):
            return
        time.sleep(0.05)
    raise RuntimeError(f"The server did not listen on port {port} within {START_TIMEOUT:g} s.")
