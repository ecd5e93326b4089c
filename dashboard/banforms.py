"""The forms that make bans, with errors a person can act on."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any

from django import forms
from django.core.exceptions import ValidationError
from django.db import transaction
from django.utils import timezone

from ratelimit.bans import watch
from ratelimit.clients import parse_network
from ratelimit.models import Ban

if TYPE_CHECKING:
    _BanModelForm = forms.ModelForm[Ban]
else:
    _BanModelForm = forms.ModelForm

MOST_BANS_AT_ONCE = 500
"""Below Django's own limit on the fields of one form."""

DURATIONS = (("3600", "1 hour"), ("86400", "1 day"), ("604800", "1 week"), ("", "until it is lifted"))
"""Seconds as text, and what they are called."""


class BanForm(_BanModelForm):
    """One ban, of a network, of a user, or of both."""

    class Meta:
        model = Ban
        fields = ("network", "user", "reason", "until")

    def clean_network(self) -> str:
        """Say in words what a network looks like; the model writes it in its normal form."""
        text: str = self.cleaned_data.get("network") or ""
        if text.strip():
            try:
                parse_network(text)
            except ValueError as error:
                raise ValidationError(
                    f"“{text}” is neither an address such as 203.0.113.7 or 2001:db8::1"
                    " nor a network such as 203.0.113.0/24 or 2001:db8::/64."
                ) from error
        return text


class BanAddressesForm(forms.Form):
    """How long and why the addresses of some clients are banned."""

    duration = forms.ChoiceField(label="For", choices=DURATIONS, required=False, initial="86400")
    reason = forms.CharField(max_length=200, required=False, widget=forms.TextInput(attrs={"size": 40}))

    def until(self, now: datetime) -> datetime | None:
        """Return when the bans end; ``None`` for never."""
        seconds = self.cleaned_data["duration"]
        return now + timedelta(seconds=int(seconds)) if seconds else None

    def ban(self, networks: Iterable[str], *, by: Any) -> list[Ban]:
        """
        Ban each network, in force at once in this process, and return the bans.

        Raise ValidationError for what is no network; nothing is banned then.

        """
        until, reason = self.until(timezone.now()), self.cleaned_data["reason"]
        bans = [
            Ban(network=network, reason=reason, until=until, by=by) for network in dict.fromkeys(networks)
        ]
        for ban in bans:
            ban.full_clean()
        with transaction.atomic():
            made = Ban.objects.bulk_create(bans)
            watch.changed(using=transaction.get_connection().alias)
        return made
