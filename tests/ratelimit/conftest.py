"""What the tests of ``ratelimit`` share: a process that has seen nobody yet, and a clock that moves when told."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from asgiref.sync import SyncToAsync
from django.db import connections

from ratelimit import bans, counters, guards, logs
from ratelimit.admission import Admission
from tests.watches import forget


@pytest.fixture(autouse=True)
def unvisited_process(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Rates, counts, bans and held-back log lines of earlier tests are forgotten."""
    monkeypatch.setattr(counters, "process", counters.Counters())
    monkeypatch.setattr(guards, "door", Admission())
    forget(bans.watch, monkeypatch)
    bans.watch.on_change.append(guards.close_banned)
    monkeypatch.setattr(logs, "_gate", logs.LogGate())
    yield
    assert not guards.open_guards, "a socket of this test was never let go"


@pytest.fixture(autouse=True)
def no_connection_is_left_open() -> Iterator[None]:
    """
    The thread in which consumers reach the database keeps no connection for the next test.

    Channels does not close it while its communicator runs, and pytest-django fails whoever meets it
    later without being allowed to use the database.

    """
    yield
    SyncToAsync.single_thread_executor.submit(connections.close_all).result()


class Clock:
    """Seconds that pass when told."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now

    def pass_(self, seconds: float) -> None:
        self.now += seconds


@pytest.fixture
def clock() -> Clock:
    return Clock()
