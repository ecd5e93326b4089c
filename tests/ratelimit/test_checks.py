"""System checks: each id once, with the value and the way out."""

from __future__ import annotations

import pytest
from django.apps import apps
from django.core import checks
from django.core.exceptions import ImproperlyConfigured
from django.db.models.signals import post_delete, post_save
from django.test import override_settings

from ratelimit import bans
from ratelimit.checks import check_settings
from ratelimit.conf import get_settings
from ratelimit.models import Ban

BAD = [
    pytest.param(
        {"RATELIMIT_MESSAGES_PER_WINDOW": "60"},
        "ratelimit.E001",
        "RATELIMIT_MESSAGES_PER_WINDOW is '60'.",
        "Set it to a whole number of messages.",
        id="E001 type",
    ),
    pytest.param(
        {"RATELIMIT_MAX_MESAGE_BYTES": 10},
        "ratelimit.E002",
        "RATELIMIT_MAX_MESAGE_BYTES is not a setting.",
        "Did you mean RATELIMIT_MAX_MESSAGE_BYTES?",
        id="E002 misspelt",
    ),
    pytest.param(
        {"RATELIMIT_MESSAGE_WINDOW": 0},
        "ratelimit.E003",
        "RATELIMIT_MESSAGE_WINDOW is 0 seconds.",
        "It must be more than 0 seconds.",
        id="E003 range",
    ),
    pytest.param(
        {"RATELIMIT_USER_LIMIT_POLICY": "newst"},
        "ratelimit.E004",
        "RATELIMIT_USER_LIMIT_POLICY is 'newst'.",
        "Did you mean 'newest'?",
        id="E004 choice",
    ),
    pytest.param(
        {"RATELIMIT_TRUSTED_PROXIES": ["10.0.0.1/8"]},
        "ratelimit.E005",
        "RATELIMIT_TRUSTED_PROXIES is ['10.0.0.1/8'].",
        "'10.0.0.1/8' is not a network",
        id="E005 network",
    ),
    pytest.param(
        {"RATELIMIT_BYTES_PER_WINDOW": 1000, "RATELIMIT_MAX_MESSAGE_BYTES": 5000},
        "ratelimit.E010",
        "lets through 2000 bytes at most.",
        "raise the byte budget or lower the message size",
        id="E010 budget below one message",
    ),
]


@pytest.mark.parametrize(("wrong", "id_", "message", "hint"), BAD)
def test_a_wrong_setting_is_an_error_of_the_check(wrong, id_, message, hint):
    with override_settings(**wrong):
        (error,) = check_settings()
    assert (error.id, error.level) == (id_, checks.ERROR)
    assert message in error.msg
    assert hint in error.hint


@pytest.mark.parametrize(("wrong", "id_", "message", "hint"), BAD)
def test_a_wrong_setting_stops_the_first_connection_with_the_same_words(wrong, id_, message, hint):
    """Servers run no checks."""
    with override_settings(**wrong), pytest.raises(ImproperlyConfigured) as caught:
        get_settings()
    assert all(part in str(caught.value) for part in (id_, message, hint))


@pytest.mark.parametrize("everybody", ["0.0.0.0/0", "::/0"])
def test_proxies_that_are_everybody_are_a_warning(everybody):
    with override_settings(RATELIMIT_TRUSTED_PROXIES=["10.0.0.0/8", everybody]):
        (warning,) = check_settings()
        assert get_settings().trusted_proxies
    assert (warning.id, warning.level) == ("ratelimit.W001", checks.WARNING)
    assert repr(everybody) in warning.msg
    assert "your own proxies" in warning.hint


def test_settings_in_order_are_nothing_to_report():
    assert check_settings() == []


def test_the_check_runs_with_django_s():
    assert check_settings in checks.registry.registry.get_checks()
    with override_settings(RATELIMIT_MAX_CONNECTIONS=-1):
        assert "ratelimit.E003" in {message.id for message in checks.run_checks()}


def test_the_app_hears_of_bans_that_change():
    assert apps.get_app_config("ratelimit").verbose_name == "Rate limits"
    for signal in (post_save, post_delete):
        receivers = signal._live_receivers(sender=Ban)
        assert bans.watch.changed in receivers[0]
