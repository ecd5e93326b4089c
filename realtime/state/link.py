"""One connection to Redis that carries the calls of a whole event loop."""

from __future__ import annotations

import asyncio
import contextvars
import random
import re
from collections import deque
from collections.abc import Callable, Sequence
from typing import cast

from realtime.errors import StateUnavailable
from realtime.state import resp, scripts
from realtime.state.endpoint import Endpoint
from realtime.state.scripts import Script

MOST_WAITING = 10_000
"""Calls that may wait for an answer; beyond it they are refused at once."""

_FIRST_PAUSE, _LONGEST_PAUSE = 0.05, 1.0
"""Seconds between attempts to connect: the first, and as they grow."""

_LATE = 0.1
"""Seconds that a look at the clock may come late before the loop itself is to blame, and not Redis."""

_NOT_THE_MASTER = {"READONLY", "LOADING", "MASTERDOWN"}
"""Refusals of a Redis that cannot serve now: another one may, or the same one later."""
_REFUSES_WRITES = {"OOM", "MISCONF", "NOREPLICAS", "NOPERM", "NOAUTH"}
"""Refusals that every other write is going to meet too."""
_CODE = re.compile(r"\b(NOSCRIPT|" + "|".join(sorted(_NOT_THE_MASTER | _REFUSES_WRITES)) + r")\b")


class _Call:
    """One request and who waits for the reply."""

    __slots__ = ("deadline", "future", "keys", "repeatable", "script", "words")

    def __init__(
        self,
        script: Script | None,
        keys: int,
        words: list[bytes],
        repeatable: bool,
        future: asyncio.Future[resp.Reply],
        deadline: float,
    ) -> None:
        self.script = script
        self.keys = keys
        self.words = words
        self.repeatable = repeatable
        self.future = future
        self.deadline = deadline

    def request(self, run: bytes) -> bytes:
        if self.script is None:
            return resp.encode(*self.words)
        return self.script.call(self.keys, self._words(run))

    def whole_request(self, script: Script, run: bytes) -> bytes:
        return script.whole_call(self.keys, self._words(run))

    def _words(self, run: bytes) -> list[bytes]:
        if self.script is None or not self.script.run:
            return self.words
        return [*self.words[: self.keys], run, *self.words[self.keys :]]

    def fail(self, sentence: str) -> None:
        if not self.future.done():
            self.future.set_exception(StateUnavailable(sentence))


class _Wire(asyncio.Protocol):
    """One connection, from when it is made until it is lost."""

    def __init__(self, link: Link) -> None:
        self.sent: deque[_Call] = deque()
        self.run = b""
        self.heard = 0.0
        """When something last came, by the clock of the loop."""
        loop = asyncio.get_running_loop()
        self.lost = loop.create_future()
        self._time = loop.time
        self._link = link
        self._decoder = resp.Decoder()
        self._transport: asyncio.Transport | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)

    def send(self, calls: Sequence[_Call]) -> None:
        """Send the requests of ``calls`` in one piece."""
        self.sent.extend(calls)
        run = self.run
        self._write(b"".join([call.request(run) for call in calls]))

    def send_whole(self, call: _Call, script: Script) -> None:
        """Send the request of a call again, with the source of its script."""
        self.sent.append(call)
        self._write(call.whole_request(script, self.run))

    def _write(self, data: bytes) -> None:
        if self._transport is not None:
            self._transport.write(data)

    def data_received(self, data: bytes) -> None:
        self.heard = self._time()
        try:
            for reply in self._decoder.feed(data):
                self._link.answered(self, self.sent.popleft(), reply)
        except (resp.ProtocolError, IndexError):
            self.abort()

    def connection_lost(self, exc: Exception | None) -> None:
        self._transport = None
        if not self.lost.done():
            self.lost.set_result(None)
        self._link.lost(self)

    def abort(self) -> None:
        if self._transport is not None:
            self._transport.abort()


