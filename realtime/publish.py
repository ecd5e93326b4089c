"""
Send to rooms, users and clients from anywhere: any process, sync or async code, any thread.

Each function has a twin whose name ends in ``_sync`` for code that does not run in an event loop.

"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Collection, Coroutine
from dataclasses import replace
from typing import Any

from asgiref.sync import async_to_sync
from channels.layers import InMemoryChannelLayer, get_channel_layer

from realtime import envelope, nodes
from realtime.close_codes import KICKED, CloseReason
from realtime.errors import MissingTarget, PublishError
from realtime.frames import Frame
from realtime.hub import EVERYONE, PROCESS, BroadcastResult
from realtime.nodes import Node
from realtime.rooms import checked_name, group_name

Local = Callable[[Node], Coroutine[Any, Any, BroadcastResult]]

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

    Raise TypeError for data JSON cannot hold, MissingTarget for a room that is ``None`` or empty, and
    PublishQueueFull where publishes pile up.

    """
    return await _everywhere(*_to_room(room, type, data, exclude, _seconds(wait)))


def publish_sync(
    room: str, type: str, data: Any = None, *, exclude: Collection[str] = (), wait: bool | float = False
) -> BroadcastResult:
    """Do what :func:`publish` does, from code without an event loop."""
    return _everywhere_sync(*_to_room(room, type, data, exclude, _seconds(wait)))


async def relay(room: str, payload: str | bytes, *, exclude: Collection[str] = ()) -> BroadcastResult:
    """Send ``payload`` as it is, text or binary, to every member of ``room``: no envelope is put around it."""
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


async def disconnect_user(user: Any, reason: CloseReason = KICKED) -> BroadcastResult:
    """Close every socket of a user, in all processes. ``user`` is a user object or its primary key."""
    return await _everywhere(*_close_user(user, reason))


def disconnect_user_sync(user: Any, reason: CloseReason = KICKED) -> BroadcastResult:
    """Do what :func:`disconnect_user` does, from code without an event loop."""
    return _everywhere_sync(*_close_user(user, reason))


async def beat() -> None:
    """Have every process look after its sockets now: what a heartbeat worker outside the servers does."""

    async def local(node: Node) -> BroadcastResult:
        await node.heartbeat.beat()
        return BroadcastResult()

    await _everywhere(local, {"group": EVERYONE, "op": "beat"})


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


# How they reach this process's nodes and the other processes.


async def _everywhere(local: Local, remote: dict[str, Any], seconds: float = 0.0) -> BroadcastResult:
    here = nodes.live()
    if not here:
        return await _without_node(remote)
    own = asyncio.get_running_loop()
    first = next((node for node in here if node.loop is own), here[0])
    result = BroadcastResult()
    for node in here:
        work = _in_node(node, local, remote if node is first else None, seconds)
        result += await (work if node.loop is own else _elsewhere(node, work))
    return result


def _everywhere_sync(local: Local, remote: dict[str, Any], seconds: float = 0.0) -> BroadcastResult:
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        pass
    else:
        raise PublishError(
            "This is an event loop: await the function without _sync instead of blocking the loop."
        )
    here = nodes.live()
    if not here:
        return async_to_sync(_without_node)(remote)
    result = BroadcastResult()
    for node in here:
        work = _in_node(node, local, remote if node is here[0] else None, seconds)
        result += asyncio.run_coroutine_threadsafe(work, node.loop).result()
    return result


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


def _elsewhere(node: Node, work: Coroutine[Any, Any, BroadcastResult]) -> Awaitable[BroadcastResult]:
    return asyncio.wrap_future(asyncio.run_coroutine_threadsafe(work, node.loop))


async def _without_node(remote: dict[str, Any]) -> BroadcastResult:
    """Hand the message to the layer: this process serves no sockets, others may."""
    layer = get_channel_layer()
    if layer is None or isinstance(layer, InMemoryChannelLayer):
        return BroadcastResult()
    await layer.group_send(remote["group"], {"type": "realtime.deliver", "from": PROCESS, **remote})
    return BroadcastResult(nodes=1)
