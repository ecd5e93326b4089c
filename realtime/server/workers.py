"""Several server processes on one port: started, watched, started again, and sent home together."""

from __future__ import annotations

import logging
import os
import select
import signal
import subprocess
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager

from realtime.server.interrupts import interrupts

logger = logging.getLogger("realtime.server")

HEALTHY_SECONDS = 5.0
"""A worker that ran this long and then died is started again at once."""
RETRY_SECONDS = 1.0
"""How long it is waited after one that died sooner: it will not be the last time."""

_SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGCHLD)


class Workers:
    """
    The parent of ``count`` processes that run ``command`` and share the descriptors ``fds``.

    A worker that dies is started again. SIGTERM and SIGINT are passed on once, and the parent ends when
    the last worker has; a second one kills them. SIGHUP replaces the workers, the new ones first, so
    that the port is never unserved. Workers find the read end of a pipe as the last of their ``fds``:
    when that is at its end, their parent is gone. They get our environment, or ``environment``.

    """

    def __init__(
        self,
        command: Callable[[Sequence[int]], list[str]],
        count: int,
        fds: Sequence[int],
        *,
        environment: Mapping[str, str] | None = None,
    ) -> None:
        self._command = command
        self._count = count
        self._environment = environment
        self._alive, self._held = os.pipe()
        self._fds = [*fds, self._alive]
        self._running: dict[subprocess.Popen[bytes], float] = {}
        self._leaving: set[subprocess.Popen[bytes]] = set()
        self._signals: list[int] = []
        self._stopping = False
        self._failed = False
        self._next_start = 0.0

    def run(self) -> int:
        """
        Run until all workers have ended; return the exit code: 0 where they all ended in order.

        To be called once, in the main thread, which alone hears of signals. They are as they were afterwards.

        """
        with self._listening() as woken:
            self._watch(woken)
        return 1 if self._failed else 0

    @contextmanager
    def _listening(self) -> Iterator[int]:
        """Note signals; yield a descriptor that can be read when there is one."""
        woken, wake = os.pipe()
        os.set_blocking(wake, False)
        fd_before = signal.set_wakeup_fd(wake, warn_on_full_buffer=False)
        before = {number: signal.signal(number, self._note) for number in _SIGNALS}
        self._stopping = interrupts.give(self._note) is not None
        try:
            yield woken
        finally:
            for number, handler in before.items():
                signal.signal(number, signal.SIG_DFL if handler is None else handler)
            signal.set_wakeup_fd(fd_before)
            # The workers that are left, if something went wrong here, end with the pipe they hold the other end of.
            for fd in (woken, wake, self._alive, self._held):
                os.close(fd)

    def _watch(self, woken: int) -> None:
        self._fill_up()
        while self._running or self._leaving or not self._stopping:
            select.select([woken], [], [], self._patience())
            while select.select([woken], [], [], 0)[0]:
                os.read(woken, 1024)
            self._obey()
            self._bury()
            self._fill_up()

    def _note(self, number: int, frame: object) -> None:
        self._signals.append(number)

    def _patience(self) -> float | None:
        """Return how long nothing has to be done, in seconds; ``None`` is until a signal comes."""
        if self._stopping or len(self._running) >= self._count:
            return None
        return max(0.0, self._next_start - time.monotonic())

    def _obey(self) -> None:
        while self._signals:
            number = self._signals.pop(0)
            if number in (signal.SIGTERM, signal.SIGINT):
                if self._stopping:
                    self._send(signal.SIGKILL, [*self._running, *self._leaving])
                else:
                    # Those that are leaving have been told; told again, they would not wait for their clients.
                    self._send(signal.SIGTERM, list(self._running))
                self._stopping = True
            elif number == signal.SIGHUP and not self._stopping:
                self._replace()

    def _replace(self) -> None:
        old = list(self._running)
        self._leaving.update(old)
        self._running.clear()
        self._fill_up()
        self._send(signal.SIGTERM, old)

    def _send(self, number: int, processes: Sequence[subprocess.Popen[bytes]]) -> None:
        for process in processes:
            process.send_signal(number)

    def _bury(self) -> None:
        """Let go of the processes that have ended."""
        now = time.monotonic()
        for process in [*self._running, *self._leaving]:
            code = process.poll()
            if code is None:
                continue
            started = self._running.pop(process, None)
            self._leaving.discard(process)
            if self._stopping or started is None:
                # A worker may be told to go before it can say that it will.
                self._failed = self._failed or code not in (0, -signal.SIGTERM)
                continue
            logger.error("Worker %d ended with code %d and is started again.", process.pid, code)
            if now - started < HEALTHY_SECONDS:
                self._next_start = now + RETRY_SECONDS

    def _fill_up(self) -> None:
        while (
            not self._stopping and len(self._running) < self._count and time.monotonic() >= self._next_start
        ):
            # In groups of their own: Ctrl-C is for the parent, which passes it on once.
            process = subprocess.Popen(  # noqa: S603 - our own command
                self._command(self._fds), env=self._environment, pass_fds=self._fds, process_group=0
            )
            self._running[process] = time.monotonic()
