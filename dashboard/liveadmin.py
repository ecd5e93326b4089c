"""The change list of rows without a table: read-only, and fresh by itself while it is open."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from django.contrib import admin, messages
from django.contrib.admin.utils import unquote
from django.core.paginator import Paginator
from django.db.models import QuerySet
from django.forms import Media
from django.http import HttpRequest, HttpResponse, HttpResponseRedirect
from django.urls import reverse

from dashboard.conf import get_settings
from dashboard.models import LiveModel
from dashboard.moments import moment_of

if TYPE_CHECKING:
    _ModelAdmin = admin.ModelAdmin[LiveModel]
    _Paginator = Paginator[LiveModel]
else:
    # Neither can be subscripted at run time in every Django we support.
    _ModelAdmin, _Paginator = admin.ModelAdmin, Paginator

REFRESH_HEADER = "X-Dashboard-Refresh"
"""Sent by an open page that fetches itself."""


class LivePaginator(_Paginator):
    """Answers with the last page where the asked one has gone since it was opened."""

    def validate_number(self, number: Any) -> int:
        return super().validate_number(
            max(1, min(number, self.num_pages)) if isinstance(number, int) else number
        )


class LiveModelAdmin(_ModelAdmin):
    """
    An admin of a :class:`~dashboard.models.LiveModel`: nothing can be added, changed or deleted.

    The rows, and whatever :meth:`summary` shows above them, are those of one moment.

    """

    change_list_template = "admin/dashboard/live_list.html"
    paginator = LivePaginator
    show_facets = admin.ShowFacets.NEVER
    list_per_page = 50
    list_max_show_all = 500
    summary_template = ""
    """Shown above the list, if any; its ``data-live`` elements are refreshed with the rows."""
    list_title = ""
    row_nouns = ("row", "rows")
    """What one row, and several, are called under the list."""
    note = ""
    """One sentence under the title."""

    @property
    def media(self) -> Media:
        return super().media + Media(css={"all": ["dashboard/dashboard.css"]})

    def get_queryset(self, request: HttpRequest) -> QuerySet[LiveModel]:
        return self.model.rows(moment_of(request))

    def has_add_permission(self, request: HttpRequest) -> bool:
        return False

    def has_change_permission(self, request: HttpRequest, obj: LiveModel | None = None) -> bool:
        return False

    def has_delete_permission(self, request: HttpRequest, obj: LiveModel | None = None) -> bool:
        return False

    def summary(self, request: HttpRequest) -> dict[str, Any]:
        """Return the context of ``summary_template``."""
        return {}

    def changelist_view(
        self, request: HttpRequest, extra_context: dict[str, Any] | None = None
    ) -> HttpResponse:
        context = {
            "title": self.list_title,
            "note": self.note,
            "refresh_seconds": get_settings().refresh_interval,
            # A page that refreshes itself would use up the messages of an action done in another tab.
            "is_refresh": REFRESH_HEADER in request.headers,
            "summary_template": self.summary_template,
            **self.summary(request),
        }
        return super().changelist_view(request, {**context, **(extra_context or {})})

    def change_view(
        self,
        request: HttpRequest,
        object_id: str,
        form_url: str = "",
        extra_context: dict[str, Any] | None = None,
    ) -> HttpResponse:
        if self._has_gone(request, object_id):
            return self._gone(request)
        return super().change_view(request, object_id, form_url, extra_context)

    def history_view(
        self, request: HttpRequest, object_id: str, extra_context: dict[str, Any] | None = None
    ) -> HttpResponse:
        if self._has_gone(request, object_id):
            return self._gone(request)
        return super().history_view(request, object_id, extra_context)

    def _has_gone(self, request: HttpRequest, quoted_id: str) -> bool:
        return self.has_view_permission(request) and self.get_object(request, unquote(quoted_id)) is None

    def _gone(self, request: HttpRequest) -> HttpResponse:
        self.message_user(request, f"That {self.opts.verbose_name} is not here any more.", messages.WARNING)
        return HttpResponseRedirect(reverse(f"admin:{self.opts.app_label}_{self.opts.model_name}_changelist"))
