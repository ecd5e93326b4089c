"""Overridden settings in what is open already: sockets, rooms and deadlines that were made with the values before."""

from __future__ import annotations

import contextlib
from typing import Any

from ratelimit import overrides
from ratelimit.turns import in_turns
from realtime import nodes
from realtime.conf import RealtimeSettings, get_settings
from realtime.connections import Connection
from realtime.nodes import Node
from realtime.outbox import policy_of
from realtime.rooms import Room, history_of


def follow() -> None:
    """Bring what is open up to date whenever an override changes. May be called again."""
    if bring_up_to_date not in overrides.watch.on_change:
        overrides.watch.on_change.append(bring_up_to_date)


def bring_up_to_date(stored: dict[str, Any]) -> None:
    """Have what is open in this process be as the settings are now. Callable from any thread."""
    history_of.cache_clear()
    for node in nodes.live():
        # A loop that has just been closed has no open sockets left.
        with contextlib.suppress(RuntimeError):
            node.loop.call_soon_threadsafe(_begin, node, get_settings())


def adopt(connection: Connection, settings: RealtimeSettings) -> None:
    """Give a socket the bounds of its outgoing messages, and look after it as patiently as the settings say."""
    connection.outbox.max_bytes = settings.max_outbound_bytes
    connection.outbox.policy = policy_of(settings.slow_consumer)
    heartbeat = connection.node.heartbeat
    heartbeat.forget(connection)
    heartbeat.track(connection)


def _begin(node: Node, settings: RealtimeSettings) -> None:
    def adopt_open(connection: Connection) -> None:
        if not connection.closed:
            adopt(connection, settings)

    def adopt_room(room: Room) -> None:
        room.policy = policy_of(settings.slow_consumer, room.name)

    in_turns(node.loop, iter(node.registry), adopt_open)
    in_turns(node.loop, iter(list(node.hub.rooms.values())), adopt_room)
