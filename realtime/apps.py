"""The Django app."""

from __future__ import annotations

from django.apps import AppConfig
from django.core import checks

from ratelimit.ledger import use
from realtime import news, overrides
from realtime.checks import check_deployment, check_project, check_settings
from realtime.ledger import ClusterLedger
from realtime.server import install


class RealtimeConfig(AppConfig):
    """Consumers, rooms, delivery and heartbeats."""

    name = "realtime"
    verbose_name = "Realtime"

    def ready(self) -> None:
        """Register the system checks and what other nodes may tell us, and make ``runserver`` run our server."""
        use(ClusterLedger())
        news.share()
        overrides.follow()
        checks.register(check_settings)
        checks.register(check_project)
        checks.register(check_deployment, deploy=True)
        install()
