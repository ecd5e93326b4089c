"""Messages of the protocol itself: recognise one from a client, word the one that says to slow down."""

from __future__ import annotations

from typing import Any, Final

import msgspec

from ratelimit.limits import Violation

SYSTEM_MARK: Final = '"system.'
SYSTEM_MARK_WITHIN: Final = 256
_MAX_BYTES: Final = 16 * 1024


class _Typed(msgspec.Struct):
    type: str = ""


_decode = msgspec.json.Decoder(_Typed).decode
_encode = msgspec.json.Encoder().encode


def is_system(text: str, size: int) -> bool:
    """
    Return whether ``text``, of ``size`` bytes, is a message of type ``system.*``.

    Such a message names its type within its first 256 characters and is at most 16 KiB long. The type
    that counts is the one the application will see: of a key that is repeated, the last.

    """
    if text.find(SYSTEM_MARK, 0, SYSTEM_MARK_WITHIN) < 0 or size > _MAX_BYTES:
        return False
    try:
        return _decode(text).type.startswith("system.")
    except (ValueError, RecursionError):
        # Not JSON, no object, type no string, nested too deeply: whatever it is, it is no system message.
        return False


def rate_limited(violation: Violation) -> str:
    """Return the ``system.rate_limited`` message that tells a client of ``violation``."""
    data: dict[str, Any] = {
        "retry_after": violation.retry_after,
        "limit": violation.limit,
        "window": violation.window,
        "scope": violation.budget,
        "violations_left": violation.violations_left,
    }
    return _encode({"type": "system.rate_limited", "data": data}).decode()
