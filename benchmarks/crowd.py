"""
The loads on several nodes: a room whose members are spread over them, and clients that come back to another.

They run in the loop of whoever calls them. What is lost, wrong, twice or out of order is in ``problems``.

"""

from __future__ import annotations

import asyncio
import gc
import itertools
import time
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import msgspec
from picows import WSFrame, WSMsgType, WSTransport

from benchmarks import figures, load, redisserver

PAYLOAD = b"x" * 52
"""With the number in front a message of 64 bytes, the same in JSON as alone."""

SETTLING = 1.0
"""Seconds after which sockets that were accepted are in their rooms, on every node."""

PATIENCE = 60.0
"""Seconds that a crowd may take to come back."""

WRITTEN = 5.0
"""Seconds after which the nodes have written down that clients have come, all of it."""

Asked = Callable[[], dict[str, int]]
"""Tells how often Redis has carried out each command."""

Used = Callable[[], float | None]
"""Tells the processor seconds that all servers have used."""


async def broadcast(ports: Sequence[int], members: int, seconds: float, used: Used) -> dict[str, Any]:
    """Four messages of 64 bytes on their way to a room with members on every node, from one of them."""
    meter = load.Meter()
    rounds = load.Rounds(meter, members, PAYLOAD)
    sockets = await _spread(ports, "room", members, lambda _: load.Member(meter, rounds, False))
    rounds.speaker = sockets[0]
    for _ in range(4):
        rounds.start()
    return await _measured(meter, sockets, seconds, used)


class Paced(load.Rounds):
    """Messages to a room that are sent whatever comes back; counted by the members of one node."""

    def took(self, number: int) -> None:
        """Count one member that has message ``number``."""
        if self.meter.open:
            self.meter.took.append(time.monotonic_ns() - self.began[number])


async def latency(
    ports: Sequence[int], members: int, rate: float, seconds: float, used: Used
) -> dict[str, Any]:
    """``rate`` messages a second from a member on the first node; what the members on the others wait for them."""
    here, there = (Paced(load.Meter(), members, PAYLOAD) for _ in range(2))

    def made(number: int) -> load.Member:
        paced = there if number else here
        return load.Member(paced.meter, paced, False)

    sockets = await _spread(ports, "room", members, made)
    speaking = asyncio.create_task(_speak(sockets[0], (here, there), rate))
    try:
        result = await _measured(there.meter, sockets, seconds, used, before_end=speaking.cancel)
    finally:
        speaking.cancel()
    result["problems"] += here.meter.problems
    return result


async def _speak(speaker: load.Socket, paced: Sequence[Paced], rate: float) -> None:
    assert speaker.transport is not None
    for number in itertools.count():
        now = time.monotonic_ns()
        for one in paced:
            one.began[number], one.next = now, number + 1
        speaker.transport.send(WSMsgType.TEXT, b"@%010d@" % number + paced[0].payload)
        await asyncio.sleep(1 / rate)


