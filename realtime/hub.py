"""Carry a message to every socket it is for: those of this process directly, the others with one trip through the layer."""

from __future__ import annotations

import asyncio
import contextlib
import secrets
import time
from collections import deque
from collections.abc import Callable, Collection, Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from channels.layers import InMemoryChannelLayer, get_channel_layer
from django.utils.crypto import salted_hmac

from ratelimit.logs import get_logger
from realtime import envelope
from realtime.catchup import CatchUp
from realtime.close_codes import CloseReason
from realtime.conf import get_settings
from realtime.errors import ClientError, PublishQueueFull
from realtime.frames import Frame
from realtime.rooms import Room, checked_name

if TYPE_CHECKING:
    from realtime.connections import Connection
    from realtime.nodes import Node
    from realtime.outbox import Policy

logger = get_logger("realtime")

PROCESS = secrets.token_hex(8)
"""Names this process to the others, so that it ignores its own messages."""

EVERYONE = "realtime.nodes"
"""The group every process is in."""

NODE_LEASE = 15.0
"""Seconds after which a node that has not been heard of is no longer counted."""

ANNOUNCE_INTERVAL = 5.0
PRESENCE_DELAY = 0.05
"""Seconds that changes of a room's presence are gathered, so that a reload shows nobody leaving."""

LAYER_PATIENCE = 2.0
"""Seconds that joining a room waits for a channel layer that does not answer."""

GIVE_UP = 30.0
"""Seconds a message waits for a channel layer that does not answer before it is given up."""


@dataclass(frozen=True, slots=True)
class BroadcastResult:
    """What became of one message."""

    targets: int = 0
    """Sockets of this process it was for."""
    failed: int = 0
    """Those of them that did not take it: closing, or too slow."""
    nodes: int = 0
    """Processes it was handed to, this one included, as far as they are known."""
    behind: int = 0
    """Of a publish that waited: sockets of this process that had not caught up all the same."""

    def __add__(self, other: BroadcastResult) -> BroadcastResult:
        return BroadcastResult(
            self.targets + other.targets,
            self.failed + other.failed,
            max(self.nodes, other.nodes),
            self.behind + other.behind,
        )


@dataclass(slots=True)
class _Delivery:
    """A fan-out that waits for its turn."""

    connections: Iterable[Connection]
    frame: Frame
    exclude: Collection[str]
    policy: Policy | None
    done: asyncio.Future[BroadcastResult]


@dataclass(frozen=True, slots=True)
class _Outgoing:
    """A message that waits for the channel layer."""

    queued: float
    """When it was queued; monotonic seconds."""
    message: dict[str, Any]
    gone: asyncio.Future[None] | None
    """Set when it was handed over, or given up."""

    def leave(self) -> None:
        """Tell who waits for it."""
        if self.gone is not None and not self.gone.done():
            self.gone.set_result(None)


