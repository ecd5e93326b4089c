"""
Run the Autobahn test suite against an engine, over a bare ASGI application and through RealtimeConsumer.

Server and suite run on one core. What is found is written into docs/conformance.md if all sections were run.
Exit code 1: a case failed, a connection ended uncleanly or the server logged a warning; 2: the suite could not be run.

"""

from __future__ import annotations

import argparse
import importlib.metadata
import json
import os
import platform
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from benchmarks import autobahn, documents, verdicts
from benchmarks.verdicts import SECTIONS, Verdict

ROOT = Path(__file__).resolve().parent.parent
DOCUMENT = ROOT / "docs" / "conformance.md"

APPLICATIONS = {"asgi": "a bare ASGI application", "consumer": "`RealtimeConsumer`"}
WITHOUT_COMPRESSION = tuple(section for section in SECTIONS if section < 12)
ENGINES: dict[str, tuple[int, ...]] = {"native": tuple(SECTIONS), "daphne": WITHOUT_COMPRESSION}
"""The sections each engine is tested with: the fallback does not compress."""

PACKAGES = ("daphne", "autobahn", "Twisted", "picows", "channels", "Django")
START_TIMEOUT = 30.0
"""Seconds the server may take to listen."""


@contextmanager
def serving(engine: str, folder: Path, core: int | None) -> Iterator[int]:
    """Run the stock ``daphne`` command on a free port until the block ends. Raise Broken if it does not listen."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
    environment = {
        **os.environ,
        "REALTIME_ENGINE": engine,
        "CONFORMANCE_DATABASE": str(folder / "conformance.sqlite3"),
    }
    environment.pop("DJANGO_SETTINGS_MODULE", None)
    command = [sys.executable, "-m", "daphne", "--verbosity", "0", "--bind", "127.0.0.1", "--port", str(port)]
    log = folder / "server.log"
    with log.open("wb") as out:
        process = subprocess.Popen(
            [*command, "benchmarks.served.conformance:application"],
            cwd=ROOT,
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=out,
            stderr=out,
            preexec_fn=_pinned(core),
        )
    try:
        deadline = time.monotonic() + START_TIMEOUT
        while True:
            with suppress(OSError), socket.create_connection(("127.0.0.1", port), timeout=1):
                break
            if process.poll() is not None or time.monotonic() > deadline:
                raise autobahn.Broken(
                    f"The server does not listen: {log.read_text(errors='replace')[-2000:]}"
                )
            time.sleep(0.05)
        yield port
        if process.poll() is not None:
            raise autobahn.Broken(f"The server ended meanwhile: {log.read_text(errors='replace')[-2000:]}")
    finally:
        process.terminate()
        try:
            process.wait(15)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def _pinned(core: int | None) -> Any:
    return None if core is None else lambda: os.sched_setaffinity(0, {core})


def last_core() -> int | None:
    """Return the core that everything runs on; None where processes cannot be pinned."""
    return max(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else None


class Progress:
    """Says how far the suite is: in one line of a terminal, else a line for each section, or 25 cases."""

    def __init__(self) -> None:
        self._count = 0
        self._last = ""

    def began(self, name: str, case: str, planned: int) -> None:
        """A case has begun."""
        section = f"{name}, section {case.partition('.')[0]}"
        self._count = self._count + 1 if self._last.startswith(f"{name},") else 1
        if sys.stdout.isatty():
            print(f"\r\033[K{name}: {self._count} of {planned}, case {case}", end="", flush=True)
        elif section != self._last or self._count % 25 == 0:
            print(f"  {name}: {self._count} of {planned}, section {case.partition('.')[0]}", flush=True)
        self._last = section

    def end(self) -> None:
        """Leave the line."""
        if sys.stdout.isatty():
            print("\r\033[K", end="", flush=True)


def tested(
    engine: str, applications: Sequence[str], cases: Sequence[str], folder: Path
) -> dict[str, list[Verdict]]:
    """Run the cases against the engine and return the verdicts for each application. Raise Unavailable or Broken."""
    program = autobahn.installed(lambda line: print(line, flush=True))
    core, progress = last_core(), Progress()
    with serving(engine, folder, core) as port:
        servers = {name: f"ws://127.0.0.1:{port}/{name}" for name in applications}
        try:
            report = autobahn.run(program, servers, cases, folder, began=progress.began, before=_pinned(core))
        finally:
            progress.end()
    return {name: verdicts.verdicts(report[name]) for name in applications}


def told(engine: str, found: Mapping[str, Sequence[Verdict]]) -> str:
    """Return what was found as Markdown: when, with what, how, and a table for each application."""
    versions = ", ".join(f"{name} {importlib.metadata.version(name)}" for name in PACKAGES)
    text = (
        f"{time.strftime('%Y-%m-%d', time.gmtime())}, Python {platform.python_version()}, {versions}, Autobahn"
        f" test suite {autobahn.VERSION}: `{command_for(engine)}`\n"
    )
    for name, of_application in found.items():
        text += f"\nThrough {APPLICATIONS[name]}:\n\n{verdicts.table(of_application)}"
    return text


def command_for(engine: str) -> str:
    """Return the command that repeats the test of this engine."""
    return "make conformance" if engine == "native" else f"make conformance ENGINE={engine}"


def main(arguments: Sequence[str] | None = None) -> int:
    """Test, print and write what was found."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--engine", choices=list(ENGINES), default="native")
    parser.add_argument(
        "--application", choices=list(APPLICATIONS), action="append", help="only this one (both)"
    )
    parser.add_argument("--cases", nargs="+", metavar="CASE", help="only these, such as 6.* or 7.1.5")
    parser.add_argument("--out", type=Path, help="a folder to keep the suite's own pages in")
    options = parser.parse_args(arguments)
    applications = options.application or list(APPLICATIONS)
    cases = options.cases or [f"{section}.*" for section in ENGINES[options.engine]]
    with tempfile.TemporaryDirectory(prefix="channels-ops-conformance-") as temporary:
        folder = options.out.resolve() if options.out else Path(temporary)
        folder.mkdir(parents=True, exist_ok=True)
        try:
            found = tested(options.engine, applications, cases, folder)
        except (autobahn.Unavailable, autobahn.Broken) as problem:
            print(problem, file=sys.stderr)
            return 2
        server_said = (folder / "server.log").read_text(errors="replace")
    text = told(options.engine, found)
    print(text)
    if server_said:
        print(f"The server complained:\n{server_said[-4000:]}")
    print(json.dumps({name: verdicts.counted(of_application) for name, of_application in found.items()}))
    if not options.cases and not options.application:
        documents.fill(DOCUMENT, {options.engine: text})
        print(f"Written to {DOCUMENT.relative_to(ROOT)}.")
    everything = [verdict for of_application in found.values() for verdict in of_application]
    return 1 if server_said or any(verdict.failed or verdict.unclean for verdict in everything) else 0


if __name__ == "__main__":
    sys.exit(main())
