"""The smallest project, with a channel layer and a database that all of its processes share."""

from __future__ import annotations

import os

from tests.acceptance.apps.redis_settings import *  # noqa: F403

DATABASES = {"default": {"ENGINE": "django.db.backends.sqlite3", "NAME": os.environ["DATABASE"]}}
