"""The smallest project, with a channel layer that crosses processes."""

from __future__ import annotations

import os

from tests.acceptance.apps.settings import *  # noqa: F403

CHANNEL_LAYERS = {
    "default": {
        "BACKEND": "channels_redis.core.RedisChannelLayer",
        "CONFIG": {
            "hosts": [os.environ["REDIS_URL"]],
            "capacity": int(os.environ.get("LAYER_CAPACITY", "10000")),
        },
    }
}
DATABASES = {"default": {"ENGINE": "django.db.backends.sqlite3", "NAME": ":memory:"}}
