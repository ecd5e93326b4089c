"""
The health and info pages: JSON for probes and programs.

``/health/*`` is open and says nothing but yes or no; ``/info/*`` is for staff and for programs with
``DASHBOARD_TOKEN``. Looking never changes anything, and no answer may be cached.

"""

from __future__ import annotations

import dataclasses
from typing import Any

from django.http import HttpRequest, HttpResponse, JsonResponse
from django.views.decorators.cache import cache_control
from django.views.decorators.http import require_safe

from dashboard import readiness
from dashboard.access import staff_or_token
from dashboard.conf import get_settings
from dashboard.metrics import utilization
from dashboard.models import all_settings
from dashboard.moments import Moment, moment_of
from dashboard.process import resident_bytes
from ratelimit import overrides
from ratelimit.counters import RateLimitSnapshot
from realtime.health import health
from realtime.nodes import NodeSnapshot
from realtime.registry import ConnectionInfo

DEFAULT_PAGE = 100
"""Clients in one answer, unless ``limit`` asks for another number."""


@require_safe
@cache_control(no_store=True)
def live(request: HttpRequest) -> HttpResponse:
    """``{"status": "live"}``: this process answers."""
    return JsonResponse({"status": "live"})


@require_safe
@cache_control(no_store=True)
def ready(request: HttpRequest) -> HttpResponse:
    """
    Whether to send traffic here: 200 ``{"status": "ready", "reasons": []}``, else 503.

    ``reasons`` are sentences: draining, database not reachable, migrations missing.

    """
    reasons = list(readiness.reasons())
    return JsonResponse(
        {"status": "not ready" if reasons else "ready", "reasons": reasons}, status=503 if reasons else 200
    )


@require_safe
@cache_control(no_store=True)
@staff_or_token
def health_report(request: HttpRequest) -> HttpResponse:
    """
    ``{"status", "reasons"}``: ``healthy`` and ``warning`` answer 200, ``critical`` 503.

    ``reasons`` are sentences, empty while healthy; the status recovers when the cause is over.

    """
    report = health()
    body = {"status": report.status, "reasons": list(report.reasons)}
    return JsonResponse(body, status=503 if report.status == "critical" else 200)


@require_safe
@cache_control(no_store=True)
@staff_or_token
def stats(request: HttpRequest) -> HttpResponse:
    """
    Everything this process counts, and what the others say of themselves.

    ``node``: name, pid, version, started_at, taken_at (seconds since the epoch), uptime (seconds), draining.
    ``connections``: open, named, anonymous. ``rooms``, ``handlers``, ``buffered_bytes``,
    ``connection_memory_bytes`` (what the sockets take), ``memory_bytes`` (of the process; null where the system
    does not tell). ``totals``: since the start, see realtime.nodes.Totals.
    ``rates``: per second over the last minute. ``queue``: size, limit, utilization (0 to 1).
    ``limits``: limited_messages by budget, limited_connections, disconnects, oversized, refused by reason,
    bans, top_clients and top_addresses ``[{"name", "count"}]``, minutes ``[{"started_at", "limited_messages",
    "limited_connections", "disconnects"}]``, seconds_since_limiting, seconds_since_disconnecting (or null).
    ``tasks``: ``[{"name", "alive", "restarts", "last_error"}]``.
    ``cluster``: ``problem`` (why the other nodes are not known; empty where they are), ``connections`` (open, named,
    anonymous, of all nodes), ``nodes`` ``[{"name", "pid", "version", "started_at", "taken_at", "draining",
    "connections", "rooms", "messages_in", "messages_out", "rates", "queue_size", "state_problem"}]``, this process first.

    """
    moment = moment_of(request)
    node = moment.node
    return JsonResponse(
        {
            "node": {
                "name": node.name,
                "pid": node.pid,
                "version": node.version,
                "started_at": node.started_at,
                "taken_at": node.taken_at,
                "uptime": round(node.taken_at - node.started_at, 3),
                "draining": node.draining,
            },
            "connections": {"open": node.connections, "named": node.named, "anonymous": node.anonymous},
            "rooms": node.rooms,
            "handlers": node.handlers,
            "buffered_bytes": node.buffered_bytes,
            "connection_memory_bytes": node.memory_bytes,
            "memory_bytes": resident_bytes(),
            "totals": dataclasses.asdict(node.totals),
            "rates": dataclasses.asdict(node.rates),
            "queue": {"size": node.queue_size, "limit": node.queue_limit, "utilization": utilization(node)},
            "limits": _limits(moment.limits),
            "tasks": [dataclasses.asdict(task) for task in node.tasks],
            "cluster": {
                "problem": moment.unknown,
                "connections": _connections(moment),
                "nodes": [_process(process) for process in moment.processes],
            },
        }
    )


