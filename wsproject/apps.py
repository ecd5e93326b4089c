"""The app's configuration."""

from __future__ import annotations

from django.apps import AppConfig
from django.contrib import admin


class WsprojectConfig(AppConfig):
    """The demonstration: puts its name on the admin pages."""

    name = "wsproject"
    verbose_name = "Demonstration"

    def ready(self) -> None:
        """Name the admin site."""
        admin.site.site_header = "Channels Ops"
        admin.site.site_title = "Channels Ops"
        admin.site.index_title = "Operations"