async def _spread(
    ports: Sequence[int], path: str, members: int, make: Callable[[int], load.Socket]
) -> list[Any]:
    """Open as many sockets on each node; ``make`` is given the node's number."""
    sockets: list[Any] = []
    for number, port in enumerate(ports):
        made = lambda number=number: make(number)  # noqa: E731 - the number of this node, not of the last
        sockets += await load.connected(f"ws://127.0.0.1:{port}/{path}", made, members // len(ports))
    await asyncio.sleep(SETTLING)
    return sockets


async def _measured(
    meter: load.Meter,
    sockets: Iterable[Any],
    seconds: float,
    used: Used,
    before_end: Callable[[], object] = lambda: None,
) -> dict[str, Any]:
    """Let it run, count, and see that everything that was sent arrives; return what was counted."""
    gc.collect()
    gc.disable()
    try:
        await asyncio.sleep(min(1.0, seconds))
        own, cpu, began = time.process_time(), used(), time.monotonic()
        meter.open = True
        await asyncio.sleep(seconds)
        meter.open = False
        taken, own, after = time.monotonic() - began, time.process_time() - own, used()
    finally:
        gc.enable()
    before_end()
    meter.stopped = True
    deadline = time.monotonic() + load.ANSWER_TIMEOUT
    while (waiting := sum(socket.waits for socket in sockets)) and time.monotonic() < deadline:
        await asyncio.sleep(0.01)
    if waiting:
        meter.problems.append(
            f"{waiting} sockets still wait {load.ANSWER_TIMEOUT:g} s after the last message"
        )
    if not meter.took:
        meter.problems.append("nothing arrived")
    for socket in sockets:
        socket.leave()
    result = {
        "per_second": round(len(meter.took) / taken, 1),
        "answers": len(meter.took),
        **figures.latencies(meter.took),
        "load_share": round(own / taken, 3),
        "problems": sorted(set(meter.problems)),
    }
    if cpu is not None and after is not None and meter.took:
        result |= {
            "server_us": round((after - cpu) / len(meter.took) * 1e6, 2),
            "server_share": round((after - cpu) / taken, 3),
        }
    return result


class Said(msgspec.Struct):
    """Any message of the server."""

    type: str
    data: Any = None
    offset: int | None = None


_read = msgspec.json.Decoder(Said).decode


class Client(load.Socket):
    """Speaks the protocol: it answers pings, knows its place in the room, and can come back to it."""

    def __init__(self, meter: load.Meter, session: str = "", place: dict[str, Any] | None = None) -> None:
        super().__init__(meter)
        self.session = session
        self.place = place
        self.missed = -1
        """How many messages the server said that it missed; -1 before it did."""
        self.heard: list[int] = []
        self.changed = asyncio.Event()

    def on_ws_connected(self, transport: WSTransport) -> None:
        super().on_ws_connected(transport)
        if self.place is not None:
            self.say("system.resume", {"session": self.session, "rooms": {"chat": self.place}})

    def say(self, type: str, data: Any) -> None:
        """Send a message."""
        assert self.transport is not None
        self.transport.send(WSMsgType.TEXT, msgspec.json.encode({"type": type, "data": data}))

    def on_ws_frame(self, transport: WSTransport, frame: WSFrame) -> None:
        if frame.msg_type != WSMsgType.TEXT:
            super().on_ws_frame(transport, frame)
            return
        said = _read(frame.get_payload_as_bytes())
        match said.type:
            case "said":
                self.heard.append(said.data)
            case "system.ping":
                self.say("system.pong", said.data)
            case "system.welcome":
                self.session = said.data["session"]
            case "system.joined" if self.place is None:
                self.place = {"epoch": said.data["epoch"], "offset": said.data["offset"]}
            case "system.recovered":
                self.missed = said.data["count"] if said.data["complete"] else -2
            case "system.error" | "system.closing":
                self.meter.problems.append(f"{said.type}: {said.data}")
        self.changed.set()

    async def until(self, condition: Callable[[Client], object]) -> None:
        """Return when the condition is true of this client."""
        while not condition(self):
            self.changed.clear()
            await self.changed.wait()


async def _all(clients: Iterable[Client], condition: Callable[[Client], object], what: str) -> None:
    """Return when the condition is true of every client; else note how many of them it is not true of."""
    clients = list(clients)
    try:
        async with asyncio.timeout(PATIENCE):
            for client in clients:
                await client.until(condition)
    except TimeoutError:
        late = sum(not condition(client) for client in clients)
        clients[0].meter.problems.append(f"{late} clients were not {what} after {PATIENCE:g} s")


async def crowd(ports: Sequence[int], count: int) -> tuple[list[Client], float]:
    """Return clients of the protocol that are in a room, as many on each node, and the seconds that took."""
    meter = load.Meter()
    began = time.monotonic()
    sockets = await _spread(ports, "chat", count, lambda _: Client(meter))
    await _all(sockets, lambda client: client.place is not None, "in the room")
    return sockets, time.monotonic() - began - SETTLING


async def leave(clients: Iterable[Client]) -> None:
    """Have all of them go, and wait for the servers to have noted it."""
    for client in clients:
        client.leave()
    await asyncio.sleep(3 * SETTLING)


async def publish(port: int, count: int) -> list[str]:
    """Publish ``count`` messages to the room and go; return what went wrong."""
    (speaker,), _ = await crowd([port], 1)
    for number in range(count):
        speaker.say("say", number)
    await _all([speaker], lambda client: len(client.heard) == count, "told its own messages")
    speaker.leave()
    await asyncio.sleep(SETTLING)
    return speaker.meter.problems


async def come_back(
    ports: Sequence[int], clients: Sequence[Client], missed: int, asked: Asked
) -> dict[str, Any]:
    """
    Have every client come back to another node than it was on; all must get what they missed, once and in order.

    ``commands`` in what is returned are all that it led to, also those that nobody waited for.

    """
    meter = load.Meter()
    turn = asyncio.Semaphore(load.CONNECTING_AT_ONCE)
    half = -(-len(clients) // len(ports))

    async def one(number: int, old: Client) -> Client:
        port = ports[(number // half + 1) % len(ports)]
        async with turn:
            (client,) = await load.connected(
                f"ws://127.0.0.1:{port}/chat", lambda: Client(meter, old.session, old.place), 1
            )
        assert isinstance(client, Client)
        return client

    before, began = asked(), time.monotonic()
    back = await asyncio.gather(*(one(number, old) for number, old in enumerate(clients)))
    await _all(back, lambda client: len(client.heard) >= missed, "told all they had missed")
    seconds = time.monotonic() - began
    if wrong := sum(client.heard != list(range(missed)) or client.missed != missed for client in back):
        meter.problems.append(f"{wrong} clients got something else than what they had missed")
    await asyncio.sleep(WRITTEN)
    commands = redisserver.since(before, asked())
    for client in back:
        client.leave()
    return {"seconds": round(seconds, 2), "commands": commands, "problems": sorted(set(meter.problems))}
