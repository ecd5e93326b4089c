"""The ledger of a cluster: the sockets of each address and user, counted over all nodes in the shared state."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import math
import time
import weakref
from collections import Counter
from collections.abc import Awaitable, Iterable
from typing import Any, Final, NamedTuple, TypeVar

from django.utils.crypto import salted_hmac

from ratelimit import counters
from ratelimit.close_codes import REPLACED
from ratelimit.conf import RateLimitSettings, get_settings
from ratelimit.guards import open_guards
from ratelimit.ledger import Seat
from ratelimit.logs import get_logger
from ratelimit.refusals import TOO_MANY_OF_ADDRESS, TOO_MANY_OF_USER, Refusal, too_fast
from realtime import nodes
from realtime.conf import RealtimeSettings
from realtime.errors import StateUnavailable
from realtime.hub import EVERYONE, Hub, on_operation
from realtime.nodes import Node
from realtime.state import Entered

logger = get_logger("realtime")

T = TypeVar("T")
What = tuple[str, str]
"""Kind and key of a count."""

RECONCILE: Final = 600.0
"""Seconds after which a node says again what it holds, though nothing is known to be wrong."""
RETRY: Final = 1.0
"""Seconds between two attempts to say it, while nothing says that the state is back."""
LOOK: Final = 1.0
"""Seconds between two looks at the settings, which may ask for other counts."""
FULL_FOR: Final = 0.2
"""Seconds for which a place that was found taken is not asked for again: a flood of one address costs Redis little."""

_MOST_LEAVING: Final = 1000
"""Sockets that may wait to be given back; beyond it all are counted again, once."""
_MOST_BARRED: Final = 10_000
_AT_ONCE: Final = 500


class ClusterLedger:
    """What ``RATELIMIT_SCOPE = "cluster"`` counts with: finds the book of the loop that asks."""

    def __init__(self) -> None:
        on_operation("seats_taken", _on_seats_taken)

    def problem(self) -> tuple[str, str] | None:
        """Say that memory is not shared."""
        settings, _ = RealtimeSettings.read()
        if settings is None or settings.state_url != "memory://":
            return None
        return (
            "REALTIME_STATE_URL is 'memory://', which no other process can see",
            "Give REALTIME_STATE_URL a Redis, or set RATELIMIT_SCOPE to 'process'.",
        )

    async def enter(self, network: str, settings: RateLimitSettings) -> Refusal | None:
        """Count a socket of a network in, or return why it must not come in."""
        return await _book().enter(network, settings)

    def leave(self, network: str, settings: RateLimitSettings) -> None:
        """A socket of a network is gone."""
        if (book := _open_book()) is not None and settings.max_connections_per_ip:
            book.leave(("address", network))

    async def enter_user(self, user: str, seat: Seat, settings: RateLimitSettings) -> Refusal | None:
        """Count a socket of a user in, or return why it must not come in."""
        return await _book().enter_user(user, seat, settings)

    def leave_user(self, user: str, seat: Seat, settings: RateLimitSettings) -> None:
        """A socket of a user is gone."""
        if (book := _open_book()) is not None:
            book.leave_user(user, seat, settings)


class _Taken(NamedTuple):
    """The seat of a socket, where the newest sockets of a user win."""

    id: str
    user: str
    since: float
    """Seconds, monotonic."""


class Book:
    """
    What one node has in the ledger. Belongs to the loop of the node.

    The truth about what is open here is in the guards; the state is told of each change, and of everything when it may
    have missed one. Places are held by the lease of the node.

    """

    def __init__(self, node: Node) -> None:
        self.node = node
        self._state = node.state
        self._lease = node.lease
        self._drifted = asyncio.Event()
        """The state may believe something else than what is open here."""
        self._changed = asyncio.Event()
        """The state has come back, or gone, since it was last told everything."""
        self._held = 0
        """How often the state was told everything."""
        self._given_back = False
        self._alone = False
        self._coming: Counter[What] = Counter()
        """Sockets of which the state has not been told yet, because the node has no lease yet."""
        self._leaving: set[asyncio.Task[None]] = set()
        self._barred: dict[What, tuple[float, Entered]] = {}
        self._barred_by: RateLimitSettings | None = None
        self._seats: dict[Seat, _Taken] = {}
        self._numbers = itertools.count(1)
        self._lease.on_fresh.append(self._drifted.set)
        self._state.on_change.append(lambda _: self._changed.set())
        self._lease.keep()
        node.supervisor.start("limits", self._run)

    @property
    def id(self) -> str:
        """What the node is called in the state."""
        return self._lease.id

    # Coming in.

    async def enter(self, network: str, settings: RateLimitSettings) -> Refusal | None:
        """Count a socket of a network in, or return why it must not come in."""
        if not (settings.max_connections_per_ip or settings.connections_per_window):
            return None
        entered = await self._ask(
            ("address", network),
            settings,
            max_concurrent=settings.max_connections_per_ip,
            rate=settings.connections_per_window,
            window=settings.connection_window,
        )
        if entered.ok:
            return None
        if entered.reason == "rate":
            return too_fast(math.ceil(entered.retry_after * 1000) / 1000)
        return TOO_MANY_OF_ADDRESS

    async def enter_user(self, user: str, seat: Seat, settings: RateLimitSettings) -> Refusal | None:
        """Count a socket of a user in, or return why it must not come in; older ones that must go for it are closed."""
        cap = settings.max_connections_per_user
        if not cap:
            return None
        if settings.user_limit_policy == "newest":
            return await self._take_seat(user, seat, cap)
        entered = await self._ask(("user", user), settings, max_concurrent=cap)
        return None if entered.ok else TOO_MANY_OF_USER

    async def _ask(self, what: What, settings: RateLimitSettings, **limits: Any) -> Entered:
        if (known := self._known(what, settings)) is not None:
            return known
        held = self._held
        entered = await self._shared(self._come(what, limits))
        if entered is None:
            return Entered(True)
        if not entered.ok:
            if held != self._held:
                # Meanwhile everything was counted, and this socket with it.
                self._drifted.set()
            self._bar(what, entered)
        return entered

    async def _come(self, what: What, limits: dict[str, Any]) -> Entered:
        if not self._lease.was_asked:
            # What a node writes before it has come in is lost when it does.
            self._coming[what] += 1
            try:
                await self._lease.asked()
            finally:
                self._coming[what] -= 1
        return await self._state.enter(*what, self.id, **limits)

    async def _shared(self, asking: Awaitable[T]) -> T | None:
        """Return what the state says; ``None`` where it cannot be asked, and this process has to judge alone."""
        try:
            return await asking
        except StateUnavailable as error:
            counters.process.judged_alone += 1
            self._out_of_touch(str(error))
            return None
        except asyncio.CancelledError:
            # Whether it was counted is not known.
            self._drifted.set()
            raise

    # A refusal that is known needs no round trip: nobody can make the rate come back sooner.

    def _known(self, what: What, settings: RateLimitSettings) -> Entered | None:
        if settings is not self._barred_by:
            self._barred.clear()
            self._barred_by = settings
        until, entered = self._barred.get(what, (0.0, None))
        if entered is None:
            return None
        left = until - time.monotonic()
        if left <= 0:
            del self._barred[what]
            return None
        return entered._replace(retry_after=left) if entered.reason == "rate" else entered

    def _bar(self, what: What, entered: Entered) -> None:
        if len(self._barred) >= _MOST_BARRED:
            del self._barred[next(iter(self._barred))]
        seconds = entered.retry_after if entered.reason == "rate" else FULL_FOR
        self._barred[what] = (time.monotonic() + seconds, entered)

    # Where the newest sockets of a user win, each has a seat with the time it was taken.

    async def _take_seat(self, user: str, seat: Seat, cap: int) -> Refusal | None:
        await self._lease.asked()
        taken = self._seats[seat] = _Taken(str(next(self._numbers)), user, time.monotonic())
        room = _room(user)
        # Both in one piece: the second sees the first.
        answers = await self._shared(
            asyncio.gather(
                self._state.set_presence(room, self.id, self._stamped([taken])), self._state.presence(room)
            )
        )
        if answers is None:
            return None
        seats = sorted(
            (float(stamp), node, number)
            for node, numbers in answers[1].items()
            for number, stamp in numbers.items()
        )
        surplus = [(node, number) for _, node, number in seats[: max(0, len(seats) - cap)]]
        if (self.id, taken.id) in surplus:
            # Somebody newer came in the same moment.
            self.leave_user(user, seat, get_settings())
            return TOO_MANY_OF_USER
        self._replace(surplus)
        return None

    def _stamped(self, taken: Iterable[_Taken]) -> dict[str, bytes]:
        return {one.id: b"%.6f" % self._lease.shared_time(one.since) for one in taken}

    def _replace(self, surplus: list[tuple[str, str]]) -> None:
        """Have the sockets in these seats closed, wherever they are."""
        for node, seats in itertools.groupby(sorted(surplus), key=lambda place: place[0]):
            numbers = [number for _, number in seats]
            if not _close_here(node, numbers):
                self.node.hub.send_remote(
                    {"group": EVERYONE, "op": "seats_taken", "node": node, "seats": numbers}
                )

    def close_seats(self, numbers: Iterable[str]) -> None:
        """Close the sockets in these seats. Callable from any thread."""
        wanted = set(numbers)
        for seat, taken in list(self._seats.items()):
            if taken.id in wanted:
                seat.close_soon(REPLACED)

    # Going.

    def leave(self, what: What) -> None:
        """A socket is gone. The state is told in a task."""
        if self.node.draining:
            self._give_all_back()
            return
        self._barred.pop(what, None)
        self._tell(self._leave(what, self._held))

    async def _leave(self, what: What, held: int) -> None:
        # Whoever has told the state everything since has told it of this too.
        if held == self._held:
            await self._state.leave(*what, self.id)

    def leave_user(self, user: str, seat: Seat, settings: RateLimitSettings) -> None:
        """A socket of a user is gone. The state is told in a task."""
        taken = self._seats.pop(seat, None)
        if taken is not None:
            if not self.node.draining:
                self._tell(self._state.drop_presence(_room(user), self.id, [taken.id]))
        elif settings.max_connections_per_user and settings.user_limit_policy == "refuse":
            self.leave(("user", user))

    def _give_all_back(self) -> None:
        """The node lets nobody in any more: one word for all of its places, and not one for each."""
        if not self._given_back:
            self._given_back = True
            self._held += 1
            self._tell(self._state.hold(self.id, {}))

    def _tell(self, telling: Any) -> None:
        if len(self._leaving) >= _MOST_LEAVING:
            telling.close()
            self._drifted.set()
            return
        task = self.node.loop.create_task(self._told(telling), name="realtime.leave")
        self._leaving.add(task)
        task.add_done_callback(self._leaving.discard)

    async def _told(self, telling: Awaitable[None]) -> None:
        try:
            await telling
        except StateUnavailable as error:
            self._out_of_touch(str(error))

    # Setting right.

    async def _run(self) -> None:
        """Tell the state everything when it may have missed something, until cancelled."""
        seen = get_settings()
        due = time.monotonic() + RECONCILE
        while True:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(LOOK):
                    await self._drifted.wait()
            settings = get_settings()
            if not self._drifted.is_set() and settings == seen and time.monotonic() < due:
                continue
            self._drifted.clear()
            self._changed.clear()
            try:
                await self.reconcile(settings)
            except StateUnavailable as error:
                self._out_of_touch(str(error))
                # Until it is told, the other nodes let in one more for each that is missing.
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(RETRY):
                        await self._changed.wait()
            else:
                self._in_touch()
                seen, due = settings, time.monotonic() + RECONCILE

    async def reconcile(self, settings: RateLimitSettings) -> None:
        """Tell the state what is open here, in the place of what it believes."""
        self._held += 1
        await self._state.hold(self.id, self._open(settings))
        rooms: dict[str, list[_Taken]] = {}
        for taken in self._seats.values():
            rooms.setdefault(_room(taken.user), []).append(taken)
        rest = iter(rooms.items())
        while some := list(itertools.islice(rest, _AT_ONCE)):
            await asyncio.gather(
                *(self._state.set_presence(room, self.id, self._stamped(taken)) for room, taken in some)
            )

    def _open(self, settings: RateLimitSettings) -> Counter[What]:
        """Return what is open here and limited, by kind and key."""
        counts: Counter[What] = Counter()
        if settings.scope != "cluster" or self.node.draining:
            return counts
        addresses = settings.max_connections_per_ip > 0
        users = settings.max_connections_per_user > 0 and settings.user_limit_policy == "refuse"
        # list() copies at once: other loops have theirs in it too.
        for guard in list(open_guards):
            if guard.loop is not self.node.loop:
                continue
            if addresses and guard.entered:
                counts["address", guard.network] += 1
            if users and guard.user is not None:
                counts["user", guard.user] += 1
        return counts - self._coming

    def _out_of_touch(self, reason: str) -> None:
        self._drifted.set()
        counters.process.alone = reason
        if not self._alone:
            self._alone = True
            logger.warning("limits count in this process only", reason=reason)

    def _in_touch(self) -> None:
        if self._alone:
            self._alone = False
            counters.process.alone = ""
            logger.info("limits count over all nodes again")


_BOOKS: weakref.WeakKeyDictionary[asyncio.AbstractEventLoop, Book] = weakref.WeakKeyDictionary()


def _book() -> Book:
    """Return the book of the running loop's node."""
    node = nodes.current()
    book = _BOOKS.get(node.loop)
    if book is None or book.node is not node:
        book = _BOOKS[node.loop] = Book(node)
    return book


def _open_book() -> Book | None:
    """Return the book of the running loop if there is one: who leaves opens none."""
    try:
        loop = asyncio.get_running_loop()
    except RuntimeError:
        # The loop ended before the socket did, and its lease with it.
        return None
    return _BOOKS.get(loop)


def _close_here(node: str, numbers: list[str]) -> bool:
    """Close sockets of a node if it is one of this process; return whether it is."""
    for book in list(_BOOKS.values()):
        if book.id == node:
            book.close_seats(numbers)
            return True
    return False


async def _on_seats_taken(hub: Hub, message: dict[str, Any]) -> None:
    _close_here(message["node"], message["seats"])


def _room(user: str) -> str:
    """Return what the seats of a user are kept under: a name that nobody can give to a room of messages by chance."""
    return "seats:" + salted_hmac("realtime.ledger", user, algorithm="sha256").hexdigest()
