"""The Configuration page (C9): every setting and where its value comes from."""

from __future__ import annotations

import re

import pytest
from django.test import override_settings
from django.urls import reverse

from dashboard.models import all_settings

LIST = "admin:dashboard_setting_changelist"

pytestmark = pytest.mark.django_db


def names(answer):
    return re.findall(r'data-row="([^"]+)"', answer.content.decode())


def test_every_setting_of_the_three_apps_is_listed_on_one_page(admin):
    assert sorted(names(admin.get(reverse(LIST)))) == sorted(
        name for settings in all_settings() for name in settings.names()
    )


@override_settings(REALTIME_HEARTBEAT_INTERVAL=7.0)
def test_changed_value_is_marked_in_words(admin):
    answer = admin.get(reverse(LIST), {"q": "HEARTBEAT_INTERVAL"})
    row = re.search(r"<tr>.*?REALTIME_HEARTBEAT_INTERVAL.*?</tr>", answer.content.decode(), re.DOTALL).group()
    assert "<strong>7 seconds</strong>" in row
    assert "changed" in row
    assert "30 seconds" in row
    assert "Django settings" in row
    assert "is pinged" in row


def test_value_as_the_default_is_not_marked(admin):
    content = admin.get(reverse(LIST), {"q": "RATELIMIT_MESSAGE_WINDOW"}).content.decode()
    assert "60 seconds" in content
    assert ">changed<" not in content


def test_value_of_the_environment_says_so(admin, monkeypatch):
    monkeypatch.setenv("REALTIME_HEARTBEAT_INTERVAL", "7")
    with override_settings(REALTIME_HEARTBEAT_INTERVAL=7.0):
        assert names(admin.get(reverse(LIST), {"from_source": "env"})) == ["REALTIME_HEARTBEAT_INTERVAL"]
        assert "environment" in admin.get(reverse(LIST), {"from_source": "env"}).content.decode()


@override_settings(DASHBOARD_MAX_ROWS=9)
def test_filters_and_search(admin):
    assert set(names(admin.get(reverse(LIST), {"of_app": "dashboard"}))) == {
        "DASHBOARD_TOKEN",
        "DASHBOARD_REFRESH_INTERVAL",
        "DASHBOARD_MAX_ROWS",
    }
    assert names(admin.get(reverse(LIST), {"is_changed": "yes", "of_app": "dashboard"})) == [
        "DASHBOARD_MAX_ROWS"
    ]
    assert "DASHBOARD_MAX_ROWS" not in names(admin.get(reverse(LIST), {"is_changed": "no"}))
    assert names(admin.get(reverse(LIST), {"q": "Bearer token"})) == ["DASHBOARD_TOKEN"]


@override_settings(DASHBOARD_TOKEN="a-token-nobody-may-see")
def test_secret_is_never_shown(admin):
    for url in (reverse(LIST), reverse("admin:dashboard_setting_change", args=["DASHBOARD_5FTOKEN"])):
        content = admin.get(url).content.decode()
        assert "nobody-may-see" not in content
        assert "DASHBOARD_TOKEN" in content


def test_detail_of_a_setting(admin):
    content = admin.get(reverse("admin:dashboard_setting_change", args=["RATELIMIT_5FMAX_5FMESSAGE_5FBYTES"]))
    assert "1,048,576 bytes (1 MiB)" in content.content.decode()
