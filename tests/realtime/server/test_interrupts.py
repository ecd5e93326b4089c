"""Signals that come before a server minds them: kept once, given to who minds them, or raised again."""

from __future__ import annotations

import signal
import threading

import pytest

from realtime.server.interrupts import Interrupts

BOTH = (signal.SIGTERM, signal.SIGINT)


@pytest.fixture(autouse=True)
def before():
    """The handlers of Python, which are there again afterwards."""
    found = [(number, signal.getsignal(number)) for number in BOTH]
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    for number, handler in found:
        signal.signal(number, handler)


def handlers():
    return [signal.getsignal(number) for number in BOTH]


OF_PYTHON = [signal.SIG_DFL, signal.default_int_handler]


@pytest.mark.parametrize("number", BOTH)
def test_one_is_kept_for_who_minds_them(number):
    interrupts = Interrupts()
    with interrupts.heard():
        signal.raise_signal(number)
        assert interrupts.give(print) == number
        assert interrupts.give(print) is None


@pytest.mark.parametrize("number", BOTH)
def test_a_second_one_ends_the_process(number):
    interrupts = Interrupts()
    with interrupts.heard():
        signal.raise_signal(number)
        assert handlers() == [signal.SIG_DFL, signal.SIG_DFL]
        interrupts.give(print)


def test_who_minds_them_has_those_that_nobody_else_took():
    interrupts = Interrupts()
    with interrupts.heard():
        signal.signal(signal.SIGTERM, repr)
        assert interrupts.give(print) is None
        assert handlers() == [repr, print]
    assert handlers() == [repr, print]


def test_they_are_as_they_were_where_nobody_took_them():
    interrupts = Interrupts()
    with interrupts.heard():
        assert handlers() != OF_PYTHON
        with interrupts.heard():
            pass
        assert handlers() != OF_PYTHON
    assert handlers() == OF_PYTHON


def test_one_that_nobody_minded_comes_again():
    interrupts = Interrupts()
    with pytest.raises(KeyboardInterrupt), interrupts.heard():
        signal.raise_signal(signal.SIGINT)
    assert handlers() == OF_PYTHON


def test_what_somebody_else_handles_is_left_to_them():
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    interrupts = Interrupts()
    with interrupts.heard():
        assert handlers() == [signal.SIG_IGN, signal.SIG_IGN]


def test_in_a_thread_nothing_is_heard():
    found = []

    def look():
        with Interrupts().heard():
            found.extend(handlers())

    thread = threading.Thread(target=look)
    thread.start()
    thread.join()
    assert found == OF_PYTHON


@pytest.mark.parametrize("number", BOTH)
def test_they_are_as_they_were_when_who_took_one_is_done(number):
    interrupts = Interrupts()
    with interrupts.heard():
        signal.raise_signal(number)
        interrupts.give(print)
    assert handlers() == OF_PYTHON
