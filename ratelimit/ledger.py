"""The ledger: who is open on all nodes together, kept by an app that can reach them all."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

from ratelimit.close_codes import CloseReason

if TYPE_CHECKING:
    from ratelimit.conf import RateLimitSettings
    from ratelimit.refusals import Refusal


class Seat(Protocol):
    """A socket of a user, as far as a ledger needs it. Told apart by identity."""

    def close_soon(self, reason: CloseReason) -> None:
        """Have the socket closed. Callable from any thread."""


class Ledger(Protocol):
    """
    Counts what the door of one process cannot: the sockets that other nodes let in.

    The door is asked first. All methods but :meth:`problem` are called in the loop of the socket. A ledger that cannot
    reach the other nodes lets in whom it is asked about, soon: the door has judged already.

    """

    def problem(self) -> tuple[str, str] | None:
        """Return why it cannot count here and what to do about that, as sentences; ``None`` if it can."""

    async def enter(self, network: str, settings: RateLimitSettings) -> Refusal | None:
        """
        Count a socket of a network in, or return why it must not come in.

        Unless it is refused, :meth:`leave` is to be called once, also where this raises.

        """

    def leave(self, network: str, settings: RateLimitSettings) -> None:
        """A socket of a network is gone. Returns at once."""

    async def enter_user(self, user: str, seat: Seat, settings: RateLimitSettings) -> Refusal | None:
        """
        Count a socket of a user in, or return why it must not come in; older ones that must go for it are closed.

        Unless it is refused, :meth:`leave_user` is to be called once, also where this raises.

        """

    def leave_user(self, user: str, seat: Seat, settings: RateLimitSettings) -> None:
        """A socket of a user is gone. Returns at once."""


_ledger: Ledger | None = None


def use(ledger: Ledger) -> None:
    """Count with ``ledger`` where ``RATELIMIT_SCOPE`` is ``cluster``. For the app that has one, when it is loaded."""
    global _ledger
    _ledger = ledger


def in_force(settings: RateLimitSettings) -> Ledger | None:
    """Return what counts over all nodes; ``None`` where each process counts for itself."""
    return _ledger if settings.scope == "cluster" else None


def problem() -> tuple[str, str] | None:
    """Return why nothing can count over all nodes and what to do about that, as sentences; ``None`` if something can."""
    if _ledger is None:
        return (
            "no installed app can count over all nodes",
            "Add 'realtime' to INSTALLED_APPS, or set it to 'process'.",
        )
    return _ledger.problem()
