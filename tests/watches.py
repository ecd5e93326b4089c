"""The watches of this process, as they are before anything has been read."""

from __future__ import annotations

from typing import Any

import pytest

from ratelimit.watches import Watch


def forget(watch: Watch[Any], monkeypatch: pytest.MonkeyPatch) -> None:
    """
    Have ``watch`` know nothing, and tell nobody of changes, until the test ends.

    It is the same object still, for Django's signals and the news between processes know no other. Who is told
    of commits stays.

    """
    for name, value in vars(type(watch)()).items():
        if name != "on_commit":
            monkeypatch.setattr(watch, name, value)
