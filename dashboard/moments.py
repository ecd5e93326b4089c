"""One moment of all nodes, read once for each request however often a page asks."""

from __future__ import annotations

import time
from collections import Counter
from functools import cached_property

from django.http import HttpRequest

from dashboard.conf import get_settings
from ratelimit import counters
from ratelimit.counters import RateLimitSnapshot
from realtime import cluster, nodes
from realtime.nodes import NodeSnapshot
from realtime.registry import ConnectionInfo

_ATTRIBUTE = "_dashboard_moment"


class Moment:
    """
    What this process, and what is known of the others, looked like at one time.

    Each part is read when it is first asked for, so a page pays for what it shows.

    """

    def __init__(self) -> None:
        self.taken_at = time.time()
        """Seconds since the epoch."""

    @cached_property
    def connections(self) -> list[ConnectionInfo]:
        """The newest connections of all nodes, ``DASHBOARD_MAX_ROWS`` at most."""
        return cluster.connection_infos(limit=get_settings().max_rows)

    @cached_property
    def own_connections(self) -> list[ConnectionInfo]:
        """The newest connections of this process."""
        return nodes.connection_infos(limit=get_settings().max_rows)

    @cached_property
    def processes(self) -> list[NodeSnapshot]:
        """Every process of all nodes, this one first."""
        return [self.node, *cluster.other_nodes().snapshots]

    @cached_property
    def unknown(self) -> str:
        """Why nothing is known of other nodes, as a sentence; empty where it is."""
        return cluster.other_nodes().problem

    @cached_property
    def open(self) -> int:
        """Connections of all nodes."""
        return self.node.connections + len(cluster.others().connections)

    @cached_property
    def named(self) -> int:
        """Connections of authenticated users, of all nodes."""
        return self.node.named + sum(info.user_id is not None for info in cluster.others().connections)

    @cached_property
    def rooms_open(self) -> int:
        """Rooms with a member. A room of several nodes is one room, as far as its members are listed."""
        return max(
            len(self.rooms) if len(self.processes) > 1 else 0, *(one.rooms for one in self.processes), 0
        )

    @cached_property
    def node(self) -> NodeSnapshot:
        """This process as the realtime app sees it."""
        return nodes.snapshot()

    @cached_property
    def limits(self) -> RateLimitSnapshot:
        """This process as the ratelimit app sees it."""
        return counters.snapshot()

    @cached_property
    def routes(self) -> Counter[str]:
        """Connections by route."""
        return Counter(info.route for info in self.connections)

    @cached_property
    def consumers(self) -> Counter[str]:
        """Connections by consumer."""
        return Counter(info.consumer for info in self.connections)

    @cached_property
    def nodes(self) -> Counter[str]:
        """Connections by node."""
        return Counter(info.node for info in self.connections)

    @cached_property
    def rooms(self) -> Counter[str]:
        """Connections by room."""
        return Counter(room for info in self.connections for room in info.rooms)

    @cached_property
    def limited(self) -> int:
        """Connections that had a message refused."""
        return sum(1 for info in self.connections if info.limited)


def moment_of(request: HttpRequest) -> Moment:
    """Return the moment this request is answered with."""
    moment = getattr(request, _ATTRIBUTE, None)
    if not isinstance(moment, Moment):
        moment = Moment()
        setattr(request, _ATTRIBUTE, moment)
    return moment
