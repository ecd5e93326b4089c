"""The measured server: a process of its own on a core of its own, whoever wrote it."""

from __future__ import annotations

import atexit
import contextlib
import functools
import os
import resource
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from benchmarks import peers

Kind = Literal["daphne", "serve", "script", "peer", "gunicorn"]

START_TIMEOUT = 30.0
"""Seconds a server may take to listen."""

STOP_TIMEOUT = 3.0
"""Seconds a server may take to end when it is asked to; then it is killed. Nothing about its end is measured."""

FILES_WANTED = 65536

SETTINGS = ("RATELIMIT_", "REALTIME_", "DASHBOARD_")
"""How settings begin: none comes from the environment that the benchmarks are run in."""


@dataclass(frozen=True, slots=True)
class Launch:
    """How a server is started."""

    kind: Kind
    """``daphne`` and ``serve`` are the commands of these names, ``script`` a module run with this interpreter,
    ``peer`` one run with the peers', ``gunicorn`` the peers' gunicorn."""
    module: str
    """The module in ``benchmarks.served``."""
    arguments: tuple[str, ...] = ()
    settings: tuple[tuple[str, str], ...] = ()
    """Environment variables."""

    @property
    def apps(self) -> str:
        """``BENCH_APPS`` for the settings of a Django server."""
        return {"plain": "plain", "plainstack": "stack"}.get(self.module, "ours")


@dataclass(frozen=True, slots=True)
class Server:
    """A server that listens."""

    process: subprocess.Popen[bytes]
    port: int

    def cpu_seconds(self) -> float | None:
        """Return the processor time that it and its children have used; None where the system does not tell."""
        if not Path("/proc/self/stat").exists():
            return None
        return sum(_cpu_seconds(pid) for pid in _family(self.process.pid))

    def resident_bytes(self) -> int | None:
        """Return its resident memory with its children's; None where the system does not tell."""
        if not Path("/proc/self/statm").exists():
            return None
        page = os.sysconf("SC_PAGE_SIZE")
        return sum(
            int(text.split()[1]) * page
            for pid in _family(self.process.pid)
            if (text := _read(Path(f"/proc/{pid}/statm")))
        )

    def terminate(self) -> None:
        """Ask it to stop."""
        self.process.send_signal(signal.SIGTERM)


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


def command(launch: Launch, port: int, peer_python: Callable[[], str] = peers.python) -> list[str]:
    """Return what starts ``launch`` on ``port`` of the loopback address."""
    served = f"benchmarks.served.{launch.module}"
    listen = ["--port", str(port), *launch.arguments]
    match launch.kind:
        case "daphne":
            bind = ["--verbosity", "0", "--bind", "127.0.0.1"]
            return [sys.executable, "-m", "daphne", *bind, *listen, f"{served}:application"]
        case "serve":
            return [sys.executable, "-m", "django", "serve", "--host", "127.0.0.1", *listen]
        case "script":
            return [sys.executable, "-m", served, str(port), *launch.arguments]
        case "peer":
            return [peer_python(), "-m", served, str(port), *launch.arguments]
        case "gunicorn":
            bind = ["--bind", f"127.0.0.1:{port}", "--log-level", "error"]
            return [peer_python(), "-m", "gunicorn", *bind, *launch.arguments, f"{served}:app"]


@contextlib.contextmanager
def serving(
    launch: Launch, core: int | None, settings: Mapping[str, object] | None = None
) -> Iterator[Server]:
    """Run a server until the block ends. Raise RuntimeError, with what it printed, if it does not listen."""
    with tempfile.TemporaryDirectory(prefix="channels-ops-bench-") as folder:
        environment = _environment(launch, Path(folder) / "bench.sqlite3")
        environment.update({name: str(value) for name, value in (settings or {}).items()})
        port = _free_port()
        said = Path(folder) / "said"
        with said.open("wb") as output:
            process = subprocess.Popen(
                command(launch, port),
                env=environment,
                stdout=output,
                stderr=subprocess.STDOUT,
                preexec_fn=pin(core),
                start_new_session=True,
            )
        try:
            _wait_until_it_listens(process, port, said)
            yield Server(process, port)
        finally:
            _stop(process)


def _environment(launch: Launch, database: Path) -> dict[str, str]:
    """Return the server's environment, with a database made for it if it is a Django server of ours."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith(SETTINGS)}
    environment |= {
        "DJANGO_SETTINGS_MODULE": "benchmarks.served.settings",
        "BENCH_APPS": launch.apps,
        "BENCH_DATABASE": str(database),
        **dict(launch.settings),
    }
    if launch.kind in ("daphne", "serve") and launch.apps == "ours":
        shutil.copyfile(_migrated(), database)
    return environment


@functools.cache
def _migrated() -> Path:
    """Return a migrated database, made once for all servers of this run."""
    folder = Path(tempfile.mkdtemp(prefix="channels-ops-bench-"))
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    database = folder / "migrated.sqlite3"
    environment = {
        **os.environ,
        "DJANGO_SETTINGS_MODULE": "benchmarks.served.settings",
        "BENCH_APPS": "ours",
        "BENCH_DATABASE": str(database),
    }
    migrate = [sys.executable, "-m", "django", "migrate", "--verbosity", "0"]
    subprocess.run(migrate, env=environment, check=True)
    return database


def _stop(process: subprocess.Popen[bytes]) -> None:
    """End the process, and what it started, which is in a session of its own."""
    if process.poll() is None:
        process.terminate()
    with contextlib.suppress(subprocess.TimeoutExpired):
        process.wait(STOP_TIMEOUT)
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()


def _family(pid: int) -> list[int]:
    """Return the process and its descendants."""
    children: dict[int, list[int]] = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit() and (text := _read(entry / "stat")):
            children.setdefault(int(_after_name(text)[1]), []).append(int(entry.name))
    found = [pid]
    for one in found:
        found.extend(children.get(one, ()))
    return found


def _cpu_seconds(pid: int) -> float:
    """Return the processor time of a process: to the nanosecond where the scheduler keeps it, else to the tick."""
    running = [text for text in _texts(Path(f"/proc/{pid}/task").glob("*/schedstat")) if text]
    if running:
        return sum(int(text.split()[0]) for text in running) / 1e9
    fields = _after_name(_read(Path(f"/proc/{pid}/stat")) or f"{pid} () Z{' 0' * 20}")
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def _after_name(stat: str) -> list[str]:
    """Return the fields of a ``/proc/PID/stat`` that come after the name, which may have spaces in it."""
    return stat[stat.rindex(")") + 2 :].split()


def _texts(paths: Iterable[Path]) -> Iterator[str]:
    return (_read(path) for path in paths)


def _read(path: Path) -> str:
    """Return the text of a file of ``/proc``; nothing if its process has just ended."""
    try:
        return path.read_text()
    except (FileNotFoundError, ProcessLookupError):
        return ""


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def _wait_until_it_listens(process: subprocess.Popen[bytes], port: int, said: Path) -> None:
    deadline = time.monotonic() + START_TIMEOUT
    while time.monotonic() < deadline:
        if process.poll() is not None:
            raise RuntimeError(
                f"the server ended with {process.returncode} before it listened: {_tail(said)}"
            )
        with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), timeout=1):
            return
        time.sleep(0.05)
    raise RuntimeError(f"the server did not listen on port {port} within {START_TIMEOUT:g} s: {_tail(said)}")


def _tail(path: Path) -> str:
    return path.read_text(errors="replace")[-2000:].strip()
