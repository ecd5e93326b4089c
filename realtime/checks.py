"""System checks: wrong settings are named before the server starts."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from channels.layers import DEFAULT_CHANNEL_LAYER, InMemoryChannelLayer
from django.apps import AppConfig, apps
from django.conf import settings
from django.core import checks
from django.core.checks import CheckMessage, Error
from django.utils.module_loading import import_string

from ratelimit.conf import RateLimitSettings
from realtime.conf import RealtimeSettings
from realtime.server import openfiles


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
    if not _default_layer():
        found.append(
            checks.Warning(
                "CHANNEL_LAYERS has no 'default': rooms reach this process only, and consumers have no channel_name.",
                hint="Use channels_redis for several processes, or channels.layers.InMemoryChannelLayer for one.",
                id="realtime.W001",
            )
        )
    if histories_apart():
        found.append(
            Error(
                "REALTIME_HISTORY_SIZE keeps what is published to rooms, in the memory of each server process:"
                " REALTIME_STATE_URL is 'memory://', and CHANNEL_LAYERS connects several.",
                hint="Set REALTIME_STATE_URL to the Redis of CHANNEL_LAYERS.",
                id="realtime.E021",
            )
        )
    return found


def histories_apart() -> bool:
    """Whether rooms span processes, and their histories do not."""
    settings, _ = RealtimeSettings.read()
    if settings is None or settings.state_url != "memory://" or not settings.history_size:
        return False
    return not split_rooms()


def check_deployment(app_configs: Sequence[AppConfig] | None = None, **kwargs: Any) -> list[CheckMessage]:
    """Return what suits a development server and not a public one (``manage.py check --deploy``)."""
    found: list[CheckMessage] = []
    limits, _ = RateLimitSettings.read()
    shortage = None if limits is None else openfiles.shortage(openfiles.limit(), limits.max_connections)
    if shortage is not None:
        id_ = "realtime.W002" if shortage.certain else "realtime.W003"
        found.append(checks.Warning(shortage.text, hint=shortage.hint, id=id_))
    if _default_layer() and (reason := split_rooms()):
        found.append(
            checks.Warning(
                f"{reason} Each server process has rooms of its own.",
                hint="Use channels_redis. Where one process is all there is, silence this check.",
                id="realtime.W004",
            )
        )
    return found


def split_rooms() -> str:
    """Return why a room cannot span several processes, in one sentence; nothing where it can."""
    layer = _default_layer()
    if not layer:
        return "CHANNEL_LAYERS has no 'default'."
    backend = layer.get("BACKEND")
    if not isinstance(backend, str):
        return ""
    try:
        kind = import_string(backend)
    except ImportError:
        # Whoever uses the layer says what is wrong with it.
        return ""
    if isinstance(kind, type) and issubclass(kind, InMemoryChannelLayer):
        return f"CHANNEL_LAYERS['default'] is {backend}, which does not leave its process."
    return ""


def _default_layer() -> dict[str, Any]:
    layers: dict[str, dict[str, Any]] = getattr(settings, "CHANNEL_LAYERS", {})
    return layers.get(DEFAULT_CHANNEL_LAYER, {})
