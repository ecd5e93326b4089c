"""What waits for a socket that reads too slowly: bounded in bytes, with a policy for what is too much."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Mapping
from fnmatch import fnmatchcase
from typing import Literal

from realtime.frames import Frame

Policy = Literal["disconnect", "drop_oldest", "drop_newest", "coalesce"]
Outcome = Literal["kept", "dropped", "overflow"]

FRAME_OVERHEAD = 256
"""Bytes that keeping a frame costs besides its payload, so that a million empty ones do not count as nothing."""

ANY_ROOM = "*"

_YIELDING = ("drop_oldest", "coalesce")
"""Policies whose waiting frames make room for later ones."""


def policy_of(chosen: str | Mapping[str, str], room: str | None = None) -> Policy:
    """
    Return the policy of a room under ``REALTIME_SLOW_CONSUMER``; without a room, that of direct messages.

    Of a mapping the first pattern that matches the room's name decides; what matches none is disconnected.

    """
    if isinstance(chosen, str):
        return _as_policy(chosen)
    if room is None:
        return _as_policy(chosen.get(ANY_ROOM, "disconnect"))
    return _as_policy(
        next((policy for pattern, policy in chosen.items() if fnmatchcase(room, pattern)), "disconnect")
    )


def weight(frame: Frame) -> int:
    """Return the bytes that a waiting frame counts for."""
    return frame.size + FRAME_OVERHEAD


class Outbox:
    """
    Frames waiting for one socket, oldest first, whatever their policies.

    All share one bound. A frame that does not fit makes room by giving up the oldest frames that came
    with ``drop_oldest`` or ``coalesce``, never others: what came with ``drop_newest`` stays once it is
    in, and what came with ``disconnect`` is never given up. Where that is not enough, the frame itself
    is given up, or, with ``disconnect``, ``put`` answers ``overflow`` and the caller closes the socket.

    ``policy`` is the one of frames that come without their own. ``dropped`` counts the frames given up
    by their policies; whoever reports them takes them out.

    """

    __slots__ = (
        "_frames",
        "_next",
        "_replaceable",
        "_yielding",
        "_yielding_bytes",
        "bytes",
        "dropped",
        "max_bytes",
        "policy",
    )

    def __init__(self, max_bytes: int, policy: Policy) -> None:
        self.max_bytes = max_bytes
        self.policy = policy
        self.bytes = 0
        self.dropped: dict[Policy, int] = {}
        self._next = 0
        # By number in the order of arrival: the oldest is found, and any taken out, in constant time.
        self._frames: OrderedDict[int, Frame] = OrderedDict()
        self._yielding: OrderedDict[int, Policy] = OrderedDict()
        self._yielding_bytes = 0
        self._replaceable: dict[object, int] = {}

    def __len__(self) -> int:
        return len(self._frames)

    def put(self, frame: Frame, policy: Policy | None = None) -> Outcome:
        """Keep ``frame`` if its policy lets it in. A frame larger than the whole box is never kept."""
        policy = policy or self.policy
        room = self.max_bytes - weight(frame)
        if self.bytes > room and (policy == "drop_newest" or self.bytes - self._yielding_bytes > room):
            return self._refuse(policy)
        if policy == "coalesce":
            self._give_up_older(frame)
        while self.bytes > room:
            self._give_up(next(iter(self._yielding)))
        self._keep(frame, policy)
        return "kept"

    def pop(self) -> Frame:
        """Return the oldest frame. Raise IndexError if there is none."""
        if not self._frames:
            raise IndexError("nothing waits")
        return self._take_out(next(iter(self._frames)))[0]

    def clear(self) -> None:
        """Give everything up."""
        self._frames.clear()
        self._yielding.clear()
        self._replaceable.clear()
        self.bytes = self._yielding_bytes = 0

    def _keep(self, frame: Frame, policy: Policy) -> None:
        number, self._next = self._next, self._next + 1
        self._frames[number] = frame
        self.bytes += weight(frame)
        if policy in _YIELDING:
            self._yielding[number] = policy
            self._yielding_bytes += weight(frame)
            if policy == "coalesce" and frame.key is not None:
                self._replaceable[frame.key] = number

    def _take_out(self, number: int) -> tuple[Frame, Policy | None]:
        """Return a frame with its policy, if that is one that yields."""
        frame = self._frames.pop(number)
        self.bytes -= weight(frame)
        policy = self._yielding.pop(number, None)
        if policy is not None:
            self._yielding_bytes -= weight(frame)
            if self._replaceable.get(frame.key) == number:
                del self._replaceable[frame.key]
        return frame, policy

    def _refuse(self, policy: Policy) -> Outcome:
        if policy == "disconnect":
            return "overflow"
        self._count(policy)
        return "dropped"

    def _give_up(self, number: int) -> None:
        _, policy = self._take_out(number)
        if policy is not None:
            self._count(policy)

    def _give_up_older(self, frame: Frame) -> None:
        """Take out the frame that this one replaces."""
        if frame.key is not None and frame.key in self._replaceable:
            self._give_up(self._replaceable[frame.key])

    def _count(self, policy: Policy) -> None:
        self.dropped[policy] = self.dropped.get(policy, 0) + 1


def _as_policy(name: str) -> Policy:
    return name  # type: ignore[return-value]  # the setting has these very choices
