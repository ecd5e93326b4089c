"""System checks: each id once, with the value and the way out."""

from __future__ import annotations

import pytest
from channels.layers import InMemoryChannelLayer
from django.apps import apps
from django.conf import settings
from django.core import checks
from django.core.checks.registry import registry
from django.core.exceptions import ImproperlyConfigured
from django.core.management import call_command
from django.core.management.base import SystemCheckError
from django.test import modify_settings, override_settings

from realtime.checks import check_deployment, check_project, check_settings, split_rooms
from realtime.conf import get_settings
from realtime.server import openfiles

BAD = [
    pytest.param(
        {"REALTIME_MAX_ROOMS": "100"},
        "realtime.E001",
        "REALTIME_MAX_ROOMS is '100'.",
        "Set it to a whole number of rooms.",
        id="E001 type",
    ),
    pytest.param(
        {"REALTIME_MAX_ROMS": 10},
        "realtime.E002",
        "REALTIME_MAX_ROMS is not a setting.",
        "Did you mean REALTIME_MAX_ROOMS?",
        id="E002 misspelt",
    ),
    pytest.param(
        {"REALTIME_HANDLER_TIMEOUT": -1},
        "realtime.E003",
        "REALTIME_HANDLER_TIMEOUT is -1 seconds.",
        "It must be at least 0 seconds.",
        id="E003 range",
    ),
    pytest.param(
        {"REALTIME_SLOW_CONSUMER": "drop_oldst"},
        "realtime.E004",
        "REALTIME_SLOW_CONSUMER is 'drop_oldst'.",
        "Did you mean 'drop_oldest'?",
        id="E004 choice",
    ),
    pytest.param(
        {"REALTIME_HEARTBEAT_TIMEOUT": 20},
        "realtime.E010",
        "REALTIME_HEARTBEAT_TIMEOUT is 20 seconds and REALTIME_HEARTBEAT_INTERVAL 30.",
        "The timeout must be longer",
        id="E010 closed before asked",
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


def test_right_settings_are_no_error():
    assert check_settings() == []


def test_each_wrong_setting_is_an_error_of_its_own():
    with override_settings(REALTIME_MAX_ROOMS=0, REALTIME_DRAIN_BATCH=0):
        assert [error.id for error in check_settings()] == ["realtime.E003"] * 2


def test_the_project_of_the_tests_is_in_order():
    assert check_project() == []


def test_the_app_ratelimit_is_needed():
    with modify_settings(INSTALLED_APPS={"remove": ["ratelimit", "dashboard"]}):
        assert not apps.is_installed("ratelimit")
        (error,) = check_project()
    assert (error.id, error.level) == ("realtime.E020", checks.ERROR)
    assert error.hint == "Add 'ratelimit' to INSTALLED_APPS."


@pytest.mark.parametrize(
    "layers",
    [
        pytest.param({}, id="empty"),
        pytest.param({"other": settings.CHANNEL_LAYERS["default"]}, id="only another"),
    ],
)
def test_no_default_channel_layer_is_a_warning(layers):
    with override_settings(CHANNEL_LAYERS=layers):
        (warning,) = check_project()
    assert (warning.id, warning.level) == ("realtime.W001", checks.WARNING)
    assert "channels_redis" in warning.hint


def test_a_project_that_never_heard_of_channel_layers_is_warned_too():
    with override_settings():
        del settings.CHANNEL_LAYERS
        assert [found.id for found in check_project()] == ["realtime.W001"]


@pytest.mark.parametrize(
    ("changed", "wrong"),
    [
        pytest.param({}, True, id="a Redis for the layer only"),
        pytest.param({"REALTIME_HISTORY_SIZE": 0}, False, id="no history"),
        pytest.param({"REALTIME_HISTORY_SIZE": {}}, False, id="no history by room"),
        pytest.param({"REALTIME_STATE_URL": "redis://localhost"}, False, id="a Redis for both"),
        pytest.param({"CHANNEL_LAYERS": settings.CHANNEL_LAYERS}, False, id="one process"),
    ],
)
def test_histories_that_processes_do_not_share_are_an_error(changed, wrong):
    layers = {"default": {"BACKEND": "channels_redis.core.RedisChannelLayer"}}
    with override_settings(**{"REALTIME_HISTORY_SIZE": 10, "CHANNEL_LAYERS": layers, **changed}):
        assert [found.id for found in check_project()] == (["realtime.E021"] if wrong else [])


# Deployment


REDIS = {"default": {"BACKEND": "channels_redis.core.RedisChannelLayer"}}


@pytest.mark.parametrize(
    ("layers", "reason"),
    [
        pytest.param(REDIS, "", id="redis"),
        pytest.param({"default": {"BACKEND": "nowhere.Layer"}}, "", id="not found: said when it is used"),
        pytest.param({"default": {}}, "CHANNEL_LAYERS has no 'default'.", id="empty"),
        pytest.param({"other": REDIS["default"]}, "CHANNEL_LAYERS has no 'default'.", id="only another"),
        pytest.param(
            {"default": {"BACKEND": "channels.layers.InMemoryChannelLayer"}},
            "CHANNEL_LAYERS['default'] is channels.layers.InMemoryChannelLayer, which does not leave its process.",
            id="in memory",
        ),
        pytest.param(
            {"default": {"BACKEND": f"{__name__}.OwnLayer"}},
            f"CHANNEL_LAYERS['default'] is {__name__}.OwnLayer, which does not leave its process.",
            id="one of that kind",
        ),
    ],
)
def test_rooms_are_split_without_a_layer_between_processes(layers, reason):
    with override_settings(CHANNEL_LAYERS=layers):
        assert split_rooms() == reason


class OwnLayer(InMemoryChannelLayer):
    """Another name for the layer in memory."""


@pytest.mark.parametrize(
    ("files", "connections", "layers", "ids"),
    [
        pytest.param(65536, 0, REDIS, [], id="in order"),
        pytest.param(1024, 10_000, REDIS, ["realtime.W002"], id="too few files"),
        pytest.param(1024, 0, REDIS, ["realtime.W003"], id="few files for any number"),
        pytest.param(65536, 0, settings.CHANNEL_LAYERS, ["realtime.W004"], id="in memory"),
        pytest.param(65536, 0, {}, [], id="no layer is told by another check"),
    ],
)
def test_a_deployment_is_warned(files, connections, layers, ids, monkeypatch):
    """B7"""
    monkeypatch.setattr(openfiles, "limit", lambda: files)
    with override_settings(RATELIMIT_MAX_CONNECTIONS=connections, CHANNEL_LAYERS=layers):
        found = check_deployment()
    assert [warning.id for warning in found] == ids
    assert all(warning.level == checks.WARNING and warning.hint for warning in found)


def test_wrong_limits_are_left_to_their_own_check():
    with override_settings(RATELIMIT_MAX_CONNECTIONS="many", CHANNEL_LAYERS=REDIS):
        assert check_deployment() == []


def test_a_deployment_is_checked_only_when_asked_for():
    assert check_deployment in registry.get_checks(include_deployment_checks=True)
    assert check_deployment not in registry.get_checks()


# The command


@pytest.mark.parametrize("check", [check_settings, check_project])
def test_the_check_command_runs_it(check):
    assert check in registry.get_checks()


def test_the_check_command_names_what_is_wrong():
    with override_settings(REALTIME_MAX_ROOMS=0), pytest.raises(SystemCheckError, match=r"realtime\.E003"):
        call_command("check")
