"""Messages between nodes through the Redis of their state: a stream for each node, which it reads as they come."""

from __future__ import annotations

import asyncio
import secrets
from collections import deque
from typing import Any, cast

import msgspec

from realtime.errors import StateUnavailable
from realtime.state import resp, scripts
from realtime.state.endpoint import Endpoint
from realtime.state.link import Link

MOST_WAITING = 1000
"""Messages that wait for a node that does not read them, about: the oldest are given up."""

INBOX_TTL = 60.0
"""Seconds after its last message in which a node that was away still finds what waits for it."""

GROUP_TTL = 900.0
"""Seconds for which a node is in a group unless it says so again."""

_BLOCK = 1.0
"""Seconds after which Redis answers that nothing has come: a connection that is silent for longer is broken."""

_AT_ONCE = 50

_OWN = secrets.token_hex(6)
"""How the channels of this process begin."""

_encode = msgspec.msgpack.Encoder().encode
_decode = msgspec.msgpack.Decoder().decode


class _Ear(asyncio.Protocol):
    """A connection that waits for what comes into one inbox after the entry ``last``."""

    def __init__(self, inbox: bytes, last: bytes, greeting: list[list[bytes]]) -> None:
        self.last = last
        self.messages: deque[dict[str, Any]] = deque()
        self._inbox = inbox
        self._greeting = greeting
        self._decoder = resp.Decoder()
        self._unimportant = len(greeting)
        """Replies that are still to come before that to the last question."""
        self._transport: asyncio.Transport | None = None
        self._lost = "The connection over which messages of other nodes come was closed."
        self._woken: asyncio.Future[None] | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)
        self._ask([resp.encode(*words) for words in self._greeting])

    def data_received(self, data: bytes) -> None:
        try:
            for reply in self._decoder.feed(data):
                self._take(reply)
        except (resp.ProtocolError, msgspec.MsgspecError, ValueError, TypeError, IndexError) as error:
            self.end(f"What comes from other nodes cannot be read: {error}.")
        self._wake()

    def connection_lost(self, exc: Exception | None) -> None:
        self._transport = None
        self._wake()

    async def heard(self, seconds: float) -> None:
        """Return when there are messages. Raise StateUnavailable where nothing at all came for so long."""
        while not self.messages:
            if self._transport is None:
                raise StateUnavailable(self._lost)
            self._woken = asyncio.get_running_loop().create_future()
            try:
                async with asyncio.timeout(seconds):
                    await self._woken
            except TimeoutError:
                self.end(f"Nothing came from Redis for {seconds:g} seconds.")

    def end(self, why: str) -> None:
        """Close the connection; who waits is told ``why``."""
        self._lost = why
        if self._transport is not None:
            self._transport.abort()
            self._transport = None
        self._wake()

    def _take(self, reply: resp.Reply) -> None:
        if isinstance(reply, resp.Refusal):
            self.end(f"Redis refuses to say what comes from other nodes: {reply}.")
        elif self._unimportant:
            self._unimportant -= 1
        elif reply is None:
            self._ask([])
        else:
            ((_, entries),) = reply
            for id, (_, message) in entries:
                # First: one that cannot be read is not to be found again.
                self.last = id
                self.messages.append(_decode(message))
            # What has been read is not kept. It is said together with the question for what is next.
            self._unimportant = 1
            self._ask([resp.encode(b"XTRIM", self._inbox, b"MINID", self.last)])

    def _ask(self, before: list[bytes]) -> None:
        words = (b"COUNT", b"%d" % _AT_ONCE, b"BLOCK", b"%d" % (_BLOCK * 1000))
        asking = resp.encode(b"XREAD", *words, b"STREAMS", self._inbox, self.last)
        if self._transport is not None:
            self._transport.write(b"".join([*before, asking]))

    def _wake(self) -> None:
        if self._woken is not None and not self._woken.done():
            self._woken.set_result(None)


class Bus:
    """
    What carries messages from one node to others, as a channel layer does, for one channel of each loop.

    A message to a group is one command, and goes to every channel in it that is not of this process. A node that was
    away for less than :data:`INBOX_TTL` goes on where it was. A message may come twice where the connection of its
    sender broke. Everything raises StateUnavailable while Redis is away.

    """

    group_expiry = GROUP_TTL

    def __init__(self, link: Link, endpoint: Endpoint, prefix: bytes, timeout: float) -> None:
        self._link = link
        self._endpoint = endpoint
        self._prefix = prefix
        self._timeout = timeout
        self._ear: _Ear | None = None
        self._last = b"0-0"

    async def new_channel(self, prefix: str = "") -> str:
        """Return a name for the channel of a node."""
        return f"{_OWN}.{secrets.token_hex(6)}"

    async def group_add(self, group: str, channel: str) -> None:
        """Let messages to a group come to a channel for :data:`GROUP_TTL` seconds."""
        words = [self._group(group), channel.encode(), _ms(GROUP_TTL)]
        await self._link.call(scripts.ENTER_GROUP, 1, words, repeatable=True)

    async def group_discard(self, group: str, channel: str) -> None:
        """Let them come no more."""
        await self._link.call(None, 0, [b"ZREM", self._group(group), channel.encode()], repeatable=True)

    async def group_send(self, group: str, message: dict[str, Any]) -> None:
        """Send a message to all other processes in a group."""
        words = [self._group(group), self._prefix, _OWN.encode(), _encode(message), b"%d" % MOST_WAITING]
        await self._link.call(scripts.SEND_TO_GROUP, 1, [*words, _ms(INBOX_TTL)])

    async def receive(self, channel: str) -> dict[str, Any]:
        """Return the next message that came to a channel of this loop."""
        ear = self._ear
        if ear is None:
            ear = self._ear = await self._listen(self._prefix + b"inbox:" + channel.encode())
        if not ear.messages:
            try:
                await ear.heard(_BLOCK + self._timeout)
            except StateUnavailable:
                self._last, self._ear = ear.last, None
                raise
        return ear.messages.popleft()

    async def aclose(self) -> None:
        """Listen no more."""
        if self._ear is not None:
            self._ear.end("The state was closed.")

    async def _listen(self, inbox: bytes) -> _Ear:
        words = [b"XREVRANGE", inbox, b"+", b"-", b"COUNT", b"1"]
        newest = await self._link.call(None, 0, words, repeatable=True)
        # A Redis without its data, or with some of it, may go on from an earlier time.
        self._last = min(self._last, newest[0][0] if newest else b"0-0", key=_order)
        ear = _Ear(inbox, self._last, self._endpoint.greeting())
        try:
            async with asyncio.timeout(self._timeout):
                return await self._endpoint.connect(lambda: ear)
        except (TimeoutError, OSError) as error:
            reason = self._endpoint.redacted(str(error)) or "it does not answer"
            raise StateUnavailable(f"Redis at {self._endpoint} cannot be reached: {reason}.") from None

    def _group(self, group: str) -> bytes:
        return b"%bgroup:%b" % (self._prefix, group.encode())


def _order(id: bytes) -> tuple[int, int]:
    """Return what ids of entries are compared by."""
    moment, _, number = id.partition(b"-")
    return int(moment), int(number)


def _ms(seconds: float) -> bytes:
    return b"%d" % round(seconds * 1000)
