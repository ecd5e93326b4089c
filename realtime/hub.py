"""Carry a message to every socket it is for: those of this process directly, the others with one trip through the layer."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections import deque
from collections.abc import Awaitable, Callable, Collection, Iterable
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from ratelimit.logs import get_logger
from realtime import envelope
from realtime.arrivals import Arrivals
from realtime.attendance import Attendance
from realtime.catchup import CatchUp
from realtime.close_codes import CloseReason
from realtime.conf import get_settings
from realtime.courier import PROCESS, Courier, crossing_layer
from realtime.errors import ClientError, PublishQueueFull
from realtime.frames import Frame
from realtime.gathering import Gathering
from realtime.history import Entry, Place, Recovery, Ring, Sequencer, Shelf
from realtime.repairs import Repairs
from realtime.rooms import Line, Room, checked_name, history_of, line_of

if TYPE_CHECKING:
    from realtime.connections import Connection
    from realtime.nodes import Node
    from realtime.outbox import Policy

logger = get_logger("realtime")

EVERYONE = "realtime.nodes"
"""The group every process is in."""

NODE_LEASE = 15.0
"""Seconds after which a node that has not been heard of is no longer counted."""

ANNOUNCE_INTERVAL = 5.0
LAYER_PATIENCE = 2.0
"""Seconds that joining a room waits for a channel layer that does not answer."""

MAX_WAITING, MAX_WAITING_BYTES = 1000, 1024 * 1024
"""Messages of one room that may wait for one before them; what is more is fetched like the missing ones."""


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
    offset: int | None = None
    """Where it is in the history of its room; ``None`` where it has none."""
    duplicate: bool = False
    """Whether it had been published before, so that it reached nobody again."""

    def __add__(self, other: BroadcastResult) -> BroadcastResult:
        return BroadcastResult(
            self.targets + other.targets,
            self.failed + other.failed,
            max(self.nodes, other.nodes),
            self.behind + other.behind,
            other.offset if self.offset is None else self.offset,
            self.duplicate or other.duplicate,
        )


@dataclass(slots=True)
class _Delivery:
    """A fan-out that waits for its turn."""

    connections: Iterable[Connection]
    frame: Frame
    exclude: Collection[str]
    policy: Policy | None
    done: asyncio.Future[BroadcastResult]


class Hub:
    """
    The rooms of one node, and the node's ear in the channel layer.

    Messages of one publisher to one room arrive in the order they were published. Belongs to the
    node's loop.

    """

    def __init__(self, node: Node) -> None:
        self._node = node
        self.rooms: dict[str, Room] = {}
        self.layer = crossing_layer(node.state)
        self.courier = Courier(self.layer, node.counters)
        self.gathering = Gathering(node.loop, self.courier)
        self.repairs = Repairs(self, node.state)
        self.arrivals = Arrivals(self)
        self.attendance = Attendance(node)
        self._channel: str | None = None
        self._deliveries: deque[_Delivery] = deque()
        self._delivering: asyncio.Task[None] | None = None
        self._peers: dict[str, float] = {}
        self._out_of_sync: set[str] = set()
        self._subscribed = asyncio.Event()
        self._shelf: Shelf | None = None
        self._unrested = 0
        """Messages taken in, and sockets they were offered to, since the receiver gave others a turn."""

    # What observers see.

    @property
    def queue_size(self) -> int:
        """Publishes that wait: for a turn here, or for the channel layer."""
        return len(self._deliveries) + len(self.courier)

    def known_nodes(self) -> int:
        """Return how many processes are known to be alive, this one included."""
        if self._node.has_others:
            return self._node.census.processes
        if not self._peers:
            return 1
        horizon = time.monotonic() - NODE_LEASE
        return 1 + sum(1 for heard in self._peers.values() if heard > horizon)

    # Rooms.

    async def join(
        self,
        connection: Connection,
        name: str,
        *,
        presence: dict[str, Any] | None = None,
        counts: bool = False,
    ) -> Room:
        """
        Let a connection into a room.

        With ``presence`` it is seen there: that is what others see of it, and with ``counts`` they see only how many
        they are. Returns when the channel layer sends the room to this process too, or has failed to: then that is
        tried again until it works.

        Into a room with history it has only one foot in the door: ``arrivals`` brings it to where the room is.

        """
        room = self.rooms.get(checked_name(name)) or self._begun(name)
        if name not in connection.rooms and len(connection.rooms) >= get_settings().max_rooms:
            raise ClientError("too_many_rooms", f"You are in {len(connection.rooms)} rooms. Leave one first.")
        connection.rooms[name] = None
        if room.past is None:
            room.members[connection] = None
        elif connection not in room.members:
            if not room.wanted:
                # What came while nobody was here was not listened to.
                self._begin_past(room)
            room.arriving.setdefault(connection)
        if presence is not None:
            self.attendance.enter(room, connection, presence, counts=counts)
        await self._sync(room)
        if presence is not None:
            # Only now: who comes elsewhere after the answer is heard of here.
            await self.attendance.settled(room)
        if room.past is not None and not room.past.placed:
            # Only now: what comes after the answer is sent here.
            await self.repairs.place(room, LAYER_PATIENCE)
        return room

    def _begun(self, name: str) -> Room:
        room = self.rooms[name] = Room(name)
        if history_of(name) is not None:
            self._begin_past(room)
            self.repairs.start()
        return room

    def _begin_past(self, room: Room) -> None:
        kept = history_of(room.name)
        if room.past is not None:
            room.past.ring.clear()
        if self._shelf is None:
            self._shelf = Shelf(get_settings().history_cache_bytes)
        ring: Ring[Line] = Ring(kept.size if kept else 0, self._shelf.max_bytes // 8, self._shelf)
        room.placing = None
        room.past = Sequencer(ring, max_waiting=MAX_WAITING, max_waiting_bytes=MAX_WAITING_BYTES)

    async def leave(self, connection: Connection, name: str) -> None:
        """Let a connection out of a room; leaving a room it is not in does nothing."""
        connection.rooms.pop(name, None)
        room = self.rooms.get(name)
        if room is None or not (connection in room.members or connection in room.arriving):
            return
        room.members.pop(connection, None)
        self.arrivals.forget(connection, room)
        self.attendance.leave(room, connection)
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

    async def arrived(self, name: str, place: Place, line: Line, size: int) -> BroadcastResult:
        """
        Take in a message of a room with history, and deliver what it is the turn of, to the members that are here.

        ``size`` is in bytes. Nothing is awaited before all that is in order has been handed to the members.

        """
        room = self.rooms.get(name)
        past = None if room is None else room.past
        if room is None or past is None:
            return BroadcastResult(nodes=self.known_nodes(), offset=place.offset)
        own = None
        for entry in past.take(*place, line, size):
            handed = self.hand_on(room, entry)
            own = handed if entry.offset == place.offset else own
        if past.behind:
            self.repairs.wake(room)
        if own is None:
            # Those before it are missing: it goes out as soon as they have come.
            result = BroadcastResult(_count(room.members, line.exclude), 0, self.known_nodes())
        else:
            result = own if isinstance(own, BroadcastResult) else await asyncio.shield(own)
        return replace(result, offset=place.offset)

    def hinted(self, name: str, place: Place) -> None:
        """Take note that a message of a room with history exists."""
        room = self.rooms.get(name)
        if room is not None and room.past is not None:
            room.past.hint(*place)
            if room.past.behind:
                self.repairs.wake(room)

    def hand_on(self, room: Room, entry: Entry[Line]) -> BroadcastResult | asyncio.Future[BroadcastResult]:
        """Hand a message whose turn it is to the members; none of them may do without, whatever the policy."""
        frame, exclude = entry.item
        return self._hand_out(room.members, frame, exclude)

    def tell_lost(self, room: Room, told: Recovery[Line]) -> None:
        """Tell the members that the room does not simply go on."""
        frame = envelope.recovered(room.name, told, 0)
        self._hand_out([one for one in room.members if one.speaks_protocol], frame, ())

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
        self.refuse_if_full()
        return await asyncio.shield(self._queue(connections, frame, exclude, policy))

    def _hand_out(
        self, connections: Collection[Connection], frame: Frame, exclude: Collection[str]
    ) -> BroadcastResult | asyncio.Future[BroadcastResult]:
        """Deliver now or in turn what has a place in a history: it is never refused, and never given up by a policy."""
        if self._delivering is None and len(connections) <= get_settings().max_concurrent_broadcast:
            return self._offer_all(connections, frame, exclude, "disconnect")
        return self._queue(connections, frame, exclude, "disconnect")

    def _queue(
        self,
        connections: Collection[Connection],
        frame: Frame,
        exclude: Collection[str],
        policy: Policy | None,
    ) -> asyncio.Future[BroadcastResult]:
        loop = self._node.loop
        delivery = _Delivery(list(connections), frame, exclude, policy, loop.create_future())
        self._deliveries.append(delivery)
        if self._delivering is None:
            self._delivering = loop.create_task(self._deliver_waiting(), name="realtime.delivery")
        return delivery.done

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
        self._unrested += targets
        return BroadcastResult(targets, failed, self.known_nodes())

    # To and from the other processes.

    def send_remote(
        self, message: dict[str, Any], gone: asyncio.Future[Exception | None] | None = None
    ) -> None:
        """
        Queue one message for the other processes.

        ``group`` in it is the group it goes to; ``gone`` is set when it has been handed to the channel
        layer, or given up. Raise PublishQueueFull where the channel layer is slower than the publishers.

        """
        if self.layer is not None:
            self.refuse_if_full()
            self.courier.send(message, gone)
        elif gone is not None:
            gone.set_result(None)

    def hint_others(self, room: Room, place: Place) -> None:
        """Tell the other processes that a message of a room exists, or did."""
        self.send_remote({"group": room.group, "op": "hint", "to": room.name, **place._asdict()})

    def supervise(self, name: str, work: Callable[[], Awaitable[None]]) -> None:
        """Keep a background task of this node alive."""
        self._node.supervisor.start(name, work)

    def refuse_if_full(self) -> None:
        """Raise PublishQueueFull where as many publishes wait in this process as may."""
        limit = get_settings().max_queue_size
        if self.queue_size >= limit:
            self._node.counters.queue_overflows += 1
            raise PublishQueueFull(
                f"{self.queue_size} publishes wait in this process, and REALTIME_MAX_QUEUE_SIZE is {limit}."
                " Publish more slowly, or look why the channel layer is slow."
            )

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
            if failing:
                # What came meanwhile may be gone.
                self.repairs.check_soon()
                self.attendance.check()
            failing = _recovered(failing, "channel layer delivers again")
            if message.get("from") != PROCESS:
                await self._received(message)
                await self._rest()

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
                    self.repairs.check_soon()
                    self.attendance.check()
            if now - renewed > renew_every and self._channel is not None:
                renewed = now
                try:
                    await self._renew(layer, self._channel)
                except Exception as error:  # noqa: BLE001 - any layer may raise anything
                    logger.warning("memberships in the channel layer were not renewed", error=str(error))
            self._peers = {name: heard for name, heard in self._peers.items() if heard > now - NODE_LEASE}
            await asyncio.sleep(1.0)

    async def aclose(self) -> None:
        """Leave the channel layer."""
        self.gathering.end()
        if self.layer is None or self._channel is None:
            return
        groups = [EVERYONE, *(room.group for room in self.rooms.values() if room.subscribed is not False)]
        for group in groups:
            await self.layer.group_discard(group, self._channel)

    async def _received(self, message: dict[str, Any]) -> None:
        if "ops" not in message:
            await self._carry_out(message)
            return
        for one in message["ops"]:
            self.gathering.begin()
            await self._carry_out({"from": message["from"], **one})
            await self._rest()

    async def _rest(self) -> None:
        """Give others a turn where what has come was for many sockets: a layer may have much more of it at hand."""
        self._unrested += 1
        if self._unrested >= get_settings().max_concurrent_broadcast:
            self._unrested = 0
            await asyncio.sleep(0)

    async def _carry_out(self, message: dict[str, Any]) -> None:
        handler = _OPERATIONS.get(message.get("op", ""))
        if handler is None:
            logger.warning("unknown message from another node", op=message.get("op"))
            return
        try:
            await handler(self, message)
        except Exception:
            logger.exception("message from another node failed", op=message["op"])

    async def _on_room(self, message: dict[str, Any]) -> None:
        if "epoch" in message:
            payload, place = message["payload"], Place(message["epoch"], message["offset"])
            await self.arrived(message["to"], place, line_of(payload, place.offset), len(payload))
            return
        await self.to_room(message["to"], frame_of(message), message.get("exclude", ()))

    async def _on_hint(self, message: dict[str, Any]) -> None:
        self.hinted(message["to"], Place(message["epoch"], message["offset"]))

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
            if not room.wanted:
                self._forget(room)
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
            while room.subscribed is not room.wanted:
                wanted = room.wanted
                change: Callable[..., Any] = layer.group_add if wanted else layer.group_discard
                room.subscribed = None
                # Whoever enters or leaves waits for this, and a layer may say nothing for as long as it likes.
                async with asyncio.timeout(LAYER_PATIENCE):
                    await change(room.group, channel)
                room.subscribed = wanted
        except Exception as error:  # noqa: BLE001 - any layer may raise anything
            self._out_of_sync.add(room.name)
            logger.warning("room is not connected to the channel layer", room=room.group, error=repr(error))
        finally:
            room.syncing.set_result(None)
            room.syncing = None
        if not room.wanted and room.subscribed is False:
            self._forget(room)

    def _forget(self, room: Room) -> None:
        if self.rooms.get(room.name) is room:
            del self.rooms[room.name]
            if room.past is not None:
                room.past.ring.clear()

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
        await layer.group_add(EVERYONE, channel)
        for room in list(self.rooms.values()):
            if room.subscribed:
                await layer.group_add(room.group, channel)

    # Presence.

    def tell(self, room: Room, frame: Frame) -> None:
        """Tell those in a room something about it."""
        here = [one for one in (*room.members, *room.arriving) if one.speaks_protocol]
        self._offer_all(here, frame, (), room.policy)

    async def _on_presence(self, message: dict[str, Any]) -> None:
        self.attendance.changed_elsewhere(message["to"])


_OPERATIONS: dict[str, Callable[[Hub, dict[str, Any]], Any]] = {
    "room": Hub._on_room,
    "hint": Hub._on_hint,
    "all": Hub._on_all,
    "user": Hub._on_user,
    "client": Hub._on_client,
    "close_user": Hub._on_close_user,
    "close_client": Hub._on_close_client,
    "node": Hub._on_node,
    "beat": Hub._on_beat,
    "presence": Hub._on_presence,
}


def on_operation(op: str, handler: Callable[[Hub, dict[str, Any]], Awaitable[None]]) -> None:
    """
    Have ``handler`` called with each message of another process whose ``op`` this is.

    The receiver waits for it: whatever takes time belongs into a task.

    """
    _OPERATIONS[op] = handler


def frame_of(message: dict[str, Any]) -> Frame:
    """Return the frame that another process sent."""
    key = message.get("key")
    return Frame(message["payload"], key=tuple(key) if key else None)


def _count(members: Collection[Connection], exclude: Collection[str]) -> int:
    return sum(one.id not in exclude for one in members) if exclude else len(members)


def _recovered(failing: bool, sentence: str) -> bool:
    if failing:
        logger.info(sentence)
    return False
