"""A room with history is complete on every node, whatever the channel layer does, or says that it is not."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator
from typing import Any

import pytest
from django.test import override_settings

from realtime import repairs as module
from realtime.errors import StateUnavailable
from realtime.history import Place
from realtime.state import MemoryState
from realtime.testing import until
from tests.realtime.swarm import Client, Swarm, swarm


class Shaky(MemoryState):
    """A state that can be away."""

    def __init__(self) -> None:
        super().__init__()
        self.calls: list[str] = []

    def away(self, reason: str = "Redis is away.") -> None:
        self._set_reason(reason)

    def back(self) -> None:
        self._set_reason("")

    def forget(self, room: str) -> None:
        """Lose a room, which begins anew."""
        self._tops.drop(room)

    async def top(self, *args: Any, **options: Any) -> Any:
        self._called("top")
        return await super().top(*args, **options)

    async def since(self, *args: Any, **options: Any) -> Any:
        self._called("since")
        return await super().since(*args, **options)

    async def append(self, *args: Any, **options: Any) -> Any:
        self._called("append")
        return await super().append(*args, **options)

    async def claim(self, *args: Any, **options: Any) -> Any:
        self._called("claim")
        return await super().claim(*args, **options)

    def _called(self, name: str) -> None:
        self.calls.append(name)
        if not self.available:
            raise StateUnavailable(self.reason)


@pytest.fixture
def state() -> Shaky:
    return Shaky()


@pytest.fixture(autouse=True)
def history() -> Iterator[None]:
    with override_settings(REALTIME_HISTORY_SIZE=50, REALTIME_HISTORY_CHECK_INTERVAL=3600):
        yield


@pytest.fixture
async def two(monkeypatch: pytest.MonkeyPatch, state: Shaky) -> AsyncIterator[tuple[Swarm, Client, Client]]:
    async with swarm(monkeypatch, state) as (of, (here, there)):
        one, other = Client("one"), Client("other")
        await one.enter(here)
        await other.enter(there)
        await until(lambda: one.is_member and other.is_member)
        state.calls.clear()
        yield of, one, other


async def say(of: Swarm, at: Client, *keys: str) -> None:
    assert at.node is not None
    for key in keys:
        await of.publish(at.node, key)


async def test_a_message_reaches_both_nodes_with_the_same_offset(two: Any, state: Shaky) -> None:
    of, one, other = two
    await say(of, one, "a", "b")
    await until(lambda: len(other.heard) == 2)
    assert one.heard == other.heard == ["a", "b"]
    assert [m["offset"] for m in other.messages if m["type"] == "said"] == [1, 2]
    assert state.calls == ["append", "append"]


async def test_a_message_that_the_layer_loses_is_fetched_when_the_next_one_comes(two: Any) -> None:
    of, one, other = two
    of.bus.fate = lambda message: ()
    await say(of, one, "a", "b")
    await until(lambda: not len(one.node.hub.courier))
    of.bus.fate = lambda message: (0.0,)
    await say(of, one, "c")
    await until(lambda: len(other.heard) == 3)
    assert other.heard == ["a", "b", "c"]
    assert other.recovered == []


@pytest.mark.setting("REALTIME_HISTORY_CHECK_INTERVAL")
async def test_a_lost_last_message_is_found_without_another_one(
    monkeypatch: pytest.MonkeyPatch, state: Shaky
) -> None:
    with override_settings(REALTIME_HISTORY_CHECK_INTERVAL=0.1):
        async with swarm(monkeypatch, state) as (of, (here, there)):
            one, other = Client("one"), Client("other")
            await one.enter(here)
            await other.enter(there)
            of.bus.fate = lambda message: ()
            await of.publish(here, "a")
            await until(lambda: other.heard == ["a"], timeout=1.0)


async def test_messages_that_come_twice_and_out_of_order_are_delivered_once_and_in_order(
    two: Any, state: Shaky
) -> None:
    of, one, other = two
    delays = iter([0.01, 0.0, 0.005] * 10)
    of.bus.fate = lambda message: (next(delays), 0.0) if message["op"] == "room" else (0.0,)
    for key in "abcdef":
        await say(of, one, key)
        await until(lambda: not len(one.node.hub.courier))
    await until(lambda: len(other.heard) == 6)
    await asyncio.sleep(0.03)
    assert other.heard == list("abcdef")


async def test_a_hole_that_the_history_no_longer_has_is_told(two: Any) -> None:
    of, one, other = two
    of.bus.fate = lambda message: ()
    with override_settings(REALTIME_HISTORY_SIZE=2):
        await say(of, one, *"abcd")
        await until(lambda: not len(one.node.hub.courier))
        of.bus.fate = lambda message: (0.0,)
        await say(of, one, "e")
        await until(lambda: other.recovered)
    (told,) = other.recovered
    assert (told.complete, told.start) == (False, 0)
    await say(of, one, "f")
    await until(lambda: "f" in other.heard)
    assert other.heard[-2:] == ["e", "f"]
    assert one.recovered == []


async def test_a_room_that_begins_anew_is_told_on_every_node(two: Any, state: Shaky) -> None:
    of, one, other = two
    await say(of, one, "a")
    await until(lambda: other.heard)
    state.forget("lobby")
    await say(of, one, "b")
    await until(lambda: "b" in one.heard and "b" in other.heard)
    for client in (one, other):
        (told,) = client.recovered
        assert (told.complete, told.start, told.to, told.count) == (False, 1, 0, 0)
        assert client.heard == ["a", "b"]


async def test_a_client_of_another_node_gets_what_it_missed(two: Any) -> None:
    of, one, other = two
    await say(of, one, "a")
    await until(lambda: other.heard)
    there = one.node
    await other.drop()
    await say(of, one, "b", "c")
    await other.enter(there)
    assert other.heard == ["a", "b", "c"]
    (told,) = other.recovered
    assert (told.complete, told.start, told.to, told.count) == (True, 1, 3, 2)


async def test_a_client_that_is_ahead_of_its_new_node_waits_for_that_node(two: Any) -> None:
    of, one, other = two
    of.bus.fate = lambda message: ()
    await say(of, one, "a", "b")
    assert other.heard == []
    behind = other.node
    await one.drop()
    await one.enter(behind)
    (told,) = one.recovered
    assert (told.complete, told.start, told.to) == (True, 2, 2)
    assert other.heard == ["a", "b"]


async def test_what_is_gone_is_never_recovered_in_part(two: Any) -> None:
    of, one, other = two
    await say(of, one, "a")
    await until(lambda: other.heard)
    await other.drop()
    with override_settings(REALTIME_HISTORY_SIZE=2):
        await say(of, one, *"bcde")
        await one.drop()
        await other.enter(of.nodes[1])
    (told,) = other.recovered
    assert (told.complete, told.start, told.to, told.count) == (False, 1, 5, 0)
    assert other.heard == ["a"]


async def test_many_who_come_back_fetch_what_they_missed_once(two: Any, state: Shaky) -> None:
    of, one, other = two
    clients = [Client(f"c{number}") for number in range(30)]
    for client in clients:
        await client.enter(of.nodes[0])
    for number, client in enumerate(clients):
        await say(of, one, f"m{number}")
        await client.drop()
    await one.drop()
    await other.drop()
    state.calls.clear()
    await asyncio.gather(*(client.enter(of.nodes[1]) for client in clients))
    expected = [f"m{number}" for number in range(30)]
    assert [client.heard for client in clients] == [expected] * 30
    assert state.calls.count("since") <= 3


async def test_a_recovery_larger_than_what_may_wait_does_not_close_who_reads_it(two: Any) -> None:
    of, one, other = two
    await other.drop()
    for number in range(10):
        await say(of, one, f"{number:01000d}")
    with override_settings(REALTIME_MAX_OUTBOUND_BYTES=2000):
        entering = asyncio.create_task(other.enter(of.nodes[1], reads_after=0.05))
        await until(lambda: other.node and other.connection.outbox)
        await say(of, one, "next")
        await entering
    await until(lambda: "next" in other.heard)
    assert other.heard == one.heard
    assert other.pipe.code is None


# The state is away (section "When Redis is not well").


async def test_a_publish_with_history_fails_and_reaches_nobody_while_the_state_is_away(
    two: Any, state: Shaky
) -> None:
    of, one, other = two
    state.away()
    with pytest.raises(StateUnavailable, match="Redis is away"):
        await say(of, one, "a")
    assert one.heard == []
    state.back()
    await say(of, one, "b")
    await until(lambda: other.heard == ["b"])


async def test_rooms_without_history_do_not_ask_the_state(two: Any, state: Shaky) -> None:
    of, _one, _other = two
    with override_settings(REALTIME_HISTORY_SIZE=0):
        client = Client("plain", "plain")
        state.away()
        await client.enter(of.nodes[0])
        await of.publish(of.nodes[1], "a", "plain")
        await until(lambda: client.heard == ["a"])
        assert "offset" not in client.messages[-1]
    assert state.calls == []


async def test_what_was_lost_meanwhile_comes_when_the_state_is_back(two: Any, state: Shaky) -> None:
    of, one, other = two
    of.bus.fate = lambda message: ()
    await say(of, one, "a")
    await until(lambda: not len(one.node.hub.courier))
    state.away()
    state.back()
    await until(lambda: other.heard == ["a"])


async def test_who_enters_while_the_state_is_away_becomes_a_member_when_it_is_back(
    monkeypatch: pytest.MonkeyPatch, state: Shaky
) -> None:
    async with swarm(monkeypatch, state, 1) as (of, (node,)):
        state.away()
        client = Client("early")
        await client.enter(node)
        assert client.place is None
        assert not client.is_member
        state.back()
        await until(lambda: client.is_member)
        await of.publish(node, "a")
        assert client.heard == ["a"]
        assert client.place is not None


async def test_a_room_that_stays_behind_is_counted(
    two: Any, state: Shaky, monkeypatch: pytest.MonkeyPatch
) -> None:
    _of, one, other = two
    repairs = other.node.hub.repairs
    state.away()
    for offset in (1, 2):
        other.node.hub.hinted("lobby", Place(one.place.epoch, offset))
    assert repairs.late() == 0
    monkeypatch.setattr(module, "LATE", 0.0)
    await until(lambda: repairs.late() == 1)
    state.back()
    await until(lambda: repairs.late() == 0)


async def test_what_cannot_be_read_is_told_as_lost_and_not_asked_for_again(two: Any, state: Shaky) -> None:
    of, one, other = two
    await state.append("lobby", b"no event", size=50, ttl=60)
    await say(of, one, "b")
    await until(lambda: "b" in other.heard and "b" in one.heard)
    for client in (one, other):
        (told,) = client.recovered
        assert (told.complete, told.start, told.to) == (False, 0, 1)
    assert state.calls.count("since") <= 4


# Idempotence.


async def test_what_a_client_sends_again_is_published_once(two: Any) -> None:
    of, one, other = two
    first = await of.publish(one.node, "a", id="m1")
    again = await of.publish(other.node, "a", id="m1")
    assert (first.offset, first.duplicate) == (1, False)
    assert (again.offset, again.duplicate, again.targets) == (1, True, 0)
    await say(of, one, "b")
    await until(lambda: "b" in other.heard)
    assert one.heard == other.heard == ["a", "b"]


async def test_sending_again_heals_a_first_attempt_that_got_no_further_than_the_history(
    two: Any, state: Shaky
) -> None:
    of, one, other = two
    of.bus.fate = lambda message: () if message["op"] == "room" else (0.0,)
    await of.publish(one.node, "a", id="m1")
    assert (await of.publish(one.node, "changed", id="m1")).duplicate
    await until(lambda: other.heard == ["a"])


@pytest.mark.setting("REALTIME_DEDUPE_WINDOW")
async def test_without_a_window_everything_is_published(two: Any) -> None:
    of, one, _other = two
    with override_settings(REALTIME_DEDUPE_WINDOW=0.0):
        await of.publish(one.node, "a", id="m1")
        assert not (await of.publish(one.node, "a", id="m1")).duplicate
    assert one.heard == ["a", "a"]


async def test_a_room_without_history_takes_a_message_once_too(two: Any, state: Shaky) -> None:
    of, _one, _other = two
    with override_settings(REALTIME_HISTORY_SIZE=0):
        client = Client("plain", "plain")
        await client.enter(of.nodes[0])
        await of.publish(of.nodes[0], "a", "plain", id="m1")
        assert (await of.publish(of.nodes[1], "a", "plain", id="m1")).duplicate
        state.away()
        await of.publish(of.nodes[0], "b", "plain", id="m2")
        assert client.heard == ["a", "b"]
