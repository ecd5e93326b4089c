"""The app's configuration."""

from __future__ import annotations

from django.apps import AppConfig
from django.core import checks

from dashboard.checks import check_settings, check_token


class DashboardConfig(AppConfig):
    """The ops admin, the health pages and the metrics."""

    name = "dashboard"
    verbose_name = "Channels Ops"

    def ready(self) -> None:
        """Register the system checks and the metrics."""
        # The collector reads apps that have models, which Django does not let be imported before now.
        from dashboard import metrics

        checks.register(check_settings)
        checks.register(check_token)
        metrics.register()
