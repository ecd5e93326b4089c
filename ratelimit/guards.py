"""What is kept for one socket, and the judgement of each of its messages."""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import functools
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final, NamedTuple

from ratelimit import bans, counters, ledger
from ratelimit.admission import Admission
from ratelimit.asgi import Message
from ratelimit.clients import Client
from ratelimit.close_codes import POLICY, RATE_LIMITED, REPLACED, TOO_BIG, CloseReason
from ratelimit.conf import RateLimitSettings, get_settings
from ratelimit.limits import Allowance, Limits, Numbers, Violation
from ratelimit.logs import log_limited
from ratelimit.notices import SYSTEM_MARK, SYSTEM_MARK_WITHIN, is_system, rate_limited
from ratelimit.refusals import BANNED, Refusal
from ratelimit.sizes import text_size


class _Enforced(NamedTuple):
    """What the middlewares enforce, and which of the numbers those are: the others are off."""

    numbers: Numbers = Numbers()
    names: frozenset[str] = frozenset()


_EVERYTHING_OFF: Final = _Enforced()


@dataclass(frozen=True, slots=True)
class Verdict:
    """What is to be done about a message that must not reach the application."""

    notice: str | None = None
    """Text to send to the client."""
    close: CloseReason | None = None
    """Close the socket for this."""


SWALLOW: Final = Verdict()
"""Drop the message and say nothing: the socket is closing, or the client was told."""


