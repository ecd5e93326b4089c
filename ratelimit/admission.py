"""Whether one more socket may come in."""

from __future__ import annotations

import threading
from collections.abc import Hashable
from typing import Generic, TypeVar

from ratelimit.conf import RateLimitSettings
from ratelimit.quotas import ConnectionRates, OpenSockets
from ratelimit.refusals import FULL, TOO_MANY_OF_ADDRESS, TOO_MANY_OF_USER, Refusal, too_fast

T = TypeVar("T", bound=Hashable)


class Admission(Generic[T]):
    """
    The door of one process. Callable from any thread: a process may run several loops.

    What :meth:`enter` and :meth:`enter_user` let in must be given back with the ``leave`` of the same name.

    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._rates = ConnectionRates()
        self._sockets: OpenSockets[T] = OpenSockets()

    @property
    def total(self) -> int:
        """Sockets that are in."""
        return self._sockets.total

    def enter(self, network: str, settings: RateLimitSettings, now: float) -> Refusal | None:
        """
        Let a socket of ``network`` in at ``now`` (seconds, monotonic), or return why not.

        A socket that is refused spends nothing.

        """
        with self._lock:
            if 0 < settings.max_connections <= self._sockets.total:
                return FULL
            if 0 < settings.max_connections_per_ip <= self._sockets.of_network(network):
                return TOO_MANY_OF_ADDRESS
            wait = self._rates.take(network, now, settings.connections_per_window, settings.connection_window)
            if wait:
                return too_fast(wait)
            self._sockets.enter(network)
            return None

    def take_back(self, network: str, settings: RateLimitSettings) -> None:
        """Undo the :meth:`enter` of a socket that was refused elsewhere: it spends nothing here either."""
        with self._lock:
            self._sockets.leave(network)
            self._rates.give_back(network, settings.connections_per_window, settings.connection_window)

    def leave(self, network: str) -> None:
        """A socket of ``network`` is gone."""
        with self._lock:
            self._sockets.leave(network)

    def enter_user(self, user: str, socket: T, settings: RateLimitSettings) -> tuple[Refusal | None, list[T]]:
        """Let the socket of a user in, or return why not; and the older sockets of the user that must go for it."""
        with self._lock:
            replaced: list[T] = []
            cap = settings.max_connections_per_user
            if cap:
                theirs = self._sockets.of_user(user)
                surplus = len(theirs) + 1 - cap
                if surplus > 0 and settings.user_limit_policy == "refuse":
                    return TOO_MANY_OF_USER, replaced
                replaced = theirs[: max(0, surplus)]
            for older in replaced:
                self._sockets.leave_user(user, older)
            self._sockets.enter_user(user, socket)
            return None, replaced

    def leave_user(self, user: str, socket: T) -> None:
        """A socket of a user is gone."""
        with self._lock:
            self._sockets.leave_user(user, socket)