def _connections(moment: Moment) -> dict[str, int]:
    return {"open": moment.open, "named": moment.named, "anonymous": moment.open - moment.named}


def _process(process: NodeSnapshot) -> dict[str, Any]:
    return {
        "name": process.name,
        "pid": process.pid,
        "version": process.version,
        "started_at": process.started_at,
        "taken_at": process.taken_at,
        "draining": process.draining,
        "connections": process.connections,
        "rooms": process.rooms,
        "messages_in": process.totals.messages_in,
        "messages_out": process.totals.messages_out,
        "rates": dataclasses.asdict(process.rates),
        "queue_size": process.queue_size,
        "state_problem": process.state_problem,
    }


def _limits(limits: RateLimitSnapshot) -> dict[str, Any]:
    return {
        **dataclasses.asdict(limits),
        "top_clients": [{"name": one.name, "count": one.count} for one in limits.top_clients],
        "top_addresses": [{"name": one.name, "count": one.count} for one in limits.top_addresses],
    }


@require_safe
@cache_control(no_store=True)
@staff_or_token
def clients(request: HttpRequest) -> HttpResponse:
    """
    Open connections of all nodes, the newest first: ``?limit=100&offset=0``, ``&node=`` for those of one node.

    ``summary``: open, named, anonymous of all nodes, limited (those that had messages refused, of the listed rows),
    and problem (why other nodes are not known; empty where they are). ``total`` rows can be paged through,
    ``DASHBOARD_MAX_ROWS`` at most; ``limit``, ``offset``.
    ``clients``: each with the fields of realtime.registry.ConnectionInfo. A limit or offset that is no
    whole number in range is a 400 ``{"error", "message"}``.

    """
    most = get_settings().max_rows
    try:
        limit = _number(request, "limit", min(DEFAULT_PAGE, most), most)
        offset = _number(request, "offset", 0, None)
    except ValueError as error:
        return JsonResponse({"error": "bad_request", "message": str(error)}, status=400)
    moment = moment_of(request)
    name = request.GET.get("node")
    rows = [info for info in moment.connections if name is None or info.node == name]
    return JsonResponse(
        {
            "summary": {**_connections(moment), "limited": moment.limited, "problem": moment.unknown},
            "total": len(rows),
            "limit": limit,
            "offset": offset,
            "clients": [_client(info) for info in rows[offset : offset + limit]],
        }
    )


def _client(info: ConnectionInfo) -> dict[str, Any]:
    # Not asdict(), which copies every value deeply and would take half a second for ten thousand.
    return {field.name: getattr(info, field.name) for field in dataclasses.fields(info)}


def _number(request: HttpRequest, name: str, default: int, most: int | None) -> int:
    text = request.GET.get(name, str(default))
    if not (text.isascii() and text.isdigit() and len(text) < 10) or (most is not None and int(text) > most):
        upper = f" up to {most}" if most is not None else ""
        raise ValueError(f"{name} is {text[:40]!r}; it must be a whole number from 0{upper}.")
    return int(text)


@require_safe
@cache_control(no_store=True)
@staff_or_token
def config(request: HttpRequest) -> HttpResponse:
    """
    ``{"settings": [{"name", "app", "value", "default", "source", "unit", "doc", "live", "deployed", "ignored"}]}``
    of the three apps.

    ``source`` is ``default``, ``env``, ``settings`` or ``override``; ``deployed`` is the value without an
    override, ``live`` whether it may have one, and ``ignored`` why one that is stored is not in force. A secret
    is ``"set"`` or ``"not set"``.

    """
    overrides.watch.read()
    described = (
        {
            "name": one.name,
            "app": settings.app,
            "value": one.value,
            "default": one.default,
            "source": one.source,
            "unit": one.unit,
            "doc": one.doc,
            "live": one.live,
            "deployed": one.deployed,
            "ignored": one.ignored,
        }
        for settings in all_settings()
        for one in settings.described()
    )
    return JsonResponse({"settings": list(described)})
