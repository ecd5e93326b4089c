"""
Send to rooms, users and clients from anywhere: any process, sync or async code, any thread.

Each function has a twin whose name ends in ``_sync`` for code that does not run in an event loop.

"""

from __future__ import annotations

import asyncio
import concurrent.futures
from collections.abc import Awaitable, Callable, Collection, Coroutine
from dataclasses import replace
from typing import Any, TypeVar

from realtime import envelope, nodes
from realtime.close_codes import KICKED, CloseReason
from realtime.conf import get_settings
from realtime.courier import crossing_layer
from realtime.errors import MissingTarget, PublishError, StateUnavailable
from realtime.frames import Frame
from realtime.history import Place, stored
from realtime.hub import EVERYONE, BroadcastResult, Hub, on_operation
from realtime.nodes import Node
from realtime.once import Once, handling
from realtime.outside import Outside, outside
from realtime.resumption import revocation_key
from realtime.rooms import Kept, checked_name, group_name, history_of, line_of
from realtime.state import State

T = TypeVar("T")

Local = Callable[[Node], Coroutine[Any, Any, BroadcastResult]]
Message = tuple[Local, dict[str, Any], float]
"""What to do in a node of this process, what to tell the others, and for how many seconds to wait for both."""

WAIT_SECONDS = 10.0
"""
Seconds that a publish waits for slow readers unless it says how long: what a handler may spend of its
``REALTIME_HANDLER_TIMEOUT``, and enough for a peer that reads 64 KiB at 7 KiB a second.
"""


async def publish(
    room: str, type: str, data: Any = None, *, exclude: Collection[str] = (), wait: bool | float = False
) -> BroadcastResult:
    """
    Send ``{"type", "room", "data", "ts"}`` to every member of ``room``, in all processes.

    ``exclude`` holds client ids. With ``wait`` the publisher is slowed down to what the readers take: it
    goes on when nothing waits any more for a member in this process, and the message has been handed to
    the channel layer for the others; what these do with it is not known. At most :data:`WAIT_SECONDS`,
    or as many as ``wait`` says. A member that has not caught up by then counts as ``behind``, and is not
    waited for again until it has; what becomes of its messages ``REALTIME_SLOW_CONSUMER`` says.

    In a room with a history the message gets an ``offset``, the same for everybody, and arrives in that
    order. Of a message that a client sends again with the same id, while its handler runs again, the publishes
    do not happen again.

    Raise TypeError for data JSON cannot hold, MissingTarget for a room that is ``None`` or empty,
    PublishQueueFull where publishes pile up, and StateUnavailable where the history cannot be reached: whether
    the message is in it then is not known.

    """
    message, kept, once = _to_room(room, type, data, exclude, _seconds(wait)), *_promises(room)
    if kept is None and once is None:
        return await _everywhere(*message)
    entering = _Entering(message, room, exclude, kept, once)
    here = nodes.live()
    if not here:
        return await asyncio.wrap_future(outside().run(entering.from_outside))
    own = asyncio.get_running_loop()
    first = next((node for node in here if node.loop is own), here[0])
    entered = entering.at_node(first)
    done = await (entered if first.loop is own else _elsewhere(first, entered))
    return entering.note(done if isinstance(done, BroadcastResult) else await _everywhere(*done))


def publish_sync(
    room: str, type: str, data: Any = None, *, exclude: Collection[str] = (), wait: bool | float = False
) -> BroadcastResult:
    """Do what :func:`publish` does, from code without an event loop."""
    message, kept, once = _to_room(room, type, data, exclude, _seconds(wait)), *_promises(room)
    if kept is None and once is None:
        return _everywhere_sync(*message)
    _refuse_in_a_loop()
    entering = _Entering(message, room, exclude, kept, once)
    here = nodes.live()
    if not here:
        return outside().run(entering.from_outside).result()
    done = asyncio.run_coroutine_threadsafe(entering.at_node(here[0]), here[0].loop).result()
    return entering.note(done if isinstance(done, BroadcastResult) else _everywhere_sync(*done))


