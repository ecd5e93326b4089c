"""Django settings with nothing of ours installed but ``ratelimit``."""

import json
import os

SECRET_KEY = "only for tests"
ALLOWED_HOSTS = ["*"]
INSTALLED_APPS = ["django.contrib.contenttypes", "django.contrib.auth", "ratelimit"]
DATABASES = {
    "default": {
        "ENGINE": "django.db.backends.sqlite3",
        "NAME": os.environ.get("ALONE_DATABASE", ":memory:"),
    }
}
USE_TZ = True
DEFAULT_AUTO_FIELD = "django.db.models.BigAutoField"

# A test that starts a server hands over the settings it is about.
globals().update(json.loads(os.environ.get("ALONE_SETTINGS", "{}")))
