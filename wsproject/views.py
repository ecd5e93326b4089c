"""The demonstration page."""

from __future__ import annotations

import math

from django.http import HttpRequest, HttpResponse, HttpResponseBadRequest
from django.shortcuts import render
from django.urls import reverse
from django.views.decorators.http import require_safe

from ratelimit.conf import RateLimitSettings, get_settings
from wsproject.consumers import MAX_LINE, MAX_ROOM_NAME

LOBBY = "lobby"
OPERATOR_PAGES = (
    ("Clients", "admin:dashboard_client_changelist"),
    ("Rate limits", "admin:dashboard_ratelimitentry_changelist"),
    ("Configuration", "admin:dashboard_setting_changelist"),
)
QUICKEST_SOUNDING = 250
"""Milliseconds between two soundings of the echo plot where no limit asks for more."""


@require_safe
def demo(request: HttpRequest) -> HttpResponse:
    """Show the chat room that ``?room=`` names, the echo sounder and the flood gate."""
    room = request.GET.get("room", "").strip() or LOBBY
    if len(room) > MAX_ROOM_NAME:
        return HttpResponseBadRequest(
            f"A room's name has at most {MAX_ROOM_NAME} characters; this one has {len(room)}.",
            content_type="text/plain; charset=utf-8",
        )
    settings = get_settings()
    response = render(
        request,
        "demo/index.html",
        {
            "room": room,
            "max_line": MAX_LINE,
            "echo_interval_ms": sounding_interval(settings),
            "burst": math.floor(settings.messages_per_window * settings.burst_multiplier),
            "rate": settings.messages_per_window / settings.message_window,
            "operator_pages": [{"title": title, "url": reverse(name)} for title, name in OPERATOR_PAGES],
        },
    )
    response["Content-Security-Policy"] = content_security_policy(request.get_host())
    return response


def sounding_interval(settings: RateLimitSettings) -> int:
    """Return the milliseconds between soundings that never meet the limit: a page left open is no abuse."""
    if not settings.messages_per_window:
        return QUICKEST_SOUNDING
    allowed = 1000 * settings.message_window / settings.messages_per_window
    return max(QUICKEST_SOUNDING, math.ceil(allowed * 1.1))


def content_security_policy(host: str) -> str:
    """Return the policy of the page: everything from ``host``, nothing inline, sockets to ``host`` only."""
    # Not every browser counts a WebSocket to the page's own host as 'self'.
    return (
        "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self';"
        f" connect-src 'self' ws://{host} wss://{host}; form-action 'self'; base-uri 'none'; frame-ancestors 'none'"
    )
