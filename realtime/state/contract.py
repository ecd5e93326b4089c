"""What nodes share, as one contract: histories, sessions, leases, presence, limits."""

from __future__ import annotations

import enum
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, Literal, NamedTuple, Protocol

import structlog

logger = structlog.get_logger("realtime")

POSITION_TTL = 86400.0
"""Seconds that a room's epoch and offset are remembered after somebody last asked for or added to them."""


class Position(NamedTuple):
    """The top of a room's history. Offset 0: nothing was published yet."""

    epoch: str
    offset: int
    before: Position | None = None
    """The epoch that this one goes on from, and the last offset that both have: what was published in the earlier epoch
    up to there is still true, what came after it is lost."""


class Appended(NamedTuple):
    """Where a payload went."""

    epoch: str
    offset: int
    duplicate: bool
    """Whether it was there already; epoch and offset are then those of the first one."""


class Entry(NamedTuple):
    """One payload of a history."""

    offset: int
    payload: bytes


class History(NamedTuple):
    """Part of a room's history, without a hole."""

    epoch: str
    top: int
    entries: list[Entry] | None
    """``None`` when what was asked for is not there, or not there in full. Then nothing is."""
    before: Position | None = None
    """As in :class:`Position`."""


class Revoked(enum.Enum):
    """The type of :data:`REVOKED`."""

    REVOKED = "revoked"


REVOKED = Revoked.REVOKED
"""What stands in the place of a session that nobody may resume."""


class Renewed(NamedTuple):
    """A node's lease, renewed."""

    now: float
    """Seconds since the epoch, by the clock that all nodes share."""
    fresh: bool
    """Whether the state knew nothing of this node: it is new, was taken for dead, or the state lost its data. Whatever hangs
    on the node (registry, presence, counts) is gone and has to be written again."""


class NodeRow(NamedTuple):
    """A living node as it describes itself."""

    id: str
    row: bytes
    age: float
    """Seconds since its lease was renewed."""


class Entered(NamedTuple):
    """Whether one more was let in."""

    ok: bool
    reason: Literal["rate", "concurrent"] | None = None
    retry_after: float = 0.0
    """Seconds after which the rate would let it in; 0 where that cannot be known."""


class Carrier(Protocol):
    """What carries messages between processes: so much of a channel layer."""

    group_expiry: float
    """Seconds for which a channel is in a group."""

    async def new_channel(self, prefix: str) -> str:
        """Return a name for a channel that only its maker reads."""

    async def group_add(self, group: str, channel: str) -> None:
        """Let messages to a group come to a channel."""

    async def group_discard(self, group: str, channel: str) -> None:
        """Let them come no more."""

    async def group_send(self, group: str, message: dict[str, Any]) -> None:
        """Send a message to a group; its sender's own process need not get it."""

    async def receive(self, channel: str) -> dict[str, Any]:
        """Return the next message that came to a channel."""


