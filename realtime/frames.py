"""One message on its way out: encoded once, framed once for all sockets that share a wire format."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import msgspec
from django.utils.functional import Promise

from ratelimit.sizes import text_size


def _plain(value: Any) -> Any:
    """Return what stands for ``value`` in JSON: Django's lazy strings are the one thing msgspec does not know."""
    if isinstance(value, Promise):
        return str(value)
    raise TypeError(
        f"{value!r} is a {type(value).__name__}, which JSON cannot hold. Send a str, number, list or dict."
    )


_encode = msgspec.json.Encoder(enc_hook=_plain).encode


class Frame(msgspec.Struct, eq=False, gc=False):
    """
    One outbound message.

    ``payload`` is ``str`` for a text message and ``bytes`` for a binary one; ``size`` is how many bytes
    that is on the wire, uncompressed. A transport that needs another form (compressed wire bytes) builds
    it once with :meth:`wire`, under a key of its own, and every other socket of the same kind reuses it.
    ``plain`` is for the form that most sockets share, the frame of RFC 6455 as it is: whoever needs it
    first keeps it there.

    ``key`` names what the message replaces when a slow reader's messages are coalesced: the newest
    frame of a key is kept. ``None`` is never coalesced.

    """

    # A structure in C: one is made for every message.
    payload: str | bytes
    size: int = -1
    key: Any = None
    plain: bytes | None = None
    _wire: dict[Any, bytes] | None = None

    def __post_init__(self) -> None:
        if self.size < 0:
            payload = self.payload
            # Not by another call: that is a part of what a message costs.
            self.size = (
                len(payload) if isinstance(payload, bytes) or payload.isascii() else text_size(payload)
            )

    def __repr__(self) -> str:
        # Not what it says: that is for its receivers, and not for a log.
        return f"<Frame of {self.size} bytes>"

    @classmethod
    def json(cls, message: Any, *, key: object = None) -> Frame:
        """Return ``message`` as a JSON text frame. Raise TypeError for what JSON cannot hold."""
        try:
            encoded = _encode(message)
        except (UnicodeError, RecursionError) as error:
            raise TypeError(f"The message cannot be sent as JSON: {error}.") from None
        return cls(encoded.decode(), size=len(encoded), key=key)

    @property
    def is_text(self) -> bool:
        """Whether this goes out as a text message."""
        return isinstance(self.payload, str)

    def wire(self, key: object, build: Callable[[str | bytes], bytes]) -> bytes:
        """Return the bytes that ``build(payload)`` made the first time it was asked for under ``key``."""
        if self._wire is None:
            self._wire = {}
        found = self._wire.get(key)
        if found is None:
            found = self._wire[key] = build(self.payload)
        return found
