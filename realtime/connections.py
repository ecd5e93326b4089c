"""One socket: who it is, what it did, and the way its messages leave."""

from __future__ import annotations

import asyncio
import random
import secrets
import time
from typing import TYPE_CHECKING, Any

from realtime import envelope
from realtime.catchup import CatchUp
from realtime.close_codes import TOO_SLOW, CloseReason
from realtime.conf import RealtimeSettings, get_settings
from realtime.frames import Frame
from realtime.limits import Limits
from realtime.outbox import Outbox, Policy, policy_of
from realtime.registry import ConnectionInfo
from realtime.sessions import CLIENT_ID_BYTES, RoomPlace
from realtime.transports import Transport

if TYPE_CHECKING:
    from ratelimit.guards import Guard
    from realtime.nodes import Node

CLOSE_GRACE = 5.0
"""Seconds a peer has to answer a close frame before its socket is dropped."""


class Connection:
    """
    One socket of this process. Belongs to its node's loop: other threads only read :meth:`info`.

    ``id`` names the client: it is made here, and stays the client's when that comes back on another socket;
    ``instance`` is this socket's alone. ``last_heard`` and ``last_message`` are monotonic seconds; the consumer
    and the transport set them for whatever arrives.

    """

    __slots__ = (
        "__weakref__",
        "_followers",
        "_force",
        "accepted",
        "asked_at",
        "bytes_in",
        "bytes_out",
        "closed",
        "consumer",
        "data",
        "data_bytes",
        "errors",
        "guard",
        "heartbeat",
        "id",
        "instance",
        "last_heard",
        "last_message",
        "limits",
        "messages_in",
        "messages_out",
        "node",
        "opened",
        "opened_at",
        "outbox",
        "pinged_at",
        "places",
        "places_asked",
        "rooms",
        "rtt",
        "scope",
        "speaks_protocol",
        "stalled",
        "subprotocol",
        "task",
        "transport",
        "turn",
        "user_id",
        "user_label",
    )

    def __init__(
        self,
        *,
        node: Node,
        transport: Transport,
        scope: dict[str, Any],
        settings: RealtimeSettings,
        consumer: str,
        limits: Limits,
        speaks_protocol: bool,
    ) -> None:
        self.id = secrets.token_hex(CLIENT_ID_BYTES)
        self.instance = secrets.token_hex(8)
        self.turn = 0
        """Of the sockets of one client the one with the highest is the newest; 0 where it has had no other."""
        self.node = node
        self.transport = transport
        self.scope = scope
        self.consumer = consumer
        self.limits = limits
        self.speaks_protocol = speaks_protocol
        self.user_id, self.user_label = identity_of(scope)
        self.guard: Guard | None = scope.get("ratelimit")
        self.outbox = Outbox(settings.max_outbound_bytes, policy_of(settings.slow_consumer))
        self.rooms: dict[str, None] = {}
        self.places: dict[str, RoomPlace] = {}
        """How it is in the rooms that it is to be in again when it comes back, and what it is known to have got of them."""
        self.places_asked: dict[str, RoomPlace] = {}
        """What it will be known to have got when it has answered."""
        self.data: dict[str, Any] = {}
        self.data_bytes = 0
        self.subprotocol = ""
        self.task: asyncio.Task[Any] | None = None
        self.accepted = self.closed = False
        self.opened_at = time.time()
        self.opened = self.last_heard = self.last_message = time.monotonic()
        self.pinged_at = self.asked_at = 0.0
        self.rtt: float | None = None
        self.heartbeat: Any = None
        """Where the heartbeat worker keeps its place for this socket."""
        self.messages_in = self.messages_out = self.bytes_in = self.bytes_out = self.errors = 0
        self._followers: set[CatchUp] | None = None
        self.stalled = False
        """Whether somebody waited in vain for this peer to catch up, and it has not since."""
        self._force: asyncio.TimerHandle | None = None
        transport.listener = self

    # What the transport reports.

    def heard(self) -> None:
        """Anything came from the peer: it lives."""
        self.last_heard = time.monotonic()

    def ponged(self, rtt: float) -> None:
        """A protocol ping was answered after ``rtt`` seconds."""
        self.node.sessions.answered(self)
        self.rtt = rtt
        self.last_heard = time.monotonic()

    def resume_writing(self) -> None:
        """The transport takes more: pass on what waits."""
        outbox, transport = self.outbox, self.transport
        while outbox and transport.writable:
            transport.write(outbox.pop())
        if not self.is_behind:
            self._caught_up()

    # What leaves.

    def offer(self, frame: Frame, policy: Policy | None = None) -> bool:
        """
        Send ``frame``, or keep it while the peer reads too slowly. Never waits.

        ``policy`` says what may become of it then; without one, that of direct messages does. Return
        whether it was taken: not after the socket closed, and not where its policy gave it up.

        """
        if self.closed or not self.accepted:
            return False
        transport = self.transport
        # What waits has a weight: to ask the outbox whether it is empty would be a call for every message.
        if transport.writable and not self.outbox.bytes:
            transport.write(frame)
        elif not self._keep(frame, policy):
            return False
        self.messages_out += 1
        self.bytes_out += frame.size
        counters = self.node.counters
        counters.messages_out += 1
        counters.bytes_out += frame.size
        return True

    @property
    def is_behind(self) -> bool:
        """Whether something waits here because the peer reads too slowly."""
        if self.closed or self.transport.closed:
            return False
        return bool(self.outbox) or not self.transport.writable

    def follow(self, waiting: CatchUp) -> None:
        """Tell ``waiting``, once, when the peer is not behind any more or the socket is closed."""
        if self._followers is None:
            self._followers = set()
        self._followers.add(waiting)

    def unfollow(self, waiting: CatchUp) -> None:
        """Do not tell it after all."""
        if self._followers is not None:
            self._followers.discard(waiting)

    async def cleared(self) -> None:
        """Return when nothing waits for a slow reader any more, or the socket is closed."""
        if self.is_behind:
            await CatchUp([self]).wait()

    def can_be_asked(self, how: str) -> bool:
        """Whether this peer can be asked if it lives, ``how`` being ``REALTIME_HEARTBEAT_TYPE``."""
        if how == "ping":
            return self.transport.can_ping
        return self.speaks_protocol or (how == "auto" and self.transport.can_ping)

    def ping(self, how: str) -> None:
        """Ask the peer whether it lives; legal where it can be asked."""
        self.node.sessions.asked(self)
        self.pinged_at = time.monotonic()
        if self.asked_at <= self.last_heard:
            self.asked_at = self.pinged_at
        if how != "message" and self.transport.can_ping:
            self.transport.ping()
        else:
            self.say("ping", {"ts": round(time.time(), 3)})

    def answered(self) -> None:
        """``system.pong`` came. What it carries is the client's word, so the time is taken here."""
        if self.pinged_at:
            self.node.sessions.answered(self)
            self.rtt = time.monotonic() - self.pinged_at

    def say(self, name: str, data: dict[str, Any]) -> None:
        """Send ``system.<name>`` if the client speaks the protocol."""
        if self.speaks_protocol:
            self.offer(envelope.system(name, data))

    def close(self, reason: CloseReason, *, retry_after: float | None = None, notice: bool = True) -> None:
        """
        Close the socket; a client that speaks the protocol is told why first, unless ``notice`` is false.

        ``retry_after`` is seconds, already spread by the caller. A peer that does not answer the close
        within five seconds is dropped. Closing twice does nothing.

        """
        if self.closed:
            return
        self.node.sessions.asked(self)
        if notice and self.accepted and self.speaks_protocol and not self.outbox and self.transport.writable:
            self.transport.write(_closing(reason, retry_after))
        self._shut()
        self.transport.close(reason.code, reason.text)
        self._force = self.node.loop.call_later(CLOSE_GRACE, self._drop)

    def _drop(self) -> None:
        """Give up on a peer that does not answer; its consumer has as long to notice as a handler may take."""
        self.transport.abort()
        patience = get_settings().handler_timeout
        self._force = self.node.loop.call_later(patience, self.abort) if patience else None

    def abort(self) -> None:
        """Drop the socket, and end its consumer if that does not notice by itself."""
        self._shut()
        self.transport.abort()
        if self.task is not None and not self.task.done():
            self.task.cancel()

    def gone(self) -> None:
        """The consumer has ended: nothing is sent, and nothing forced, any more."""
        self._shut()
        if self._force is not None:
            self._force.cancel()

    def keep(self, data: dict[str, Any], size: int) -> None:
        """Keep session data, which is ``size`` bytes as JSON, in place of what was kept before."""
        self.data = data
        self.data_bytes = size

    # What observers see.

    @property
    def address(self) -> str:
        """The client's address; empty for a client that has none."""
        if self.guard is not None:
            return self.guard.address
        client = self.scope.get("client")
        return str(client[0] or "") if client else ""

    def info(self) -> ConnectionInfo:
        """Return this connection as it is now. Safe from any thread."""
        scope, guard, now = self.scope, self.guard, time.monotonic()
        return ConnectionInfo(
            id=self.id,
            user_id=self.user_id,
            user=self.user_label if self.user_id is not None else "",
            address=self.address,
            path=scope.get("path", ""),
            route=_route_of(scope),
            node=self.node.name,
            consumer=self.consumer,
            rooms=tuple(self.rooms),
            opened_at=self.opened_at,
            last_seen=self.opened_at + (self.last_heard - self.opened),
            rtt=self.rtt,
            messages_in=self.messages_in,
            messages_out=self.messages_out,
            bytes_in=self.bytes_in,
            bytes_out=self.bytes_out,
            outbound_bytes=self.outbox.bytes + self.transport.buffered_bytes,
            errors=self.errors,
            limited=guard.limited if guard is not None else 0,
            remaining=guard.remaining(now) if guard is not None else None,
            subprotocol=self.subprotocol,
            user_agent=_header(scope, b"user-agent"),
            transport=self.transport.name,
        )

    def _keep(self, frame: Frame, policy: Policy | None) -> bool:
        outbox = self.outbox
        outcome = outbox.put(frame, policy)
        while outbox.dropped:
            self._gave_up(*outbox.dropped.popitem())
        if outcome == "overflow":
            self._gave_up("disconnect", 1)
            self.close(TOO_SLOW)
        return outcome == "kept"

    def _gave_up(self, policy: Policy, messages: int) -> None:
        counters = self.node.counters
        counters.slow(policy, messages)
        counters.messages_failed += messages

    def _shut(self) -> None:
        """Send nothing more; whoever waits for the peer waits in vain."""
        self.closed = True
        self.outbox.clear()
        self._caught_up()

    def _caught_up(self) -> None:
        self.stalled = False
        followers, self._followers = self._followers, None
        for waiting in followers or ():
            waiting.caught_up(self)


def _closing(reason: CloseReason, retry_after: float | None) -> Frame:
    told: dict[str, Any] = {"code": reason.code, "reason": reason.text, "retry": reason.retry}
    if reason.retry:
        told["retry_after"] = round(random.random() if retry_after is None else retry_after, 3)  # noqa: S311
    return envelope.system("closing", told)


def identity_of(scope: dict[str, Any]) -> tuple[str | None, str]:
    """Return the authenticated user's primary key as a string and name; ``(None, "")`` for a visitor."""
    user = scope.get("user")
    if user is None or not user.is_authenticated:
        return None, ""
    return str(user.pk), user.get_username()


def _header(scope: dict[str, Any], name: bytes) -> str:
    for key, value in scope.get("headers") or ():
        if key == name:
            return bytes(value[:256]).decode("latin-1")
    return ""


def _route_of(scope: dict[str, Any]) -> str:
    """Return the path with what the URL pattern captured put back as ``<name>``: one route, one text."""
    route = str(scope.get("path", ""))
    for name, value in (scope.get("url_route") or {}).get("kwargs", {}).items():
        if value:
            route = route.replace(str(value), f"<{name}>", 1)
    return route