class Guard:
    """
    One socket, as the limits see it.

    Everything but :meth:`close_soon` is called from the loop of the socket. Until a middleware calls
    :meth:`enforce` or a route :meth:`apply`, nothing is limited.

    """

    __slots__ = (
        "__weakref__",
        "_allowance",
        "_base",
        "_judged",
        "_max_bytes",
        "_override",
        "address",
        "closer",
        "closing",
        "entered",
        "label",
        "limited",
        "limits",
        "loop",
        "network",
        "retry_after",
        "user",
    )

    def __init__(self, client: Client, closer: Callable[[CloseReason], None]) -> None:
        self.address = client.address
        """The client's address."""
        self.network = client.network
        """What counts as one client: the address, or the prefix of an IPv6 one."""
        self.label = client.label
        """Names the client in lists of the most limited."""
        self.closer = closer
        """Closes the socket; called once, from its loop."""
        self.limited = 0
        """Messages refused so far."""
        self.retry_after: float | None = None
        """Seconds after which the message refused last would have passed."""
        self.closing = False
        """Whether the socket is being closed by a limit or a ban: its messages are swallowed."""
        self.loop = asyncio.get_running_loop()
        self.entered = False
        """Whether the socket is counted among those of its network."""
        self.user: str | None = None
        """The user among whose sockets it is counted, by primary key as text."""
        self._judged = False
        self._base = _EVERYTHING_OFF
        self._override: Limits | None = None
        self._allowance: Allowance | None = None
        self._resolve()

    def enforce(self, **numbers: Any) -> None:
        """Enforce these fields of :class:`ratelimit.limits.Numbers`, unless the route has its own."""
        self._base = _with(self._base, **numbers)
        self._resolve()

    def apply(self, limits: Limits | None) -> None:
        """Enforce the limits of a route, in place of those that were applied before. Budgets start full."""
        self._override = limits
        self._resolve()

    def judge(self, message: Message, now: float) -> Verdict | None:
        """Return ``None`` to let a ``websocket.receive`` pass at ``now`` (seconds, monotonic), else what to do."""
        text: str | None = message.get("text")
        if text is None:
            payload = message.get("bytes") or b""
            return self.weigh(payload, len(payload), now)
        # Most text is ASCII. Not by another call: that is a part of what a message costs.
        size = len(text) if text.isascii() else text_size(text)
        return self.weigh(text, size, now)

    def weigh(self, payload: str | bytes, size: int, now: float) -> Verdict | None:
        """Judge what a message carries, ``size`` bytes, for an application that has it without an ASGI message around it."""
        if self.closing:
            return SWALLOW
        if size > self._max_bytes:
            return self._too_big()
        # The search is all that an ordinary message pays for the exemption of the others; ``in`` is no call.
        system = (
            isinstance(payload, str)
            and (
                SYSTEM_MARK in payload
                if size <= SYSTEM_MARK_WITHIN
                else payload.find(SYSTEM_MARK, 0, SYSTEM_MARK_WITHIN) >= 0
            )
            and is_system(payload, size)
        )
        violation = (self._allowance or self._begin()).spend(size, system, now)
        return None if violation is None else self._limited(violation)

    def remaining(self, now: float) -> int | None:
        """Return how many messages may be sent at ``now`` (seconds, monotonic); ``None`` if that is not limited."""
        # One that is made here is not kept: observers are in other threads.
        return (self._allowance or Allowance(self.limits)).remaining(now)

    async def enter(self, settings: RateLimitSettings, now: float) -> Refusal | None:
        """Count the socket among those of its network at ``now`` (seconds, monotonic), or return why it must not come in."""
        if self.entered:
            return None
        # First: whoever changes the table from now on sees that this socket may have been judged by the
        # old one, and closes it. Before that, the new table is the one it will be judged by.
        self._judged = True
        if bans.watch.table.bans_address(self.address, time.time()):
            self._judged = False
            return BANNED
        refusal = door.enter(self.network, settings, now)
        if refusal is not None:
            return refusal
        # Before anything is awaited: who is cancelled meanwhile gives back what it has, here and there.
        self.entered = True
        shared = ledger.in_force(settings)
        if shared is not None and (refusal := await shared.enter(self.network, settings)) is not None:
            self.entered = False
            door.take_back(self.network, settings)
        return refusal

    async def enter_user(self, user_key: str) -> Refusal | None:
        """
        Count the socket among those of a user, named by primary key as text, or return why it must not come in.

        To be called before the socket is accepted, where its user is known.

        """
        if self.user == user_key:
            return None
        settings = get_settings()
        self._leave_user(settings)
        self.user = user_key  # first, as above
        if bans.watch.table.bans_user(user_key, time.time()):
            self.user = None
            return BANNED
        refusal, replaced = door.enter_user(user_key, self, settings)
        for older in replaced:
            older.close_soon(REPLACED)
        if refusal is not None:
            self.user = None
            return refusal
        shared = ledger.in_force(settings)
        if shared is not None and (refusal := await shared.enter_user(user_key, self, settings)) is not None:
            self.user = None
            door.leave_user(user_key, self)
        return refusal

    def close(self, reason: CloseReason) -> None:
        """Close the socket; nothing happens if that was asked for before."""
        if not self.closing:
            self.closing = True
            self.closer(reason)

    def close_soon(self, reason: CloseReason) -> None:
        """Have the loop of the socket close it. Callable from any thread."""
        # A loop that is closed has no open sockets left.
        with contextlib.suppress(RuntimeError):
            self.loop.call_soon_threadsafe(self.close, reason)

    def is_banned(self, table: bans.BanTable, now: float) -> bool:
        """Return whether ``table`` bans this socket, which came in, at ``now`` (seconds since the epoch)."""
        user = self.user
        return (self._judged and table.bans_address(self.address, now)) or (
            user is not None and table.bans_user(user, now)
        )

    def release(self) -> None:
        """Give back all that the socket holds; it is gone."""
        # What closes it knows the application, which knows the guard: reference counts would never free them.
        self.closer = _nobody
        if not self.entered and self.user is None:
            return
        settings = get_settings()
        if self.entered:
            self.entered = False
            door.leave(self.network)
            if (shared := ledger.in_force(settings)) is not None:
                shared.leave(self.network, settings)
        self._leave_user(settings)

    def _leave_user(self, settings: RateLimitSettings) -> None:
        user, self.user = self.user, None
        if user is not None:
            door.leave_user(user, self)
            if (shared := ledger.in_force(settings)) is not None:
                shared.leave_user(user, self, settings)

    def _resolve(self) -> None:
        self.limits = (
            self._override.filled(self._base.numbers) if self._override is not None else self._base.numbers
        )
        self._max_bytes = self.limits.max_message_bytes or sys.maxsize
        self._allowance = None

    def _begin(self) -> Allowance:
        """Make the budgets: not before the first message, for many sockets never send one."""
        self._allowance = Allowance(self.limits)
        return self._allowance

    def _too_big(self) -> Verdict:
        counters.process.count_oversized()
        log_limited("socket closed", reason=TOO_BIG.name, address=self.address)
        return Verdict(close=TOO_BIG)

    def _limited(self, violation: Violation) -> Verdict:
        now = time.time()
        self.limited += 1
        self.retry_after = violation.retry_after
        counters.process.count_message(violation.budget, self.address, self.label, now)
        if violation.violations_left == 0:
            counters.process.count_disconnect(now)
            log_limited(
                "socket closed", reason=RATE_LIMITED.name, address=self.address, scope=violation.budget
            )
            return Verdict(close=RATE_LIMITED)
        return Verdict(notice=rate_limited(violation)) if violation.warn else SWALLOW

    def renew(self, settings: RateLimitSettings) -> None:
        """Enforce what settings that have changed say. Budgets start full where they are others than before."""
        before, spent = self.limits, self._allowance
        self._base = _with(self._base, **{name: getattr(settings, name) for name in self._base.names})
        self._resolve()
        if dataclasses.replace(before, max_message_bytes=self.limits.max_message_bytes) == self.limits:
            self._allowance = spent


@functools.lru_cache(maxsize=64)
def _with(base: _Enforced, **numbers: Any) -> _Enforced:
    """Return ``base`` with other numbers. The sockets of a server share what is returned, as they share its settings."""
    return _Enforced(dataclasses.replace(base.numbers, **numbers), base.names.union(numbers))


def _nobody(reason: CloseReason) -> None:
    """Close nothing: the socket is gone."""


door: Final[Admission[Guard]] = Admission()
"""The door of this process."""
open_guards: Final[set[Guard]] = set()
"""The guards of all sockets of this process, from before they are judged until they are gone."""


def close_banned(table: bans.BanTable) -> None:
    """Close every open socket that ``table`` bans. Callable from any thread."""
    now = time.time()
    # list() copies at once: sockets come and go in their own threads meanwhile.
    for guard in list(open_guards):
        if guard.is_banned(table, now):
            guard.close_soon(POLICY)


bans.watch.on_change.append(close_banned)
