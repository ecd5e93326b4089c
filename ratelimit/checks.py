"""System checks of the settings."""

from __future__ import annotations

import ipaddress
from collections.abc import Sequence
from typing import Any

from django.apps import AppConfig
from django.core.checks import CheckMessage, Error, Warning  # noqa: A004 - the name Django gave it

from ratelimit.conf import RateLimitSettings


def check_settings(app_configs: Sequence[AppConfig] | None = None, **kwargs: Any) -> list[CheckMessage]:
    """Report every setting that would keep the limits from working, and proxies that are everybody."""
    settings, problems = RateLimitSettings.read()
    found: list[CheckMessage] = [
        Error(problem.message, hint=problem.hint, id=problem.id) for problem in problems
    ]
    found.extend(
        Warning(
            f"RATELIMIT_TRUSTED_PROXIES contains {network!r}, which is everybody.",
            hint="Name the addresses of your own proxies only: with this, every client may claim any address.",
            id="ratelimit.W001",
        )
        for network in (settings.trusted_proxies if settings is not None else ())
        if ipaddress.ip_network(network).prefixlen == 0
    )
    return found
