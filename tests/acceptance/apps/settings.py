"""The smallest project that runs our apps; RATELIMIT_* and REALTIME_* come from the environment."""

from __future__ import annotations

import os

from ratelimit.appsettings import from_environment
from ratelimit.conf import RateLimitSettings
from realtime.conf import RealtimeSettings

SECRET_KEY = "acceptance"
DEBUG = False
ALLOWED_HOSTS = ["127.0.0.1", "localhost"]
INSTALLED_APPS = [
    "daphne",
    "django.contrib.contenttypes",
    "django.contrib.auth",
    "django.contrib.staticfiles",
    "channels",
    "ratelimit",
    "realtime",
]
ROOT_URLCONF = "tests.acceptance.apps.settings"
urlpatterns: list[object] = []
ASGI_APPLICATION = os.environ.get("ASGI_APPLICATION", "tests.acceptance.apps.plain.application")
DATABASES = {"default": {"ENGINE": "django.db.backends.sqlite3", "NAME": ":memory:"}}
CHANNEL_LAYERS = {"default": {"BACKEND": "channels.layers.InMemoryChannelLayer"}}
STATIC_URL = "static/"
USE_TZ = True
LOGGING = {
    "version": 1,
    "disable_existing_loggers": False,
    "handlers": {"stderr": {"class": "logging.StreamHandler"}},
    "root": {"handlers": ["stderr"], "level": "INFO"},
}

globals().update(from_environment((RateLimitSettings, RealtimeSettings)))
