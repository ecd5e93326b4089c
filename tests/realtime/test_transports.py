"""The way out: any ASGI ``send``, stepped in place; in order, closed last, and quiet once the peer is gone."""

from __future__ import annotations

import asyncio
import gc
from collections.abc import AsyncIterator
from typing import Any

import pytest
from autobahn.exception import Disconnected

from realtime.frames import Frame
from realtime.testing import until
from realtime.transports import AsgiTransport, transport_of


class Server:
    """An ASGI server's side of one socket: takes messages, at once or when its ``gate`` is open."""

    def __init__(self) -> None:
        self.taken: list[Any] = []
        self.gate = asyncio.Event()
        self.gate.set()
        self.waits: list[asyncio.Event] = []
        """What the next messages wait for, one each."""
        self.error: Exception | None = None

    async def send(self, message: dict[str, Any]) -> None:
        # Waits first, as servers do whose buffer is full.
        if self.waits:
            await self.waits.pop(0).wait()
        if not self.gate.is_set():
            await self.gate.wait()
        if self.error is not None:
            raise self.error
        self.taken.append(
            message["code"]
            if message["type"] == "websocket.close"
            else message.get("text", message.get("bytes"))
        )


class Listener:
    """What a connection hears from its transport."""

    def __init__(self, transport: AsgiTransport) -> None:
        self.resumed: list[bool] = []
        self.transport = transport
        transport.listener = self

    def heard(self) -> None:
        raise AssertionError("plain ASGI does not tell")

    def ponged(self, rtt: float) -> None:
        raise AssertionError("plain ASGI has no ping")

    def resume_writing(self) -> None:
        self.resumed.append(self.transport.writable)


@pytest.fixture
async def server() -> Server:
    return Server()


@pytest.fixture
async def transport(server: Server) -> AsyncIterator[AsgiTransport]:
    """One that leaves nothing behind for the loop to complain of."""
    complaints: list[dict[str, Any]] = []
    asyncio.get_running_loop().set_exception_handler(lambda _, context: complaints.append(context))
    yield AsgiTransport(server.send)
    gc.collect()
    await settled()
    assert complaints == []


async def settled() -> None:
    """Let everything run that can."""
    for _ in range(10):
        await asyncio.sleep(0)


# Sends that finish at once.


async def test_a_message_has_left_when_write_returns(server, transport):
    transport.write(Frame("text"))
    transport.write(Frame(b"bytes"))
    assert server.taken == ["text", b"bytes"]
    assert (transport.writable, transport.buffered_bytes, transport.closed) == (True, 0, False)


async def test_messages_are_asgi_messages():
    sent: list[dict[str, Any]] = []

    async def send(message: dict[str, Any]) -> None:
        sent.append(message)

    transport = AsgiTransport(send)
    transport.write(Frame("text"))
    transport.write(Frame(b""))
    transport.close(4408, "nothing heard")
    assert sent == [
        {"type": "websocket.send", "text": "text"},
        {"type": "websocket.send", "bytes": b""},
        {"type": "websocket.close", "code": 4408, "reason": "nothing heard"},
    ]


async def test_a_send_that_finishes_at_once_costs_no_task(server, transport):
    before = asyncio.all_tasks()
    transport.write(Frame("text"))
    assert asyncio.all_tasks() == before


async def test_nobody_is_told_to_resume_who_never_had_to_wait(server, transport):
    listener = Listener(transport)
    transport.write(Frame("text"))
    await settled()
    assert listener.resumed == []


async def test_closing_is_once_and_ends_writing(server, transport):
    transport.close(1000, "")
    transport.close(1011, "again")
    transport.write(Frame("late"))
    assert server.taken == [1000]
    assert transport.closed


async def test_plain_asgi_has_no_ping(transport):
    assert (transport.name, transport.can_ping) == ("asgi", False)
    with pytest.raises(NotImplementedError):
        transport.ping()


