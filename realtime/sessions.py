"""What a client is given to come back with, and what the cluster keeps of it meanwhile."""

from __future__ import annotations

import base64
import binascii
import hashlib
import struct
from dataclasses import dataclass
from enum import StrEnum
from itertools import islice
from typing import Literal

import msgspec
from django.core.signing import BadSignature, Signer
from django.utils.crypto import constant_time_compare

from realtime.errors import SessionDataError

CLIENT_ID_BYTES = 12
MAX_TOKEN = 256
"""Characters a token may have; what is longer is nobody's."""
MAX_SESSION_BYTES = 1024 * 1024
"""What one session may take in the state. All that goes into it is bounded by settings; this is for those of tomorrow."""

_VERSION = 1
_LAYOUT = struct.Struct(f">B{CLIENT_ID_BYTES}sQ16s")


class TokenFlaw(StrEnum):
    """Why a token does not resume a session."""

    MALFORMED = "malformed"
    FORGED = "forged"
    FOREIGN = "foreign"
    """It is good, but another user's or another route's."""


@dataclass(frozen=True, slots=True)
class Token:
    """What a good token says."""

    client_id: str
    issued: float
    """Seconds since the epoch, by the clock the nodes share."""

    def is_fresh(self, now: float, ttl: float) -> bool:
        """Whether it was issued within the last ``ttl`` seconds. One that is not needs a session that is still kept."""
        return now - self.issued <= ttl


def issue_token(client_id: str, *, user_id: str | None, audience: str, now: float) -> str:
    """
    Return a token with which this client, as this user, may resume its session.

    ``audience`` is what it is good for: the consumer that issued it. ``now`` is seconds since the epoch.

    """
    id = bytes.fromhex(client_id)
    if len(id) != CLIENT_ID_BYTES:
        raise ValueError(f"A client id is {CLIENT_ID_BYTES} bytes in hexadecimal, not {client_id!r}.")
    packed = _LAYOUT.pack(_VERSION, id, int(now * 1000), _holder(user_id, audience))
    return _signer().sign(base64.urlsafe_b64encode(packed).rstrip(b"=").decode())


def read_token(token: str, *, user_id: str | None, audience: str) -> Token | TokenFlaw:
    """Return what a token says to whom it was issued; to anybody else, that it is no good."""
    if len(token) > MAX_TOKEN or not token.isascii():
        return TokenFlaw.MALFORMED
    try:
        encoded = _signer().unsign(token)
    except BadSignature:
        return TokenFlaw.FORGED if "." in token else TokenFlaw.MALFORMED
    try:
        version, client_id, issued, holder = _LAYOUT.unpack(base64.urlsafe_b64decode(encoded + "=="))
    except (binascii.Error, struct.error):
        return TokenFlaw.MALFORMED
    if version != _VERSION:
        return TokenFlaw.MALFORMED
    if not constant_time_compare(holder, _holder(user_id, audience)):
        return TokenFlaw.FOREIGN
    return Token(client_id.hex(), issued / 1000)


def _signer() -> Signer:
    return Signer(sep=".", salt="realtime.session", algorithm="sha256")


def _holder(user_id: str | None, audience: str) -> bytes:
    """Return what stands in a token for its user, so that the token does not tell who that is."""
    user = "visitor" if user_id is None else f"user {user_id}"
    digest = hashlib.blake2b(digest_size=16, person=b"realtime.session")
    digest.update(f"{len(user)} {user} {audience}".encode("utf-8", "surrogatepass"))
    return digest.digest()


class RoomPlace(msgspec.Struct, frozen=True, array_like=True, omit_defaults=True):
    """How a client was in a room."""

    presence: bool | Literal["count"] = False
    recover: bool = False
    epoch: str = ""
    offset: int = 0
    """The last message it is known to have got."""


class Session(msgspec.Struct, frozen=True, array_like=True):
    """What is kept of one client while it is away. New fields go to the end, with defaults: old nodes read new records."""

    client_id: str
    user_id: str | None
    audience: str
    data: bytes = b"{}"
    """The JSON of what ``set_session`` kept."""
    rooms: dict[str, RoomPlace] = {}

    def belongs_to(self, user_id: str | None, audience: str) -> bool:
        """Whether this is a session of that user with that consumer."""
        return self.user_id == user_id and self.audience == audience


