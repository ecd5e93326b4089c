"""Rows without a table come from what the other apps report."""

from __future__ import annotations

import time

import pytest
from django.core.management import call_command
from django.test import override_settings

from dashboard.models import Client, RateLimitEntry, Setting


def test_manager_gives_live_rows_and_touches_no_table(clients):
    clients.add(id="a", user="ada", user_id="1")
    clients.add(id="b")
    assert [client.pk for client in Client.objects.filter(user="ada")] == ["a"]
    assert Client.objects.count() == 2
    assert Client._base_manager.get(pk="b").pk == "b"


def test_client_has_every_field_of_the_connection(clients):
    given = clients.add(rooms=("lobby", "staff"), rtt=0.5)
    client = Client.objects.get(pk=given.id)
    assert {field.attname for field in Client._meta.fields} == set(given.__slots__)
    assert all(getattr(client, name) == getattr(given, name) for name in given.__slots__)


@pytest.mark.parametrize("model", [Client, RateLimitEntry, Setting])
def test_rows_cannot_be_written(model):
    with pytest.raises(TypeError, match="cannot be saved"):
        model().save()
    with pytest.raises(TypeError, match="cannot be deleted"):
        model().delete()


def test_most_limited_senders_with_their_share(limits):
    now = time.time()
    for _ in range(3):
        limits.count_message("messages", "192.0.2.1", "ada", now)
    limits.count_message("bytes", "192.0.2.2", "bob", now)
    limits.count_refusal("address_rate", "192.0.2.3", now, limited=True)
    rows = {(row.kind, row.name): (row.limited, row.share) for row in RateLimitEntry.objects.all()}
    assert rows == {
        ("client", "ada"): (3, 0.75),
        ("client", "bob"): (1, 0.25),
        ("address", "192.0.2.1"): (3, 0.6),
        ("address", "192.0.2.2"): (1, 0.2),
        ("address", "192.0.2.3"): (1, 0.2),
    }


@override_settings(DASHBOARD_TOKEN="a-token-nobody-may-see", RATELIMIT_MESSAGES_PER_WINDOW=61)
def test_settings_have_value_unit_default_and_source_but_no_secret():
    changed = Setting.objects.get(name="RATELIMIT_MESSAGES_PER_WINDOW")
    assert (changed.value, changed.default, changed.source) == ("61 messages", "60 messages", "settings")
    assert (changed.app, changed.changed) == ("ratelimit", True)
    token = Setting.objects.get(name="DASHBOARD_TOKEN")
    assert (token.value, token.default, token.changed) == ("set", "not set", True)
    assert all("nobody-may-see" not in str(vars(setting)) for setting in Setting.objects.all())
    assert {setting.app for setting in Setting.objects.all()} == {"ratelimit", "realtime", "dashboard"}


@pytest.mark.django_db
def test_migrations_are_complete():
    call_command("makemigrations", "dashboard", check=True, dry_run=True, verbosity=0)
