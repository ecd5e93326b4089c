"""Who may read ``/info/*``: staff with a session, and programs with the token."""

from __future__ import annotations

import functools
from collections.abc import Callable

from django.http import HttpRequest, HttpResponse, JsonResponse
from django.utils.crypto import constant_time_compare

from dashboard.conf import get_settings

View = Callable[[HttpRequest], HttpResponse]


def has_token(request: HttpRequest) -> bool:
    """Whether the request carries ``DASHBOARD_TOKEN``; an empty one opens nothing."""
    token = get_settings().token
    scheme, _, given = request.headers.get("Authorization", "").partition(" ")
    return bool(token) and scheme.lower() == "bearer" and constant_time_compare(given.strip(), token)


def staff_or_token(view: View) -> View:
    """Let staff and the token in; answer 401 to strangers and 403 to users who are not staff."""

    @functools.wraps(view)
    def guarded(request: HttpRequest) -> HttpResponse:
        if has_token(request):
            return view(request)
        user = request.user
        if not user.is_authenticated:
            return JsonResponse(
                {
                    "error": "unauthenticated",
                    "message": "Sign in as staff, or send Authorization: Bearer <token>.",
                },
                status=401,
                headers={"WWW-Authenticate": 'Bearer realm="channels-ops"'},
            )
        if not user.is_staff:
            return JsonResponse({"error": "forbidden", "message": "Only staff may see this."}, status=403)
        return view(request)

    return guarded
