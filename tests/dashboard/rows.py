"""Connections and nodes to look at, with every field filled in and any of them changed."""

from __future__ import annotations

import time
from typing import Any

from realtime.counters import Rates
from realtime.nodes import NodeSnapshot, Totals
from realtime.registry import ConnectionInfo
from realtime.supervisor import TaskState


def info(**known: Any) -> ConnectionInfo:
    """Return a connection; what is not given is plausible."""
    now = time.time()
    fields: dict[str, Any] = {
        "id": "client-1",
        "user_id": None,
        "user": "",
        "address": "192.0.2.1",
        "path": "/ws/chat/lobby/",
        "route": "/ws/chat/<room>/",
        "node": "web-1",
        "consumer": "ChatConsumer",
        "rooms": ("lobby",),
        "opened_at": now - 60,
        "last_seen": now - 1,
        "rtt": 0.012,
        "messages_in": 3,
        "messages_out": 5,
        "bytes_in": 300,
        "bytes_out": 500,
        "outbound_bytes": 0,
        "errors": 0,
        "limited": 0,
        "remaining": 120,
        "subprotocol": "",
        "user_agent": "tests",
        "transport": "asgi",
    }
    return ConnectionInfo(**{**fields, **known})


def snapshot(**known: Any) -> NodeSnapshot:
    """Return a process; what is not given is plausible, and every number another one."""
    fields: dict[str, Any] = {
        "name": "web-1",
        "pid": 1,
        "version": "0.1.0",
        "started_at": 1000.0,
        "taken_at": 1060.0,
        "draining": False,
        "connections": 7,
        "named": 3,
        "anonymous": 4,
        "rooms": 2,
        "buffered_bytes": 99,
        "memory_bytes": 98,
        "queue_size": 25,
        "queue_limit": 100,
        "handlers": 6,
        "totals": Totals(
            connections=11,
            disconnections=12,
            disconnections_by_code={"done": 8, "disconnected": 4},
            messages_in=13,
            messages_out=14,
            messages_failed=15,
            bytes_in=16,
            bytes_out=17,
            queue_overflows=18,
            heartbeat_timeouts=19,
            slow_consumers={"disconnect": 20},
            handler_errors=21,
            task_restarts=22,
            evictions=23,
        ),
        "rates": Rates(received_per_sec=1.5, sent_per_sec=2.5, failed_per_sec=0.5),
        "tasks": (TaskState("heartbeat", True, 0, ""),),
    }
    return NodeSnapshot(**{**fields, **known})
