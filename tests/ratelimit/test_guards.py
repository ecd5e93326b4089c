"""The judgement of one socket's messages."""

from __future__ import annotations

import asyncio
import json
import threading

import pytest

from ratelimit import bans, counters, guards
from ratelimit.bans import BanTable
from ratelimit.clients import Client
from ratelimit.close_codes import POLICY, RATE_LIMITED, REPLACED, TOO_BIG
from ratelimit.conf import RateLimitSettings
from ratelimit.guards import SWALLOW, Guard
from ratelimit.limits import Limits, Numbers

CLIENT = Client("192.0.2.1", "192.0.2.1", 50000)


class Watched(Guard):
    """A guard that keeps what it was closed for."""

    __slots__ = ("closed",)

    def __init__(self, client=CLIENT, **numbers):
        self.closed = []
        super().__init__(client, self.closed.append)
        self.enforce(**numbers)

    def says(self, text="hello", now=0.0):
        return self.judge({"type": "websocket.receive", "text": text}, now)


async def test_nothing_is_limited_before_anything_is_enforced():
    guard = Watched()
    assert guard.limits == Numbers()
    assert all(guard.says("x" * 1000) is None for _ in range(1000))
    assert guard.remaining(0.0) is None


async def test_earlier_violations_get_a_warning_and_the_last_closes():
    """C3, F5."""
    guard = Watched(messages_per_window=1, disconnect_after=3)
    assert guard.says() is None
    verdicts = [guard.says() for _ in range(3)]
    assert [verdict.close for verdict in verdicts] == [None, None, RATE_LIMITED]
    assert [json.loads(verdict.notice)["data"]["violations_left"] for verdict in verdicts[:2]] == [2, 1]
    assert guard.limited == 3


async def test_a_limited_message_is_counted_for_address_and_client():
    """C8, F6."""
    guard = Watched(messages_per_window=1, disconnect_after=2)
    guard.label = "ann"
    for _ in range(3):
        guard.says()
    snapshot = counters.snapshot()
    assert snapshot.limited_messages["messages"] == 2
    assert snapshot.disconnects == 1
    assert [ranked.name for ranked in snapshot.top_addresses] == ["192.0.2.1"]
    assert [ranked.name for ranked in snapshot.top_clients] == ["ann"]


async def test_the_wait_is_known_to_whoever_closes_the_socket():
    guard = Watched(messages_per_window=1, message_window=10.0, disconnect_after=1)
    guard.says()
    assert guard.says().close is RATE_LIMITED
    assert guard.retry_after == pytest.approx(10.0, abs=0.0011)


async def test_a_client_that_is_never_closed_is_told_once_and_then_ignored():
    guard = Watched(messages_per_window=1, disconnect_after=0)
    guard.says()
    assert guard.says().notice is not None
    assert all(guard.says() is SWALLOW for _ in range(100))
    assert guard.limited == 101


@pytest.mark.parametrize(
    ("content", "passes"),
    [
        pytest.param({"text": "x" * 10}, True, id="text at the limit"),
        pytest.param({"text": "x" * 11}, False, id="text one byte over"),
        pytest.param({"text": "\u20ac" * 3}, True, id="9 bytes in 3 characters"),
        pytest.param({"text": "\u20ac" * 4}, False, id="12 bytes in 4 characters"),
        pytest.param({"text": "\U0001f600" * 3}, False, id="12 bytes in 3 characters"),
        pytest.param({"text": "\ud800" * 3}, True, id="lone surrogates"),
        pytest.param({"bytes": b"x" * 10}, True, id="bytes at the limit"),
        pytest.param({"bytes": b"x" * 11}, False, id="bytes one over"),
        pytest.param({"text": None, "bytes": b"x" * 11}, False, id="both keys, text unset"),
        pytest.param({"bytes": None, "text": "x" * 11}, False, id="both keys, bytes unset"),
        pytest.param({"text": ""}, True, id="empty text"),
        pytest.param({"bytes": b""}, True, id="empty bytes"),
        pytest.param({}, True, id="neither"),
    ],
)
async def test_size_is_counted_in_bytes_on_the_wire(content, passes):
    """C4."""
    guard = Watched(max_message_bytes=10)
    verdict = guard.judge({"type": "websocket.receive", **content}, 0.0)
    assert (verdict is None) == passes
    if verdict is not None:
        assert verdict.close is TOO_BIG
        assert verdict.notice is None
    assert counters.process.oversized == (0 if passes else 1)


