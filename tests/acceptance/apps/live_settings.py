"""The settings of the live-server tests: a database in a file, which the test and the server share."""

from __future__ import annotations

import os

from tests.acceptance.apps.settings import *  # noqa: F403

ASGI_APPLICATION = "tests.acceptance.apps.live.application"
DATABASES = {
    "default": {
        "ENGINE": "django.db.backends.sqlite3",
        "NAME": os.environ["DATABASE"],
        "TEST": {"NAME": f"{os.environ['DATABASE']}-of-tests"},
        # The stricter case: what a process wrongly shares with another shows only here.
        "OPTIONS": {"init_command": "PRAGMA journal_mode=WAL"},
    }
}
