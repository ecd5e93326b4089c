"""System checks: the settings of ``dashboard``, before anything runs with them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from django.apps import AppConfig
from django.core import checks

from dashboard.conf import DashboardSettings

SHORTEST_TOKEN = 16
"""Characters below which a token can be guessed by trying."""


def check_settings(
    app_configs: Sequence[AppConfig] | None = None, **kwargs: Any
) -> list[checks.CheckMessage]:
    """Report every problem of the ``DASHBOARD_*`` settings as an error with its id."""
    _, problems = DashboardSettings.read()
    return [checks.Error(problem.message, hint=problem.hint, id=problem.id) for problem in problems]


def check_token(app_configs: Sequence[AppConfig] | None = None, **kwargs: Any) -> list[checks.CheckMessage]:
    """Warn of a token that is short enough to be guessed."""
    settings, _ = DashboardSettings.read()
    if settings is None or not 0 < len(settings.token) < SHORTEST_TOKEN:
        return []
    return [
        checks.Warning(
            f"DASHBOARD_TOKEN has {len(settings.token)} characters.",
            hint=f"Use at least {SHORTEST_TOKEN}: python -c 'import secrets; print(secrets.token_urlsafe(32))'",
            id="dashboard.W001",
        )
    ]
