"""The Django app."""

from __future__ import annotations

from django.apps import AppConfig
from django.core import checks
from django.db.models.signals import post_delete, post_save
from django.utils.translation import gettext_lazy as _

from ratelimit import bans, overrides
from ratelimit.checks import check_settings


class RateLimitConfig(AppConfig):
    """Limits for any ASGI WebSocket application."""

    name = "ratelimit"
    verbose_name = _("Rate limits")
    default_auto_field = "django.db.models.BigAutoField"

    def ready(self) -> None:
        checks.register(check_settings)
        for signal in (post_save, post_delete):
            signal.connect(bans.watch.changed, sender=self.get_model("Ban"), dispatch_uid="ratelimit.bans")
            signal.connect(
                overrides.watch.changed, sender=self.get_model("Override"), dispatch_uid="ratelimit.overrides"
            )
