"""What a process limited."""

from __future__ import annotations

import dataclasses

import pytest

from ratelimit import bans, counters
from ratelimit.bans import BanTable
from ratelimit.counters import Counters

NOON = 1_760_000_400.0  # a whole minute


def test_limited_messages_are_counted_by_budget():
    """C8, F6."""
    counted = Counters()
    for budget in ("messages", "messages", "bytes", "system"):
        counted.count_message(budget, "192.0.2.1", "192.0.2.1:5", NOON)
    assert counted.snapshot(NOON).limited_messages == {"messages": 2, "bytes": 1, "system": 1}


def test_refused_connections_are_counted_by_reason():
    """C8."""
    counted = Counters()
    counted.count_refusal("address_rate", "192.0.2.1", NOON, limited=True)
    counted.count_refusal("banned", "192.0.2.2", NOON, limited=False)
    snapshot = counted.snapshot(NOON)
    assert snapshot.refused == {"address_rate": 1, "banned": 1}
    assert snapshot.limited_connections == 1, "a ban is no limit"


def test_disconnects_and_oversized_messages_are_counted_apart():
    counted = Counters()
    counted.count_disconnect(NOON)
    counted.count_oversized()
    counted.count_oversized()
    snapshot = counted.snapshot(NOON)
    assert (snapshot.disconnects, snapshot.oversized) == (1, 2)


def test_addresses_are_ranked_by_messages_and_connections_together():
    """C8, F6."""
    counted = Counters()
    counted.count_message("messages", "192.0.2.1", "client 1", NOON)
    counted.count_message("messages", "192.0.2.1", "client 2", NOON)
    counted.count_message("messages", "192.0.2.1", "client 2", NOON)
    counted.count_refusal("address_rate", "192.0.2.1", NOON, limited=True)
    counted.count_refusal("banned", "192.0.2.9", NOON, limited=False)
    snapshot = counted.snapshot(NOON)
    assert [(ranked.name, ranked.count) for ranked in snapshot.top_addresses] == [("192.0.2.1", 4)]
    assert [(ranked.name, ranked.count) for ranked in snapshot.top_clients] == [
        ("client 2", 2),
        ("client 1", 1),
    ]


def test_the_series_has_an_hour_of_minutes_the_running_one_last():
    counted = Counters()
    counted.count_message("messages", "a", "a", NOON - 3600)
    counted.count_message("messages", "a", "a", NOON - 3599 + 60)
    counted.count_refusal("address_rate", "a", NOON - 60, limited=True)
    counted.count_disconnect(NOON + 59.9)
    minutes = counted.snapshot(NOON + 59.9).minutes
    assert len(minutes) == 60
    assert [minute.started_at for minute in minutes] == [int(NOON) - 3540 + 60 * n for n in range(60)]
    assert minutes[0].limited_messages == 1, "the minute before it is out of the series"
    assert sum(minute.limited_messages for minute in minutes) == 1
    assert minutes[-2].limited_connections == 1
    assert minutes[-1].disconnects == 1


def test_the_series_takes_no_more_memory_than_an_hour():
    counted = Counters()
    for minute in range(10_000):
        counted.count_disconnect(NOON + 60 * minute)
    assert len(counted._tallies) == 60


def test_a_clock_that_steps_back_loses_nothing():
    counted = Counters()
    counted.count_disconnect(NOON + 60)
    counted.count_disconnect(NOON)
    assert sum(minute.disconnects for minute in counted.snapshot(NOON + 60).minutes) == 2


def test_time_since_the_last_limiting_and_disconnecting():
    """F7."""
    counted = Counters()
    snapshot = counted.snapshot(NOON)
    assert (snapshot.seconds_since_limiting, snapshot.seconds_since_disconnecting) == (None, None)
    counted.count_message("messages", "a", "a", NOON)
    counted.count_disconnect(NOON + 1)
    counted.count_refusal("address_rate", "a", NOON + 2, limited=True)
    snapshot = counted.snapshot(NOON + 5)
    assert (snapshot.seconds_since_limiting, snapshot.seconds_since_disconnecting) == (3, 4)


def test_a_ban_is_no_limiting():
    counted = Counters()
    counted.count_refusal("banned", "a", NOON, limited=False)
    assert counted.snapshot(NOON).seconds_since_limiting is None


def test_a_snapshot_stays_as_it_was():
    counted = Counters()
    before = counted.snapshot(NOON)
    counted.count_message("messages", "a", "a", NOON)
    counted.count_refusal("banned", "a", NOON, limited=False)
    assert (before.limited_messages["messages"], before.refused) == (0, {})
    with pytest.raises(dataclasses.FrozenInstanceError):
        before.disconnects = 5


def test_the_snapshot_of_the_process_counts_bans_in_force():
    bans.watch.table = BanTable([("192.0.2.0/24", None, None), ("", 7, None)])
    assert counters.snapshot().bans == 2
