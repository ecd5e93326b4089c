"""The form that bans several addresses at once."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest
from django.core.exceptions import ValidationError

from dashboard.banforms import DURATIONS, BanAddressesForm
from ratelimit.bans import watch
from ratelimit.models import Ban

NOW = datetime(2026, 1, 1, tzinfo=UTC)


def form(**data):
    made = BanAddressesForm({"duration": "", "reason": "", **data})
    assert made.is_valid(), made.errors
    return made


@pytest.mark.parametrize(("seconds", "name"), DURATIONS)
def test_every_duration_offered_ends_when_it_says(seconds, name):
    until = form(duration=seconds).until(NOW)
    hours = None if until is None else (until - NOW).total_seconds() / 3600
    assert {"1 hour": 1, "1 day": 24, "1 week": 168, "until it is lifted": None}[name] == hours


@pytest.mark.django_db(transaction=True)
def test_bans_are_in_force_in_this_process_at_once():
    watch.read()
    form().ban(["192.0.2.1", "192.0.2.1"], by=None)
    assert Ban.objects.count() == 1
    assert watch.table.bans_address("192.0.2.1", NOW.timestamp())


@pytest.mark.django_db
def test_one_wrong_network_bans_nobody():
    with pytest.raises(ValidationError):
        form().ban(["192.0.2.1", "x"], by=None)
    assert not Ban.objects.exists()
