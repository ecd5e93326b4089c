"""The settings of ``ratelimit``."""

from __future__ import annotations

import dataclasses

import pytest
from django.core.exceptions import ImproperlyConfigured
from django.test import override_settings

from ratelimit.conf import RateLimitSettings, get_settings

DEFAULTS = {
    "RATELIMIT_MESSAGES_PER_WINDOW": 60,
    "RATELIMIT_MESSAGE_WINDOW": 60.0,
    "RATELIMIT_BYTES_PER_WINDOW": 0,
    "RATELIMIT_SYSTEM_MESSAGES_PER_WINDOW": 600,
    "RATELIMIT_BURST_MULTIPLIER": 2.0,
    "RATELIMIT_DISCONNECT_AFTER": 3,
    "RATELIMIT_MAX_MESSAGE_BYTES": 1024 * 1024,
    "RATELIMIT_CONNECTIONS_PER_WINDOW": 10,
    "RATELIMIT_CONNECTION_WINDOW": 60.0,
    "RATELIMIT_MAX_CONNECTIONS": 0,
    "RATELIMIT_MAX_CONNECTIONS_PER_IP": 0,
    "RATELIMIT_MAX_CONNECTIONS_PER_USER": 0,
    "RATELIMIT_USER_LIMIT_POLICY": "refuse",
    "RATELIMIT_TRUSTED_PROXIES": (),
    "RATELIMIT_IPV6_PREFIX": 64,
    "RATELIMIT_SCOPE": "process",
    "RATELIMIT_BAN_REFRESH": 1.0,
}


def test_defaults():
    """F1: those of the tool that people come from."""
    assert {name: field.default for name, field in RateLimitSettings.names().items()} == DEFAULTS


def test_every_setting_says_what_it_does():
    for field in RateLimitSettings.names().values():
        assert field.metadata["doc"].endswith(".")
        assert field.metadata["unit"] or field.type == "str"


@pytest.mark.parametrize(
    ("name", "value"),
    [
        pytest.param("RATELIMIT_MESSAGES_PER_WINDOW", -1, id="negative"),
        pytest.param("RATELIMIT_MESSAGE_WINDOW", 0, id="no window"),
        pytest.param("RATELIMIT_MESSAGE_WINDOW", 86401, id="longer than a day"),
        pytest.param("RATELIMIT_BURST_MULTIPLIER", 0.9, id="burst below the limit"),
        pytest.param("RATELIMIT_IPV6_PREFIX", 0, id="everybody in one prefix"),
        pytest.param("RATELIMIT_IPV6_PREFIX", 129, id="more bits than there are"),
        pytest.param("RATELIMIT_USER_LIMIT_POLICY", "oldest", id="unknown policy"),
        pytest.param("RATELIMIT_SCOPE", "node", id="unknown scope"),
        pytest.param("RATELIMIT_TRUSTED_PROXIES", ["proxy.example"], id="a name is no network"),
        pytest.param("RATELIMIT_TRUSTED_PROXIES", "10.0.0.0/8", id="a string is no list"),
        pytest.param("RATELIMIT_DISCONNECT_AFTER", True, id="bool"),
        pytest.param("RATELIMIT_BAN_REFRESH", float("nan"), id="not a number"),
    ],
)
def test_a_bad_limit_is_refused_by_name_and_value(name, value):
    with override_settings(**{name: value}), pytest.raises(ImproperlyConfigured) as caught:
        get_settings()
    assert f"{name} is {value!r}" in str(caught.value)


@pytest.mark.parametrize(
    ("message", "budget", "fits"),
    [
        pytest.param(100, 50, True, id="the burst holds one message"),
        pytest.param(101, 50, False, id="one byte more"),
        pytest.param(0, 50, False, id="messages of any size"),
        pytest.param(0, 0, True, id="no budget"),
    ],
)
def test_a_byte_budget_has_room_for_one_message(message, budget, fits):
    problems = list(RateLimitSettings(max_message_bytes=message, bytes_per_window=budget).conflicts())
    assert [problem.id for problem in problems] == ([] if fits else ["ratelimit.E010"])


@pytest.mark.parametrize(
    "networks", [["127.0.0.1"], ["::1", "10.0.0.0/8"], ("fd00::/8",), {"192.0.2.0/24"}], ids=str
)
def test_proxies_are_addresses_or_networks(networks):
    with override_settings(RATELIMIT_TRUSTED_PROXIES=networks):
        assert get_settings().trusted_proxies == tuple(networks)


def test_settings_are_read_once_and_again_when_they_change():
    first = get_settings()
    assert get_settings() is first
    with override_settings(RATELIMIT_MAX_CONNECTIONS=5):
        assert get_settings().max_connections == 5
    assert get_settings() == first


def test_settings_cannot_be_changed_in_place():
    with pytest.raises(dataclasses.FrozenInstanceError):
        get_settings().max_connections = 5