async def test_bytes_are_counted_on_the_wire():
    guard = Watched(bytes_per_window=10)
    assert guard.says("\u20ac" * 3) is None
    assert guard.says("xx") is not None
    assert guard.judge({"type": "websocket.receive", "bytes": b"x"}, 0.0) is None


async def test_system_messages_have_a_budget_of_their_own():
    """F4."""
    guard = Watched(messages_per_window=1, system_messages_per_window=5)
    guard.says()
    assert all(guard.says('{"type":"system.pong"}') is None for _ in range(5))
    assert json.loads(guard.says('{"type":"system.pong"}').notice)["data"]["scope"] == "system"


async def test_a_binary_message_is_never_a_system_message():
    guard = Watched(messages_per_window=1, system_messages_per_window=5)
    message = {"type": "websocket.receive", "bytes": b'{"type":"system.pong"}'}
    assert [guard.judge(message, 0.0) is None for _ in range(2)] == [True, False]


async def test_once_closing_every_message_is_swallowed():
    guard = Watched(messages_per_window=1, disconnect_after=1)
    guard.close(POLICY)
    assert [guard.says() for _ in range(10)] == [SWALLOW] * 10
    assert guard.limited == 0, "nobody is limited who is being closed"


async def test_a_socket_is_closed_once():
    guard = Watched()
    guard.close(POLICY)
    guard.close(RATE_LIMITED)
    assert guard.closed == [POLICY]


async def test_the_closer_can_be_replaced():
    guard, closed = Watched(), []
    guard.closer = closed.append
    guard.close(POLICY)
    assert (guard.closed, closed) == ([], [POLICY])


async def test_remaining_counts_down():
    """F6."""
    guard = Watched(messages_per_window=3, message_window=3.0)
    assert guard.remaining(0.0) == 3
    guard.says()
    guard.says()
    assert guard.remaining(0.0) == 1
    assert guard.remaining(1.0) == 2


async def test_limits_of_the_route_replace_the_settings():
    """B1."""
    guard = Watched(messages_per_window=1, max_message_bytes=10)
    guard.apply(Limits(messages_per_window=3, max_message_bytes=0))
    assert [guard.says("x" * 20) is None for _ in range(4)] == [True, True, True, False]
    guard.apply(None)
    assert guard.says("x" * 20).close is TOO_BIG


async def test_limits_of_the_route_hold_whichever_middleware_comes_later():
    guard = Watched()
    guard.apply(Limits(max_message_bytes=5))
    guard.enforce(max_message_bytes=10, messages_per_window=7)
    assert (guard.limits.max_message_bytes, guard.limits.messages_per_window) == (5, 7)


SETTINGS = RateLimitSettings(connections_per_window=0, max_connections=1)


async def test_a_socket_is_counted_once_and_given_back_once():
    first, second = Watched(), Watched()
    assert await first.enter(SETTINGS, 0.0) is None
    assert await first.enter(SETTINGS, 0.0) is None, "asked again by another middleware"
    assert (await second.enter(SETTINGS, 0.0)).name == "at_capacity"
    second.release()
    assert guards.door.total == 1, "what was not let in is not given back"
    first.release()
    first.release()
    assert guards.door.total == 0


async def test_a_banned_address_does_not_come_in():
    bans.watch.table = BanTable([("192.0.2.0/24", None, None)])
    assert (await Watched().enter(SETTINGS, 0.0)).name == "banned"
    assert guards.door.total == 0


async def test_a_banned_user_does_not_come_in():
    bans.watch.table = BanTable([("", 7, None)])
    assert (await Watched().enter_user("7")).name == "banned"
    assert await Watched().enter_user("8") is None


async def test_a_user_s_sockets_are_given_back(settings):
    settings.RATELIMIT_MAX_CONNECTIONS_PER_USER = 1
    first, second = Watched(), Watched()
    assert await first.enter_user("7") is None
    assert await first.enter_user("7") is None, "asked again by the route"
    assert (await second.enter_user("7")).name == "user_connections"
    first.release()
    assert await second.enter_user("7") is None