async def relay(room: str, payload: str | bytes, *, exclude: Collection[str] = ()) -> BroadcastResult:
    """
    Send ``payload`` as it is, text or binary, to every member of ``room``: no envelope is put around it.

    So there is no place for an offset, and it is in no history.

    """
    name = checked_name(_named(room, "room"))
    return await _everywhere(*_frame_to_room(name, Frame(payload), exclude, 0.0))


async def broadcast(type: str, data: Any = None, *, exclude: Collection[str] = ()) -> BroadcastResult:
    """Send to every socket that speaks the protocol, in all processes; ``exclude`` holds client ids."""
    return await _everywhere(*_to_all(type, data, exclude))


def broadcast_sync(type: str, data: Any = None, *, exclude: Collection[str] = ()) -> BroadcastResult:
    """Do what :func:`broadcast` does, from code without an event loop."""
    return _everywhere_sync(*_to_all(type, data, exclude))


async def send_to_user(user: Any, type: str, data: Any = None) -> BroadcastResult:
    """Send to every socket of a user, in all processes. ``user`` is a user object or its primary key."""
    return await _everywhere(*_to_user(user, type, data))


def send_to_user_sync(user: Any, type: str, data: Any = None) -> BroadcastResult:
    """Do what :func:`send_to_user` does, from code without an event loop."""
    return _everywhere_sync(*_to_user(user, type, data))


async def send_to_client(client_id: str, type: str, data: Any = None) -> BroadcastResult:
    """Send to one socket, wherever it is."""
    return await _everywhere(*_to_client(client_id, type, data))


def send_to_client_sync(client_id: str, type: str, data: Any = None) -> BroadcastResult:
    """Do what :func:`send_to_client` does, from code without an event loop."""
    return _everywhere_sync(*_to_client(client_id, type, data))


async def disconnect_client(client_id: str, reason: CloseReason = KICKED) -> BroadcastResult:
    """Close one socket, wherever it is. ``targets`` is 0 if it is not in this process."""
    return await _everywhere(*_close_client(client_id, reason))


def disconnect_client_sync(client_id: str, reason: CloseReason = KICKED) -> BroadcastResult:
    """Do what :func:`disconnect_client` does, from code without an event loop."""
    return _everywhere_sync(*_close_client(client_id, reason))


async def disconnect_user(
    user: Any, reason: CloseReason = KICKED, *, revoke: bool = False
) -> BroadcastResult:
    """
    Close every socket of a user, in all processes. ``user`` is a user object or its primary key.

    With ``revoke`` none of the sessions that the user has now can be resumed either. Raise StateUnavailable, and
    close nothing, where that cannot be noted.

    """
    if revoke:
        await asyncio.wrap_future(in_state(_revocation(_user_id(user))))
    return await _everywhere(*_close_user(user, reason))


def disconnect_user_sync(user: Any, reason: CloseReason = KICKED, *, revoke: bool = False) -> BroadcastResult:
    """Do what :func:`disconnect_user` does, from code without an event loop."""
    _refuse_in_a_loop()
    if revoke:
        in_state(_revocation(_user_id(user))).result()
    return _everywhere_sync(*_close_user(user, reason))


async def revoke_session(client_id: str, reason: CloseReason = KICKED) -> BroadcastResult:
    """
    Let nobody resume the session of a client, and close its socket, wherever it is.

    Raise StateUnavailable, and close nothing, where that cannot be noted.

    """
    await asyncio.wrap_future(in_state(_revocation_of(_named(client_id, "client"))))
    return await _everywhere(*_close_client(client_id, reason))


def revoke_session_sync(client_id: str, reason: CloseReason = KICKED) -> BroadcastResult:
    """Do what :func:`revoke_session` does, from code without an event loop."""
    _refuse_in_a_loop()
    in_state(_revocation_of(_named(client_id, "client"))).result()
    return _everywhere_sync(*_close_client(client_id, reason))


