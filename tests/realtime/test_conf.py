"""The settings of ``realtime``: their defaults, and every value that cannot be used."""

from __future__ import annotations

import dataclasses

import pytest
from django.core.exceptions import ImproperlyConfigured
from django.test import override_settings

from ratelimit.appsettings import from_environment
from realtime.conf import RealtimeSettings, get_settings

DEFAULTS = {
    "REALTIME_NODE_NAME": "",
    "REALTIME_HEARTBEAT_ENABLED": True,
    "REALTIME_HEARTBEAT_INTERVAL": 30.0,
    "REALTIME_HEARTBEAT_TIMEOUT": 60.0,
    "REALTIME_HEARTBEAT_TYPE": "auto",
    "REALTIME_IDLE_TIMEOUT": 0.0,
    "REALTIME_MAX_CONNECTION_AGE": 0.0,
    "REALTIME_MAX_CLIENT_ERRORS": 10,
    "REALTIME_HANDLER_CONCURRENCY": 1,
    "REALTIME_HANDLER_TIMEOUT": 30.0,
    "REALTIME_MAX_INBOUND_MESSAGES": 32,
    "REALTIME_MAX_OUTBOUND_BYTES": 1024 * 1024,
    "REALTIME_SLOW_CONSUMER": "disconnect",
    "REALTIME_MAX_ROOMS": 100,
    "REALTIME_MAX_SESSION_DATA_BYTES": 64 * 1024,
    "REALTIME_MAX_MEMORY_PER_CONNECTION": 0,
    "REALTIME_MAX_TOTAL_MEMORY": 0,
    "REALTIME_MEMORY_EVICTION_POLICY": "lru",
    "REALTIME_MEMORY_CHECK_INTERVAL": 60.0,
    "REALTIME_MAX_QUEUE_SIZE": 10000,
    "REALTIME_MAX_CONCURRENT_BROADCAST": 1000,
    "REALTIME_MAX_CONCURRENT_CLEANUP": 100,
    "REALTIME_TASK_RESTART_INTERVAL": 5.0,
    "REALTIME_DRAIN_TIMEOUT": 30.0,
    "REALTIME_DRAIN_BATCH": 200,
    "REALTIME_RECONNECT_SPREAD": 10.0,
    "REALTIME_ENGINE": "native",
    "REALTIME_COMPRESSION": "none",
    "REALTIME_COMPRESSION_WINDOW_BITS": 12,
    "REALTIME_COMPRESSION_MEM_LEVEL": 5,
    "REALTIME_COMPRESSION_CONTEXT_TAKEOVER": False,
    "REALTIME_COMPRESSION_MIN_BYTES": 256,
    "REALTIME_READ_BUFFER_BYTES": 4096,
    "REALTIME_WRITE_BUFFER_BYTES": 64 * 1024,
    "REALTIME_STATE_URL": "memory://",
    "REALTIME_STATE_PREFIX": "channels-ops",
    "REALTIME_STATE_TIMEOUT": 2.0,
    "REALTIME_STATE_POOL_SIZE": 1,
    "REALTIME_NODE_LEASE": 15.0,
    "REALTIME_REGISTRY_SYNC_INTERVAL": 2.0,
    "REALTIME_HISTORY_SIZE": 0,
    "REALTIME_HISTORY_TTL": 300,
    "REALTIME_HISTORY_CHECK_INTERVAL": 5.0,
    "REALTIME_HISTORY_CACHE_BYTES": 32 * 1024 * 1024,
    "REALTIME_SESSION_TTL": 3600.0,
    "REALTIME_SESSION_SAVE_INTERVAL": 10.0,
    "REALTIME_DEDUPE_WINDOW": 300.0,
}