@pytest.mark.parametrize(
    ("code", "taken"),
    [
        pytest.param(1000, 1000, id="taken as it is"),
        pytest.param(4408, 4408, id="an application's own"),
        pytest.param(1008, 4403, id="policy"),
        pytest.param(1009, 4400, id="too big"),
        pytest.param(1012, 4503, id="the client should come back"),
        pytest.param(1007, 4403, id="the client should stay away"),
    ],
)
async def test_a_server_that_refuses_a_code_gets_one_that_asks_the_same_of_the_client(code, taken):
    """daphne raises for every code but 1000 and 3000 to 4999."""
    closed: list[int] = []

    async def send(message: dict[str, Any]) -> None:
        if message["code"] != 1000 and not 3000 <= message["code"] <= 4999:
            raise ValueError("invalid close code")
        closed.append(message["code"])

    AsgiTransport(send).close(code, "")
    assert closed == [taken]


async def test_the_size_of_messages_is_not_its_affair(server, transport):
    transport.limit_messages(1)
    transport.write(Frame("longer"))
    assert server.taken == ["longer"]


# Sends that suspend.


async def test_a_send_that_suspends_is_finished_later(server, transport):
    listener = Listener(transport)
    server.gate.clear()
    transport.write(Frame("12345"))
    assert (transport.writable, transport.buffered_bytes, server.taken) == (False, 5, [])
    server.gate.set()
    await until(lambda: transport.writable)
    assert (server.taken, transport.buffered_bytes) == (["12345"], 0)
    assert listener.resumed == [True]


async def test_without_a_listener_nobody_is_told(server, transport):
    server.gate.clear()
    transport.write(Frame("text"))
    server.gate.set()
    await until(lambda: transport.writable)
    assert server.taken == ["text"]


async def test_the_listener_may_write_on_when_it_is_told(server, transport):
    class Writer(Listener):
        def resume_writing(self) -> None:
            super().resume_writing()
            self.transport.write(Frame("next"))

    server.gate.clear()
    listener = Writer(transport)
    transport.write(Frame("first"))
    server.gate.set()
    await until(lambda: server.taken == ["first", "next"])
    assert listener.resumed == [True]


async def test_a_close_waits_for_what_was_written(server, transport):
    listener = Listener(transport)
    server.gate.clear()
    transport.write(Frame("last words"))
    transport.close(1012, "restart")
    assert (transport.closed, server.taken) == (True, [])
    server.gate.set()
    await until(lambda: len(server.taken) == 2)
    assert server.taken == ["last words", 1012]
    assert listener.resumed == []


async def test_a_close_that_suspends_is_finished_later(server, transport):
    listener = Listener(transport)
    server.gate.clear()
    transport.close(1000, "")
    server.gate.set()
    await until(lambda: server.taken == [1000])
    await settled()
    assert listener.resumed == []


async def test_writes_while_it_is_not_writable_are_buffered_in_order_and_sent_before_the_close(
    server, transport
):
    """Legal by the interface, if not wise."""
    listener = Listener(transport)
    waits = [asyncio.Event() for _ in range(3)]
    server.waits = list(waits)
    for text in ("1", "23", "456"):
        transport.write(Frame(text))
    assert (transport.writable, transport.buffered_bytes) == (False, 6)
    waits[0].set()
    await settled()
    assert (server.taken, transport.writable, transport.buffered_bytes) == (["1"], False, 5)
    # What is not the turn of the second is not the turn of the third.
    waits[2].set()
    await settled()
    assert server.taken == ["1"]
    transport.close(1000, "")
    waits[1].set()
    await until(lambda: len(server.taken) == 4)
    assert server.taken == ["1", "23", "456", 1000]
    assert (transport.buffered_bytes, listener.resumed) == (0, [])


async def test_the_listener_is_told_once_when_all_that_waited_has_left(server, transport):
    listener = Listener(transport)
    server.gate.clear()
    for text in ("1", "23", "456"):
        transport.write(Frame(text))
    server.gate.set()
    await until(lambda: transport.writable)
    assert (server.taken, transport.buffered_bytes, listener.resumed) == (["1", "23", "456"], 0, [True])


# Peers that are gone.

GONE = [
    pytest.param(OSError, id="OSError, as ASGI 2.4 says"),
    pytest.param(ConnectionResetError, id="a kind of OSError"),
    pytest.param(Disconnected, id="Autobahn's own, under plain daphne"),
]


@pytest.mark.parametrize("error", GONE)
async def test_a_peer_found_to_be_gone_is_no_error_and_nothing_is_sent_any_more(server, transport, error):
    server.error = error("gone")
    transport.write(Frame("text"))
    assert transport.closed
    assert transport.writable
    server.error = None
    transport.write(Frame("more"))
    transport.close(1000, "")
    assert server.taken == []


