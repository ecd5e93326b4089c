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


FORK = """
import gc
import os
import time
import weakref
import daphne.server
from twisted.internet import reactor
from realtime.server.loops import begin_anew

old = weakref.ref(reactor._asyncioEventloop)
if not (child := os.fork()):
    begin_anew()
    gc.collect()
    assert reactor._asyncioEventloop is not old()
    assert daphne.server.twisted_loop is reactor._asyncioEventloop
    reactor.callLater(0.05, reactor.callInThread, lambda: reactor.callFromThread(reactor.stop))
    reactor.run()
    os._exit(0)
assert os.waitpid(child, 0)[1] == 0

def later():
    time.sleep(0.1)
    reactor.callFromThread(stop, "woken by a thread")

def stop(why):
    print(why)
    late.cancel() if late.active() else None
    reactor.stop()

late = reactor.callLater(5, stop, "not woken")
reactor.callInThread(later)
reactor.run()
"""


def test_forked_process_gets_a_loop_and_leaves_the_parents_alone() -> None:
    ended = run([sys.executable, "-W", "error", "-c", FORK])
    assert ended.stderr == ""
    assert ended.stdout == "woken by a thread\n"
