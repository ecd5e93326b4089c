"""Calls of one kind from many callers, carried out together."""

from __future__ import annotations

import asyncio
import contextvars
from collections import Counter, deque
from collections.abc import Sequence
from typing import NamedTuple

from realtime.errors import StateUnavailable
from realtime.state.link import MOST_WAITING, Link
from realtime.state.resp import Reply
from realtime.state.scripts import Script

AT_ONCE, BYTES_AT_ONCE = 100, 256 * 1024
"""What one bundle carries at most; a larger call goes alone. Redis does nothing else meanwhile."""


class _Call(NamedTuple):
    """One caller's part of a bundle."""

    key: bytes
    words: Sequence[bytes]
    answer: asyncio.Future[Reply]


class Bundles:
    """
    Calls of a script that takes the keys of many callers, then the words of each, and replies with a list.

    The calls of one turn of the loop go out together, and while a bundle is on its way the next is gathered: the more
    callers there are, the fewer commands each costs. A bundle is sent again where the connection breaks, so the
    script must do the same when it is carried out twice.

    """

    def __init__(self, link: Link, script: Script) -> None:
        self._link = link
        self.script = script
        self._waiting: deque[_Call] = deque()
        self._asked: Counter[bytes] = Counter()
        """The keys of the calls that wait."""
        self._busy = False
        """Whether the next bundle is sent without anybody asking for it."""
        self._context = contextvars.Context()

    async def call(self, key: bytes, words: Sequence[bytes]) -> Reply:
        """Return the reply to one caller. Raise StateUnavailable as :meth:`realtime.state.link.Link.call` does."""
        if len(self._waiting) >= MOST_WAITING:
            raise StateUnavailable(
                f"{len(self._waiting)} calls wait for Redis: it is slower than those who ask."
            )
        loop = asyncio.get_running_loop()
        call = _Call(key, words, loop.create_future())
        self._waiting.append(call)
        self._asked[key] += 1
        if not self._busy:
            self._busy = True
            loop.call_soon(self._go_on, context=self._context)
        return await call.answer

    def hurry(self, key: bytes) -> None:
        """Send what waits if a call about ``key`` is among it: what is asked of that next must come after."""
        if key in self._asked:
            while calls := self._next():
                self._send(calls)

    def _go_on(self) -> None:
        calls = self._next()
        self._busy = bool(calls)
        if calls:
            self._send(calls).add_done_callback(lambda _: self._go_on(), context=self._context)

    def _next(self) -> list[_Call]:
        """Take out the calls of the next bundle."""
        calls: list[_Call] = []
        size = 0
        while self._waiting and len(calls) < AT_ONCE:
            call = self._waiting[0]
            size += sum(map(len, call.words))
            if calls and size > BYTES_AT_ONCE:
                break
            self._waiting.popleft()
            self._asked[call.key] -= 1
            if not self._asked[call.key]:
                del self._asked[call.key]
            if not call.answer.done():
                calls.append(call)
        return calls

    def _send(self, calls: Sequence[_Call]) -> asyncio.Future[Reply]:
        keys = [call.key for call in calls]
        words = [word for call in calls for word in call.words]
        reply = self._link.call(self.script, len(keys), keys + words, repeatable=True)
        reply.add_done_callback(lambda reply: _hand_out(calls, reply), context=self._context)
        return reply


def _hand_out(calls: Sequence[_Call], reply: asyncio.Future[Reply]) -> None:
    error = reply.exception()
    answers = [None] * len(calls) if error is not None else reply.result()
    for call, answer in zip(calls, answers, strict=True):
        if call.answer.done():
            continue
        if error is not None:
            call.answer.set_exception(StateUnavailable(str(error)))
        else:
            call.answer.set_result(answer)
