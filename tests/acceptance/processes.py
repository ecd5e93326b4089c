"""Real servers as the tests run them: a command in a process of its own, on a free port of this machine."""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Self

ROOT = Path(__file__).resolve().parents[2]
SCRIPTS = Path(sys.executable).parent
POLL = 0.02
"""Seconds between two looks at something that cannot be waited for."""
NO_TABLES = "overrides not read\n"
"""What a command says whose settings are those of a test, with a database that has no tables."""


def free_port() -> int:
    """Return a port that was free a moment ago."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])


def daphne(application: str, port: int, *options: str) -> list[str]:
    """The stock ``daphne`` command."""
    return [str(SCRIPTS / "daphne"), "-b", "127.0.0.1", "-p", str(port), *options, application]


def uvicorn(application: str, port: int, *options: str) -> list[str]:
    """The stock ``uvicorn`` command."""
    return [str(SCRIPTS / "uvicorn"), "--host", "127.0.0.1", "--port", str(port), *options, application]


def manage(*words: str) -> list[str]:
    """``manage.py`` with these words."""
    return [sys.executable, str(ROOT / "manage.py"), *words]


@dataclass(frozen=True, slots=True)
class Ended:
    """How a process ended."""

    code: int
    """Exit code; the negative number of the signal that killed it."""
    stdout: str
    stderr: str
    seconds: float
    """From the signal, or the start of waiting, to the end."""


class ServerProcess:
    """
    A server in a process of its own.

    ``with ServerProcess(command, port) as server:`` waits until the port answers, and kills the process
    in the end if the test has not stopped it. Output goes to files, so that no pipe can fill up.

    """

    def __init__(
        self, command: Sequence[str], port: int, environment: Mapping[str, str] | None = None
    ) -> None:
        self.command = list(command)
        self.port = port
        self._folder = tempfile.TemporaryDirectory(prefix="channels-ops-server-")
        self._files = {name: Path(self._folder.name) / name for name in ("stdout", "stderr")}
        self._environment = _environment(environment)
        self.process: subprocess.Popen[bytes]

    def __enter__(self) -> Self:
        with self._files["stdout"].open("wb") as out, self._files["stderr"].open("wb") as err:
            self.process = subprocess.Popen(
                self.command,
                cwd=ROOT,
                env=self._environment,
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=err,
            )
        try:
            self.wait_until_listening()
        except BaseException:
            self._clean_up()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if error is not None:
            sys.stderr.write(f"--- stderr of {' '.join(self.command)}\n{self.stderr}\n")
        self._clean_up()

    def _clean_up(self) -> None:
        if self.process.poll() is None:
            self.process.kill()
            self.process.wait()
        self._folder.cleanup()

    @property
    def url(self) -> str:
        """Where HTTP is served, without a slash at the end."""
        return f"http://127.0.0.1:{self.port}"

    @property
    def ws(self) -> str:
        """Where WebSockets are served, without a slash at the end."""
        return f"ws://127.0.0.1:{self.port}"

    @property
    def stdout(self) -> str:
        """What the process has written so far."""
        return self._files["stdout"].read_text(errors="replace")

    @property
    def stderr(self) -> str:
        """What the process has written to stderr so far."""
        return self._files["stderr"].read_text(errors="replace")

    def wait_until_listening(self, seconds: float = 20.0) -> None:
        """Return when the port takes connections. Raise if the process ends first, or takes too long."""
        for _ in _until(seconds, f"{self.command} to listen"):
            if self.process.poll() is not None:
                raise RuntimeError(
                    f"{self.command} ended with {self.process.returncode}:\n{self.stderr}{self.stdout}"
                )
            with socket.socket() as probe:
                if probe.connect_ex(("127.0.0.1", self.port)) == 0:
                    return

    def wait_for_output(self, text: str, seconds: float = 10.0) -> None:
        """Return when ``text`` is in what the process has written."""
        for _ in _until(seconds, f"{text!r} in the output"):
            if text in self.stdout or text in self.stderr:
                return
            if self.process.poll() is not None and text not in self.stdout + self.stderr:
                raise RuntimeError(f"{self.command} ended without {text!r}:\n{self.stderr}{self.stdout}")

    def memory(self) -> int:
        """Return the resident memory of the process, in bytes."""
        pages = int(Path(f"/proc/{self.process.pid}/statm").read_text().split()[1])
        return pages * os.sysconf("SC_PAGE_SIZE")

    def child(self) -> int:
        """Return the pid of the one process that this one has started: a reloader runs the server there."""
        found = subprocess.run(
            ["pgrep", "-P", str(self.process.pid)], capture_output=True, check=True, text=True
        )
        (pid,) = found.stdout.split()
        return int(pid)

    def send_signal(self, number: int = signal.SIGTERM) -> None:
        """Send a signal and return at once."""
        self.process.send_signal(number)

    def stop(self, number: int = signal.SIGTERM, seconds: float = 20.0) -> Ended:
        """Send a signal, wait for the end and return how it was."""
        self.send_signal(number)
        return self.wait(seconds)

    def wait(self, seconds: float = 20.0) -> Ended:
        """Wait for the end and return how it was. Raise TimeoutExpired if it does not come."""
        started = time.monotonic()
        code = self.process.wait(seconds)
        return Ended(code, self.stdout, self.stderr, time.monotonic() - started)


def _environment(own: Mapping[str, str] | None) -> dict[str, str]:
    """Return the environment of a server: ours, but with the settings that it would choose by itself."""
    inherited = {name: value for name, value in os.environ.items() if name != "DJANGO_SETTINGS_MODULE"}
    return {
        **inherited,
        "PYTHONPATH": str(ROOT),
        "PYTHONUNBUFFERED": "1",
        "PYTHONWARNINGS": "default",
        **(own or {}),
    }


def run(command: Sequence[str], environment: Mapping[str, str] | None = None, seconds: float = 30.0) -> Ended:
    """Run a command that ends by itself, and return how it ended."""
    started = time.monotonic()
    done = subprocess.run(
        list(command),
        cwd=ROOT,
        env=_environment(environment),
        stdin=subprocess.DEVNULL,
        capture_output=True,
        timeout=seconds,
        check=False,
        text=True,
    )
    return Ended(done.returncode, done.stdout, done.stderr, time.monotonic() - started)


@asynccontextmanager
async def worker(command: Sequence[str], environment: Mapping[str, str]) -> AsyncIterator[None]:
    """A process that runs beside the servers until it is interrupted, and then has to end well and without a traceback."""
    process = subprocess.Popen(
        list(command),
        cwd=ROOT,
        env=_environment(environment),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
    )
    try:
        yield
    finally:
        process.send_signal(signal.SIGINT)
        output, _ = await asyncio.to_thread(process.communicate, timeout=10)
    assert process.returncode == 0, output.decode()
    assert b"Traceback" not in output


@contextmanager
def taken_port() -> Iterator[int]:
    """A port that somebody listens at."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen()
        yield int(listener.getsockname()[1])


def wait_for_lines(path: Path, count: int, seconds: float = 10.0) -> list[str]:
    """Return the lines of a file as soon as there are ``count`` of them."""
    for _ in _until(seconds, f"{count} lines in {path.name}"):
        lines = path.read_text().splitlines() if path.exists() else []
        if len(lines) >= count:
            return lines
    raise AssertionError("not reached")


def _until(seconds: float, what: str) -> Iterator[None]:
    """Yield again and again for a time; raise TimeoutError when it is over."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        yield
        time.sleep(POLL)
    raise TimeoutError(f"Waited {seconds:g} s in vain for {what}.")
