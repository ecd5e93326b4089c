"""Clients that read too slowly, and handlers that are slower than their clients, on real servers."""

from __future__ import annotations

import json
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
from websockets.frames import Opcode

from tests.acceptance import rawclient
from tests.acceptance.processes import ServerProcess, free_port, manage
from tests.acceptance.rawclient import RawClient

KIB = 1024
MIB = 1024 * KIB
WAITING = 256 * KIB
"""What may wait for a slow reader in the server."""


@contextmanager
def serving(engine: str, **settings: str) -> Iterator[ServerProcess]:
    port = free_port()
    environment = {
        "ASGI_APPLICATION": "tests.acceptance.apps.rooms.application",
        "DJANGO_SETTINGS_MODULE": "tests.acceptance.apps.settings",
        "RATELIMIT_MESSAGES_PER_WINDOW": "0",
        "REALTIME_ENGINE": engine,
        **settings,
    }
    with ServerProcess(manage("serve", "--port", str(port)), port, environment) as server:
        yield server


def message(type: str, data: Any) -> bytes:
    return rawclient.text(json.dumps({"type": type, "data": data}))


def expect(client: RawClient, type: str) -> Any:
    """Return the data of the next message of a type; others are passed over."""
    while True:
        found = client.frame()
        assert found.opcode is not Opcode.CLOSE, found
        if found.opcode is Opcode.TEXT and (told := json.loads(found.data))["type"] == type:
            return told["data"]


def enter(client: RawClient, room: str) -> None:
    """Join a room."""
    client.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    client.open(f"/{room}")
    expect(client, "system.joined")


def pour(talker: RawClient, messages: int) -> float:
    """Publish messages of 16 KiB, and wait for each to come back; return the longest that took, in seconds."""
    longest = 0.0
    for number in range(messages):
        started = time.monotonic()
        talker.send(message("say", [number, "x" * 16 * KIB]))
        assert expect(talker, "said")[0] == number
        longest = max(longest, time.monotonic() - started)
    return longest


engines = pytest.mark.parametrize("engine", ["native", "daphne"])


@engines
def test_a_client_that_does_not_read_meets_the_policy_of_its_room_and_hurts_nobody(engine: str) -> None:
    """R5, X5"""
    settings = {
        "REALTIME_SLOW_CONSUMER": json.dumps({"ticker-*": "drop_oldest", "*": "disconnect"}),
        "REALTIME_MAX_OUTBOUND_BYTES": str(WAITING),
    }
    messages = 1000
    with (
        serving(engine, **settings) as server,
        RawClient(server.port) as in_chat,
        RawClient(server.port) as in_ticker,
        RawClient(server.port) as chatting,
        RawClient(server.port) as ticking,
    ):
        enter(in_chat, "chat")
        enter(in_ticker, "ticker-eur")
        enter(chatting, "chat")
        enter(ticking, "ticker-eur")
        before = server.memory()
        assert pour(ticking, messages) < 0.5
        # Few enough that it is not long closed, and dropped, when it reads on.
        assert pour(chatting, 400) < 0.5
        assert server.memory() - before < 6 * MIB
        # One has missed something, and is told to come back and recover.
        assert in_chat.close_frame()[0] == 4413
        # The other has missed something too, but has the newest, in order, and is still there.
        numbers = [expect(in_ticker, "said")[0]]
        while numbers[-1] != messages - 1:
            numbers.append(expect(in_ticker, "said")[0])
        assert numbers == sorted(numbers)
        assert len(numbers) < messages
        kept = WAITING // (17 * KIB) - 1
        assert numbers[-kept:] == list(range(messages - kept, messages))
        in_ticker.send(message("say", ["alive"]))
        assert expect(in_ticker, "said") == ["alive"]
        assert server.stop().code == 0


HASTY = {"REALTIME_HEARTBEAT_INTERVAL": "0.3", "REALTIME_HEARTBEAT_TIMEOUT": "1"}
WORK = 2.5
"""Seconds that a handler takes, and more than the timeout of the heartbeat."""
MORE = 50
"""Messages that are sent meanwhile, and more than may wait for the handler."""


@engines
def test_a_client_whose_messages_wait_for_a_slow_handler_is_not_called_silent(engine: str) -> None:
    """It answers every ping, but nothing it says is read while too much of it waits."""
    with serving(engine, **HASTY) as server, RawClient(server.port) as client:
        enter(client, "work")
        client.send(message("work", WORK) + b"".join(message("say", number) for number in range(MORE)))
        published = 0
        while published < MORE:
            found = client.frame()
            assert found.opcode is not Opcode.CLOSE, found
            if found.opcode is Opcode.PING:
                client.send(rawclient.frame(Opcode.PONG, bytes(found.data)))
            elif found.opcode is Opcode.TEXT:
                published += json.loads(found.data)["type"] == "published"
        # And it goes on living.
        ends = time.monotonic() + 1.5
        while time.monotonic() < ends:
            found = client.frame()
            assert found.opcode is Opcode.PING, found
            client.send(rawclient.frame(Opcode.PONG, bytes(found.data)))


@engines
def test_a_client_that_is_dead_is_found_out_when_the_handler_is_done(engine: str) -> None:
    with serving(engine, **HASTY) as server, RawClient(server.port) as client:
        enter(client, "work")
        client.send(message("work", WORK) + b"".join(message("say", number) for number in range(MORE)))
        assert expect(client, "worked") == WORK
        worked = time.monotonic()
        assert client.close_frame()[0] == 4408
        assert 0.5 < time.monotonic() - worked < 2.5
