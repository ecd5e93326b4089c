"""What waits for a socket that reads too slowly: bounded in bytes, with a policy for what is too much."""

from __future__ import annotations

from collections import deque
from typing import Literal

from realtime.frames import Frame

Policy = Literal["disconnect", "drop_oldest", "drop_newest", "coalesce"]
Outcome = Literal["kept", "dropped", "overflow"]


class Outbox:
    """
    Frames waiting for one socket, oldest first.

    ``dropped`` counts frames given up. With the policy ``disconnect`` nothing is given up: ``put``
    answers ``overflow`` and the caller closes the socket.

    """

    __slots__ = ("_frames", "_newest", "bytes", "dropped", "max_bytes", "policy")

    def __init__(self, max_bytes: int, policy: Policy) -> None:
        self.max_bytes = max_bytes
        self.policy = policy
        self.bytes = 0
        self.dropped = 0
        self._frames: deque[Frame] = deque()
        self._newest: dict[object, Frame] = {}

    def __len__(self) -> int:
        return len(self._frames)

    def put(self, frame: Frame) -> Outcome:
        """Keep ``frame`` if the policy lets it in. A frame larger than the whole box is never kept."""
        if self.policy == "coalesce":
            self._forget_older(frame)
        if self.bytes + frame.size > self.max_bytes:
            if self.policy == "disconnect":
                return "overflow"
            if self.policy == "drop_newest" or frame.size > self.max_bytes:
                self.dropped += 1
                return "dropped"
            while self.bytes + frame.size > self.max_bytes:
                self.pop()
                self.dropped += 1
        self._frames.append(frame)
        self.bytes += frame.size
        if self.policy == "coalesce" and frame.key is not None:
            self._newest[frame.key] = frame
        return "kept"

    def pop(self) -> Frame:
        """Return the oldest frame. Raise IndexError if there is none."""
        frame = self._frames.popleft()
        self.bytes -= frame.size
        if self._newest.get(frame.key) is frame:
            del self._newest[frame.key]
        return frame

    def clear(self) -> None:
        """Give everything up."""
        self._frames.clear()
        self._newest.clear()
        self.bytes = 0

    def _forget_older(self, frame: Frame) -> None:
        """Take out the frame that this one replaces. The box of a slow reader is short, so a search will do."""
        older = self._newest.pop(frame.key, None) if frame.key is not None else None
        if older is not None:
            self._frames.remove(older)
            self.bytes -= older.size
            self.dropped += 1
