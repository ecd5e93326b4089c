"""Bans as rows."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest
from django.contrib.auth.models import User
from django.core.exceptions import ValidationError
from django.core.management import call_command
from django.db import IntegrityError
from django.utils import timezone

from ratelimit.models import Ban

NOW = datetime(2030, 1, 1, tzinfo=UTC)


@pytest.mark.parametrize(
    ("network", "kept"),
    [
        pytest.param("192.0.2.7", "192.0.2.7/32", id="address"),
        pytest.param("192.0.2.7/24", "192.0.2.0/24", id="host bits"),
        pytest.param("2001:DB8::7/64", "2001:db8::/64", id="IPv6 in capitals"),
        pytest.param("::ffff:192.0.2.7", "192.0.2.7/32", id="IPv4 written as IPv6"),
        pytest.param(" 192.0.2.7 ", "192.0.2.7/32", id="space around it"),
    ],
)
def test_networks_are_kept_in_one_spelling(network, kept):
    ban = Ban(network=network)
    ban.clean()
    assert ban.network == kept


@pytest.mark.parametrize("network", ["here", "192.0.2.0/33", "192.0.2", "1.2.3.4, 1.2.3.5"])
def test_what_is_no_network_is_named(network):
    with pytest.raises(ValidationError) as caught:
        Ban(network=network).clean()
    assert network in caught.value.message_dict["network"][0]


@pytest.mark.django_db
@pytest.mark.parametrize("network", ["", "   "])
def test_a_ban_names_somebody(network):
    with pytest.raises(ValidationError, match="Name a network, a user, or both"):
        Ban(network=network).full_clean()


@pytest.mark.django_db
def test_the_database_keeps_a_ban_of_nobody_out():
    with pytest.raises(IntegrityError):
        Ban.objects.create(network="")


@pytest.mark.django_db
def test_the_longest_network_fits():
    ban = Ban(network="2001:db8:1111:2222:3333:4444:5555:6666/127")
    ban.full_clean()
    ban.save()
    ban.refresh_from_db()
    assert ban.network == "2001:db8:1111:2222:3333:4444:5555:6666/127"


@pytest.mark.django_db
def test_in_force_is_until_exactly_the_end():
    endless = Ban.objects.create(network="192.0.2.1")
    ending = Ban.objects.create(network="192.0.2.2", until=NOW)
    assert set(Ban.objects.in_force(NOW - timedelta(microseconds=1))) == {endless, ending}
    assert set(Ban.objects.in_force(NOW)) == {endless}
    assert ending.in_force(NOW - timedelta(microseconds=1))
    assert not ending.in_force(NOW)
    assert endless.in_force(NOW)


@pytest.mark.django_db
def test_in_force_means_now_if_not_told():
    Ban.objects.create(network="192.0.2.1", until=timezone.now() - timedelta(seconds=1))
    current = Ban.objects.create(network="192.0.2.2", until=timezone.now() + timedelta(minutes=1))
    assert list(Ban.objects.in_force()) == [current]
    assert current.in_force()


@pytest.mark.django_db
def test_a_ban_outlives_who_made_it_and_ends_with_whom_it_is_for():
    admin, user = User.objects.create(username="admin"), User.objects.create(username="ann")
    ban = Ban.objects.create(user=user, by=admin)
    admin.delete()
    ban.refresh_from_db()
    assert ban.by is None
    user.delete()
    assert not Ban.objects.exists()


def test_a_ban_is_read_as_whom_it_is_for():
    user = User(username="ann")
    assert str(Ban(network="192.0.2.0/24")) == "192.0.2.0/24"
    assert str(Ban(network="192.0.2.0/24", user=user)) == "192.0.2.0/24 and ann"


@pytest.mark.django_db
def test_migrations_match_the_model():
    call_command("makemigrations", "ratelimit", check=True, dry_run=True, verbosity=0)
