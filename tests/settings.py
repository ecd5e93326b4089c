"""Settings of the tests: the demonstration's without its environment, quick, and safe with many threads."""

from __future__ import annotations

import atexit
import shutil
import tempfile
from pathlib import Path
from typing import Any

from dashboard.conf import DashboardSettings
from ratelimit.conf import RateLimitSettings
from realtime.conf import RealtimeSettings
from wsproject.settings import *  # noqa: F403
from wsproject.settings import DATABASES

for _settings in (RateLimitSettings, RealtimeSettings, DashboardSettings):
    for _name in _settings.names():
        # A test sees the documented defaults, whatever the demonstration or the environment sets.
        globals().pop(_name, None)

# All tests come from one address. A test about this limit sets it.
RATELIMIT_CONNECTIONS_PER_WINDOW = 0

SECRET_KEY = "tests"
DEBUG = False
ALLOWED_HOSTS = ["testserver", "localhost", "127.0.0.1"]

# A file, not :memory:, because consumers reach the database from threads of their own, and connections
# to one in-memory database lock each other out by the table. One folder per run, so that runs can overlap;
# SQLite leaves files beside the database there.
_FOLDER = Path(tempfile.mkdtemp(prefix="channels-ops-tests-"))
atexit.register(shutil.rmtree, _FOLDER, ignore_errors=True)
_TEST_DATABASE = _FOLDER / "test.sqlite3"
DATABASES["default"]["NAME"] = _TEST_DATABASE
DATABASES["default"]["TEST"] = {"NAME": _TEST_DATABASE}

CHANNEL_LAYERS: dict[str, Any] = {"default": {"BACKEND": "channels.layers.InMemoryChannelLayer"}}

PASSWORD_HASHERS = ["django.contrib.auth.hashers.MD5PasswordHasher"]
