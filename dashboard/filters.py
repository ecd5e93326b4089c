"""The filters of the ops admin: choices come from the rows themselves and are bounded."""

from __future__ import annotations

from collections import Counter
from typing import Any, ClassVar

from django.contrib import admin
from django.db.models import Q, QuerySet
from django.http import HttpRequest
from django.utils import timezone

from dashboard.models import RateLimitEntry
from dashboard.moments import Moment, moment_of
from ratelimit.models import Ban

TEMPLATE = "admin/dashboard/filter.html"
"""A menu in a row above the list: the tables need the width a column of filters would take."""
MOST_CHOICES = 20
"""Choices of one filter: the largest ones; the others are found by search."""


class TalliedFilter(admin.SimpleListFilter):
    """
    A filter by a value that many rows share, largest first.

    Subclasses name the field and answer :meth:`tally`: how many rows have which value.

    """

    template = TEMPLATE
    field: ClassVar[str]

    def tally(self, moment: Moment) -> Counter[str]:
        """Return how many rows have which value."""
        raise NotImplementedError(
            f"{type(self).__name__} must override tally() to count the values of its field."
        )

    def lookups(self, request: HttpRequest, model_admin: Any) -> list[tuple[str, str]]:
        tally = self.tally(moment_of(request))
        choices = [
            (value, f"{value or '(none)'} ({count})") for value, count in tally.most_common(MOST_CHOICES)
        ]
        chosen = self.value()
        if chosen is not None and chosen not in dict(choices):
            # What is filtered by stays visible after its last client has gone.
            choices.append((chosen, f"{chosen} ({tally[chosen]})"))
        return choices

    def queryset(self, request: HttpRequest, queryset: QuerySet[Any]) -> QuerySet[Any]:
        value = self.value()
        return queryset if value is None else queryset.filter(**{self.field: value})


class RouteFilter(TalliedFilter):
    """Clients of one route."""

    title = "route"
    parameter_name = "on_route"
    field = "route"

    def tally(self, moment: Moment) -> Counter[str]:
        return moment.routes


class ConsumerFilter(TalliedFilter):
    """Clients of one consumer."""

    title = "consumer"
    parameter_name = "with_consumer"
    field = "consumer"

    def tally(self, moment: Moment) -> Counter[str]:
        return moment.consumers


class NodeFilter(TalliedFilter):
    """Clients of one node."""

    title = "node"
    parameter_name = "on_node"
    field = "node"

    def tally(self, moment: Moment) -> Counter[str]:
        return moment.nodes


class RoomFilter(TalliedFilter):
    """Clients in one room."""

    title = "room"
    parameter_name = "in_room"
    field = "rooms"

    def tally(self, moment: Moment) -> Counter[str]:
        return moment.rooms


class ChoiceFilter(admin.SimpleListFilter):
    """A filter with a few fixed choices. Subclasses list ``(value, label, condition)``."""

    template = TEMPLATE
    options: ClassVar[tuple[tuple[str, str, Q], ...]]

    def lookups(self, request: HttpRequest, model_admin: Any) -> list[tuple[str, str]]:
        return [(value, label) for value, label, _ in self.options]

    def queryset(self, request: HttpRequest, queryset: QuerySet[Any]) -> QuerySet[Any]:
        for value, _, condition in self.options:
            if value == self.value():
                return queryset.filter(condition)
        return queryset


class IdentityFilter(ChoiceFilter):
    """Named clients, or anonymous ones."""

    title = "identity"
    parameter_name = "identity"
    options = (
        ("named", "Named", Q(user_id__isnull=False)),
        ("anonymous", "Anonymous", Q(user_id__isnull=True)),
    )


class LimitedFilter(ChoiceFilter):
    """Clients that had messages refused, or none."""

    title = "rate limit"
    parameter_name = "was_limited"
    options = (("yes", "Messages refused", Q(limited__gt=0)), ("no", "Never limited", Q(limited=0)))


class KindFilter(ChoiceFilter):
    """Limited clients, or limited addresses."""

    title = "kind"
    parameter_name = "of_kind"
    options = (
        (RateLimitEntry.CLIENT, "Clients", Q(kind=RateLimitEntry.CLIENT)),
        (RateLimitEntry.ADDRESS, "Addresses", Q(kind=RateLimitEntry.ADDRESS)),
    )


class AppFilter(ChoiceFilter):
    """Settings of one app."""

    title = "app"
    parameter_name = "of_app"
    options = tuple((app, app, Q(app=app)) for app in ("ratelimit", "realtime", "dashboard"))


class SourceFilter(ChoiceFilter):
    """Settings by where their value comes from."""

    title = "source"
    parameter_name = "from_source"
    options = (
        ("default", "Default", Q(source="default")),
        ("env", "Environment", Q(source="env")),
        ("settings", "Django settings", Q(source="settings")),
        ("override", "Override", Q(source="override")),
    )


class ChangedFilter(ChoiceFilter):
    """Settings that differ from their default, or do not."""

    title = "value"
    parameter_name = "is_changed"
    options = (("yes", "Changed", Q(changed=True)), ("no", "As the default", Q(changed=False)))


class EditableFilter(ChoiceFilter):
    """Settings that can be overridden here, or that need a restart."""

    title = "change"
    parameter_name = "is_live"
    options = (("yes", "Editable here", Q(live=True)), ("no", "Needs a restart", Q(live=False)))


class InForceFilter(admin.SimpleListFilter):
    """Bans in force, or expired ones."""

    title = "state"
    parameter_name = "state"

    def lookups(self, request: HttpRequest, model_admin: Any) -> list[tuple[str, str]]:
        return [("in_force", "In force"), ("expired", "Expired")]

    def queryset(self, request: HttpRequest, queryset: QuerySet[Ban]) -> QuerySet[Ban]:
        if self.value() == "in_force":
            return queryset.exclude(until__lte=timezone.now())
        return queryset.filter(until__lte=timezone.now()) if self.value() == "expired" else queryset
