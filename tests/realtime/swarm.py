"""Several nodes in one event loop, over one state and a channel layer that does as badly as it is told."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Callable, Iterable, Sequence
from contextlib import asynccontextmanager
from contextvars import ContextVar
from typing import Any

import pytest
from channels.layers import BaseChannelLayer

from realtime import hub as hub_module
from realtime import nodes
from realtime.conf import get_settings
from realtime.connections import Connection
from realtime.frames import Frame
from realtime.history import Place
from realtime.hub import BroadcastResult
from realtime.limits import Limits
from realtime.nodes import Node
from realtime.once import Once, handling
from realtime.publish import publish
from realtime.state import State
from tests.acceptance.checker import Entry, Heard, Joined, Lost, Recovered, Welcomed

Fate = Callable[[dict[str, Any]], Iterable[float]]
"""After how many seconds each copy of a message arrives; no copy, and it is lost."""


class Port(BaseChannelLayer):
    """One node's way into the bus."""

    def __init__(self, bus: Bus) -> None:
        super().__init__()
        self.bus = bus
        self.name = f"port-{len(bus.ports)}"
        self.groups: set[str] = set()
        self.queue: asyncio.Queue[dict[str, Any]] = asyncio.Queue()
        self.cut = False
        bus.ports.append(self)

    async def new_channel(self, prefix: str = "specific") -> str:
        return self.name

    async def receive(self, channel: str) -> dict[str, Any]:
        return await self.queue.get()

    async def group_add(self, group: str, channel: str) -> None:
        self.groups.add(group)

    async def group_discard(self, group: str, channel: str) -> None:
        self.groups.discard(group)

    async def group_send(self, group: str, message: dict[str, Any]) -> None:
        if self.cut:
            raise ConnectionError("the layer is away")
        self.bus.carry(self, group, {**message, "from": self.name})


class Bus:
    """What the ports have in common. ``fate`` decides over each message and each node it goes to."""

    def __init__(self) -> None:
        self.ports: list[Port] = []
        self.sent = 0
        self.fate: Fate = lambda message: (0.0,)

    def carry(self, sender: Port, group: str, message: dict[str, Any]) -> None:
        self.sent += 1
        for port in self.ports:
            if port is sender or group not in port.groups or port.cut:
                continue
            for one in message.get("ops") or (message,):
                self._deliver(port, {"from": sender.name, **one})

    def _deliver(self, port: Port, message: dict[str, Any]) -> None:
        for delay in self.fate(message):
            if delay:
                asyncio.get_running_loop().call_later(delay, port.queue.put_nowait, message)
            else:
                port.queue.put_nowait(message)


class Pipe:
    """A transport whose peer is in the same process. While it is not ``writable`` it takes nothing."""

    name = "pipe"
    can_ping = False
    is_held = False
    buffered_bytes = 0

    def __init__(self, read: Callable[[dict[str, Any]], None]) -> None:
        self.listener: Any = None
        self.closed = False
        self.writable = True
        self.code: int | None = None
        self._read = read

    def write(self, frame: Frame) -> None:
        if not self.closed:
            self._read(json.loads(frame.payload))

    def close(self, code: int, reason: str) -> None:
        self.closed, self.code = True, code

    def abort(self) -> None:
        self.closed = True

    def open(self) -> None:
        """Read on, if it does not."""
        self.writable = True
        self.listener.resume_writing()


