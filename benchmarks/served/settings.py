"""
Settings of a measured server.

``BENCH_APPS`` is ``plain`` for Channels alone, ``stack`` for Channels with sessions and users, ``ours`` for all of this.

"""

from __future__ import annotations

import os
from typing import Any

_APPS = os.environ["BENCH_APPS"]

SECRET_KEY = "benchmarks"
USE_TZ = True
ALLOWED_HOSTS = ["127.0.0.1"]
ASGI_APPLICATION = "benchmarks.served.ours.application"
ROOT_URLCONF = "benchmarks.served.urls"

_STACK = ["django.contrib.contenttypes", "django.contrib.auth", "django.contrib.sessions"]
_OURS = [
    "django.contrib.admin",
    "django.contrib.messages",
    "django_prometheus",
    "ratelimit",
    "realtime",
    "dashboard",
]
INSTALLED_APPS = {
    "plain": ["daphne", "channels"],
    "stack": ["daphne", "channels", *_STACK],
    "ours": ["daphne", "channels", *_STACK, *_OURS],
}[_APPS]

DATABASES: dict[str, Any] = {
    "default": {"ENGINE": "django.db.backends.sqlite3", "NAME": os.environ.get("BENCH_DATABASE", ":memory:")}
}
DEFAULT_AUTO_FIELD = "django.db.models.BigAutoField"
CHANNEL_LAYERS = {"default": {"BACKEND": "channels.layers.InMemoryChannelLayer"}}
LOGGING = {"version": 1, "disable_existing_loggers": False, "root": {"level": "WARNING"}}

if _APPS == "ours":
    # Here, so that nothing of this project is loaded into a server of plain Channels.
    from dashboard.conf import DashboardSettings
    from ratelimit.appsettings import from_environment
    from ratelimit.conf import RateLimitSettings
    from realtime.conf import RealtimeSettings

    MIDDLEWARE = [
        "django.contrib.sessions.middleware.SessionMiddleware",
        "django.contrib.auth.middleware.AuthenticationMiddleware",
        "django.contrib.messages.middleware.MessageMiddleware",
    ]
    TEMPLATES = [
        {
            "BACKEND": "django.template.backends.django.DjangoTemplates",
            "APP_DIRS": True,
            "OPTIONS": {
                "context_processors": [
                    "django.template.context_processors.request",
                    "django.contrib.auth.context_processors.auth",
                    "django.contrib.messages.context_processors.messages",
                ]
            },
        }
    ]
    # Every limit is on and counts; none is so low that the load reaches it.
    RATELIMIT_MESSAGES_PER_WINDOW = 10**9
    RATELIMIT_BYTES_PER_WINDOW = 10**12
    RATELIMIT_CONNECTIONS_PER_WINDOW = 10**6
    RATELIMIT_MAX_CONNECTIONS = 10**6
    RATELIMIT_MAX_CONNECTIONS_PER_IP = 10**6
    globals().update(from_environment((RateLimitSettings, RealtimeSettings, DashboardSettings)))
