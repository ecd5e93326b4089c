"""The Configuration page: every setting, its value and where that comes from."""

from __future__ import annotations

from django.contrib import admin
from django.utils.html import format_html
from django.utils.safestring import SafeString

from dashboard.filters import AppFilter, ChangedFilter, SourceFilter
from dashboard.liveadmin import LiveModelAdmin
from dashboard.models import Setting

SOURCES = {"default": "default", "env": "environment", "settings": "Django settings"}
"""What people call the places a value comes from."""


class SettingAdmin(LiveModelAdmin):
    """The settings of the three apps."""

    list_title = "Configuration"
    row_nouns = ("setting", "settings")
    note = (
        "The values this process runs with. Set them in the Django settings, or as an environment variable of the"
        " same name, and start the server again."
    )
    list_display = ("setting", "value_in_force", "default", "comes_from", "doc")
    list_display_links = ("setting",)
    list_filter = (AppFilter, SourceFilter, ChangedFilter)
    search_fields = ("name", "doc")
    search_help_text = "Searches names and descriptions."
    ordering = ("name",)
    list_per_page = 200
    fields = ("name", "app", "value_in_force", "default", "comes_from", "doc")
    readonly_fields = ("value_in_force", "comes_from")

    @admin.display(description="Setting", ordering="name")
    def setting(self, row: Setting) -> SafeString:
        return format_html('<code data-row="{}">{}</code>', row.pk, row.name)

    @admin.display(description="Value", ordering="value")
    def value_in_force(self, row: Setting) -> str | SafeString:
        if not row.changed:
            return row.value
        return format_html('<strong>{}</strong> <span class="ops-tag">changed</span>', row.value)

    @admin.display(description="Source", ordering="source")
    def comes_from(self, row: Setting) -> str:
        return SOURCES[row.source]