class State(ABC):
    """
    What the nodes of a cluster share.

    Every method raises :class:`realtime.errors.StateUnavailable` where the state cannot be reached or refuses, and
    nothing else. Times are seconds. Payloads, rows and session data are bytes the state never looks into. Everything a
    node enters hangs on the lease of the node: nobody sees it any more once that has run out.

    """

    bus: Carrier | None = None
    """What carries messages between nodes, faster than a channel layer; ``None`` where there is nothing of the kind."""

    def __init__(self) -> None:
        self.on_change: list[Callable[[State], None]] = []
        """Called, in the loop of the state, when ``available`` has changed."""
        self.away_since: float | None = None
        """Seconds since the epoch, by this node's clock; ``None`` while it is available."""
        self._reason = ""

    @property
    def available(self) -> bool:
        """Whether the state can be reached and takes writes, as far as is known."""
        return not self._reason

    @property
    def reason(self) -> str:
        """Why the state is not available, as a sentence without secrets; empty while it is."""
        return self._reason

    def _set_reason(self, reason: str) -> None:
        changed = bool(reason) != bool(self._reason)
        self._reason = reason
        if not changed:
            return
        self.away_since = time.time() if reason else None
        if reason:
            logger.warning("shared state is not available", reason=reason)
        else:
            logger.info("shared state is available again")
        for callback in list(self.on_change):
            try:
                callback(self)
            except Exception:
                logger.exception("a listener to the shared state failed")

    # Histories.

    @abstractmethod
    async def append(
        self,
        room: str,
        payload: bytes,
        *,
        size: int,
        ttl: float,
        dedupe: str | None = None,
        window: float = 0.0,
    ) -> Appended:
        """
        Add to a room's history, unless ``dedupe`` was added within the last ``window`` seconds.

        The newest ``size`` entries are kept, all of them for ``ttl`` seconds after the last one. A failure does not
        say whether the payload was added: publish again with the same ``dedupe``.

        """

    @abstractmethod
    async def top(self, rooms: Sequence[str], *, create: bool = False) -> list[Position | None]:
        """
        Return the position of each room, in one round trip.

        ``None`` for a room without a history: never had one, not used for long, or lost. With ``create`` such a
        room begins one, at offset 0.

        """

    @abstractmethod
    async def since(self, room: str, offset: int, *, limit: int) -> History:
        """
        Return what was published after ``offset``, the oldest ``limit`` of it, in order.

        A room without a history has the epoch ``""``.

        """

    @abstractmethod
    async def claim(self, key: str, window: float) -> bool:
        """Return whether this is the first call with ``key`` within ``window`` seconds."""

    # Sessions.

    @abstractmethod
    async def save_session(self, id: str, data: bytes, ttl: float, *, turn: int = 0) -> bool:
        """
        Keep a session for ``ttl`` seconds.

        False, and nothing kept, if it was revoked, or was resumed since ``turn``, which is what
        :meth:`resume_session` gave whoever saves it; 0 for one that has never been resumed.

        """

    @abstractmethod
    async def resume_session(self, id: str, ttl: float) -> tuple[bytes | Revoked | None, int]:
        """
        Return what was saved as :meth:`load_session` does, and the turn of whoever asks: higher than any before.

        What is kept of the session lasts for ``ttl`` seconds from now. A session that was revoked has the turn 0.

        """

    @abstractmethod
    async def load_session(self, id: str) -> bytes | Revoked | None:
        """Return what was saved, :data:`REVOKED`, or ``None``."""

    @abstractmethod
    async def drop_session(self, id: str) -> None:
        """Forget a session; that it was revoked is remembered."""

    @abstractmethod
    async def revoke_session(self, id: str, ttl: float) -> None:
        """Let nobody save or load this session for ``ttl`` seconds."""

    # Odds and ends.

    @abstractmethod
    async def now(self) -> float:
        """Return the seconds since the epoch, by the clock that all nodes share."""

    @abstractmethod
    async def put(self, key: str, value: bytes, ttl: float) -> None:
        """Keep ``value`` for ``ttl`` seconds, in the place of what was there."""

    @abstractmethod
    async def get(self, key: str) -> bytes | None:
        """Return what was put there, if it is still."""

    # Nodes, and what hangs on their leases.

    @abstractmethod
    async def renew_node(self, node_id: str, row: bytes, lease: float) -> Renewed:
        """Enter a node, or renew its lease, for ``lease`` seconds."""

    @abstractmethod
    async def nodes(self) -> list[NodeRow]:
        """Return the living nodes, by id."""

    @abstractmethod
    async def drop_node(self, node_id: str) -> None:
        """Remove a node with all that hangs on it."""

    @abstractmethod
    async def write_registry(
        self, node_id: str, changed: Mapping[str, bytes], gone: Iterable[str] = ()
    ) -> None:
        """Note what changed of a node's connections, by client id."""

    @abstractmethod
    async def registry(self, node_id: str) -> dict[str, bytes]:
        """Return the connections of a node by client id; none if it does not live."""

    @abstractmethod
    async def registries(self) -> dict[str, dict[str, bytes]]:
        """Return the connections of every living node, by node and client id."""

    @abstractmethod
    async def set_presence(self, room: str, node_id: str, entries: Mapping[str, bytes]) -> None:
        """Note that clients of a node are in a room."""

    @abstractmethod
    async def drop_presence(self, room: str, node_id: str, client_ids: Iterable[str]) -> None:
        """Note that clients of a node have left a room."""

    @abstractmethod
    async def presence(self, room: str) -> dict[str, dict[str, bytes]]:
        """Return who is in a room, by living node and client id."""

    @abstractmethod
    async def count_presence(self, room: str) -> int:
        """Return how many clients of living nodes are in a room."""

    # Limits.

    @abstractmethod
    async def enter(
        self,
        kind: str,
        key: str,
        node_id: str,
        *,
        max_concurrent: int = 0,
        rate: float = 0,
        window: float = 1.0,
    ) -> Entered:
        """
        Count one more of ``key`` at a node, unless there are ``max_concurrent`` or they come too fast.

        ``rate`` per ``window`` seconds on average, and as many at once. A limit of 0 is off. What is refused is not
        counted. ``kind`` has no colon.

        """

    @abstractmethod
    async def leave(self, kind: str, key: str, node_id: str) -> None:
        """Count one less; never below none."""

    @abstractmethod
    async def hold(self, node_id: str, counts: Mapping[tuple[str, str], int]) -> None:
        """Set what a node holds, by kind and key, in the place of all that was counted for it."""

    # Chores.

    @abstractmethod
    async def lead(self, node_id: str, name: str, lease: float) -> bool:
        """Return whether this node holds the lease ``name``, having taken or renewed it for ``lease`` seconds."""

    @abstractmethod
    async def sweep(self) -> int:
        """Remove what dead nodes left behind, and return how many of them there were. The leader does this."""

    @abstractmethod
    async def aclose(self) -> None:
        """Let go of the state. Calls that wait fail; later ones may."""
