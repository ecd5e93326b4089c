"""Whatever nodes, layer and state do, no client of a room is misled: many seeded runs, each judged at its end."""

from __future__ import annotations

import asyncio
import random
from typing import Any

import pytest
from django.test import override_settings

from realtime import arrivals
from realtime.errors import StateUnavailable
from realtime.nodes import Node
from realtime.testing import until
from tests.acceptance.checker import violations
from tests.realtime.swarm import Client, Swarm, swarm
from tests.realtime.test_repairs import Shaky

SEEDS = range(20)
STEPS = 150


class Simulation:
    """One run."""

    def __init__(self, seed: int, of: Swarm, state: Shaky) -> None:
        self.random = random.Random(seed)
        self.of = of
        self.state = state
        self.clients = [Client(f"client-{number}") for number in range(6)]
        self.published = 0
        self.acked: list[str] = []
        self.loss = 0.0
        of.bus.fate = self.fate

    def fate(self, message: dict[str, Any]) -> list[float]:
        if self.random.random() < self.loss:
            return []
        copies = 2 if self.random.random() < 0.1 else 1
        return [self.random.choice((0.0, 0.0, 0.001, 0.01)) for _ in range(copies)]

    @property
    def node(self) -> Node:
        return self.random.choice(self.of.nodes)

    async def publish(self) -> None:
        for _ in range(self.random.choice((1, 1, 5))):
            self.published += 1
            key = f"m{self.published}"
            try:
                await self.of.publish(self.node, key, id=key)
                if self.random.random() < 0.2:
                    await self.of.publish(self.node, "a resend is never seen", id=key)
                self.acked.append(key)
            except StateUnavailable:
                continue

    async def come_or_go(self) -> None:
        client = self.random.choice(self.clients)
        if client.node is not None:
            await client.drop()
        else:
            await client.enter(self.node, reads_after=self.random.choice((0.0, 0.0, 0.02)))

    async def stall(self) -> None:
        client = self.random.choice(self.clients)
        if client.node is not None and client.pipe.writable and not client.pipe.closed:
            client.pipe.writable = False
            asyncio.get_running_loop().call_later(0.02, client.pipe.open)

    async def replace_a_node(self) -> None:
        node = self.node
        # It says goodbye to nobody.
        node.hub.layer.cut = True
        for client in self.clients:
            if client.node is node:
                await client.drop()
        await self.of.end(node)
        self.of.begin()

    async def cut(self) -> None:
        port = self.node.hub.layer
        port.cut = not port.cut

    async def lose_some(self) -> None:
        self.loss = self.random.choice((0.0, 0.1, 0.9))

    async def state_away(self) -> None:
        self.state.away()
        asyncio.get_running_loop().call_later(self.random.choice((0.0, 0.02)), self.state.back)

    async def state_forgets(self) -> None:
        self.state.forget("lobby")

    async def time_passes(self) -> None:
        await asyncio.sleep(self.random.choice((0.0, 0.001, 0.02)))

    async def run(self) -> None:
        actions = {
            self.publish: 40,
            self.come_or_go: 15,
            self.stall: 5,
            self.replace_a_node: 2,
            self.cut: 3,
            self.lose_some: 4,
            self.state_away: 3,
            self.state_forgets: 1,
            self.time_passes: 40,
        }
        for client in self.clients:
            await client.enter(self.node)
        for _ in range(STEPS):
            (action,) = self.random.choices(list(actions), weights=list(actions.values()))
            await action()

    async def heal(self) -> None:
        """Let everything work again, everybody come back, and one more message go out."""
        self.loss = 0.0
        for port in self.of.bus.ports:
            port.cut = False
        self.state.back()
        for client in self.clients:
            if client.node is not None and client.pipe.closed:
                await client.drop()
            if client.node is None:
                await client.enter(self.node)
            elif not client.pipe.writable:
                client.pipe.open()
        await until(lambda: all(client.is_member or client.pipe.closed for client in self.clients))
        assert len(self.acked) > 10
        await self.of.publish(self.node, "the last one")
        await until(
            lambda: all(client.heard[-1:] == ["the last one"] for client in self.clients), timeout=5.0
        )


@pytest.mark.parametrize("seed", SEEDS)
async def test_no_client_is_misled(monkeypatch: pytest.MonkeyPatch, seed: int) -> None:
    """Order, no loss that is not told, nothing twice, and what is called complete is complete."""
    monkeypatch.setattr(arrivals, "PATIENCE", 0.01)
    state = Shaky()
    settings = {
        "REALTIME_HISTORY_SIZE": 30,
        "REALTIME_HISTORY_CHECK_INTERVAL": 0.02,
        "REALTIME_TASK_RESTART_INTERVAL": 0.01,
    }
    with override_settings(**settings):
        async with swarm(monkeypatch, state, 3) as (of, _):
            simulation = Simulation(seed, of, state)
            await simulation.run()
            await simulation.heal()
    logs = {client.name: client.log for client in simulation.clients}
    assert violations(logs, acked=simulation.acked) == []
