"""The Configuration page: every setting, its value and where that comes from; and its override, for all nodes."""

from __future__ import annotations

import uuid
from typing import Any

from django.contrib import admin, messages
from django.contrib.admin.models import CHANGE, LogEntry
from django.contrib.admin.utils import unquote
from django.contrib.contenttypes.models import ContentType
from django.core.exceptions import PermissionDenied
from django.db import transaction
from django.db.models import QuerySet
from django.http import HttpRequest, HttpResponse, HttpResponseRedirect
from django.utils.html import format_html
from django.utils.safestring import SafeString

from dashboard.amounts import setting_text
from dashboard.audit import record
from dashboard.filters import AppFilter, ChangedFilter, EditableFilter, SourceFilter
from dashboard.liveadmin import LiveModelAdmin
from dashboard.models import LiveModel, Setting
from dashboard.overrideforms import OverrideForm, override_of
from ratelimit import overrides
from ratelimit.overrides import Superseded

SOURCES = {
    "default": "default",
    "env": "environment",
    "settings": "Django settings",
    "override": "override",
}
"""What people call the places a value comes from."""

RECENT = 10
"""Changes that are shown with a setting; the page of its history has them all."""


class SettingAdmin(LiveModelAdmin):
    """The settings of the three apps."""

    form = OverrideForm  # type: ignore[assignment]  # the rows of this page are settings
    change_form_template = "admin/dashboard/setting_form.html"
    summary_template = "admin/dashboard/setting_summary.html"
    list_title = "Configuration"
    row_nouns = ("setting", "settings")
    note = (
        "The values this process runs with. What is editable can be overridden here, for all nodes at once; the rest"
        " is set in the Django settings, or as an environment variable of the same name, and needs a restart."
    )
    list_display = ("setting", "value_in_force", "default", "comes_from", "change", "doc")
    list_display_links = ("setting",)
    list_filter = (AppFilter, SourceFilter, EditableFilter, ChangedFilter)
    search_fields = ("name", "doc")
    search_help_text = "Searches names and descriptions."
    ordering = ("name",)
    list_per_page = 200
    readonly_fields = ("doc", "value_in_force", "comes_from", "deployed", "default", "change", "app")

    def get_fields(self, request: HttpRequest, obj: Any = None) -> list[Any]:
        """Whoever may override the setting is asked for a value."""
        asked = ("new_value", "seen") if self.has_change_permission(request, obj) else ()
        doc, value, *rest = self.readonly_fields
        return [doc, value, *asked, *rest]

    def has_change_permission(self, request: HttpRequest, obj: LiveModel | None = None) -> bool:
        return _may_change(request) and (obj is None or getattr(obj, "live", False))

    def summary(self, request: HttpRequest) -> dict[str, Any]:
        return {"unread": overrides.watch.failing, "unusable": sorted(overrides.unusable().items())}

    def changelist_view(
        self, request: HttpRequest, extra_context: dict[str, Any] | None = None
    ) -> HttpResponse:
        overrides.watch.read()
        return super().changelist_view(request, extra_context)

    # Changing one.

    def change_view(
        self,
        request: HttpRequest,
        object_id: str,
        form_url: str = "",
        extra_context: dict[str, Any] | None = None,
    ) -> HttpResponse:
        name = unquote(object_id)
        overrides.watch.read()
        try:
            if request.method == "POST" and "_revert" in request.POST:
                return self._revert(request, name)
            context = {
                "override": override_of(name),
                "recent": _history(name)[:RECENT],
                "may_change": _may_change(request),
                "unread": overrides.watch.failing,
                **(extra_context or {}),
            }
            return super().change_view(request, object_id, form_url, context)
        except Superseded:
            self.message_user(
                request,
                "Meanwhile somebody else has changed this setting. Nothing was saved.",
                messages.ERROR,
            )
            return HttpResponseRedirect(request.path)

    def save_model(self, request: HttpRequest, obj: Any, form: Any, change: bool) -> None:
        overrides.put(obj.name, form.cleaned_data["new_value"], seen=form.version_seen(), by=request.user)

    def construct_change_message(
        self, request: HttpRequest, form: Any, formsets: Any, add: bool = False
    ) -> Any:
        value = setting_text(form.cleaned_data["new_value"], form.instance.unit)
        return f"Overridden: {form.instance.value} before, {value} from now on."

    def response_change(self, request: HttpRequest, obj: Any) -> HttpResponse:
        self.message_user(request, f"{obj.name} is overridden, on all nodes.", messages.SUCCESS)
        return HttpResponseRedirect(request.path)

    def _revert(self, request: HttpRequest, name: str) -> HttpResponse:
        """Take the override away."""
        if not _may_change(request):
            raise PermissionDenied
        row: Any = self.get_object(request, name)
        if row is None:
            raise Superseded(name)
        try:
            with transaction.atomic():
                overrides.remove(name, seen=_version(request.POST.get("seen", "")))
                record(request, [row], CHANGE, f"Reverted: {row.value} before, {row.deployed} from now on.")
        except ValueError as error:
            self.message_user(request, f"Not reverted. {error}", messages.ERROR)
        else:
            self.message_user(request, f"{name} is {row.deployed} again, as deployed.", messages.SUCCESS)
        return HttpResponseRedirect(request.path)

    # What is shown.

    @admin.display(description="Setting", ordering="name")
    def setting(self, row: Setting) -> SafeString:
        return format_html('<code data-row="{}">{}</code>', row.pk, row.name)

    @admin.display(description="Value", ordering="value")
    def value_in_force(self, row: Setting) -> str | SafeString:
        if not row.changed:
            return row.value
        return format_html('<strong>{}</strong> <span class="ops-tag">changed</span>', row.value)

    @admin.display(description="Source", ordering="source")
    def comes_from(self, row: Setting) -> str | SafeString:
        if row.ignored:
            return format_html('{} <span class="ops-tag">override ignored</span>', SOURCES[row.source])
        return SOURCES[row.source]

    @admin.display(description="Change", ordering="live")
    def change(self, row: Setting) -> str:
        return "editable" if row.live else "needs a restart"


def _may_change(request: HttpRequest) -> bool:
    return bool(request.user.has_perm("dashboard.change_setting"))


def _history(name: str) -> QuerySet[LogEntry]:
    """Return what was done to a setting, the newest first."""
    kind = ContentType.objects.get_for_model(Setting)
    return (
        LogEntry.objects.filter(content_type=kind, object_id=name)
        .select_related("user")
        .order_by("-action_time")
    )


def _version(text: str) -> uuid.UUID | None:
    try:
        return uuid.UUID(text)
    except ValueError:
        return None
