"""A socket in the loop: what the kernel does not take waits, and every end is told once."""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections.abc import AsyncIterator, Callable

import pytest

from realtime.server.stream import Cork, Stream
from tests.realtime.server.engines import until

BIG = b"0123456789abcdef" * 65536
"""More than the kernel takes at once for a peer that does not read."""


class User:
    """Notes what a stream reports."""

    def __init__(self, stream: Stream) -> None:
        self.stream = stream
        self.received = b""
        self.ended = False
        self.told: list[str] = []
        stream.hand_to(self)

    def readable(self, sock: socket.socket) -> None:
        data = sock.recv(65536)
        self.received += data
        if not data:
            self.ended = True
            self.stream.pause_reading()

    def pause_writing(self) -> None:
        self.told.append("pause")

    def resume_writing(self) -> None:
        self.told.append("resume")

    def lost(self) -> None:
        self.told.append("lost")


@pytest.fixture
async def pair() -> AsyncIterator[tuple[User, socket.socket]]:
    ours, peer = socket.socketpair()
    ours.setblocking(False)
    peer.setblocking(False)
    user = User(Stream(asyncio.get_running_loop(), ours, Cork(), high=100_000))
    yield user, peer
    user.stream.abort()
    peer.close()


async def everything(peer: socket.socket) -> bytes:
    """Read until the end."""
    loop, data = asyncio.get_running_loop(), b""
    async with asyncio.timeout(3):
        while part := await loop.sock_recv(peer, 1 << 20):
            data += part
    return data


async def read(peer: socket.socket, size: int) -> bytes:
    """Read ``size`` bytes."""
    loop, data = asyncio.get_running_loop(), b""
    async with asyncio.timeout(3):
        while len(data) < size:
            data += await loop.sock_recv(peer, min(1 << 16, size - len(data)))
    return data


async def test_what_is_written_is_sent_at_once(pair: tuple[User, socket.socket]) -> None:
    user, peer = pair
    user.stream.write(b"one")
    user.stream.write(b"two")
    assert peer.recv(100) == b"onetwo"
    assert user.stream.buffered_bytes == 0


async def test_what_the_kernel_does_not_take_waits_and_arrives_in_order(
    pair: tuple[User, socket.socket],
) -> None:
    user, peer = pair
    parts = [BIG, b"then", b"and", BIG, *(bytes([number]) for number in range(200)), b"end"]
    for part in parts:
        user.stream.write(part)
    assert user.stream.buffered_bytes > len(BIG)
    whole = b"".join(parts)
    assert await read(peer, len(whole)) == whole
    await until(lambda: user.stream.buffered_bytes == 0)
    user.stream.write(b"later")
    assert await read(peer, 5) == b"later"


async def test_a_cork_holds_back_what_is_written_and_lets_it_out_in_order() -> None:
    ours, peer = socket.socketpair()
    ours.setblocking(False)
    peer.setblocking(False)
    cork = Cork()
    user = User(Stream(asyncio.get_running_loop(), ours, cork, high=100))
    user.stream.write(b"at once ")
    cork.held = True
    user.stream.write(b"one ")
    user.stream.write(b"two ")
    assert peer.recv(100) == b"at once "
    assert user.stream.buffered_bytes == 8
    cork.pull()
    assert peer.recv(100) == b"one two "
    assert (user.stream.buffered_bytes, user.told) == (0, [])
    cork.held = True
    for _ in range(3):
        user.stream.write(b"x" * 60)
    assert len(peer.recv(1000)) == 120, "more than may wait goes out although there is a cork"
    user.stream.close()
    cork.pull()
    assert await everything(peer) == b"x" * 60
    peer.close()


async def test_user_is_told_once_when_too_much_waits_and_once_when_it_is_gone(
    pair: tuple[User, socket.socket],
) -> None:
    user, peer = pair
    user.stream.write(BIG)
    user.stream.write(BIG)
    assert user.told == ["pause"]
    await read(peer, 2 * len(BIG) - 20_000)
    await until(lambda: user.told == ["pause", "resume"])
    assert user.stream.buffered_bytes <= 25_000


async def test_little_that_waits_is_not_worth_a_word(pair: tuple[User, socket.socket]) -> None:
    user, _ = pair
    with contextlib.suppress(BlockingIOError):
        while True:
            user.stream._sock.send(BIG)  # type: ignore[union-attr]
    user.stream.write(b"x" * 1000)
    assert (user.stream.buffered_bytes, user.told) == (1000, [])


async def test_reading_can_be_paused(pair: tuple[User, socket.socket]) -> None:
    user, peer = pair
    user.stream.resume_reading()
    peer.send(b"heard")
    await until(lambda: user.received == b"heard")
    user.stream.pause_reading()
    peer.send(b" later")
    await asyncio.sleep(0.02)
    assert user.received == b"heard"
    user.stream.resume_reading()
    await until(lambda: user.received == b"heard later")


async def test_another_user_hears_what_comes_from_then_on(pair: tuple[User, socket.socket]) -> None:
    user, peer = pair
    user.stream.resume_reading()
    other = User(user.stream)
    peer.send(b"for the other")
    await until(lambda: other.received == b"for the other")
    user.stream.abort()
    await until(lambda: other.told == ["lost"])
    assert (user.received, user.told) == (b"", [])


@pytest.mark.parametrize("end", [Stream.close, Stream.write_eof])
async def test_the_end_comes_after_all_that_was_written(
    pair: tuple[User, socket.socket], end: Callable[[Stream], None]
) -> None:
    user, peer = pair
    user.stream.write(BIG)
    user.stream.write(b"last")
    end(user.stream)
    user.stream.write(b"not sent any more")
    assert await everything(peer) == BIG + b"last"


async def test_a_closed_stream_is_lost_once_and_not_within_the_call(pair: tuple[User, socket.socket]) -> None:
    user, _ = pair
    user.stream.close()
    assert user.stream.is_closing
    assert user.told == []
    user.stream.close()
    user.stream.abort()
    await until(lambda: user.told)
    await asyncio.sleep(0.01)
    assert user.told == ["lost"]


async def test_after_its_own_end_a_stream_still_reads(pair: tuple[User, socket.socket]) -> None:
    user, peer = pair
    user.stream.write_eof()
    user.stream.resume_reading()
    assert await everything(peer) == b""
    peer.send(b"still here")
    peer.shutdown(socket.SHUT_WR)
    await until(lambda: user.ended)
    assert user.received == b"still here"


async def test_abort_drops_what_waits(pair: tuple[User, socket.socket]) -> None:
    user, peer = pair
    user.stream.write(BIG)
    user.stream.abort()
    assert user.stream.buffered_bytes == 0
    assert len(await everything(peer)) < len(BIG)
    await until(lambda: user.told == ["pause", "lost"])


@pytest.mark.parametrize("waits", [False, True])
async def test_a_peer_that_is_gone_ends_the_stream_and_raises_nothing(
    pair: tuple[User, socket.socket], waits: bool
) -> None:
    user, peer = pair
    if waits:
        user.stream.write(BIG)
    peer.close()
    user.stream.write(b"into the void")
    await until(lambda: "lost" in user.told)
    user.stream.write(b"again")
    user.stream.write_eof()
    user.stream.resume_reading()
    assert user.told[-1] == "lost"
