"""No server starts with a setting that cannot be meant, and each says which one and what to do."""

from __future__ import annotations

import pytest

from tests.acceptance.processes import daphne, free_port, manage, run, uvicorn

SERVERS = [
    pytest.param(lambda port: daphne("wsproject.asgi:application", port), id="daphne"),
    pytest.param(lambda port: uvicorn("wsproject.asgi:application", port), id="uvicorn"),
    pytest.param(lambda port: manage("serve", "--port", str(port)), id="serve"),
    pytest.param(lambda port: manage("runserver", "--noreload", f"127.0.0.1:{port}"), id="runserver"),
]
WRONG = [
    pytest.param(
        {"RATELIMIT_MESSAGE_WINDOW": "0"}, ["RATELIMIT_MESSAGE_WINDOW is 0", "seconds"], id="out of range"
    ),
    pytest.param(
        {"REALTIME_HEARTBEAT_INTERVAL": "soon"},
        ["REALTIME_HEARTBEAT_INTERVAL is 'soon'", "seconds"],
        id="type",
    ),
    pytest.param(
        {"REALTIME_SLOW_CONSUMER": "dropoldest"}, ["Did you mean 'drop_oldest'?"], id="misspelt choice"
    ),
    pytest.param({"DASHBOARD_MAX_ROWS": "0"}, ["DASHBOARD_MAX_ROWS is 0", "rows"], id="another app"),
]


@pytest.mark.parametrize("command", SERVERS)
@pytest.mark.parametrize(("environment", "said"), WRONG)
def test_a_wrong_setting_stops_the_start(command, environment, said) -> None:  # type: ignore[no-untyped-def]
    ended = run(command(free_port()), {"DJANGO_SETTINGS_MODULE": "wsproject.settings", **environment})
    assert ended.code != 0
    for words in said:
        assert words in ended.stderr


@pytest.mark.parametrize("command", SERVERS)
def test_a_misspelt_setting_stops_the_start_and_its_likely_spelling_is_named(command) -> None:  # type: ignore[no-untyped-def]
    ended = run(command(free_port()), {"DJANGO_SETTINGS_MODULE": "tests.acceptance.apps.misspelt_settings"})
    assert ended.code != 0
    assert "Did you mean RATELIMIT_MAX_MESSAGE_BYTES?" in ended.stderr
