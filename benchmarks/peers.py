"""The environment of the peers: what the extra ``bench`` names, apart so that neither side changes the other."""

from __future__ import annotations

import functools
import platform
import re
import subprocess
import sys
import tomllib
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
FOLDER = Path(sys.prefix) / "peers"


def wanted() -> list[str]:
    """Return the requirements of the extra ``bench``."""
    with (ROOT / "pyproject.toml").open("rb") as file:
        requirements: list[str] = tomllib.load(file)["project"]["optional-dependencies"]["bench"]
    return requirements


def name_of(requirement: str) -> str:
    """Return the name of the package that a requirement is about."""
    found = re.match(r"[A-Za-z0-9._-]+", requirement)
    if found is None:
        raise ValueError(f"{requirement!r} is not a requirement.")
    return found[0]


@functools.cache
def python() -> str:
    """Return the interpreter that has the peers, made the first time. Raise CalledProcessError if pip fails."""
    interpreter = FOLDER / "bin" / "python"
    stamp = FOLDER / "installed"
    listed = "\n".join([platform.python_version(), *wanted()])
    if not interpreter.exists() or not stamp.exists() or stamp.read_text() != listed:
        print(f"Installing the peers into {FOLDER} ...", flush=True)
        subprocess.run([sys.executable, "-m", "venv", "--clear", FOLDER], check=True)
        quiet = ["--quiet", "--disable-pip-version-check"]
        subprocess.run([interpreter, "-m", "pip", "install", *quiet, *wanted()], check=True)
        stamp.write_text(listed)
    return str(interpreter)


@functools.cache
def versions() -> dict[str, str]:
    """Return the versions of the peers by package."""
    program = "import importlib.metadata as m, sys; print(*(m.version(name) for name in sys.argv[1:]))"
    names = [name_of(requirement) for requirement in wanted()]
    done = subprocess.run([python(), "-c", program, *names], check=True, capture_output=True, text=True)
    return dict(zip(names, done.stdout.split(), strict=True))
