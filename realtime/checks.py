"""System checks: wrong settings are named before the server starts."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from django.apps import AppConfig, apps
from django.conf import settings
from django.core import checks
from django.core.checks import CheckMessage, Error

from realtime.conf import RealtimeSettings


def check_settings(app_configs: Sequence[AppConfig] | None = None, **kwargs: Any) -> list[CheckMessage]:
    """Return one error for each wrong ``REALTIME_`` setting."""
    _, problems = RealtimeSettings.read()
    return [Error(problem.message, hint=problem.hint, id=problem.id) for problem in problems]


def check_project(app_configs: Sequence[AppConfig] | None = None, **kwargs: Any) -> list[CheckMessage]:
    """Return what is wrong with the project around the app."""
    found: list[CheckMessage] = []
    if not apps.is_installed("ratelimit"):
        found.append(
            Error(
                "realtime needs the app ratelimit.",
                hint="Add 'ratelimit' to INSTALLED_APPS.",
                id="realtime.E020",
            )
        )
    if "default" not in getattr(settings, "CHANNEL_LAYERS", {}):
        found.append(
            checks.Warning(
                "CHANNEL_LAYERS has no 'default': rooms reach this process only, and consumers have no channel_name.",
                hint="Use channels_redis for several processes, or channels.layers.InMemoryChannelLayer for one.",
                id="realtime.W001",
            )
        )
    return found
