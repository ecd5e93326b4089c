"""The Autobahn test suite: an environment it runs in, and a run of it."""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
import subprocess
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

HOW_TO_GET_PYTHON = (
    "The Autobahn test suite runs on CPython 2.7 only, and there is none here. Get it with pyenv"
    " (https://github.com/pyenv/pyenv; `pyenv install 2.7.18`), or from a system that still has it (Debian 11:"
    " apt-get install python2.7 python-pip-whl), and name it if it is not on PATH: PYTHON27=/path/to/python2.7."
)

# In this order: some of these packages are built with what an earlier step has installed.
_STEPS: tuple[tuple[str, ...], ...] = (
    ("setuptools==44.0.0", "incremental==16.10.1"),
    ("--no-build-isolation", "Twisted==19.10.0"),
    ("--only-binary", "cryptography", "cryptography==3.3.2", "pyOpenSSL==19.1.0"),
    (
        "--no-build-isolation",
        "autobahn==0.10.9",
        "txaio==2.1.0",
        "zope.interface==4.6.0",
        "jinja2==2.11.3",
        "markupsafe==1.1.1",
        "Werkzeug==1.0.1",
        "klein==17.10.0",
        "service_identity==18.1.0",
        "unittest2==1.1.0",
        "six==1.16.0",
        "wsaccel==0.6.6",
    ),
    ("--no-deps", "autobahntestsuite==25.10.1"),
)
VERSION = "25.10.1"

STALLED = 300.0
"""Seconds without a new case after which a run is given up."""

_PLANNED = re.compile(r"will run (\d+) test cases")
_RUNNING = re.compile(r"Running test case ID (\S+) for agent (\S+)")


class Unavailable(Exception):
    """The suite cannot be run here; the text says why and what to do."""


class Broken(Exception):
    """The suite was run and did not get to its end; the text says what it said last."""


def python27() -> Path:
    """Return a CPython 2.7: ``PYTHON27`` from the environment, one on PATH, or pyenv's. Raise Unavailable."""
    if named := os.environ.get("PYTHON27"):
        if _is_python27(named):
            return Path(named)
        raise Unavailable(f"PYTHON27={named} is not a CPython 2.7. {HOW_TO_GET_PYTHON}")
    pyenv = Path(os.environ.get("PYENV_ROOT") or Path.home() / ".pyenv") / "versions"
    on_path = (shutil.which(name) for name in ("python2.7", "python2"))
    for found in (*on_path, *(str(path) for path in sorted(pyenv.glob("2.7.*/bin/python2.7"), reverse=True))):
        if found and _is_python27(found):
            return Path(found)
    raise Unavailable(HOW_TO_GET_PYTHON)


def _is_python27(path: str) -> bool:
    # A shim of pyenv's is on PATH whether or not there is a Python behind it: only a run can tell.
    code = "import platform, sys; print('%s %d.%d' % ((platform.python_implementation(),) + sys.version_info[:2]))"
    try:
        told = subprocess.run([path, "-c", code], capture_output=True, text=True, timeout=30, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return False
    return told.stdout.strip() == "CPython 2.7"


def installed(say: Callable[[str], None]) -> Path:
    """Return the suite's program, after installing it from PyPI where it is not there yet. Raise Unavailable."""
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    home = cache / "channels-ops" / "autobahn"
    program, stamp = home / "venv" / "bin" / "wstest", home / "installed"
    wanted = hashlib.sha256(repr(_STEPS).encode()).hexdigest()
    if program.exists() and stamp.exists() and stamp.read_text() == wanted:
        return program
    python = python27()
    say(f"Installing the Autobahn test suite in {home}: about a minute, once.")
    shutil.rmtree(home, ignore_errors=True)
    home.mkdir(parents=True)
    carrier, pip = home / "virtualenv", home / "venv" / "bin" / "pip"
    _install([str(python), "-m", "pip", "install", "--target", str(carrier), "virtualenv==16.7.10"], home)
    _install([str(python), "-m", "virtualenv", "--no-download", str(home / "venv")], home, carrier)
    for step in _STEPS:
        _install([str(pip), "install", *step], home)
    stamp.write_text(wanted)
    return program


def _install(command: Sequence[str], home: Path, path: Path | None = None) -> None:
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    if path is not None:
        environment["PYTHONPATH"] = str(path)
    log = home / "install.log"
    with log.open("a") as out:
        out.write(f"$ {' '.join(command)}\n")
        out.flush()
        done = subprocess.run(
            command, env=environment, stdin=subprocess.DEVNULL, stdout=out, stderr=out, check=False
        )
    if done.returncode:
        last = " ".join(log.read_text(errors="replace").split("\n")[-8:])
        raise Unavailable(f"The Autobahn test suite could not be installed ({log}): {last}")


def run(
    program: Path,
    servers: Mapping[str, str],
    cases: Sequence[str],
    folder: Path,
    *,
    began: Callable[[str, str, int], None],
    before: Callable[[], None] | None = None,
) -> dict[str, dict[str, Any]]:
    """
    Run ``cases`` (such as ``6.*``) against each of ``servers`` (URL by name) and return the report by name.

    ``began`` is told of each case: the server's name, the case and how many there are for each server.
    ``before`` is run in the new process. Raise Broken.

    """
    spec = folder / "spec.json"
    spec.write_text(
        json.dumps(
            {
                "outdir": str(folder / "report"),
                "servers": [{"agent": name, "url": url} for name, url in servers.items()],
                "cases": list(cases),
                "exclude-cases": [],
                "exclude-agent-cases": {},
            }
        )
    )
    command = [str(program.parent / "python"), "-u", str(program), "-m", "fuzzingclient", "-s", str(spec)]
    process = subprocess.Popen(
        command,
        cwd=folder,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        errors="replace",
        preexec_fn=before,
    )
    planned, last = 0, ""
    with (folder / "suite.log").open("w", buffering=1) as log:
        for line in _lines(process):
            log.write(line)
            if told := _PLANNED.search(line):
                planned = int(told[1])
            elif running := _RUNNING.search(line):
                began(running[2], running[1], planned)
            last = line.strip() or last
    index = folder / "report" / "index.json"
    report: dict[str, dict[str, Any]] = json.loads(index.read_text()) if index.exists() else {}
    incomplete = [name for name in servers if len(report.get(name, {})) != planned]
    if process.returncode or not planned or incomplete:
        raise Broken(f"The suite ended with {process.returncode} before it was through; last it said: {last}")
    return report


def _lines(process: subprocess.Popen[str]) -> Iterator[str]:
    """Yield what the process says until it ends; kill it when it is silent for too long, or nobody listens any more."""
    assert process.stdout is not None
    stalled = threading.Timer(STALLED, process.kill)
    stalled.start()
    try:
        for line in process.stdout:
            stalled.cancel()
            stalled = threading.Timer(STALLED, process.kill)
            stalled.start()
            yield line
        process.wait()
    finally:
        stalled.cancel()
        process.kill()
        process.wait()
        process.stdout.close()
