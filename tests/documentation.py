"""The examples of the documentation, turned into the Django projects they describe."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from docs.generate import DOCUMENTS

_FENCE = re.compile(r"^```(?P<language>\w+)\n(?P<code>.*?)^```$", re.DOTALL | re.MULTILINE)
_HEAD = re.compile(r"^(?:#|//) (?P<path>[\w/]+\.(?:py|js))(?P<add> \(add\))?\n")


@dataclass(frozen=True, slots=True)
class Block:
    """One fenced example. ``path`` is the file its first line says it is; empty if it does not."""

    document: str
    line: int
    language: str
    code: str
    path: str
    adds: bool
    """Whether it goes to the end of the file instead of being it."""

    def __str__(self) -> str:
        return f"{self.document}:{self.line}"


def blocks() -> Iterator[Block]:
    """Yield the examples of every document."""
    for document in DOCUMENTS:
        yield from blocks_of(document.name, document.read_text(encoding="utf-8"))


def blocks_of(document: str, text: str) -> Iterator[Block]:
    """Yield the examples of one document."""
    for match in _FENCE.finditer(text):
        head = _HEAD.match(match["code"])
        yield Block(
            document,
            text.count("\n", 0, match.start()) + 1,
            match["language"],
            match["code"],
            head["path"] if head else "",
            bool(head and head["add"]),
        )


@dataclass(slots=True)
class Project:
    """A Django project in a folder, made as the documentation says."""

    name: str
    folder: Path
    environment: dict[str, str] = field(default_factory=dict)

    def start(self, *apps: str) -> None:
        """Run ``startproject``, and ``startapp`` for each app."""
        self.environment = {
            **{name: value for name, value in os.environ.items() if not name.startswith("DJANGO_")},
            "PYTHONPATH": str(self.folder),
            "PYTHONWARNINGS": "error",
            "PYTHONDONTWRITEBYTECODE": "1",
        }
        self.run(sys.executable, "-m", "django", "startproject", self.name, ".")
        for app in apps:
            self.run(sys.executable, "manage.py", "startapp", app)

    def write(self, block: Block) -> None:
        """Write the file that an example is, or add to it."""
        path = self.folder / block.path
        path.parent.mkdir(parents=True, exist_ok=True)
        before = path.read_text() + "\n" if block.adds else ""
        path.write_text(before + block.code)

    def python(self, *words: str) -> str:
        """Run Python in the project and return what it printed. Fail with all of it if it fails."""
        return self.run(sys.executable, *words)

    def run(self, *words: str) -> str:
        """Run a command in the project and return what it printed. Fail with all of it if it fails."""
        done = subprocess.run(
            words,
            cwd=self.folder,
            env=self.environment,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=60,
        )
        assert done.returncode == 0, f"{' '.join(words)}\n{done.stdout}{done.stderr}"
        return done.stdout + done.stderr
