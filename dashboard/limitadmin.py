"""The Rate limits page: who was limited, how much, and when."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any
from urllib.parse import urlencode

from django.contrib import admin
from django.http import HttpRequest
from django.urls import reverse
from django.utils import timezone
from django.utils.html import format_html
from django.utils.safestring import SafeString

from dashboard.charts import Chart, chart
from dashboard.filters import KindFilter
from dashboard.liveadmin import LiveModelAdmin
from dashboard.models import RateLimitEntry
from dashboard.moments import moment_of
from ratelimit.clients import parse_hop
from ratelimit.counters import Minute

BUDGETS = {"messages": "Messages", "bytes": "Bytes", "system": "System messages"}
"""What people call the budgets a message can be refused for."""
REASONS = {
    "banned": "Banned",
    "at_capacity": "Server full",
    "address_connections": "Too many from one address",
    "address_rate": "Address connects too often",
    "user_connections": "Too many of one user",
}
"""What people call the reasons a connection is refused for; another one is shown by its own name."""


class RateLimitEntryAdmin(LiveModelAdmin):
    """The most limited clients and addresses, under the totals and the last hour."""

    list_title = "Rate limits"
    note = "What this process limited since it started."
    summary_template = "admin/dashboard/limit_summary.html"
    list_display = ("sender", "kind_shown", "limited", "share_shown", "open_clients", "ban")
    list_display_links = None
    list_filter = (KindFilter,)
    search_fields = ("name",)
    search_help_text = "Searches clients and addresses."
    ordering = ("-limited",)
    fields = ("name", "kind_shown", "limited", "share_shown")
    readonly_fields = ("kind_shown", "share_shown")

    def get_list_display(self, request: HttpRequest) -> list[Any]:
        columns = list(super().get_list_display(request))
        if not request.user.has_perm("dashboard.view_client"):
            columns.remove("open_clients")
        if not request.user.has_perm("ratelimit.add_ban"):
            columns.remove("ban")
        return columns

    def summary(self, request: HttpRequest) -> dict[str, Any]:
        limits = moment_of(request).limits
        drawn = charts(limits.minutes)
        return {
            "limits": limits,
            "limited_total": sum(limits.limited_messages.values()),
            "limited": [(BUDGETS.get(name, name), count) for name, count in limits.limited_messages.items()],
            "refused_total": sum(limits.refused.values()),
            "refused": sorted(((REASONS.get(name, name), count) for name, count in limits.refused.items())),
            "charts": drawn,
            "axis": [drawn[0].bars[minute] for minute in (0, 15, 30, 45, -1)],
            "minutes": [(_local(minute.started_at), minute) for minute in reversed(limits.minutes)],
            "can_see_bans": request.user.has_perm("ratelimit.view_ban"),
        }

    @admin.display(description="Client or address", ordering="name")
    def sender(self, row: RateLimitEntry) -> SafeString:
        return format_html('<span class="ops-id" data-row="{}">{}</span>', row.pk, row.name)

    @admin.display(description="Kind", ordering="kind")
    def kind_shown(self, row: RateLimitEntry) -> str:
        return row.kind

    @admin.display(description="Share of its kind", ordering="share")
    def share_shown(self, row: RateLimitEntry) -> SafeString:
        percent = f"{row.share:.0%}"
        return format_html(
            '<meter class="ops-meter" value="{}" max="1">{}</meter> {}', row.share, percent, percent
        )

    @admin.display(description="Open connections")
    def open_clients(self, row: RateLimitEntry) -> SafeString:
        url = f"{reverse('admin:dashboard_client_changelist')}?{urlencode({'q': row.name})}"
        return format_html('<a href="{}" aria-label="Find {} among the clients">find</a>', url, row.name)

    @admin.display(description="Ban")
    def ban(self, row: RateLimitEntry) -> str | SafeString:
        if row.kind != RateLimitEntry.ADDRESS or parse_hop(row.name) is None:
            return ""
        url = f"{reverse('admin:ratelimit_ban_add')}?{urlencode({'network': row.name})}"
        return format_html('<a href="{}" aria-label="Ban {}">ban…</a>', url, row.name)


def charts(minutes: tuple[Minute, ...]) -> list[Chart]:
    """Return the three series of the last hour, each with a scale of its own."""
    at = [_local(minute.started_at) for minute in minutes]
    series = (
        ("messages", "Limited messages", [minute.limited_messages for minute in minutes]),
        ("connections", "Limited connections", [minute.limited_connections for minute in minutes]),
        ("disconnects", "Disconnects", [minute.disconnects for minute in minutes]),
    )
    return [chart(key, title, list(zip(at, values, strict=True))) for key, title, values in series]


def _local(seconds: float) -> datetime:
    return timezone.localtime(datetime.fromtimestamp(seconds, UTC))
