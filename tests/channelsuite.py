"""
Run the tests of the installed Channels, those of its sample project in a browser included, on our server.

The package does not carry its tests: they are cloned from GitHub by the tag of the version, once, or taken
from a checkout that CHANNELS_SOURCES names. Exit code 1: a test failed; 2: the tests could not be run.

"""

from __future__ import annotations

import importlib.metadata
import os
import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

from tests import machine

ROOT = Path(__file__).resolve().parent.parent
PLUGINS = ROOT / "tests" / "acceptance" / "apps"
REPOSITORY = "https://github.com/django/channels"

CLONE_TIMEOUT = 60.0
"""Seconds the download of the sources may take."""
TEST_TIMEOUT = 300.0
"""Seconds the tests may take with one engine; half a minute is usual."""

_CONFIGURATION = """\
[pytest]
asyncio_mode = auto
asyncio_default_fixture_loop_scope = function
testpaths = tests
"""


class Unavailable(Exception):
    """The tests cannot be run here; the text says why and what to do."""


def sources(version: str) -> Path:
    """Return a folder with the sources of Channels ``version``, its tests included. Raise Unavailable."""
    if named := os.environ.get("CHANNELS_SOURCES"):
        return _checked(Path(named), version)
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    folder = cache / "channels-ops" / f"channels-{version}"
    if not folder.exists():
        _clone(version, folder)
    return _checked(folder, version)


def _clone(version: str, folder: Path) -> None:
    unfinished = folder.with_suffix(".unfinished")
    shutil.rmtree(unfinished, ignore_errors=True)
    unfinished.parent.mkdir(parents=True, exist_ok=True)
    command = ["git", "clone", "--quiet", "--depth", "1", "--branch", version, REPOSITORY, str(unfinished)]
    try:
        subprocess.run(
            command,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=CLONE_TIMEOUT,
            check=True,
        )
    except (OSError, subprocess.SubprocessError) as error:
        why = (getattr(error, "stderr", None) or str(error)).strip()
        raise Unavailable(
            f"The sources of Channels {version} cannot be had from {REPOSITORY}: {why}. Name a checkout of that"
            " version: CHANNELS_SOURCES=/path/to/channels."
        ) from error
    unfinished.rename(folder)


def _checked(folder: Path, version: str) -> Path:
    """Return ``folder`` if it holds the sources of that version with the tests; raise Unavailable otherwise."""
    module = folder / "channels" / "__init__.py"
    found = re.search(r'^__version__ = "(.+)"', module.read_text() if module.is_file() else "", re.MULTILINE)
    if found is None or not (folder / "tests" / "sample_project").is_dir():
        raise Unavailable(f"{folder} does not hold the sources of Channels with their tests.")
    if found[1] != version:
        raise Unavailable(f"{folder} holds Channels {found[1]}, and {version} is installed.")
    return folder


def passes(tests: Path, engine: str, browser: Path) -> bool:
    """Run a copy of ``tests``, which write beside themselves, with this engine. Return whether all passed."""
    with tempfile.TemporaryDirectory(prefix="channels-ops-channels-") as temporary:
        shutil.copytree(tests, Path(temporary) / "tests")
        (Path(temporary) / "pytest.ini").write_text(_CONFIGURATION)
        environment = {
            **os.environ,
            # Their package is called as ours is; it comes first because it is where pytest is started.
            "PYTHONPATH": os.pathsep.join((str(PLUGINS), str(ROOT))),
            "REALTIME_ENGINE": engine,
            "CHROMIUM": str(browser),
        }
        environment.pop("DJANGO_SETTINGS_MODULE", None)
        command = [sys.executable, "-m", "pytest", "-q", "-p", "channels_plugin", "-p", "no:cacheprovider"]
        try:
            done = subprocess.run(
                command,
                cwd=temporary,
                env=environment,
                stdin=subprocess.DEVNULL,
                timeout=TEST_TIMEOUT,
                check=False,
            )
        except subprocess.TimeoutExpired:
            sys.stderr.write(f"The tests did not end within {TEST_TIMEOUT:g} s.\n")
            return False
    return done.returncode == 0


def main() -> int:
    """Run the tests with both engines."""
    version = importlib.metadata.version("channels")
    browser = machine.chromium()
    try:
        if browser is None:
            raise Unavailable("This machine has no Chromium or Chrome (Debian: apt-get install chromium).")
        tests = sources(version) / "tests"
    except Unavailable as problem:
        sys.stderr.write(f"{problem}\n")
        return 2
    good = True
    for engine in ("native", "daphne"):
        sys.stdout.write(f"The tests of Channels {version}, engine {engine}\n")
        sys.stdout.flush()
        good = passes(tests, engine, browser) and good
    return 0 if good else 1


if __name__ == "__main__":
    sys.exit(main())