LOWEST = {
    "REALTIME_IDLE_TIMEOUT": 0,
    "REALTIME_MAX_CONNECTION_AGE": 0,
    "REALTIME_MAX_CLIENT_ERRORS": 0,
    "REALTIME_HANDLER_CONCURRENCY": 1,
    "REALTIME_HANDLER_TIMEOUT": 0,
    "REALTIME_MAX_INBOUND_MESSAGES": 1,
    "REALTIME_MAX_OUTBOUND_BYTES": 1024,
    "REALTIME_MAX_ROOMS": 1,
    "REALTIME_MAX_SESSION_DATA_BYTES": 0,
    "REALTIME_MAX_MEMORY_PER_CONNECTION": 0,
    "REALTIME_MAX_TOTAL_MEMORY": 0,
    "REALTIME_MAX_QUEUE_SIZE": 1,
    "REALTIME_MAX_CONCURRENT_BROADCAST": 1,
    "REALTIME_MAX_CONCURRENT_CLEANUP": 1,
    "REALTIME_DRAIN_TIMEOUT": 0,
    "REALTIME_DRAIN_BATCH": 1,
    "REALTIME_RECONNECT_SPREAD": 0,
    "REALTIME_COMPRESSION_WINDOW_BITS": 9,
    "REALTIME_COMPRESSION_MEM_LEVEL": 1,
    "REALTIME_COMPRESSION_MIN_BYTES": 0,
    "REALTIME_READ_BUFFER_BYTES": 1024,
    "REALTIME_WRITE_BUFFER_BYTES": 1024,
    "REALTIME_STATE_POOL_SIZE": 1,
    "REALTIME_NODE_LEASE": 1,
    "REALTIME_HISTORY_SIZE": 0,
    "REALTIME_HISTORY_TTL": 1,
    "REALTIME_HISTORY_CACHE_BYTES": 0,
    "REALTIME_SESSION_TTL": 1,
    "REALTIME_SESSION_SAVE_INTERVAL": 0,
    "REALTIME_DEDUPE_WINDOW": 0,
}
HIGHEST = {
    "REALTIME_HEARTBEAT_INTERVAL": 3600,
    "REALTIME_HEARTBEAT_TIMEOUT": 86400,
    "REALTIME_HANDLER_CONCURRENCY": 1000,
    "REALTIME_TASK_RESTART_INTERVAL": 3600,
    "REALTIME_MEMORY_CHECK_INTERVAL": 3600,
    "REALTIME_DRAIN_TIMEOUT": 3600,
    "REALTIME_RECONNECT_SPREAD": 3600,
    "REALTIME_COMPRESSION_WINDOW_BITS": 15,
    "REALTIME_COMPRESSION_MEM_LEVEL": 9,
    "REALTIME_READ_BUFFER_BYTES": 1024 * 1024,
    "REALTIME_STATE_TIMEOUT": 60,
    "REALTIME_STATE_POOL_SIZE": 64,
    "REALTIME_NODE_LEASE": 3600,
    "REALTIME_REGISTRY_SYNC_INTERVAL": 60,
    "REALTIME_HISTORY_SIZE": 100_000,
    "REALTIME_HISTORY_TTL": 30 * 86400,
    "REALTIME_HISTORY_CHECK_INTERVAL": 3600,
    "REALTIME_SESSION_TTL": 30 * 86400,
    "REALTIME_SESSION_SAVE_INTERVAL": 3600,
    "REALTIME_DEDUPE_WINDOW": 86400,
}
ABOVE_ZERO = (
    "REALTIME_HEARTBEAT_INTERVAL",
    "REALTIME_HEARTBEAT_TIMEOUT",
    "REALTIME_TASK_RESTART_INTERVAL",
    "REALTIME_MEMORY_CHECK_INTERVAL",
    "REALTIME_STATE_TIMEOUT",
    "REALTIME_REGISTRY_SYNC_INTERVAL",
    "REALTIME_HISTORY_CHECK_INTERVAL",
)
CHOICES = {
    "REALTIME_HEARTBEAT_TYPE": ("auto", "ping", "message"),
    "REALTIME_SLOW_CONSUMER": ("disconnect", "drop_oldest", "drop_newest", "coalesce"),
    "REALTIME_MEMORY_EVICTION_POLICY": ("lru", "fifo", "largest"),
    "REALTIME_ENGINE": ("native", "daphne"),
    "REALTIME_COMPRESSION": ("none", "deflate"),
}


def problem_ids() -> list[str]:
    return [problem.id for problem in RealtimeSettings.read()[1]]


def test_defaults():
    """F1: those of the tool that people come from."""
    assert {name: field.default for name, field in RealtimeSettings.names().items()} == DEFAULTS
    assert problem_ids() == []


def test_every_setting_has_its_row_here():
    """A number is bounded below, a word is one of several; only a name and a switch are free."""
    free = {
        "REALTIME_NODE_NAME",
        "REALTIME_HEARTBEAT_ENABLED",
        "REALTIME_COMPRESSION_CONTEXT_TAKEOVER",
        "REALTIME_STATE_URL",
        "REALTIME_STATE_PREFIX",
    }
    assert free | set(LOWEST) | set(ABOVE_ZERO) | set(CHOICES) == set(DEFAULTS)