async def replace_client(client_id: str, *, turn: int, instance: str) -> None:
    """
    Close the sockets that a client had before it came back, in all processes.

    ``turn`` and ``instance`` are those of its new connection.

    """

    async def local(node: Node) -> BroadcastResult:
        node.sessions.replaced(client_id, turn, instance)
        return BroadcastResult()

    told = {"op": "replaced", "to": client_id, "turn": turn, "instance": instance}
    await _everywhere(local, {"group": EVERYONE, **told})


async def _on_replaced(hub: Hub, message: dict[str, Any]) -> None:
    nodes.current().sessions.replaced(message["to"], message["turn"], message["instance"])


on_operation("replaced", _on_replaced)


async def beat() -> None:
    """Have every process look after its sockets now: what a heartbeat worker outside the servers does."""

    async def local(node: Node) -> BroadcastResult:
        await node.heartbeat.beat()
        return BroadcastResult()

    await _everywhere(local, {"group": EVERYONE, "op": "beat"})


def _revocation(user_id: str) -> Callable[[State], Coroutine[Any, Any, None]]:
    async def revoke(state: State) -> None:
        await state.put(revocation_key(user_id), repr(await state.now()).encode(), _revoked_for())

    return revoke


def _revocation_of(client_id: str) -> Callable[[State], Coroutine[Any, Any, None]]:
    async def revoke(state: State) -> None:
        await state.revoke_session(client_id, _revoked_for())

    return revoke


def _revoked_for() -> float:
    """Return the seconds after which nothing is left of a session that is saved once more while it is revoked."""
    return 2 * get_settings().session_ttl


def in_state(work: Callable[[State], Coroutine[Any, Any, T]]) -> concurrent.futures.Future[T]:
    """Do something in the state that this process shares with the others, whether it has a node or none."""
    here = nodes.live()
    if here:
        return asyncio.run_coroutine_threadsafe(work(here[0].state), here[0].loop)

    async def there(outside: Outside) -> T:
        return await work(outside.state)

    return outside().run(there)


# What each of them is: what to do in a node of this process, and what to tell the others.


def _to_room(
    room: str, type: str, data: Any, exclude: Collection[str], seconds: float
) -> tuple[Local, dict[str, Any], float]:
    name = checked_name(_named(room, "room"))
    return _frame_to_room(name, envelope.event(_event_type(type), data, room=name), exclude, seconds)


def _frame_to_room(
    name: str, frame: Frame, exclude: Collection[str], seconds: float
) -> tuple[Local, dict[str, Any], float]:
    async def local(node: Node) -> BroadcastResult:
        result = await node.hub.to_room(name, frame, exclude)
        if seconds:
            result = replace(result, behind=await node.hub.catch_up(name, seconds, exclude))
        return result

    message = {"group": group_name(name), "op": "room", "to": name, **_carried(frame)}
    if exclude:
        message["exclude"] = list(exclude)
    return local, message, seconds


def _to_all(type: str, data: Any, exclude: Collection[str]) -> tuple[Local, dict[str, Any]]:
    frame = envelope.event(_event_type(type), data)

    async def local(node: Node) -> BroadcastResult:
        return await node.hub.to_all(frame, exclude)

    return local, {"group": EVERYONE, "op": "all", "exclude": list(exclude), **_carried(frame)}


def _to_user(user: Any, type: str, data: Any) -> tuple[Local, dict[str, Any]]:
    user_id = _user_id(user)
    frame = envelope.event(_event_type(type), data)

    async def local(node: Node) -> BroadcastResult:
        return node.hub.to_some(node.registry.of_user(user_id), frame)

    return local, {"group": EVERYONE, "op": "user", "to": user_id, **_carried(frame)}


def _to_client(client_id: str, type: str, data: Any) -> tuple[Local, dict[str, Any]]:
    name = _named(client_id, "client")
    frame = envelope.event(_event_type(type), data)

    async def local(node: Node) -> BroadcastResult:
        connection = node.registry.get(name)
        return node.hub.to_some([connection] if connection else [], frame)

    return local, {"group": EVERYONE, "op": "client", "to": name, **_carried(frame)}


