"""The demonstration's settings. Each ``RATELIMIT_*``, ``REALTIME_*`` and ``DASHBOARD_*`` also reads the environment."""

from __future__ import annotations

import os
import secrets
from pathlib import Path
from typing import Any

import structlog

from dashboard.conf import DashboardSettings
from ratelimit.appsettings import from_environment
from ratelimit.conf import RateLimitSettings
from realtime.conf import RealtimeSettings

BASE_DIR = Path(__file__).resolve().parent.parent


def _secret_key() -> str:
    """Return the key from the environment, else one made once for this checkout and kept in a file only its owner reads."""
    if key := os.environ.get("SECRET_KEY"):
        return key
    path = BASE_DIR / ".demo-secret-key"
    try:
        with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as file:
            file.write(secrets.token_urlsafe(50))
    except FileExistsError:
        pass
    return path.read_text()


SECRET_KEY = _secret_key()
DEBUG = os.environ.get("DEBUG", "").lower() in ("1", "true", "yes", "on")
ALLOWED_HOSTS = os.environ.get("ALLOWED_HOSTS", "127.0.0.1,localhost,[::1]").split(",")

INSTALLED_APPS = [
    "daphne",
    "django.contrib.admin",
    "django.contrib.auth",
    "django.contrib.contenttypes",
    "django.contrib.sessions",
    "django.contrib.messages",
    "django.contrib.staticfiles",
    "channels",
    "django_prometheus",
    "ratelimit",
    "realtime",
    "dashboard",
    "wsproject",
]

MIDDLEWARE = [
    "django.middleware.security.SecurityMiddleware",
    "django.contrib.sessions.middleware.SessionMiddleware",
    "django.middleware.common.CommonMiddleware",
    "django.middleware.csrf.CsrfViewMiddleware",
    "django.contrib.auth.middleware.AuthenticationMiddleware",
    "django.contrib.messages.middleware.MessageMiddleware",
    "django.middleware.clickjacking.XFrameOptionsMiddleware",
]

ROOT_URLCONF = "wsproject.urls"
ASGI_APPLICATION = "wsproject.asgi.application"

TEMPLATES = [
    {
        "BACKEND": "django.template.backends.django.DjangoTemplates",
        "DIRS": [BASE_DIR / "templates"],
        "APP_DIRS": True,
        "OPTIONS": {
            "context_processors": [
                "django.template.context_processors.request",
                "django.contrib.auth.context_processors.auth",
                "django.contrib.messages.context_processors.messages",
            ],
        },
    },
]

DATABASES = {
    "default": {
        "ENGINE": "django.db.backends.sqlite3",
        "NAME": os.environ.get("SQLITE_PATH", BASE_DIR / "db.sqlite3"),
        "OPTIONS": {
            "timeout": 10,
            "transaction_mode": "IMMEDIATE",
            "init_command": "PRAGMA journal_mode=WAL;",
        },
    }
}


def _channel_layers(redis_url: str | None) -> dict[str, Any]:
    if not redis_url:
        return {"default": {"BACKEND": "channels.layers.InMemoryChannelLayer"}}
    return {
        "default": {
            "BACKEND": "channels_redis.core.RedisChannelLayer",
            "CONFIG": {"hosts": [redis_url], "capacity": 10_000},
        }
    }


# One variable moves both from this process's memory to Redis: the messages between nodes, and what nodes share.
CHANNEL_LAYERS = _channel_layers(os.environ.get("REDIS_URL"))
if os.environ.get("REDIS_URL"):
    REALTIME_STATE_URL = os.environ["REDIS_URL"]

AUTH_PASSWORD_VALIDATORS = [
    {"NAME": "django.contrib.auth.password_validation.MinimumLengthValidator"},
    {"NAME": "django.contrib.auth.password_validation.CommonPasswordValidator"},
]

USE_TZ = True
TIME_ZONE = "UTC"
LANGUAGE_CODE = "en-us"
STATIC_URL = "static/"
STATIC_ROOT = BASE_DIR / "staticfiles"
DEFAULT_AUTO_FIELD = "django.db.models.BigAutoField"

_SHARED_PROCESSORS: list[Any] = [
    structlog.contextvars.merge_contextvars,
    structlog.stdlib.add_log_level,
    structlog.stdlib.add_logger_name,
    structlog.stdlib.ExtraAdder(),
    structlog.processors.TimeStamper(fmt="iso", utc=True),
    structlog.processors.format_exc_info,
]
_RENDERER: Any = (
    structlog.processors.JSONRenderer()
    if os.environ.get("LOG_FORMAT", "console") == "json"
    else structlog.dev.ConsoleRenderer(colors=False, exception_formatter=structlog.dev.plain_traceback)
)

LOGGING: dict[str, Any] = {
    "version": 1,
    "disable_existing_loggers": False,
    "formatters": {
        "structured": {
            "()": structlog.stdlib.ProcessorFormatter,
            "foreign_pre_chain": _SHARED_PROCESSORS,
            "processors": [structlog.stdlib.ProcessorFormatter.remove_processors_meta, _RENDERER],
        }
    },
    "handlers": {"stderr": {"class": "logging.StreamHandler", "formatter": "structured"}},
    "root": {"handlers": ["stderr"], "level": os.environ.get("LOG_LEVEL", "INFO")},
    # daphne logs every access at INFO through this name; the sockets' own lines say more.
    "loggers": {"django.channels.server": {"level": "WARNING"}, "daphne.http_protocol": {"level": "WARNING"}},
}

# The demonstration is reloaded often, and all of its visitors share an address: the defaults of ten
# connections a minute are meant for the public.
RATELIMIT_CONNECTIONS_PER_WINDOW = 600

REALTIME_HISTORY_SIZE = {"chat.*": 100}

globals().update(from_environment((RateLimitSettings, RealtimeSettings, DashboardSettings)))