class Link:
    """
    A connection that is there when it is needed. Belongs to the loop that makes the first call.

    What is asked in one turn of the loop goes out in one piece, and nobody waits for a reply to send the next. Replies
    come in order, so calls are carried out in order. When a call has no reply after ``timeout`` seconds, and nothing
    else came for as long, Redis is away: everything that waits fails, and so does every new call at once, while the link
    tries to connect until it can. ``on_change`` is given the reason, or an empty string when Redis is there and well.

    """

    def __init__(self, endpoint: Endpoint, timeout: float, on_change: Callable[[str], None]) -> None:
        self._endpoint = endpoint
        self._timeout = timeout
        self._timeout_sentence = f"Redis at {endpoint} did not answer within {timeout:g} seconds."
        self._closed_sentence = f"The connection to Redis at {endpoint} was closed."
        self._on_change = on_change
        self._waiting: deque[_Call] = deque()
        self._wire: _Wire | None = None
        self._away = ""
        """Why Redis cannot be asked; empty while it can, or while nobody has tried."""
        self._refusing = False
        self._closed = False
        self._keeper: asyncio.Task[None] | None = None
        self._flushing = False
        self._watch: asyncio.TimerHandle | None = None
        self._context = contextvars.Context()
        """What runs on behalf of nobody in particular must not log in the name of who called first."""

    def call(
        self, script: Script | None, keys: int, words: list[bytes], *, repeatable: bool = False
    ) -> asyncio.Future[resp.Reply]:
        """
        Return what will be the reply to a script, or to a plain command where there is none.

        A ``repeatable`` call does the same when it is done twice: it is sent again when the connection breaks. What
        fails fails with StateUnavailable and a sentence.

        """
        loop = asyncio.get_running_loop()
        future: asyncio.Future[resp.Reply] = loop.create_future()
        call = _Call(script, keys, words, repeatable, future, loop.time() + self._timeout)
        pending = len(self._waiting) + (len(self._wire.sent) if self._wire else 0)
        if self._away or pending >= MOST_WAITING:
            reason = self._away or f"{pending} calls wait for Redis: it is slower than those who ask."
            # In the next turn of the loop: who tries again at once must not hold it up.
            loop.call_soon(call.fail, reason)
            return future
        if self._keeper is None:
            self._keeper = loop.create_task(self._keep(), name="realtime.state", context=self._context)
        self._waiting.append(call)
        if not self._flushing:
            self._flushing = True
            loop.call_soon(self.flush, context=self._context)
        if self._watch is None:
            self._look_at(loop, loop.time() + self._timeout)
        return future

    def flush(self) -> None:
        """Send what waits, if there is a connection."""
        self._flushing = False
        wire = self._wire
        if wire is None:
            return
        calls = [call for call in self._waiting if not call.future.done()]
        self._waiting.clear()
        if calls:
            wire.send(calls)

    async def aclose(self) -> None:
        """Close the connection; what waits fails, and so does every later call."""
        self._closed = True
        self._fail(self._closed_sentence)
        if self._watch is not None:
            self._watch.cancel()
        if self._keeper is not None:
            self._keeper.cancel()
            await asyncio.wait([self._keeper])

    # What the wire reports.

    def answered(self, wire: _Wire, call: _Call, reply: resp.Reply) -> None:
        """Hand a reply to who waits for it."""
        if isinstance(reply, resp.Refusal):
            self._refused(wire, call, str(reply))
            return
        if self._refusing and call.script is not None and call.script.grows:
            self._refusing = False
            self._on_change("")
        if not call.future.done():
            call.future.set_result(reply)

    def _refused(self, wire: _Wire, call: _Call, text: str) -> None:
        found = _CODE.search(text)
        code = found[1] if found else ""
        if code == "NOSCRIPT" and call.script is not None:
            wire.send_whole(call, call.script)
            return
        sentence = self._endpoint.redacted(f"Redis at {self._endpoint} refuses: {text.rstrip('.')}.")
        call.fail(sentence)
        if wire is not self._wire:
            return
        if code in _NOT_THE_MASTER:
            self._give_up(sentence)
        elif code in _REFUSES_WRITES:
            self._refusing = True
            self._on_change(sentence)

    def lost(self, wire: _Wire) -> None:
        """The connection broke: what can be asked again is, the rest fails."""
        again = []
        for call in wire.sent:
            if call.repeatable:
                again.append(call)
            else:
                call.fail(f"The connection to Redis at {self._endpoint} broke before it answered.")
        wire.sent.clear()
        self._waiting.extendleft(reversed(again))
        if self._wire is wire:
            self._wire = None

    # The connection.

    async def _keep(self) -> None:
        """Have a connection, until cancelled."""
        pause = _FIRST_PAUSE
        loop = asyncio.get_running_loop()
        try:
            while True:
                try:
                    async with asyncio.timeout(self._timeout):
                        wire = await self._connected()
                except TimeoutError:
                    self._give_up(self._timeout_sentence)
                except StateUnavailable as error:
                    self._give_up(str(error))
                except Exception as error:  # noqa: BLE001 - whatever names, networks and certificates can raise
                    self._give_up(
                        self._endpoint.redacted(f"Redis at {self._endpoint} cannot be reached: {error}.")
                    )
                else:
                    since = loop.time()
                    self._found(wire)
                    await wire.lost
                    if loop.time() - since > _LONGEST_PAUSE:
                        pause = _FIRST_PAUSE
                        if not self._away:
                            continue
                # All nodes lose Redis in the same moment; they must not come back in one.
                await asyncio.sleep(pause * random.uniform(0.5, 1.0))  # noqa: S311
                pause = min(2 * pause, _LONGEST_PAUSE)
        finally:
            self._fail(self._closed_sentence)

    async def _connected(self) -> _Wire:
        """Return a connection that is let in, knows its server and has taught it the scripts."""
        wire = _Wire(self)
        await self._endpoint.connect(lambda: wire)
        try:
            commands = self._endpoint.greeting()
            commands.append([b"INFO", b"server"])
            commands.extend([b"SCRIPT", b"LOAD", script.source] for script in scripts.ALL)
            loop = asyncio.get_running_loop()
            calls = [_Call(None, 0, words, False, loop.create_future(), 0.0) for words in commands]
            wire.send(calls)
            replies = await asyncio.gather(*(call.future for call in calls))
            found = re.search(rb"run_id:(\w+)", replies[-len(scripts.ALL) - 1])
            wire.run = found[1][:12] if found else b"0"
        except BaseException:
            wire.abort()
            raise
        return wire

    def _found(self, wire: _Wire) -> None:
        self._wire = wire
        self._away = ""
        self._refusing = False
        self._on_change("")
        self.flush()

    def _give_up(self, reason: str) -> None:
        """Say that Redis is away, to who waits and to who is going to ask."""
        if not self._closed:
            self._fail(reason)
            self._on_change(reason)

    def _fail(self, reason: str) -> None:
        self._away = reason
        wire, self._wire = self._wire, None
        calls = [*(wire.sent if wire else ()), *self._waiting]
        self._waiting.clear()
        if wire is not None:
            wire.sent.clear()
            wire.abort()
        for call in calls:
            call.fail(reason)

    def _look_at(self, loop: asyncio.AbstractEventLoop, due: float) -> None:
        self._watch = loop.call_at(due, self._look, loop, due, context=self._context)

    def _look(self, loop: asyncio.AbstractEventLoop, due: float) -> None:
        """Look whether the oldest call has waited for too long, and look again when the next might have."""
        self._watch = None
        sent = self._wire.sent if self._wire else ()
        oldest = sent[0] if sent else self._waiting[0] if self._waiting else None
        if oldest is None:
            return
        now = loop.time()
        # While large answers come in, those behind them have to wait.
        deadline = max(oldest.deadline, self._wire.heard + self._timeout if self._wire else 0.0)
        if deadline > now:
            self._look_at(loop, deadline)
        elif now - due > _LATE:
            # The loop was held up. The reply may be there already, unread.
            self._look_at(loop, now + _LATE / 2)
        else:
            self._give_up(self._timeout_sentence)