_encode = msgspec.msgpack.Encoder().encode
_decode = msgspec.msgpack.Decoder(Session).decode


def pack(session: Session, *, max_bytes: int = MAX_SESSION_BYTES) -> bytes:
    """Return a session as bytes. Raise SessionDataError where that would be more than ``max_bytes``."""
    try:
        packed = _encode(session)
    except UnicodeError as error:
        raise SessionDataError(f"The session of {session.client_id} cannot be kept: {error}.") from None
    if len(packed) > max_bytes:
        raise SessionDataError(
            f"The session of {session.client_id} takes {len(packed)} bytes with its {len(session.rooms)} rooms;"
            f" at most {max_bytes} are kept. Lower REALTIME_MAX_ROOMS or REALTIME_MAX_SESSION_DATA_BYTES."
        )
    return packed


def unpack(packed: bytes) -> Session | None:
    """Return the session that :func:`pack` made bytes of; ``None`` for what this version cannot read."""
    try:
        return _decode(packed)
    except (msgspec.MsgspecError, UnicodeError):
        return None


class Saves:
    """
    Which sessions are to be written to the state, and when.

    What has changed ``at_once`` is written at once: that there is such a session, and its rooms. Of any other change
    the first is written soon, and the next not within ``interval`` seconds of the last write; a session that does not
    change is written once in ``renewal`` seconds, so that it is kept for as long as its socket is open. Times are
    monotonic seconds.

    """

    def __init__(self, interval: float, renewal: float) -> None:
        self.interval = interval
        self.renewal = renewal
        self._urgent: dict[str, None] = {}
        self._changed: dict[str, None] = {}
        self._renewed: dict[str, float] = {}
        """When each was last written, or opened, the longest ago first."""
        self._unchanged: set[str] = set()
        """Those of which no change was written yet."""

    def __len__(self) -> int:
        return len(self._renewed)

    def __contains__(self, client_id: str) -> bool:
        return client_id in self._renewed

    @property
    def has_urgent(self) -> bool:
        """Whether anything is to be written at once."""
        return bool(self._urgent)

    def opened(self, client_id: str, now: float) -> None:
        """A socket has opened: from now on there is such a session."""
        self.forget(client_id)
        self._renewed[client_id] = now
        self._unchanged.add(client_id)

    def changed(self, client_id: str, *, at_once: bool = False) -> None:
        """Something that is kept has changed; a session that is not open is ignored."""
        if client_id in self._renewed:
            (self._urgent if at_once else self._changed)[client_id] = None

    def failed(self, client_id: str) -> None:
        """It could not be written: it is due again, but not at once."""
        if client_id in self._renewed:
            self._changed[client_id] = None
            self._unchanged.add(client_id)

    def forget(self, client_id: str) -> None:
        """The socket is gone."""
        self._renewed.pop(client_id, None)
        self._urgent.pop(client_id, None)
        self._changed.pop(client_id, None)
        self._unchanged.discard(client_id)

    def take_urgent(self, now: float, limit: int) -> list[str]:
        """Return at most ``limit`` sessions that cannot wait; they count as written."""
        urgent = list(islice(self._urgent, limit))
        for client_id in urgent:
            self._written(client_id, now)
        return urgent

    def take_due(self, now: float, limit: int) -> list[str]:
        """Return at most ``limit`` other sessions to write now; they count as written."""
        due: dict[str, None] = {}
        # Those that would run out come first: they are few, and nobody else keeps them.
        for client_id, renewed in self._renewed.items():
            if len(due) >= limit or renewed > now - self.renewal:
                break
            due[client_id] = None
        for client_id in self._changed:
            if len(due) >= limit:
                break
            if client_id in self._unchanged or self._renewed[client_id] <= now - self.interval:
                due[client_id] = None
        for client_id in due:
            if client_id in self._changed:
                self._unchanged.discard(client_id)
            self._written(client_id, now)
        return list(due)

    def _written(self, client_id: str, now: float) -> None:
        self._urgent.pop(client_id, None)
        self._changed.pop(client_id, None)
        # Re-inserted, so the dict stays ordered from the longest ago.
        del self._renewed[client_id]
        self._renewed[client_id] = now
