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
from dashboard.moments import moment_of
from dashboard.process import resident_bytes
from ratelimit.counters import RateLimitSnapshot
from realtime.health import health
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
    Everything this process counts.

    ``node``: name, pid, version, started_at, taken_at (seconds since the epoch), uptime (seconds), draining.
    ``connections``: open, named, anonymous. ``rooms``, ``handlers``, ``buffered_bytes``, ``memory_bytes``
    (null where the system does not tell). ``totals``: since the start, see realtime.nodes.Totals.
    ``rates``: per second over the last minute. ``queue``: size, limit, utilization (0 to 1).
    ``limits``: limited_messages by budget, limited_connections, disconnects, oversized, refused by reason,
    bans, top_clients and top_addresses ``[{"name", "count"}]``, minutes ``[{"started_at", "limited_messages",
    "limited_connections", "disconnects"}]``, seconds_since_limiting, seconds_since_disconnecting (or null).
    ``tasks``: ``[{"name", "alive", "restarts", "last_error"}]``.

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
            "memory_bytes": resident_bytes(),
            "totals": dataclasses.asdict(node.totals),
            "rates": dataclasses.asdict(node.rates),
            "queue": {"size": node.queue_size, "limit": node.queue_limit, "utilization": utilization(node)},
            "limits": _limits(moment.limits),
            "tasks": [dataclasses.asdict(task) for task in node.tasks],
        }
    )


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
    Open connections, the newest first: ``?limit=100&offset=0``.

    ``summary``: open, named, anonymous, limited (those that had messages refused, of the listed rows).
    ``total`` rows can be paged through, ``DASHBOARD_MAX_ROWS`` at most; ``limit``, ``offset``.
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
    node = moment.node
    return JsonResponse(
        {
            "summary": {
                "open": node.connections,
                "named": node.named,
                "anonymous": node.anonymous,
                "limited": moment.limited,
            },
            "total": len(moment.connections),
            "limit": limit,
            "offset": offset,
            "clients": [_client(info) for info in moment.connections[offset : offset + limit]],
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
    ``{"settings": [{"name", "app", "value", "default", "source", "unit", "doc"}]}`` of the three apps.

    ``source`` is ``default``, ``env`` or ``settings``. A secret is ``"set"`` or ``"not set"``.

    """
    described = (
        {
            "name": one.name,
            "app": settings.app,
            "value": one.value,
            "default": one.default,
            "source": one.source,
            "unit": one.unit,
            "doc": one.doc,
        }
        for settings in all_settings()
        for one in settings.described()
    )
    return JsonResponse({"settings": list(described)})
