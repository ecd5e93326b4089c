"""What several of these tests start."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests import machine
from tests.acceptance.cluster import Redis


@pytest.fixture
def redis() -> Iterator[Redis]:
    binary = machine.redis_binary()
    assert binary is not None
    with Redis(binary) as server:
        yield server
