"""The Django app."""

from __future__ import annotations

from django.apps import AppConfig
from django.core import checks

from realtime.checks import check_deployment, check_project, check_settings
from realtime.server import install


class RealtimeConfig(AppConfig):
    """Consumers, rooms, delivery and heartbeats."""

    name = "realtime"
    verbose_name = "Realtime"

    def ready(self) -> None:
        """Register the system checks, and make ``runserver`` run our server."""
        checks.register(check_settings)
        checks.register(check_project)
        checks.register(check_deployment, deploy=True)
        install()
