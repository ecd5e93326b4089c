"""The server in a process of its own, as ``ChannelsLiveServerTestCase`` starts it."""

from __future__ import annotations

import sys
from typing import Any

import daphne.testing
import pytest
from channels.testing import ChannelsLiveServerTestCase

from realtime.server import install
from realtime.server.process import ServerProcess
from tests.acceptance.processes import run

pytestmark = pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning")

SOON = 10.0
"""Seconds within which anything a test waits for has long happened."""


def test_install_puts_the_process_into_place(monkeypatch: pytest.MonkeyPatch) -> None:
    (stock,) = ServerProcess.__bases__
    monkeypatch.setattr(daphne.testing, "DaphneProcess", stock)
    monkeypatch.setattr(ChannelsLiveServerTestCase, "ProtocolServerProcess", stock)
    install()
    assert daphne.testing.DaphneProcess is ServerProcess
    assert ChannelsLiveServerTestCase.ProtocolServerProcess is ServerProcess


def test_install_leaves_a_process_that_was_chosen(monkeypatch: pytest.MonkeyPatch) -> None:
    class Chosen(ServerProcess):
        pass

    monkeypatch.setattr(ChannelsLiveServerTestCase, "ProtocolServerProcess", Chosen)
    install()
    assert ChannelsLiveServerTestCase.ProtocolServerProcess is Chosen


def no_application() -> Any:
    raise LookupError("there is none")


def test_what_goes_wrong_at_the_start_is_told() -> None:
    process = ServerProcess("127.0.0.1", no_application)
    process.start()
    error, told = process.errors.get(timeout=SOON)
    process.join(SOON)
    assert repr(error) == repr(LookupError("there is none"))
    assert "no_application" in told
    assert process.exitcode == 1


SPAWN = """
import functools, multiprocessing
from django.utils.module_loading import import_string
from websockets.sync.client import connect
from realtime.server.process import ServerProcess
multiprocessing.set_start_method("spawn")
process = ServerProcess("127.0.0.1", functools.partial(import_string, "tests.acceptance.apps.plain.application"))
process.start()
assert process.ready.wait(20)
with connect(f"ws://127.0.0.1:{process.port.value}/echo") as socket:
    socket.send("hello")
    print(socket.recv(10))
process.terminate()
process.join()
"""


def test_a_spawned_process_serves_too() -> None:
    ended = run([sys.executable, "-c", SPAWN], {"DJANGO_SETTINGS_MODULE": "tests.acceptance.apps.settings"})
    assert (ended.code, ended.stdout) == (0, "hello\n"), ended.stderr