def test_every_setting_says_what_it_does_and_in_which_unit():
    for name, field in RealtimeSettings.names().items():
        assert field.metadata["doc"].endswith(".")
        assert bool(field.metadata["unit"]) == (type(DEFAULTS[name]) in (int, float))


@pytest.mark.parametrize(
    ("name", "value"),
    [*LOWEST.items(), *HIGHEST.items()],
    ids=lambda value: str(value).removeprefix("REALTIME_"),
)
def test_a_value_on_its_bound_is_accepted(name, value):
    # The timeout has to stay above the interval.
    others = {"REALTIME_HEARTBEAT_TIMEOUT": 86400} if name == "REALTIME_HEARTBEAT_INTERVAL" else {}
    with override_settings(**others, **{name: value}):
        assert problem_ids() == []
        assert getattr(get_settings(), name.removeprefix("REALTIME_").lower()) == value


BEYOND = [
    *((name, lowest - 1) for name, lowest in LOWEST.items()),
    *((name, highest + 1) for name, highest in HIGHEST.items()),
    *((name, 0) for name in ABOVE_ZERO),
]


@pytest.mark.parametrize(("name", "value"), BEYOND, ids=lambda value: str(value).removeprefix("REALTIME_"))
def test_a_value_beyond_its_bound_is_refused_by_name_and_value(name, value):
    with override_settings(**{name: value}):
        assert problem_ids() == ["realtime.E003"]
        with pytest.raises(ImproperlyConfigured, match=f"{name} is {value}"):
            get_settings()


@pytest.mark.parametrize(
    ("name", "default"), DEFAULTS.items(), ids=lambda value: str(value).removeprefix("REALTIME_")
)
def test_a_value_of_another_type_is_refused(name, default):
    with override_settings(**{name: 1 if isinstance(default, str | bool) else "1"}):
        assert problem_ids() == ["realtime.E001"]
        with pytest.raises(ImproperlyConfigured, match=f"{name} is"):
            get_settings()


@pytest.mark.parametrize(
    "name", [name for name, default in DEFAULTS.items() if type(default) in (int, float)]
)
def test_a_bool_is_no_number(name):
    with override_settings(**{name: True}):
        assert problem_ids() == ["realtime.E001"]


@pytest.mark.parametrize(("name", "choices"), CHOICES.items())
def test_a_word_is_one_of_its_choices(name, choices):
    for choice in choices:
        with override_settings(**{name: choice}):
            assert problem_ids() == []
    with override_settings(**{name: choices[-1] + "s"}):
        (problem,) = RealtimeSettings.read()[1]
        assert (problem.id, problem.hint) == ("realtime.E004", f"Did you mean {choices[-1]!r}?")


@pytest.mark.setting("REALTIME_SLOW_CONSUMER")
@pytest.mark.parametrize(
    ("chosen", "problem"),
    [
        pytest.param({"ticker-*": "coalesce", "*": "drop_oldest"}, None, id="the rest last"),
        pytest.param({"ticker-*": "coalesce"}, None, id="nothing about the rest"),
        pytest.param({}, None, id="nothing at all"),
        pytest.param(
            {"*": "disconnect", "ticker-*": "coalesce"},
            "(realtime.E005) REALTIME_SLOW_CONSUMER is {'*': 'disconnect', 'ticker-*': 'coalesce'}."
            " Put '*' last: it matches every room, so 'ticker-*' is never reached.",
            id="the rest first",
        ),
        pytest.param(
            {"": "coalesce"},
            "(realtime.E005) REALTIME_SLOW_CONSUMER is {'': 'coalesce'}."
            " No room has an empty name: remove the pattern ''.",
            id="an empty pattern",
        ),
        pytest.param(
            {"ticker-*": "drop_oldst"},
            "(realtime.E004) REALTIME_SLOW_CONSUMER['ticker-*'] is 'drop_oldst'. Did you mean 'drop_oldest'?",
            id="misspelt policy",
        ),
        pytest.param(
            {"ticker-*": None},
            "(realtime.E001) REALTIME_SLOW_CONSUMER is {'ticker-*': None}."
            " Set it to a string or a mapping of strings to strings.",
            id="no policy",
        ),
    ],
)
def test_the_policy_for_slow_readers_may_be_chosen_by_room(chosen, problem):
    with override_settings(REALTIME_SLOW_CONSUMER=chosen):
        problems = RealtimeSettings.read()[1]
    assert [str(one) for one in problems] == ([] if problem is None else [problem])


