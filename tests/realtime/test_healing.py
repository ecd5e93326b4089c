"""How long the people of a killed node are still seen: less than two leases, whenever it dies and however late all are."""

from __future__ import annotations

import asyncio
import random
import selectors
import time
from collections.abc import Iterator
from typing import Any

import pytest
from django.test import override_settings

from realtime import census
from realtime.state import MemoryState
from tests.realtime.test_attendance import Client, Cluster, Node, Wire, visitor

LEASE = 15.0
SEEDS = range(60)
LATE = 0.2
"""Seconds that every answer of the state, and every turn of a node that is awaited, may come late on a busy machine."""
PAUSE = 1.0
"""Seconds for which a node may not try to reach a state that has just come back."""
AT_ONCE = 0.5
"""Seconds in which those who are here are told: two round trips, a breath, and what is gathered before it is told."""


class _Skipping(selectors.DefaultSelector):
    """Waits for nothing: the time that it should wait for passes at once."""

    def __init__(self) -> None:
        super().__init__()
        self.now = 1000.0

    def select(self, timeout: float | None = None) -> Any:
        assert timeout is not None, "everybody waits for ever"
        self.now += max(timeout, 0.0)
        return super().select(0)


@pytest.fixture
def runner(monkeypatch: pytest.MonkeyPatch) -> Iterator[asyncio.Runner]:
    """Runs what takes minutes in milliseconds: the clock is an argument."""
    selector = _Skipping()
    monkeypatch.setattr(time, "monotonic", lambda: selector.now)
    monkeypatch.setattr(time, "time", lambda: selector.now)
    with asyncio.Runner(loop_factory=lambda: asyncio.SelectorEventLoop(selector)) as runner:
        yield runner


class LateWire(Wire):
    """A way to the state whose answers come late, by chance."""

    def __init__(self, state: Any, dice: random.Random) -> None:
        super().__init__(state)
        self._dice = dice

    def __getattr__(self, name: str) -> Any:
        ask = super().__getattr__(name)

        async def call(*words: Any, **options: Any) -> Any:
            await asyncio.sleep(self._dice.uniform(0, LATE / 2))
            answer = await ask(*words, **options)
            await asyncio.sleep(self._dice.uniform(0, LATE / 2))
            return answer

        return call


class Accident:
    """Three nodes with somebody in the same room at each, of which the last is killed."""

    def __init__(self, seed: int) -> None:
        self.dice = random.Random(seed)
        self.cluster = Cluster(MemoryState(time.time))
        self.nodes: list[Node] = []
        self.people: list[Client] = []
        self.dead = visitor("dead")

    async def begin(self) -> None:
        """Start the nodes, at any time each, and have everybody see everybody."""
        for name in ("one", "two", "doomed"):
            await asyncio.sleep(self.dice.uniform(0, LEASE))
            node = self.cluster.begin(name, lambda state: LateWire(state, self.dice))
            await node.lease.asked()
            self.nodes.append(node)
            self.people.append(await node.join(self.dead if name == "doomed" else visitor(name)))
        await asyncio.sleep(self.dice.uniform(1, LEASE))
        assert all(one.sees == ["dead", "one", "two"] for one in self.people)

    async def healed(self, *, away: tuple[float, float] = (0.0, 0.0)) -> float:
        """
        Kill a node, and return after how many seconds nobody sees its people any more.

        The state is ``away`` from when to when, in seconds after that.

        """
        survivors, watchers = self.nodes[:2], self.people[:2]
        await self.nodes[2].kill()
        died = time.monotonic()
        for node in survivors if away[1] else ():
            asyncio.get_running_loop().call_later(away[0], setattr, node.state, "cut", True)
            back = away[1] + self.dice.uniform(0, PAUSE)
            asyncio.get_running_loop().call_later(back, node.state.mend)
        while any("dead" in one.sees for one in watchers):
            assert all({"one", "two"} <= set(one.sees) for one in watchers), (
                "somebody who lives was seen to go"
            )
            await asyncio.sleep(0.02)
            assert time.monotonic() < died + 10 * LEASE
        took = time.monotonic() - died
        await asyncio.sleep(LEASE)
        assert all(one.sees == ["one", "two"] for one in watchers)
        for node in survivors:
            await node.supervisor.stop()
        return took


@pytest.fixture(autouse=True)
def lease() -> Iterator[None]:
    with override_settings(REALTIME_NODE_LEASE=LEASE):
        yield


async def _one(seed: int, **fault: Any) -> float:
    accident = Accident(seed)
    await accident.begin()
    return await accident.healed(**fault)


def test_while_the_state_is_well_it_is_one_lease_and_a_moment(runner: asyncio.Runner) -> None:
    took = sorted(runner.run(_one(seed)) for seed in SEEDS)
    # Not before: one that is late with its renewal would be seen to go. It was renewed a third of a lease ago at most.
    assert took[0] > LEASE * 2 / 3 - LATE
    # Not at the end of another third.
    assert took[-1] < LEASE + AT_ONCE + 3 * LATE
    # And the phases were such that it could have been.
    assert took[-1] > LEASE * 0.95


def test_while_the_state_is_away_meanwhile_it_is_less_than_two_leases(runner: asyncio.Runner) -> None:
    """It may be away for a lease without the time that all need to come back, whenever that begins."""
    longest = LEASE - census.GRACE - PAUSE - AT_ONCE - 3 * LATE
    took = []
    for seed in SEEDS:
        dice = random.Random(f"away {seed}")
        # The lease runs out after two to three thirds, and a look that is not asked for may come a third later.
        start = dice.uniform(LEASE * 2 / 3, LEASE * 4 / 3)
        took.append(runner.run(_one(seed, away=(start, start + longest))))
    assert max(took) < 2 * LEASE
    assert max(took) > 2 * LEASE - 3, "not the worst that can be"


def test_a_node_that_lives_costs_no_more_than_a_look_in_a_third_of_a_lease(runner: asyncio.Runner) -> None:
    async def looks() -> list[int]:
        accident = Accident(0)
        await accident.begin()
        for node in accident.nodes:
            node.state.calls.clear()
        await asyncio.sleep(20 * LEASE)
        counts = [node.state.calls.count("nodes") for node in accident.nodes]
        for node in accident.nodes:
            await node.supervisor.stop()
        return counts

    assert all(55 <= count <= 60 for count in runner.run(looks()))
