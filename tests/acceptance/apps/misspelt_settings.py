"""The demonstration's settings with a slip of the finger."""

from __future__ import annotations

from wsproject.settings import *  # noqa: F403

RATELIMIT_MAX_MESAGE_BYTES = 10