class Client:
    """A client that keeps its place, and writes down what it sees."""

    def __init__(self, name: str, room: str = "lobby") -> None:
        self.name = name
        self.room = room
        self.log: list[Entry] = []
        self.messages: list[dict[str, Any]] = []
        self.place: Place | None = None
        self.node: Node | None = None
        self.connection: Connection
        self.pipe: Pipe

    @property
    def heard(self) -> list[Any]:
        return [entry.key for entry in self.log if isinstance(entry, Heard)]

    @property
    def recovered(self) -> list[Recovered]:
        return [entry for entry in self.log if isinstance(entry, Recovered)]

    @property
    def is_member(self) -> bool:
        room = self.node.hub.rooms.get(self.room) if self.node else None
        return room is not None and self.connection in room.members

    async def enter(self, node: Node, *, resume: bool = True, reads_after: float = 0.0) -> None:
        """Connect to a node; where it has been before, say so. It begins to read after so many seconds."""
        self.node = node
        pipe = self.pipe = Pipe(lambda message: self._read(pipe, message))
        if reads_after:
            pipe.writable = False
            asyncio.get_running_loop().call_later(reads_after, pipe.open)
        self.connection = Connection(
            node=node,
            transport=pipe,
            scope={"path": "/"},
            settings=get_settings(),
            consumer="tests.Client",
            limits=Limits(),
            speaks_protocol=True,
        )
        self.connection.id = self.name
        self.connection.accepted = True
        node.registry.add(self.connection)
        seen = self.place if resume else None
        self.log.append(Welcomed(seen is not None))
        if seen is None:
            self.place = None
        room = await node.hub.join(self.connection, self.room)
        if seen is not None:
            await node.hub.arrivals.recover(self.connection, room, seen)
            return
        if (told := room.place) is not None:
            self.connection.say("joined", {"room": self.room, **told._asdict()})
        node.hub.arrivals.come_in(self.connection, room, told)

    async def drop(self) -> None:
        """Lose the connection."""
        if self.node is not None:
            node, self.node = self.node, None
            self.pipe.closed = True
            self.connection.gone()
            self.log.append(Lost())
            await node.hub.leave_all(self.connection)
            node.registry.remove(self.connection)

    def _read(self, pipe: Pipe, message: dict[str, Any]) -> None:
        self.messages.append(message)
        data = message["data"]
        if message["type"] == "said":
            self.log.append(Heard(str(data), message.get("offset")))
            if self.place is not None and "offset" in message:
                self.place = Place(self.place.epoch, message["offset"])
        elif message["type"] == "system.joined":
            self.place = Place(data["epoch"], data["offset"])
            self.log.append(Joined(*self.place))
        elif message["type"] == "system.recovered":
            self.log.append(
                Recovered(data["complete"], data["from"], data["to"], data["epoch"], data["count"])
            )
            # What follows is counted from here on.
            self.place = Place(data["epoch"], data["from"] if data["complete"] else data["to"])


_AT: ContextVar[Node] = ContextVar("the node that publishes")


class Swarm:
    """Nodes that share ``state``."""

    def __init__(self, state: State) -> None:
        self.state = state
        self.bus = Bus()
        self.nodes: list[Node] = []

    def begin(self) -> Node:
        """Start one more node."""
        node = Node(asyncio.get_running_loop())
        node.state = self.state
        node.hub = hub_module.Hub(node)
        for name, work in (
            ("receiver", node.hub.run_receiver),
            ("sender", node.hub.courier.run),
            ("maintenance", node.hub.run_maintenance),
        ):
            node.supervisor.start(name, work)
        self.nodes.append(node)
        return node

    async def publish(
        self, node: Node, data: Any, room: str = "lobby", *, id: str | None = None, **options: Any
    ) -> BroadcastResult:
        """Publish at a node, as the handler of a client's message ``id``."""
        at, once = _AT.set(node), handling.set(Once("client", id) if id else None)
        try:
            return await publish(room, "said", data, **options)
        finally:
            _AT.reset(at)
            handling.reset(once)

    async def end(self, node: Node) -> None:
        """Stop a node."""
        self.nodes.remove(node)
        await node.supervisor.stop()
        if node.hub.layer is not None:
            self.bus.ports.remove(node.hub.layer)
        for room in list(node.hub.rooms.values()):
            for connection in list(room.arriving):
                node.hub.arrivals.forget(connection, room)


@asynccontextmanager
async def swarm(
    monkeypatch: pytest.MonkeyPatch, state: State, size: int = 2
) -> AsyncIterator[tuple[Swarm, Sequence[Node]]]:
    """Run some nodes until the block ends."""
    nodes_of = Swarm(state)
    monkeypatch.setattr(nodes, "live", lambda: [_AT.get()])
    monkeypatch.setattr(hub_module, "crossing_layer", lambda state: Port(nodes_of.bus))
    begun = [nodes_of.begin() for _ in range(size)]
    try:
        yield nodes_of, begun
    finally:
        for node in list(nodes_of.nodes):
            await nodes_of.end(node)
