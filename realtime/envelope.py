"""The wire protocol, version 1: read what a client sent, build what the server says."""

from __future__ import annotations

import time
from collections.abc import Iterable
from typing import Annotated, Any

import msgspec

from realtime.errors import ClientError
from realtime.frames import Frame
from realtime.history import Recovery

VERSION = 1
MAX_DEPTH = 64
"""Nesting a message may have. A handler's payload has a handful of levels; a hundred is an attack."""
SYSTEM = "system."


class Envelope(msgspec.Struct, frozen=True):
    """One message from a client. Unknown keys are ignored; ``data`` is decoded by its handler."""

    type: Annotated[str, msgspec.Meta(min_length=1, max_length=128)]
    data: msgspec.Raw = msgspec.Raw(b"null")
    id: Annotated[str, msgspec.Meta(max_length=128)] | None = None


_decode = msgspec.json.Decoder(Envelope).decode


def parse(text: str) -> Envelope:
    """Return the message in ``text``. Raise :class:`ClientError` that says what is wrong with it."""
    if not text:
        raise ClientError("empty", 'The frame is empty. Send {"type": ..., "data": ...} as JSON text.')
    check_depth(text)
    try:
        return _decode(text)
    except msgspec.ValidationError as error:
        raise ClientError("bad_envelope", f'{error}. Send {{"type": "...", "data": ...}}.') from None
    except (msgspec.DecodeError, UnicodeError) as error:
        raise ClientError("malformed", f"This is not JSON: {error}.") from None


def check_depth(text: str) -> None:
    """Raise :class:`ClientError` for JSON ``text`` that is nested too deep."""
    if text.count("[") + text.count("{") > MAX_DEPTH and depth(text) > MAX_DEPTH:
        raise ClientError(
            "too_deep", f"The message is nested more than {MAX_DEPTH} levels deep. Send it flatter."
        )


def depth(text: str) -> int:
    """Return how deep the brackets of JSON ``text`` are nested, those inside strings left out."""
    level = deepest = 0
    in_string = escaped = False
    for character in text:
        if in_string:
            if escaped:
                escaped = False
            elif character == "\\":
                escaped = True
            elif character == '"':
                in_string = False
        elif character == '"':
            in_string = True
        elif character in "[{":
            level += 1
            deepest = max(deepest, level)
        elif character in "]}":
            level -= 1
    return deepest


def event(type: str, data: Any = None, *, room: str | None = None, now: float | None = None) -> Frame:
    """
    Return a message of the application. ``now`` is seconds since the epoch.

    Raise TypeError for data that JSON cannot hold.

    """
    message: dict[str, Any] = {"type": type}
    if room is not None:
        message["room"] = room
    message["data"] = data
    message["ts"] = round(time.time() if now is None else now, 3)
    return Frame.json(message, key=(room, type))


def system(name: str, data: dict[str, Any]) -> Frame:
    """Return the message ``system.<name>``."""
    return Frame.json({"type": f"{SYSTEM}{name}", "data": data})


def error(problem: ClientError, *, errors_left: int | None, id: str | None = None) -> Frame:
    """Return ``system.error``; ``errors_left`` is ``None`` where errors are not counted."""
    data: dict[str, Any] = {"code": problem.code, "message": problem.message, "errors_left": errors_left}
    if id is not None:
        data["id"] = id
    return system("error", data)


def recovered(room: str, recovery: Recovery[Any], count: int) -> Frame:
    """Return what became of the messages that were missed; ``count`` of them follow."""
    return system(
        "recovered",
        {
            "room": room,
            "complete": recovery.complete,
            "count": count,
            "from": recovery.start,
            "to": recovery.to,
            "epoch": recovery.epoch,
        },
    )


def presence(room: str, joins: Iterable[Any], leaves: Iterable[Any]) -> Frame:
    """Return the change of who is in ``room``."""
    return system("presence", {"room": room, "joins": list(joins), "leaves": list(leaves)})


def presence_count(room: str, count: int) -> Frame:
    """Return how many are in ``room``."""
    return system("presence", {"room": room, "count": count})