async def test_the_newest_socket_of_a_user_closes_the_oldest(settings):
    settings.RATELIMIT_MAX_CONNECTIONS_PER_USER = 1
    settings.RATELIMIT_USER_LIMIT_POLICY = "newest"
    first, second = Watched(), Watched()
    assert await first.enter_user("7") is None
    assert await second.enter_user("7") is None
    await asyncio.sleep(0)
    assert (first.closed, second.closed) == ([REPLACED], [])
    first.release()
    assert await Watched().enter_user("7") is None
    await asyncio.sleep(0)
    assert second.closed == [REPLACED]


async def test_another_thread_may_ask_to_close():
    guard, closed_in, done = Watched(), [], asyncio.Event()

    def closer(reason):
        closed_in.append(threading.current_thread())
        done.set()

    guard.closer = closer
    thread = threading.Thread(target=guard.close_soon, args=(POLICY,))
    thread.start()
    await asyncio.wait_for(done.wait(), 5)
    thread.join()
    assert closed_in == [threading.current_thread()]


def test_asking_to_close_after_the_loop_is_gone_is_no_error():
    async def make():
        return Watched()

    guard = asyncio.run(make())
    guard.close_soon(POLICY)
    assert guard.closed == []


@pytest.mark.parametrize(
    ("row", "closed"),
    [
        pytest.param(("192.0.2.0/24", None, None), True, id="address"),
        pytest.param(("", 7, None), True, id="user"),
        pytest.param(("198.51.100.0/24", 8, None), False, id="somebody else"),
    ],
)
async def test_open_sockets_that_a_new_table_bans_are_closed(row, closed):
    guard = Watched()
    assert await guard.enter(SETTINGS, 0.0) is None
    assert await guard.enter_user("7") is None
    guards.open_guards.add(guard)
    try:
        guards.close_banned(BanTable([row]))
        await asyncio.sleep(0)
    finally:
        guards.open_guards.discard(guard)
    assert guard.closed == ([POLICY] if closed else [])


async def test_a_socket_that_is_still_to_be_judged_is_refused_and_not_closed():
    """It gets the proper answer: a close before accept could not say why."""
    guard = Watched()
    guards.open_guards.add(guard)
    try:
        bans.watch.table = BanTable([("192.0.2.0/24", 7, None)])
        guards.close_banned(bans.watch.table)
        await asyncio.sleep(0)
        assert (await guard.enter(SETTINGS, 0.0)).name == "banned"
        assert (await guard.enter_user("7")).name == "banned"
        guards.close_banned(bans.watch.table)
        await asyncio.sleep(0)
    finally:
        guards.open_guards.discard(guard)
    assert guard.closed == []


@pytest.mark.parametrize("banned", ["address", "user"])
async def test_a_table_that_changes_while_a_socket_is_judged_misses_nobody(banned, monkeypatch):
    """Another thread puts the new table in place between the look at the old one and the entry."""
    guard, table = (
        Watched(),
        BanTable([("192.0.2.0/24", None, None) if banned == "address" else ("", 7, None)]),
    )
    guards.open_guards.add(guard)

    def changing(question):
        def asked(old, *arguments):
            answer = question(old, *arguments)
            if bans.watch.table is not table:
                bans.watch.table = table
                guards.close_banned(table)
            return answer

        return asked

    monkeypatch.setattr(BanTable, f"bans_{banned}", changing(getattr(BanTable, f"bans_{banned}")))
    try:
        if banned == "address":
            assert await guard.enter(SETTINGS, 0.0) is None
        else:
            assert await guard.enter_user("7") is None
        await asyncio.sleep(0)
    finally:
        guards.open_guards.discard(guard)
    assert guard.closed == [POLICY]


async def test_budgets_are_full_before_the_first_message_and_asking_does_not_spend_them():
    guard = Watched(messages_per_window=2, message_window=60)
    assert [guard.remaining(0.0), guard.remaining(0.0)] == [2, 2]
    assert guard.says() is None
    assert guard.remaining(0.0) == 1


async def test_nothing_is_closed_after_the_socket_is_gone():
    guard = Watched()
    guard.release()
    guard.close(POLICY)
    assert guard.closed == []


async def test_sockets_with_the_same_limits_share_their_numbers():
    assert Watched(messages_per_window=3).limits is Watched(messages_per_window=3).limits
    assert Watched(messages_per_window=3).limits != Watched(messages_per_window=4).limits
