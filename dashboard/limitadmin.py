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

from dashboard.amounts import percent_text
from dashboard.charts import Chart, chart
from dashboard.filters import KindFilter
from dashboard.liveadmin import LiveModelAdmin
from dashboard.models import RateLimitEntry
from dashboard.moments import moment_of
from ratelimit.clients import parse_hop
from ratelimit.counters import Minute, RateLimitSnapshot

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
    row_nouns = ("sender", "senders")
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
            "tiles": tiles(limits),
            "charts": drawn,
            "axis": [drawn[0].bars[minute].at for minute in (0, 15, 30, 45, -1)],
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
        return format_html(
            '<span class="ops-share"><svg viewBox="0 0 100 8" preserveAspectRatio="none" aria-hidden="true">'
            '<rect width="{}" height="8"/></svg> {}</span>',
            round(100 * row.share, 1),
            percent_text(row.share),
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


def tiles(limits: RateLimitSnapshot) -> list[tuple[str, str, list[str]]]:
    """Return the totals: what each is called, how many, and what that consists of."""
    by_budget = [f"{BUDGETS.get(name, name)}: {count:,}" for name, count in limits.limited_messages.items()]
    by_reason = [
        f"{REASONS.get(name, name.replace('_', ' '))}: {count:,}"
        for name, count in sorted(limits.refused.items())
    ]
    return [
        ("Limited messages", f"{sum(limits.limited_messages.values()):,}", by_budget),
        ("Limited connections", f"{limits.limited_connections:,}", []),
        ("Refused connections", f"{sum(limits.refused.values()):,}", by_reason),
        ("Disconnects (4429)", f"{limits.disconnects:,}", []),
        ("Too large (1009)", f"{limits.oversized:,}", []),
        ("Bans in force", f"{limits.bans:,}", []),
    ]


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
