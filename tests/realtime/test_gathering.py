"""What is held back while more is about to follow, and for how long."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import pytest

from realtime import gathering as gathering_module
from realtime.counters import Counters
from realtime.courier import Courier
from realtime.gathering import Gathering
from realtime.transports import can_withhold, hold_back, let_go


class Server:
    """Notes what it is told."""

    def __init__(self) -> None:
        self.told: list[str] = []
        can_withhold(asyncio.get_running_loop(), self)

    def hold_back(self) -> None:
        self.told.append("hold back")

    def let_go(self) -> None:
        self.told.append("let go")


@pytest.fixture
async def server() -> Server:
    return Server()


@pytest.fixture
async def gathering(server: Server) -> AsyncIterator[Gathering]:
    gathering = Gathering(asyncio.get_running_loop(), Courier(None, Counters()))
    yield gathering
    gathering.end()


async def turn() -> None:
    """Let whatever is ready run."""
    await asyncio.sleep(0)
    await asyncio.sleep(0)


async def test_what_comes_in_one_turn_is_let_go_at_its_end(gathering: Gathering, server: Server) -> None:
    for _ in range(3):
        gathering.begin()
    assert server.told == ["hold back"]
    await turn()
    assert server.told == ["hold back", "let go"]


async def test_those_who_are_answered_in_the_same_turn_run_before(
    gathering: Gathering, server: Server
) -> None:
    loop = asyncio.get_running_loop()
    answers = [loop.create_future() for _ in range(3)]

    async def publish(answer: asyncio.Future[None]) -> None:
        with gathering:
            await answer
        server.told.append("published")

    publishing = [asyncio.ensure_future(publish(answer)) for answer in answers]
    await turn()
    for answer in answers:
        answer.set_result(None)
    await asyncio.gather(*publishing)
    await turn()
    assert server.told == ["hold back", "published", "published", "published", "let go"]


async def test_while_the_next_is_on_its_way_nothing_is_let_go(
    gathering: Gathering, server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(gathering_module, "PATIENCE", 5.0)
    gathering.begin()
    with gathering:
        for _ in range(10):
            await turn()
        assert server.told == ["hold back"]
    await turn()
    assert server.told == ["hold back", "let go"]


async def test_nobody_waits_for_long(gathering: Gathering, server: Server) -> None:
    loop = asyncio.get_running_loop()
    with gathering:
        gathering.begin()
        started = loop.time()
        async with asyncio.timeout(2):
            while server.told != ["hold back", "let go"]:  # noqa: ASYNC110
                await asyncio.sleep(0)
        assert loop.time() - started >= gathering_module.PATIENCE * 0.9


async def test_a_state_that_refuses_lets_go_too(gathering: Gathering, server: Server) -> None:
    gathering.begin()
    with pytest.raises(ConnectionError), gathering:
        raise ConnectionError
    await turn()
    assert server.told == ["hold back", "let go"]


async def test_the_end_lets_go_at_once_and_only_once(gathering: Gathering, server: Server) -> None:
    gathering.begin()
    gathering.end()
    assert server.told == ["hold back", "let go"]
    await turn()
    gathering.end()
    assert server.told == ["hold back", "let go"]


async def test_only_servers_of_the_loop_that_are_there_are_asked(server: Server) -> None:
    loop, other = asyncio.get_running_loop(), asyncio.new_event_loop()
    try:
        gone = Server()
        told = gone.told
        del gone
        hold_back(loop)
        let_go(loop)
        hold_back(other)
        assert server.told == ["hold back", "let go"]
        assert told == []
    finally:
        other.close()
