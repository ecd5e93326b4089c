"""uvloop under daphne's reactor."""

from __future__ import annotations

import sys

import pytest

from realtime.server import loops
from tests.acceptance.processes import run

MOVE = """
import daphne.server
from twisted.internet import reactor
said = []
reactor.callLater(0.01, said.append, "called later")
from realtime.server.loops import use_uvloop
assert use_uvloop()
said.append(type(reactor._asyncioEventloop).__module__)
assert daphne.server.twisted_loop is reactor._asyncioEventloop
reactor.callLater(0.05, reactor.callInThread, lambda: reactor.callFromThread(said.append, "from a thread"))
reactor.callLater(0.2, reactor.stop)
reactor.run()
print(said)
"""


def test_reactor_runs_on_uvloop_with_what_it_was_told_before() -> None:
    ended = run([sys.executable, "-W", "error", "-c", MOVE])
    assert ended.stderr == ""
    assert ended.stdout == "['uvloop', 'called later', 'from a thread']\n"


def test_without_uvloop_the_loop_stays(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(loops, "new_event_loop", None)
    before = loops.reactor._asyncioEventloop
    assert loops.use_uvloop() is False
    assert loops.reactor._asyncioEventloop is before
