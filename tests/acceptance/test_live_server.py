"""Users' own ``ChannelsLiveServerTestCase`` tests run on our server, with the engine of the settings."""

from __future__ import annotations

import re
import sys
from pathlib import Path

import pytest

from tests.acceptance.processes import run


@pytest.mark.parametrize("engine", ["native", "daphne"])
def test_live_server_tests_pass(engine: str, tmp_path: Path) -> None:
    ended = run(
        [sys.executable, "-m", "django", "test", "tests.acceptance.apps.live_cases"],
        {
            "DJANGO_SETTINGS_MODULE": "tests.acceptance.apps.live_settings",
            "DATABASE": str(tmp_path / "live.sqlite3"),
            "REALTIME_ENGINE": engine,
            "REALTIME_COMPRESSION": "deflate",
        },
        seconds=60,
    )
    assert ended.code == 0, ended.stderr
    assert re.search(r"^Ran 4 tests in .*\n\nOK$", ended.stderr, re.MULTILINE)
