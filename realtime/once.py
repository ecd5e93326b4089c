"""The keys by which a publish that a client asks for twice happens once."""

from __future__ import annotations

import hashlib
from contextvars import ContextVar


class Once:
    """
    One message of a client that carries an id, while its handler runs.

    The handler's first publish gets a key, its second another, and so on; when the client sends the message
    again, from whichever socket of its session, they are the same. ``offset`` is where the last publish went.

    """

    __slots__ = ("_message", "_publishes", "offset")

    def __init__(self, client_id: str, message_id: str) -> None:
        # Client ids have no spaces, so nobody can write an id that looks like another client's message.
        self._message = f"{client_id} {message_id}".encode("utf-8", "surrogatepass")
        self._publishes = 0
        self.offset: int | None = None

    def next_key(self) -> str:
        """Return the key of the next publish: 32 letters and digits."""
        self._publishes += 1
        digest = hashlib.blake2b(b"%d %b" % (self._publishes, self._message), digest_size=16)
        return digest.hexdigest()


handling: ContextVar[Once | None] = ContextVar("realtime.once.handling", default=None)
"""The message that is being handled, where it carries an id."""
