"""The parent of several server processes."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.acceptance.processes import ROOT

PARENT = """
import sys
from realtime.server.workers import Workers
command = [sys.executable, "-c", sys.argv[2]]
sys.exit(Workers(lambda fds: [*command, str(fds[-1]), sys.argv[1]], 2, []).run())
"""

WORKER = """
import os, pathlib, signal, sys, time
notes = pathlib.Path(sys.argv[2])
def note(line):
    with notes.open("a") as file: file.write(f"{line} {os.getpid()}\\n")
def leave(number, frame):
    note("left"); time.sleep(0.2); os._exit(0)
signal.signal(signal.SIGTERM, leave)
note("began")
while True: time.sleep(60)
"""


class Parent:
    def __init__(self, folder: Path, worker: str) -> None:
        self.notes = folder / "notes"
        self.notes.touch()
        self.process = subprocess.Popen(
            [sys.executable, "-c", PARENT, str(self.notes), worker], cwd=ROOT, stderr=subprocess.PIPE
        )

    def pids(self, what: str) -> list[int]:
        lines = [line.split() for line in self.notes.read_text().splitlines()]
        return [int(pid) for word, pid in lines if word == what]

    def until(self, what: str, count: int) -> list[int]:
        deadline = time.monotonic() + 15
        while len(found := self.pids(what)) < count:
            assert time.monotonic() < deadline, f"{what}: {found}"
            time.sleep(0.02)
        return found

    def end(self, number: int = signal.SIGTERM) -> int:
        self.process.send_signal(number)
        return self.process.wait(15)


@pytest.fixture
def parent(tmp_path: Path) -> Iterator[Parent]:
    started = Parent(tmp_path, WORKER)
    yield started
    if started.process.poll() is None:
        started.process.kill()
        started.process.wait()
    assert started.process.stderr is not None
    started.process.stderr.close()
    for pid in started.pids("began"):
        if Path(f"/proc/{pid}").exists():
            os.kill(pid, signal.SIGKILL)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_stop_is_passed_on_and_every_worker_waited_for(parent: Parent, number: int) -> None:
    began = parent.until("began", 2)
    assert parent.end(number) == 0
    assert sorted(parent.pids("left")) == sorted(began)


def test_worker_that_dies_is_started_again_and_the_other_left_alone(parent: Parent) -> None:
    first, second = parent.until("began", 2)
    os.kill(first, signal.SIGKILL)
    third = parent.until("began", 3)[2]
    assert parent.end() == 0
    assert sorted(parent.pids("left")) == sorted([second, third])


def test_worker_that_dies_young_is_not_started_at_once(parent: Parent) -> None:
    first, _ = parent.until("began", 2)
    killed = time.monotonic()
    os.kill(first, signal.SIGKILL)
    parent.until("began", 3)
    assert time.monotonic() - killed >= 0.9


def test_hangup_starts_new_workers_and_sends_the_old_home(parent: Parent) -> None:
    old = parent.until("began", 2)
    parent.process.send_signal(signal.SIGHUP)
    new = parent.until("began", 4)[2:]
    assert sorted(parent.until("left", 2)) == sorted(old)
    assert parent.end() == 0
    assert sorted(parent.pids("left")[2:]) == sorted(new)


def test_second_stop_does_not_wait(parent: Parent) -> None:
    began = parent.until("began", 2)
    for pid in began:
        os.kill(pid, signal.SIGSTOP)
    parent.process.send_signal(signal.SIGTERM)
    time.sleep(0.2)
    assert parent.end() == 1