class Hub:
    """
    The rooms of one node, and the node's ear in the channel layer.

    Messages of one publisher to one room arrive in the order they were published. Belongs to the
    node's loop.

    """

    def __init__(self, node: Node) -> None:
        self._node = node
        self.rooms: dict[str, Room] = {}
        layer = get_channel_layer()
        # A layer that does not leave the process has nobody to carry anything to.
        self.layer = None if layer is None or isinstance(layer, InMemoryChannelLayer) else layer
        self._channel: str | None = None
        self._deliveries: deque[_Delivery] = deque()
        self._delivering: asyncio.Task[None] | None = None
        self._outgoing: deque[_Outgoing] = deque()
        self._has_outgoing = asyncio.Event()
        self._peers: dict[str, float] = {}
        self._out_of_sync: set[str] = set()
        self._subscribed = asyncio.Event()

    # What observers see.

    @property
    def queue_size(self) -> int:
        """Publishes that wait: for a turn here, or for the channel layer."""
        return len(self._deliveries) + len(self._outgoing)

    def known_nodes(self) -> int:
        """Return how many processes are known to be alive, this one included."""
        horizon = time.monotonic() - NODE_LEASE
        return 1 + sum(1 for heard in self._peers.values() if heard > horizon)

    # Rooms.

    async def join(
        self, connection: Connection, name: str, *, presence: dict[str, Any] | None = None
    ) -> Room:
        """
        Let a connection into a room.

        With ``presence`` it is seen there: that is what others see of it. Returns when the channel
        layer sends the room to this process too, or has failed to: then that is tried again until it works.

        """
        room = self.rooms.get(checked_name(name)) or self.rooms.setdefault(name, Room(name))
        if name not in connection.rooms and len(connection.rooms) >= get_settings().max_rooms:
            raise ClientError("too_many_rooms", f"You are in {len(connection.rooms)} rooms. Leave one first.")
        room.members[connection] = None
        connection.rooms[name] = None
        if presence is not None:
            identity = identity_in_presence(connection)
            room.roster.enter(identity, connection.id, {**presence, "id": public_id(identity)})
            self._announce(room)
        await self._sync(room)
        return room

    async def leave(self, connection: Connection, name: str) -> None:
        """Let a connection out of a room; leaving a room it is not in does nothing."""
        connection.rooms.pop(name, None)
        room = self.rooms.get(name)
        if room is None or connection not in room.members:
            return
        del room.members[connection]
        room.roster.leave(identity_in_presence(connection), connection.id)
        if room.members:
            self._announce(room)
        await self._sync(room)

    async def leave_all(self, connection: Connection) -> None:
        """Let a connection out of every room."""
        for name in list(connection.rooms):
            await self.leave(connection, name)

    # Delivery in this process.

    async def to_room(self, name: str, frame: Frame, exclude: Collection[str] = ()) -> BroadcastResult:
        """Deliver to the members of a room that are here."""
        room = self.rooms.get(name)
        if room is None:
            return await self._deliver((), frame, exclude)
        return await self._deliver(room.members, frame, exclude, room.policy)

    async def catch_up(self, name: str, seconds: float, exclude: Collection[str] = ()) -> int:
        """
        Wait until no member of a room that is here is behind, ``seconds`` at most; return how many still are.

        A member that others have waited for in vain is waited for again when it has caught up. Other work
        gets a turn in any case.

        """
        await asyncio.sleep(0)
        room = self.rooms.get(name)
        members = [one for one in room.members if one.is_behind and one.id not in exclude] if room else []
        await CatchUp(one for one in members if not one.stalled).wait(seconds)
        return sum(one.is_behind for one in members)

    async def to_all(self, frame: Frame, exclude: Collection[str] = ()) -> BroadcastResult:
        """Deliver to every socket of this node that speaks the protocol."""
        return await self._deliver([c for c in self._node.registry if c.speaks_protocol], frame, exclude)

    def to_some(self, connections: Collection[Connection], frame: Frame) -> BroadcastResult:
        """Deliver to a handful of sockets at once."""
        return self._offer_all(connections, frame, ())

    async def close_some(self, connections: Collection[Connection], reason: CloseReason) -> BroadcastResult:
        """Close sockets, ``REALTIME_MAX_CONCURRENT_CLEANUP`` of them before others get a turn."""
        slice_size = get_settings().max_concurrent_cleanup
        for number, connection in enumerate(connections, start=1):
            connection.close(reason)
            if number % slice_size == 0:
                await asyncio.sleep(0)
        return BroadcastResult(len(connections), 0, self.known_nodes())

    async def _deliver(
        self,
        connections: Collection[Connection],
        frame: Frame,
        exclude: Collection[str],
        policy: Policy | None = None,
    ) -> BroadcastResult:
        """Deliver now if it is little and nothing waits; else in turn, so that order holds."""
        settings = get_settings()
        if self._delivering is None and len(connections) <= settings.max_concurrent_broadcast:
            return self._offer_all(connections, frame, exclude, policy)
        self._refuse_if_full(settings.max_queue_size)
        loop = self._node.loop
        delivery = _Delivery(list(connections), frame, exclude, policy, loop.create_future())
        self._deliveries.append(delivery)
        if self._delivering is None:
            self._delivering = loop.create_task(self._deliver_waiting(), name="realtime.delivery")
        return await asyncio.shield(delivery.done)

    async def _deliver_waiting(self) -> None:
        try:
            while self._deliveries:
                delivery = self._deliveries[0]
                result = await self._deliver_in_slices(delivery)
                self._deliveries.popleft()
                if not delivery.done.done():
                    delivery.done.set_result(result)
        finally:
            self._delivering = None

    async def _deliver_in_slices(self, delivery: _Delivery) -> BroadcastResult:
        result = BroadcastResult(nodes=self.known_nodes())
        connections = list(delivery.connections)
        size = get_settings().max_concurrent_broadcast
        for start in range(0, len(connections), size):
            some = connections[start : start + size]
            result += self._offer_all(some, delivery.frame, delivery.exclude, delivery.policy)
            await asyncio.sleep(0)
        return result

    def _offer_all(
        self,
        connections: Iterable[Connection],
        frame: Frame,
        exclude: Collection[str],
        policy: Policy | None = None,
    ) -> BroadcastResult:
        targets = failed = 0
        # A copy: a socket that is closed for being slow must not change what is being walked.
        for connection in list(connections):
            if exclude and connection.id in exclude:
                continue
            targets += 1
            if not connection.offer(frame, policy):
                failed += 1
        return BroadcastResult(targets, failed, self.known_nodes() if self._peers else 1)

    # To and from the other processes.

    def send_remote(self, message: dict[str, Any], gone: asyncio.Future[None] | None = None) -> None:
        """
        Queue one message for the other processes.

        ``group`` in it is the group it goes to; ``gone`` is set when it has been handed to the channel
        layer, or given up. Raise PublishQueueFull where the channel layer is slower than the publishers.

        """
        outgoing = _Outgoing(time.monotonic(), message, gone)
        if self.layer is None:
            outgoing.leave()
            return
        self._refuse_if_full(get_settings().max_queue_size)
        self._outgoing.append(outgoing)
        self._has_outgoing.set()

    def _refuse_if_full(self, limit: int) -> None:
        if self.queue_size >= limit:
            self._node.counters.queue_overflows += 1
            raise PublishQueueFull(
                f"{self.queue_size} publishes wait in this process, and REALTIME_MAX_QUEUE_SIZE is {limit}."
                " Publish more slowly, or look why the channel layer is slow."
            )

    async def run_sender(self) -> None:
        """Hand queued messages to the channel layer, in order, until cancelled."""
        failing = False
        while True:
            await self._has_outgoing.wait()
            while self._outgoing:
                outgoing = self._outgoing[0]
                try:
                    await self._group_send(outgoing.message)
                except Exception as error:  # noqa: BLE001 - any layer may raise anything
                    if not failing:
                        logger.warning("channel layer does not take messages", error=str(error))
                    failing = True
                    if time.monotonic() - outgoing.queued > GIVE_UP:
                        self._outgoing.popleft().leave()
                        self._node.counters.messages_failed += 1
                    else:
                        await asyncio.sleep(0.2)
                else:
                    self._outgoing.popleft().leave()
                    failing = _recovered(failing, "channel layer takes messages again")
            self._has_outgoing.clear()

    async def run_receiver(self) -> None:
        """Deliver what the other processes publish, until cancelled."""
        layer = self.layer
        failing = False
        while layer is not None:
            try:
                if self._channel is None:
                    self._channel = await self._subscribe(layer)
                if failing:
                    # A Redis that came back without its data has forgotten who is in which group.
                    await self._renew(layer, self._channel)
                message = await layer.receive(self._channel)
            except Exception as error:  # noqa: BLE001 - any layer may raise anything
                if not failing:
                    logger.warning("channel layer does not deliver", error=str(error))
                failing = True
                await asyncio.sleep(0.5)
                continue
            failing = _recovered(failing, "channel layer delivers again")
            if message.get("from") != PROCESS:
                await self._received(message)

    async def run_maintenance(self) -> None:
        """Keep the layer's idea of this process up to date, until cancelled: memberships, and that it lives."""
        layer = self.layer
        if layer is None:
            return
        renew_every = getattr(layer, "group_expiry", 86400) / 3
        renewed = time.monotonic()
        announced = 0.0
        while True:
            now = time.monotonic()
            if now - announced >= ANNOUNCE_INTERVAL:
                announced = now
                self.send_remote({"group": EVERYONE, "op": "node"})
            for name in list(self._out_of_sync):
                self._out_of_sync.discard(name)
                if room := self.rooms.get(name):
                    await self._sync(room)
            if now - renewed > renew_every and self._channel is not None:
                renewed = now
                await self._renew(layer, self._channel)
            self._peers = {name: heard for name, heard in self._peers.items() if heard > now - NODE_LEASE}
            await asyncio.sleep(1.0)

    async def aclose(self) -> None:
        """Leave the channel layer."""
        if self.layer is None or self._channel is None:
            return
        groups = [EVERYONE, *(room.group for room in self.rooms.values() if room.subscribed)]
        for group in groups:
            await self.layer.group_discard(group, self._channel)

    async def _group_send(self, message: dict[str, Any]) -> None:
        assert self.layer is not None  # noqa: S101 - send_remote queues nothing without one
        group = message["group"]
        await self.layer.group_send(group, {"type": "realtime.deliver", "from": PROCESS, **message})

    async def _received(self, message: dict[str, Any]) -> None:
        handler = _OPERATIONS.get(message.get("op", ""))
        if handler is None:
            logger.warning("unknown message from another node", op=message.get("op"))
            return
        try:
            await handler(self, message)
        except Exception:
            logger.exception("message from another node failed", op=message["op"])

    async def _on_room(self, message: dict[str, Any]) -> None:
        await self.to_room(message["to"], frame_of(message), message.get("exclude", ()))

    async def _on_all(self, message: dict[str, Any]) -> None:
        await self.to_all(frame_of(message), message.get("exclude", ()))

    async def _on_user(self, message: dict[str, Any]) -> None:
        self.to_some(self._node.registry.of_user(message["to"]), frame_of(message))

    async def _on_client(self, message: dict[str, Any]) -> None:
        connection = self._node.registry.get(message["to"])
        self.to_some([connection] if connection else [], frame_of(message))

    async def _on_close_user(self, message: dict[str, Any]) -> None:
        await self.close_some(self._node.registry.of_user(message["to"]), CloseReason(*message["reason"]))

    async def _on_close_client(self, message: dict[str, Any]) -> None:
        connection = self._node.registry.get(message["to"])
        await self.close_some([connection] if connection else [], CloseReason(*message["reason"]))

    async def _on_node(self, message: dict[str, Any]) -> None:
        self._peers[message["from"]] = time.monotonic()

    async def _on_beat(self, message: dict[str, Any]) -> None:
        await self._node.heartbeat.beat()

    async def _sync(self, room: Room) -> None:
        """Make the layer's membership what the room needs; one such effort a room at a time."""
        if self.layer is None:
            if not room.members:
                self.rooms.pop(room.name, None)
            return
        if not await self._is_subscribed():
            self._out_of_sync.add(room.name)
            return
        layer, channel = self.layer, self._channel
        if room.syncing is not None:
            await asyncio.shield(room.syncing)
            return
        room.syncing = self._node.loop.create_future()
        try:
            while room.subscribed != bool(room.members):
                wanted = bool(room.members)
                change: Callable[..., Any] = layer.group_add if wanted else layer.group_discard
                await change(room.group, channel)
                room.subscribed = wanted
        except Exception as error:  # noqa: BLE001 - any layer may raise anything
            self._out_of_sync.add(room.name)
            logger.warning("room is not connected to the channel layer", room=room.group, error=str(error))
        finally:
            room.syncing.set_result(None)
            room.syncing = None
        if not room.members and not room.subscribed and self.rooms.get(room.name) is room:
            del self.rooms[room.name]

    async def _is_subscribed(self) -> bool:
        """Wait for this process's ear in the channel layer, but not for ever: local delivery needs no layer."""
        if not self._subscribed.is_set():
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(LAYER_PATIENCE):
                    await self._subscribed.wait()
        return self._subscribed.is_set()

    async def _subscribe(self, layer: Any) -> str:
        channel = str(await layer.new_channel("realtime"))
        await layer.group_add(EVERYONE, channel)
        self._out_of_sync.update(self.rooms)
        self._subscribed.set()
        return channel

    async def _renew(self, layer: Any, channel: str) -> None:
        """Say again which groups this process is in: memberships expire, and a live one must not."""
        try:
            await layer.group_add(EVERYONE, channel)
            for room in list(self.rooms.values()):
                if room.subscribed:
                    await layer.group_add(room.group, channel)
        except Exception as error:  # noqa: BLE001 - any layer may raise anything
            logger.warning("memberships in the channel layer were not renewed", error=str(error))

    # Presence.

    def _announce(self, room: Room) -> None:
        if not room.announcing:
            room.announcing = True
            self._node.loop.call_later(PRESENCE_DELAY, self._announce_now, room)

    def _announce_now(self, room: Room) -> None:
        room.announcing = False
        joins, leaves = room.roster.changes()
        if joins or leaves:
            self._offer_all(room.members, envelope.presence(room.name, joins, leaves), (), room.policy)


_OPERATIONS: dict[str, Callable[[Hub, dict[str, Any]], Any]] = {
    "room": Hub._on_room,
    "all": Hub._on_all,
    "user": Hub._on_user,
    "client": Hub._on_client,
    "close_user": Hub._on_close_user,
    "close_client": Hub._on_close_client,
    "node": Hub._on_node,
    "beat": Hub._on_beat,
}


def identity_in_presence(connection: Connection) -> str:
    """Return what makes two connections one person: the user, and for visitors the connection itself."""
    return f"user:{connection.user_id}" if connection.user_id is not None else f"visitor:{connection.id}"


def public_id(identity: str) -> str:
    """
    Return what stands for a person in a list that others see.

    It is keyed with the project's secret: primary keys are few, and a plain hash of one is soon guessed.

    """
    return salted_hmac("realtime.presence", identity, algorithm="sha256").hexdigest()[:16]


def frame_of(message: dict[str, Any]) -> Frame:
    """Return the frame that another process sent."""
    key = message.get("key")
    return Frame(message["payload"], key=tuple(key) if key else None)


def _recovered(failing: bool, sentence: str) -> bool:
    if failing:
        logger.info(sentence)
    return False
