"""Both states, each with a way to let time pass."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass

import pytest

from realtime.state import MemoryState, RedisState, State
from tests.redisserver import RedisServer

_prefixes = (f"test-{number}" for number in itertools.count())


class Clock:
    """A clock that moves when it is told to."""

    def __init__(self) -> None:
        self.now = 1_000_000.0

    def __call__(self) -> float:
        return self.now


@dataclass(frozen=True)
class Case:
    """One state that is tested."""

    state: State
    wait: Callable[[float], Awaitable[None]]
    """Let this many seconds pass."""


@pytest.fixture(params=["memory", pytest.param("redis", marks=pytest.mark.redis)])
async def case(request: pytest.FixtureRequest) -> AsyncIterator[Case]:
    """Each of the two states, empty."""
    if request.param == "memory":
        clock = Clock()

        async def advance(seconds: float) -> None:
            clock.now += seconds

        yield Case(MemoryState(clock), advance)
        return
    server: RedisServer = request.getfixturevalue("redis_server")
    # Time is Redis's own, and cannot be told to pass.
    state = RedisState(server.url, prefix=next(_prefixes))
    yield Case(state, asyncio.sleep)
    await state.aclose()


@pytest.fixture
def state(case: Case) -> State:
    return case.state


@pytest.fixture
def prefix() -> str:
    """A prefix of keys that nobody else uses."""
    return next(_prefixes)
