"""The Clients page: every open connection, and what an operator can do about it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from datetime import UTC, datetime
from typing import Any

from django.contrib import admin, messages
from django.contrib.admin.helpers import ACTION_CHECKBOX_NAME
from django.contrib.admin.models import ADDITION, CHANGE
from django.core.exceptions import ValidationError
from django.db.models import QuerySet
from django.http import HttpRequest, HttpResponse
from django.template.response import TemplateResponse
from django.utils import timezone
from django.utils.html import format_html, format_html_join
from django.utils.safestring import SafeString

from dashboard.amounts import bytes_text, counted, duration_text, milliseconds_text
from dashboard.audit import record
from dashboard.banforms import MOST_BANS_AT_ONCE, BanAddressesForm
from dashboard.filters import (
    ConsumerFilter,
    IdentityFilter,
    LimitedFilter,
    NodeFilter,
    RoomFilter,
    RouteFilter,
)
from dashboard.liveadmin import LiveModelAdmin
from dashboard.models import Client
from dashboard.moments import Moment, moment_of
from ratelimit.clients import network_of, parse_hop
from ratelimit.conf import get_settings as get_ratelimit_settings
from realtime import cluster
from realtime.close_codes import KICKED
from realtime.errors import RealtimeError
from realtime.publish import disconnect_client_sync

MOST_ROOMS_SHOWN = 2
"""Rooms named in a row of the list; the detail page names all."""
MOST_NODES_SHOWN = 5
"""Nodes whose connections are counted above the list; the filter has more."""


class ClientAdmin(LiveModelAdmin):
    """Open connections. One may be disconnected, and its address banned, by who is allowed to."""

    change_form_template = "admin/dashboard/client_detail.html"
    summary_template = "admin/dashboard/client_summary.html"
    list_title = "Clients"
    row_nouns = ("client", "clients")
    list_display = (
        "client",
        "who",
        "address",
        "place",
        "connected",
        "rtt_shown",
        "incoming",
        "outgoing",
        "limits",
        "rooms_shown",
        "queue",
        "errors",
    )
    list_display_links = ("client",)
    list_filter = (IdentityFilter, LimitedFilter, RouteFilter, ConsumerFilter, NodeFilter, RoomFilter)
    search_fields = ("id", "user", "user_id", "address", "path", "rooms")
    search_help_text = "Searches client id, user, address, path and rooms."
    ordering = ("-opened_at",)
    actions = ("disconnect", "ban_address")
    fieldsets = (
        ("Who", {"fields": ("id", "user_shown", "user_id_shown", "address", "user_agent_shown")}),
        (
            "Where",
            {
                "fields": (
                    "path",
                    "route",
                    "consumer",
                    "rooms_listed",
                    "node",
                    "transport",
                    "subprotocol_shown",
                )
            },
        ),
        ("When", {"fields": ("opened_shown", "connected", "seen_shown", "rtt_shown")}),
        (
            "Traffic",
            {
                "fields": (
                    "messages_in",
                    "bytes_in_shown",
                    "messages_out",
                    "bytes_out_shown",
                    "queue",
                    "errors",
                )
            },
        ),
        ("Rate limit", {"fields": ("limited", "remaining_shown")}),
    )
    readonly_fields = (
        "user_shown",
        "user_id_shown",
        "user_agent_shown",
        "rooms_listed",
        "subprotocol_shown",
        "opened_shown",
        "connected",
        "seen_shown",
        "rtt_shown",
        "bytes_in_shown",
        "bytes_out_shown",
        "queue",
        "remaining_shown",
    )

    def has_disconnect_permission(self, request: HttpRequest) -> bool:
        """Whether this operator may close sockets."""
        return request.user.has_perm("dashboard.disconnect_client")

    def has_ban_permission(self, request: HttpRequest) -> bool:
        """Whether this operator may ban addresses."""
        return request.user.has_perm("ratelimit.add_ban")

    def summary(self, request: HttpRequest) -> dict[str, Any]:
        moment = moment_of(request)
        node = moment.node
        return {
            "draining": node.draining,
            "unknown": moment.unknown,
            "unlisted": max(0, moment.open - len(moment.connections)),
            "tiles": [
                ("Open", f"{moment.open:,}", _by_node(moment)),
                ("Named", f"{moment.named:,}", []),
                ("Anonymous", f"{moment.open - moment.named:,}", []),
                ("Limited", f"{moment.limited:,}", []),
                ("Rooms", f"{moment.rooms_open:,}", []),
                ("In per second", f"{sum(one.rates.received_per_sec for one in moment.processes):,.1f}", []),
                ("Out per second", f"{sum(one.rates.sent_per_sec for one in moment.processes):,.1f}", []),
            ],
        }

    def change_view(
        self,
        request: HttpRequest,
        object_id: str,
        form_url: str = "",
        extra_context: dict[str, Any] | None = None,
    ) -> HttpResponse:
        allowed = {
            "can_disconnect": self.has_disconnect_permission(request),
            "can_ban": self.has_ban_permission(request),
            "title": "Client",
        }
        return super().change_view(request, object_id, form_url, {**allowed, **(extra_context or {})})

    # Columns of the list.

    @admin.display(description="Client", ordering="id")
    def client(self, row: Client) -> SafeString:
        return format_html('<span class="ops-id" data-row="{}" title="{}">{}</span>', row.pk, row.pk, row.pk)

    @admin.display(description="User", ordering="user")
    def who(self, row: Client) -> str | SafeString:
        return row.user or format_html('<span class="ops-quiet">{}</span>', "anonymous")

    @admin.display(description="Route", ordering="route")
    def place(self, row: Client) -> SafeString:
        return _two_lines(row.route, f"on {row.node}")

    @admin.display(description="Rooms", ordering="rooms")
    def rooms_shown(self, row: Client) -> str:
        rooms = row.rooms
        rest = len(rooms) - MOST_ROOMS_SHOWN
        return ", ".join(rooms[:MOST_ROOMS_SHOWN]) + (f" and {rest} more" if rest > 0 else "") or "–"

    @admin.display(description="Connected for", ordering="-opened_at")
    def connected(self, row: Client) -> str:
        return duration_text(timezone.now().timestamp() - row.opened_at)

    @admin.display(description="RTT", ordering="rtt")
    def rtt_shown(self, row: Client) -> str:
        return milliseconds_text(row.rtt)

    @admin.display(description="In", ordering="messages_in")
    def incoming(self, row: Client) -> SafeString:
        return _two_lines(f"{row.messages_in:,}", bytes_text(row.bytes_in))

    @admin.display(description="Out", ordering="messages_out")
    def outgoing(self, row: Client) -> SafeString:
        return _two_lines(f"{row.messages_out:,}", bytes_text(row.bytes_out))

    @admin.display(description="Queue", ordering="outbound_bytes")
    def queue(self, row: Client) -> str:
        return bytes_text(row.outbound_bytes)

    @admin.display(description="Limited", ordering="limited")
    def limits(self, row: Client) -> SafeString:
        left = "no limit" if row.remaining is None else f"{row.remaining:,} left"
        refused = (
            format_html('<strong class="ops-warn">{}</strong>', f"{row.limited:,}") if row.limited else "0"
        )
        return _two_lines(refused, left)

    # Lines of the detail page that the fields do not show well themselves.

    @admin.display(description="User")
    def user_shown(self, row: Client) -> str:
        return row.user or "anonymous"

    @admin.display(description="User id")
    def user_id_shown(self, row: Client) -> str:
        return row.user_id or "–"

    @admin.display(description="Browser or program")
    def user_agent_shown(self, row: Client) -> str:
        return row.user_agent or "–"

    @admin.display(description="Rooms")
    def rooms_listed(self, row: Client) -> str | SafeString:
        if not row.rooms:
            return "in no room"
        return format_html_join("\n", '<span class="ops-tag">{}</span>', ((room,) for room in row.rooms))

    @admin.display(description="Subprotocol")
    def subprotocol_shown(self, row: Client) -> str:
        return row.subprotocol or "none"

    @admin.display(description="Connected since")
    def opened_shown(self, row: Client) -> str:
        return _moment_text(row.opened_at)

    @admin.display(description="Last heard of")
    def seen_shown(self, row: Client) -> str:
        ago = duration_text(timezone.now().timestamp() - row.last_seen)
        return f"{_moment_text(row.last_seen)} ({ago} ago)"

    @admin.display(description="Bytes in")
    def bytes_in_shown(self, row: Client) -> str:
        return bytes_text(row.bytes_in)

    @admin.display(description="Bytes out")
    def bytes_out_shown(self, row: Client) -> str:
        return bytes_text(row.bytes_out)

    @admin.display(description="Messages it may send now")
    def remaining_shown(self, row: Client) -> str:
        return "unlimited" if row.remaining is None else f"{row.remaining:,}"

    # Actions.

    @admin.action(description="Disconnect selected clients", permissions=["disconnect"])
    def disconnect(self, request: HttpRequest, queryset: QuerySet[Client]) -> None:
        """Close the sockets with 4410 and write down who did it."""
        closed, missed, failed = _disconnect(list(queryset))
        gone = len(missed) + _already_gone(request, queryset)
        record(request, closed, CHANGE, f"Disconnected with {KICKED.code}.")
        if closed:
            self.message_user(request, f"Disconnected {counted(len(closed), 'client')}.", messages.SUCCESS)
        if gone:
            self.message_user(request, f"{counted(gone, 'client')} had already gone.", messages.WARNING)
        if failed:
            problem = f"{counted(len(failed), 'client')} could not be disconnected: {failed[0]}"
            self.message_user(request, problem, messages.ERROR)

    @admin.action(description="Ban the addresses of selected clients", permissions=["ban"])
    def ban_address(self, request: HttpRequest, queryset: QuerySet[Client]) -> HttpResponse | None:
        """Ask how long and why, then ban."""
        confirmed = "confirmed" in request.POST
        networks = request.POST.getlist("network") if confirmed else list(_networks(queryset))
        if problem := _cannot_ban(networks):
            self.message_user(request, problem, messages.WARNING)
            return None
        form = BanAddressesForm(request.POST if confirmed else None)
        if not confirmed or not form.is_valid():
            return self._confirm_ban(request, networks, form)
        try:
            bans = form.ban(networks, by=request.user)
        except ValidationError as error:
            # The form named these itself, so somebody has edited it.
            self.message_user(request, " ".join(error.messages), messages.ERROR)
            return None
        record(request, bans, ADDITION, "Banned from the list of clients.")
        self.message_user(request, f"Banned {counted(len(bans), 'address', 'addresses')}.", messages.SUCCESS)
        return None

    def _confirm_ban(self, request: HttpRequest, networks: list[str], form: BanAddressesForm) -> HttpResponse:
        here = _networks(Client.rows(moment_of(request)))
        context = {
            **self.admin_site.each_context(request),
            "opts": self.opts,
            "title": "Ban addresses",
            "form": form,
            "networks": [(network, here[network]) for network in networks],
            "connections": sum(here[network] for network in networks),
            "checkbox_name": ACTION_CHECKBOX_NAME,
        }
        return TemplateResponse(request, "admin/dashboard/ban_addresses.html", context)


def _by_node(moment: Moment) -> list[str]:
    """Return how many of the listed connections each of the largest nodes has, where there are several."""
    if len(moment.processes) < 2:
        return []
    return [f"{name} {count:,}" for name, count in moment.nodes.most_common(MOST_NODES_SHOWN)]


def _two_lines(first: str, second: str) -> SafeString:
    return format_html('{}<span class="ops-second">{}</span>', first, second)


def _moment_text(seconds: float) -> str:
    at = timezone.localtime(datetime.fromtimestamp(seconds, UTC))
    return f"{at:%Y-%m-%d %H:%M:%S %Z}"


def _disconnect(clients: list[Client]) -> tuple[list[Client], list[Client], list[RealtimeError]]:
    """
    Close each; return those closed, those that were not there, and what went wrong with the others.

    The node that has one is told to close it.

    """
    closed: list[Client] = []
    missed: list[Client] = []
    failed: list[RealtimeError] = []
    for client in clients:
        try:
            result = disconnect_client_sync(client.pk, KICKED)
        except RealtimeError as error:
            failed.append(error)
        else:
            told = result.targets or cluster.is_elsewhere(client.pk)
            (closed if told else missed).append(client)
    return closed, missed, failed


def _already_gone(request: HttpRequest, queryset: QuerySet[Client]) -> int:
    """Return how many of the checked clients had left before the action was run."""
    if request.POST.get("select_across", "0") != "0":
        return 0
    return max(0, len(set(request.POST.getlist(ACTION_CHECKBOX_NAME))) - queryset.count())


def _networks(queryset: Iterable[Client]) -> Counter[str]:
    """Return what a ban has to name to keep each client out, with the number of connections from there."""
    prefix = get_ratelimit_settings().ipv6_prefix
    addresses = (parse_hop(client.address) for client in queryset)
    return Counter(network_of(address, prefix) for address in addresses if address is not None)


def _cannot_ban(networks: list[str]) -> str:
    if not networks:
        return "No address to ban: the clients have gone, or came over a Unix socket."
    if len(networks) > MOST_BANS_AT_ONCE:
        return (
            f"{len(networks):,} addresses are more than the {MOST_BANS_AT_ONCE} that can be banned at once."
            " Choose fewer, or ban a network."
        )
    return ""