@pytest.mark.parametrize(
    ("chosen", "problem"),
    [
        pytest.param({"chat.*": 100, "*": 0}, None, id="by room"),
        pytest.param({}, None, id="nothing at all"),
        pytest.param(
            {"chat.*": -1},
            "(realtime.E003) REALTIME_HISTORY_SIZE['chat.*'] is -1 messages. It must be at least 0 messages.",
            id="less than nothing",
        ),
        pytest.param(
            {"chat.*": "many"},
            "(realtime.E001) REALTIME_HISTORY_SIZE is {'chat.*': 'many'}."
            " Set it to a whole number or a mapping of strings to whole numbers (messages).",
            id="no number",
        ),
        pytest.param(
            {"*": 1, "chat.*": 100},
            "(realtime.E005) REALTIME_HISTORY_SIZE is {'*': 1, 'chat.*': 100}."
            " Put '*' last: it matches every room, so 'chat.*' is never reached.",
            id="the rest first",
        ),
    ],
)
def test_the_size_of_a_history_may_be_chosen_by_room(chosen, problem):
    with override_settings(REALTIME_HISTORY_SIZE=chosen):
        problems = RealtimeSettings.read()[1]
    assert [str(one) for one in problems] == ([] if problem is None else [problem])


@pytest.mark.parametrize(
    ("text", "value"),
    [("100", 100), ('{"chat.*": 100}', {"chat.*": 100}), ("many", "many"), ("{", "{")],
)
def test_a_setting_by_room_comes_from_the_environment_as_a_number_or_as_json(text, value):
    assert from_environment([RealtimeSettings], {"REALTIME_HISTORY_SIZE": text}) == {
        "REALTIME_HISTORY_SIZE": value
    }


def test_a_misspelt_setting_is_named_with_its_likely_spelling():
    with override_settings(REALTIME_HEARTBEAT_INTERVALL=10):
        (problem,) = RealtimeSettings.read()[1]
    assert (problem.id, problem.hint) == ("realtime.E002", "Did you mean REALTIME_HEARTBEAT_INTERVAL?")


@pytest.mark.parametrize(
    ("interval", "timeout", "fits"),
    [
        pytest.param(30.0, 30.1, True, id="a little longer"),
        pytest.param(30.0, 30.0, False, id="as long"),
        pytest.param(30.0, 10.0, False, id="shorter"),
    ],
)
def test_a_socket_must_be_asked_before_it_can_be_found_silent(interval, timeout, fits):
    settings = RealtimeSettings(heartbeat_interval=interval, heartbeat_timeout=timeout)
    problems = list(settings.conflicts())
    assert [problem.id for problem in problems] == ([] if fits else ["realtime.E010"])
    for problem in problems:
        assert f"REALTIME_HEARTBEAT_TIMEOUT is {timeout:g} seconds" in problem.message
        assert f"REALTIME_HEARTBEAT_INTERVAL {interval:g}." in problem.message
        assert "must be longer" in problem.hint


def test_a_conflict_keeps_the_settings_from_being_used():
    with (
        override_settings(REALTIME_HEARTBEAT_TIMEOUT=30.0),
        pytest.raises(ImproperlyConfigured, match="E010"),
    ):
        get_settings()


def test_all_that_is_wrong_is_said_at_once():
    wrong = {
        "REALTIME_MAX_ROOMS": 0,
        "REALTIME_HANDLER_TIMEOUT": "soon",
        "REALTIME_SLOW_CONSUMER": "wait",
        "REALTIME_X": 1,
    }
    with override_settings(**wrong), pytest.raises(ImproperlyConfigured) as caught:
        get_settings()
    assert all(name in str(caught.value) for name in wrong)


def test_settings_are_read_once_and_again_when_they_change():
    first = get_settings()
    assert get_settings() is first
    with override_settings(REALTIME_MAX_ROOMS=5):
        assert get_settings().max_rooms == 5
    assert get_settings() == first


def test_settings_cannot_be_changed_in_place():
    with pytest.raises(dataclasses.FrozenInstanceError):
        get_settings().max_rooms = 5  # type: ignore[misc]
