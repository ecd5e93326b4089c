"""Settings of a measured server. ``BENCH_APPS`` is ``plain`` for Channels alone, ``ours`` for all of it."""

from __future__ import annotations

import os
from typing import Any

from ratelimit.appsettings import from_environment
from ratelimit.conf import RateLimitSettings
from realtime.conf import RealtimeSettings

SECRET_KEY = "benchmarks"
USE_TZ = True
ALLOWED_HOSTS = ["*"]

_OURS = ["django.contrib.contenttypes", "django.contrib.auth", "ratelimit", "realtime"]
INSTALLED_APPS = ["daphne", "channels", *(_OURS if os.environ["BENCH_APPS"] == "ours" else [])]

DATABASES: dict[str, Any] = {
    "default": {"ENGINE": "django.db.backends.sqlite3", "NAME": os.environ.get("BENCH_DATABASE", ":memory:")}
}
DEFAULT_AUTO_FIELD = "django.db.models.BigAutoField"
CHANNEL_LAYERS = {"default": {"BACKEND": "channels.layers.InMemoryChannelLayer"}}
LOGGING = {"version": 1, "disable_existing_loggers": False, "root": {"level": "WARNING"}}

if os.environ["BENCH_APPS"] == "ours":
    # Every limit is on and counts; none is so low that the load reaches it.
    RATELIMIT_MESSAGES_PER_WINDOW = 10**9
    RATELIMIT_BYTES_PER_WINDOW = 10**12
    RATELIMIT_CONNECTIONS_PER_WINDOW = 10**6
    RATELIMIT_MAX_CONNECTIONS = 10**6
    RATELIMIT_MAX_CONNECTIONS_PER_IP = 10**6
    globals().update(from_environment((RateLimitSettings, RealtimeSettings)))
