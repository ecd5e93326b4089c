"""One node of a cluster: rooms by path, as in ``rooms``, under a clock that may be wrong."""

from __future__ import annotations

import os
import time

_offset = float(os.environ.get("CLOCK_OFFSET", "0"))
if _offset:
    _right = time.time
    # Before anything else looks at the clock.
    time.time = lambda: _right() + _offset

from tests.acceptance.apps.rooms import application  # noqa: E402

__all__ = ["application"]