def _close_client(client_id: str, reason: CloseReason) -> tuple[Local, dict[str, Any]]:
    name = _named(client_id, "client")

    async def local(node: Node) -> BroadcastResult:
        connection = node.registry.get(name)
        return await node.hub.close_some([connection] if connection else [], reason)

    return local, {"group": EVERYONE, "op": "close_client", "to": name, "reason": _reason(reason)}


def _close_user(user: Any, reason: CloseReason) -> tuple[Local, dict[str, Any]]:
    user_id = _user_id(user)

    async def local(node: Node) -> BroadcastResult:
        return await node.hub.close_some(node.registry.of_user(user_id), reason)

    return local, {"group": EVERYONE, "op": "close_user", "to": user_id, "reason": _reason(reason)}


def _named(target: object, kind: str) -> str:
    if not isinstance(target, str) or not target:
        raise MissingTarget(f"{target!r} names no {kind}. To reach everybody, call broadcast().")
    return target


def _user_id(user: Any) -> str:
    key = getattr(user, "pk", user)
    if key is None or key == "":
        raise MissingTarget(f"{user!r} is not a saved user. To reach everybody, call broadcast().")
    return str(key)


def _seconds(wait: bool | float) -> float:
    if wait is True:
        return WAIT_SECONDS
    if wait < 0:
        raise ValueError(f"A publish cannot wait {wait!r} seconds. Use True, or a number above 0.")
    return float(wait)


def _event_type(type: str) -> str:
    if not isinstance(type, str) or not type or type.startswith(envelope.SYSTEM):
        raise ValueError(
            f"{type!r} cannot be published: a type is a string, and 'system.' is the protocol's own."
        )
    return type


def _carried(frame: Frame) -> dict[str, Any]:
    return {"payload": frame.payload, "key": list(frame.key) if isinstance(frame.key, tuple) else None}


def _reason(reason: CloseReason) -> list[Any]:
    return [reason.code, reason.name, reason.text, reason.retry]


# Publishes with a history, and those that happen once.


def _promises(room: str) -> tuple[Kept | None, Once | None]:
    """Return what is kept of a room, and which message of a client is being handled, where that matters."""
    settings = get_settings()
    return history_of(room), handling.get() if settings.dedupe_window else None


class _Entering:
    """A publish that has to be let in by the shared state before anybody gets it."""

    def __init__(
        self, message: Message, room: str, exclude: Collection[str], kept: Kept | None, once: Once | None
    ) -> None:
        self._message = message
        self._room = room
        self._exclude = exclude
        self._kept = kept
        self._once = once
        self._key = None if once is None else once.next_key()

    async def at_node(self, node: Node) -> Message | BroadcastResult:
        """Return what is to be done in all nodes, or that there is nothing to do."""
        # Before anything has happened: what is in the history cannot be taken back.
        node.hub.refuse_if_full()
        with node.hub.gathering:
            return await self._let_in(node.state)

    async def from_outside(self, outside: Outside) -> BroadcastResult:
        """Publish where there is no node."""
        if crossing_layer() is None:
            return BroadcastResult()
        if self._kept is not None and get_settings().state_url == "memory://":
            raise PublishError(
                f"The history of {self._room!r} is in the memory of a server process, and this is another one."
                " Set REALTIME_STATE_URL to a Redis that all processes use."
            )
        done = await self._let_in(outside.state)
        if isinstance(done, BroadcastResult):
            return done
        await outside.send(done[1])
        offset = done[1].get("offset")
        return self.note(BroadcastResult(nodes=1, offset=offset, duplicate=done[1]["op"] == "hint"))

    def note(self, result: BroadcastResult) -> BroadcastResult:
        """Let the acknowledgement know where the message went."""
        if self._once is not None and result.offset is not None:
            self._once.offset = result.offset
        return result

    async def _let_in(self, state: State) -> Message | BroadcastResult:
        window = get_settings().dedupe_window
        if self._kept is None:
            return (
                self._message if await _claimed(state, self._key, window) else BroadcastResult(duplicate=True)
            )
        event = str(self._message[1]["payload"]).encode()
        payload = stored(event, self._exclude)
        size, ttl = self._kept
        appended = await state.append(
            self._room, payload, size=size, ttl=ttl, dedupe=self._key, window=window
        )
        place = Place(appended.epoch, appended.offset)
        if appended.duplicate:
            return _hint(self._room, place)
        return _kept_message(self._room, place, payload, self._exclude, self._message[2])


