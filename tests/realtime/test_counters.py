"""What one node counts, and the rates over its last minute."""

from __future__ import annotations

import dataclasses

import pytest

from realtime.counters import Counters, Rates, RateWindow, Sample


def window(*samples: tuple[float, int]) -> RateWindow:
    """A window of samples ``(at, received)``; twice as many are sent, half as many fail."""
    rates = RateWindow()
    for at, received in samples:
        rates.add(Sample(at, received, received * 2, received // 2))
    return rates


def test_everything_starts_at_zero():
    assert set(map(repr, dataclasses.astuple(Counters()))) == {"0", "{}"}


def test_closed_connections_are_counted_by_name():
    counters = Counters()
    for name in ("done", "lost", "done"):
        counters.disconnected(name)
    assert counters.disconnections == {"done": 2, "lost": 1}


def test_messages_given_up_for_slow_readers_are_counted_by_policy():
    counters = Counters()
    counters.slow("drop_oldest", 3)
    counters.slow("drop_oldest", 2)
    counters.slow("disconnect", 1)
    assert counters.slow_consumers == {"drop_oldest": 5, "disconnect": 1}


def test_two_nodes_do_not_count_together():
    one, other = Counters(), Counters()
    one.disconnected("done")
    one.slow("coalesce", 1)
    assert (other.disconnections, other.slow_consumers) == ({}, {})


@pytest.mark.parametrize(
    ("samples", "received_per_sec"),
    [
        pytest.param([], 0.0, id="no sample"),
        pytest.param([(5.0, 100)], 0.0, id="one sample"),
        pytest.param([(5.0, 100), (6.0, 110)], 10.0, id="two"),
        pytest.param([(5.0, 100), (7.0, 110)], 5.0, id="two seconds apart"),
        pytest.param([(0.0, 0), (1.0, 50), (2.0, 60)], 30.0, id="the oldest and the newest count"),
        pytest.param([(0.0, 0), (3.0, 1)], 0.33, id="rounded"),
        pytest.param([(5.0, 7), (5.0, 7)], 0.0, id="at the same moment"),
        pytest.param([(float(at), at * 3) for at in range(500)], 3.0, id="a long time"),
        pytest.param([(0.0, 0)] + [(float(at), 600) for at in range(1, 61)], 10.0, id="a burst a minute ago"),
        pytest.param([(0.0, 0)] + [(float(at), 600) for at in range(1, 62)], 0.0, id="a burst before that"),
    ],
)
def test_rates_are_those_of_the_last_minute(samples, received_per_sec):
    assert window(*samples).rates().received_per_sec == received_per_sec


def test_received_sent_and_failed_have_a_rate_each():
    assert window((0.0, 0), (1.0, 10)).rates() == Rates(10.0, 20.0, 5.0)
