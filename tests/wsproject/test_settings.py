"""The demonstration's settings: what the environment moves."""

from __future__ import annotations

import runpy
from typing import Any

import pytest

import wsproject.settings


@pytest.fixture
def read(monkeypatch):
    def settings(**environment: str) -> dict[str, Any]:
        monkeypatch.setenv("SECRET_KEY", "tests")
        for name in ("REDIS_URL", "REALTIME_STATE_URL"):
            monkeypatch.delenv(name, raising=False)
        for name, value in environment.items():
            monkeypatch.setenv(name, value)
        return runpy.run_path(wsproject.settings.__file__)

    return settings


def test_without_redis_everything_stays_in_the_process(read):
    settings = read()
    assert settings["CHANNEL_LAYERS"]["default"]["BACKEND"] == "channels.layers.InMemoryChannelLayer"
    assert "REALTIME_STATE_URL" not in settings


def test_one_variable_moves_messages_and_state_to_redis(read):
    settings = read(REDIS_URL="redis://host:1/2")
    assert settings["CHANNEL_LAYERS"]["default"]["CONFIG"]["hosts"] == ["redis://host:1/2"]
    assert settings["REALTIME_STATE_URL"] == "redis://host:1/2"


def test_the_state_may_have_a_place_of_its_own(read):
    settings = read(REDIS_URL="redis://host:1/2", REALTIME_STATE_URL="redis://other:1/2")
    assert settings["CHANNEL_LAYERS"]["default"]["CONFIG"]["hosts"] == ["redis://host:1/2"]
    assert settings["REALTIME_STATE_URL"] == "redis://other:1/2"