@pytest.mark.parametrize("error", GONE)
async def test_a_peer_that_goes_while_a_send_waits_is_found_to_be_gone(server, transport, error):
    listener = Listener(transport)
    server.gate.clear()
    transport.write(Frame("text"))
    server.error = error("gone")
    server.gate.set()
    await until(lambda: transport.writable)
    server.error = None
    assert transport.closed
    transport.write(Frame("more"))
    transport.close(1000, "")
    await settled()
    # Who waited for it to take more is told, to wait no longer.
    assert (server.taken, listener.resumed, transport.buffered_bytes) == ([], [True], 0)


@pytest.mark.parametrize("error", GONE[:2])
async def test_closing_a_peer_that_is_gone_is_no_error(server, transport, error):
    server.error = error("gone")
    transport.close(1000, "")
    assert transport.closed


async def test_what_waits_for_a_peer_that_is_gone_is_given_up():
    """Though the server would take it again."""
    gate = asyncio.Event()
    tried: list[str] = []

    async def fails_once(message: dict[str, Any]) -> None:
        tried.append(message.get("text", message["type"]))
        await gate.wait()
        if len(tried) == 1:
            raise OSError("gone")

    transport = AsgiTransport(fails_once)
    for text in ("one", "two"):
        transport.write(Frame(text))
    transport.close(1000, "")
    gate.set()
    await until(lambda: transport.writable)
    await settled()
    assert (tried, transport.buffered_bytes) == (["one"], 0)


async def test_a_close_after_a_send_that_failed_is_no_error(server, transport):
    server.gate.clear()
    transport.write(Frame("text"))
    transport.close(1000, "")
    server.error = OSError("gone")
    server.gate.set()
    await until(lambda: transport.writable)
    await settled()
    assert server.taken == []


# Dropping.


async def test_dropping_gives_up_what_waits_and_closes(server, transport):
    listener = Listener(transport)
    server.gate.clear()
    transport.write(Frame("never read"))
    await settled()
    transport.abort()
    assert transport.closed
    server.gate.set()
    await until(lambda: server.taken == [1011])
    assert (transport.buffered_bytes, listener.resumed) == (0, [])


async def test_dropping_a_socket_whose_close_waits_behind_a_message_lets_the_close_go(server, transport):
    server.gate.clear()
    transport.write(Frame("never read"))
    await settled()
    transport.close(4413, "too slow")
    transport.abort()
    server.gate.set()
    await until(lambda: server.taken == [4413])


async def test_dropping_gives_up_every_message_that_waits(server, transport):
    server.gate.clear()
    for text in ("one", "two", "three"):
        transport.write(Frame(text))
    transport.abort()
    server.gate.set()
    await until(lambda: transport.writable)
    assert (server.taken, transport.buffered_bytes) == ([1011], 0)


async def test_dropping_keeps_the_close_that_waits_and_nothing_before_it(server, transport):
    server.gate.clear()
    for text in ("one", "two"):
        transport.write(Frame(text))
    transport.close(4413, "too slow")
    transport.abort()
    server.gate.set()
    await until(lambda: transport.writable)
    assert (server.taken, transport.buffered_bytes) == ([4413], 0)


async def test_dropping_at_once_after_a_write_that_waits(server, transport):
    """The task that finishes it has not had a turn yet."""
    server.gate.clear()
    transport.write(Frame("never read"))
    transport.abort()
    server.gate.set()
    await until(lambda: server.taken == [1011])


async def test_dropping_an_idle_socket_closes_it_once(server, transport):
    transport.abort()
    transport.abort()
    assert server.taken == [1011]


# Which transport a socket has.


@pytest.mark.parametrize(
    "scope",
    [
        pytest.param({}, id="no extensions"),
        pytest.param({"extensions": None}, id="extensions None"),
        pytest.param({"extensions": {}}, id="no such extension"),
        pytest.param({"extensions": {"websocket.http.response": {}}}, id="another extension"),
    ],
)
async def test_any_server_will_do(server, scope):
    transport = transport_of(scope, server.send)
    assert isinstance(transport, AsgiTransport)
    transport.write(Frame("text"))
    assert server.taken == ["text"]


async def test_a_server_that_knows_the_interface_is_used(server):
    own = AsgiTransport(server.send)
    assert transport_of({"extensions": {"realtime": own}}, server.send) is own
