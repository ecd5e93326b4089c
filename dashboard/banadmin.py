"""The Bans page: who is kept out, until when, and by whom."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, cast

from django.contrib import admin, messages
from django.contrib.admin.models import CHANGE
from django.db import transaction
from django.db.models import Q, QuerySet
from django.http import HttpRequest
from django.utils import timezone

from dashboard.amounts import counted
from dashboard.audit import record
from dashboard.banforms import BanForm
from dashboard.filters import InForceFilter
from ratelimit.bans import watch
from ratelimit.models import Ban

if TYPE_CHECKING:
    _ModelAdmin = admin.ModelAdmin[Ban]
else:
    _ModelAdmin = admin.ModelAdmin


class BanAdmin(_ModelAdmin):
    """Bans are ordinary rows: added, lifted, deleted."""

    form = BanForm
    list_display = ("whom", "reason", "in_force", "until", "by", "created_at")
    list_display_links = ("whom",)
    list_filter = (InForceFilter,)
    list_select_related = ("user", "by")
    search_fields = ("network", "reason")
    search_help_text = "Searches network and reason."
    raw_id_fields = ("user",)
    fields = ("network", "user", "reason", "until", "by", "created_at")
    readonly_fields = ("by", "created_at")
    ordering = ("-created_at",)
    actions = ("lift",)

    def get_fields(self, request: HttpRequest, obj: Ban | None = None) -> list[Any]:
        """A ban that is being added has no maker and no date yet."""
        return [name for name in BanAdmin.fields if obj is not None or name not in self.readonly_fields]

    @admin.display(description="Banned", ordering="network")
    def whom(self, ban: Ban) -> str:
        return " and ".join(str(part) for part in (ban.network, ban.user and f"user {ban.user}") if part)

    @admin.display(description="In force", boolean=True)
    def in_force(self, ban: Ban) -> bool:
        return ban.in_force()

    def save_model(self, request: HttpRequest, obj: Ban, form: Any, change: bool) -> None:
        if not change:
            obj.by = cast("Any", request.user)
        super().save_model(request, obj, form, change)

    @admin.action(description="Lift selected bans", permissions=["change"])
    def lift(self, request: HttpRequest, queryset: QuerySet[Ban]) -> None:
        """End the bans now. They stay in the list, as a record."""
        now = timezone.now()
        lifted = list(queryset.filter(Q(until=None) | Q(until__gt=now)))
        with transaction.atomic():
            Ban.objects.filter(pk__in=[ban.pk for ban in lifted]).update(until=now)
            # An update sends no signal, so this process is told itself.
            watch.changed(using=transaction.get_connection().alias)
        record(request, lifted, CHANGE, "Lifted.")
        self.message_user(request, f"Lifted {counted(len(lifted), 'ban')}.", messages.SUCCESS)