async def _claimed(state: State, key: str | None, window: float) -> bool:
    """Return whether a message is to be published, now that nothing keeps it: twice rather than never."""
    if key is None:
        return True
    try:
        return await state.claim(key, window)
    except StateUnavailable:
        return True


def _kept_message(
    room: str, place: Place, payload: bytes, exclude: Collection[str], seconds: float
) -> Message:
    line = line_of(payload, place.offset)

    async def local(node: Node) -> BroadcastResult:
        result = await node.hub.arrived(room, place, line, len(payload))
        if seconds:
            result = replace(result, behind=await node.hub.catch_up(room, seconds, exclude))
        return result

    remote = {"group": group_name(room), "op": "room", "to": room, "payload": payload, **place._asdict()}
    return local, remote, seconds


def _hint(room: str, place: Place) -> Message:
    """Return what heals a first attempt that got no further than into the history."""

    async def local(node: Node) -> BroadcastResult:
        node.hub.hinted(room, place)
        return BroadcastResult(nodes=node.hub.known_nodes(), offset=place.offset, duplicate=True)

    return local, {"group": group_name(room), "op": "hint", "to": room, **place._asdict()}, 0.0


# How they reach this process's nodes and the other processes.


async def _everywhere(local: Local, remote: dict[str, Any], seconds: float = 0.0) -> BroadcastResult:
    here = nodes.live()
    if not here:
        if crossing_layer() is None:
            return BroadcastResult()
        return await asyncio.wrap_future(outside().run(_sending(remote)))
    own = asyncio.get_running_loop()
    first = next((node for node in here if node.loop is own), here[0])
    result = BroadcastResult()
    for node in here:
        work = _in_node(node, local, remote if node is first else None, seconds)
        result += await (work if node.loop is own else _elsewhere(node, work))
    return result


def _everywhere_sync(local: Local, remote: dict[str, Any], seconds: float = 0.0) -> BroadcastResult:
    _refuse_in_a_loop()
    here = nodes.live()
    if not here:
        return BroadcastResult() if crossing_layer() is None else outside().run(_sending(remote)).result()
    result = BroadcastResult()
    for node in here:
        work = _in_node(node, local, remote if node is here[0] else None, seconds)
        result += asyncio.run_coroutine_threadsafe(work, node.loop).result()
    return result


def _refuse_in_a_loop() -> None:
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return
    raise PublishError(
        "This is an event loop: await the function without _sync instead of blocking the loop."
    )


async def _in_node(
    node: Node, local: Local, remote: dict[str, Any] | None, seconds: float
) -> BroadcastResult:
    """Tell the others and this node; with ``seconds``, wait at most that long for each of the two, at once."""
    if remote is None:
        return await local(node)
    # The other processes first: a queue that is full refuses the message before anybody has seen it.
    if not seconds:
        node.hub.send_remote(remote)
        return await local(node)
    gone, deadline = node.loop.create_future(), node.loop.time() + seconds
    node.hub.send_remote(remote, gone)
    result = await local(node)
    if not gone.done():
        await asyncio.wait([gone], timeout=max(0.0, deadline - node.loop.time()))
    return result


def _elsewhere(node: Node, work: Coroutine[Any, Any, T]) -> Awaitable[T]:
    return asyncio.wrap_future(asyncio.run_coroutine_threadsafe(work, node.loop))


def _sending(remote: dict[str, Any]) -> Callable[[Outside], Coroutine[Any, Any, BroadcastResult]]:
    """Return the work that hands a message to the layer: this process serves no sockets, others may."""

    async def send(outside: Outside) -> BroadcastResult:
        await outside.send(remote)
        return BroadcastResult(nodes=1)

    return send
