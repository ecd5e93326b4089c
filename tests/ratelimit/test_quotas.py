"""How fast clients connect, how many sockets they have open, and how little of that is remembered."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ratelimit.limits import Meter
from ratelimit.quotas import ConnectionRates, OpenSockets


class TestConnectionRates:
    def test_each_network_has_its_own_rate(self):
        rates = ConnectionRates()
        assert [rates.take("a", 0.0, 2, 60.0) == 0 for _ in range(3)] == [True, True, False]
        assert rates.take("b", 0.0, 2, 60.0) == 0

    def test_the_wait_is_exact(self):
        rates = ConnectionRates()
        rates.take("a", 100.0, 1, 60.0)
        assert rates.take("a", 115.0, 1, 60.0) == pytest.approx(45.0, abs=0.0011)
        assert rates.take("a", 160.0, 1, 60.0) == 0

    def test_a_limit_of_0_is_off_and_remembers_nobody(self):
        rates = ConnectionRates()
        assert all(rates.take("a", 0.0, 0, 60.0) == 0 for _ in range(100))
        assert len(rates) == 0

    def test_a_client_is_forgotten_when_its_meter_is_full_again(self):
        rates = ConnectionRates()
        for _ in range(10):
            rates.take("busy", 0.0, 10, 60.0)  # full again at 60
        rates.take("quiet", 0.0, 10, 60.0)  # full again at 6
        rates.take("somebody", 7.0, 10, 60.0)
        assert len(rates) == 2, "the quiet one is forgotten, though it came after the busy one"
        rates.take("somebody", 61.0, 10, 60.0)
        assert len(rates) == 1

    def test_a_connection_that_is_given_back_was_never_made(self):
        rates = ConnectionRates()
        rates.take("a", 0.0, 2, 60.0)
        rates.take("a", 1.0, 2, 60.0)
        rates.give_back("a", 2, 60.0)
        assert [rates.take("a", 1.0, 2, 60.0) == 0 for _ in range(2)] == [True, False]

    def test_a_client_with_nothing_left_is_forgotten(self):
        rates = ConnectionRates()
        rates.take("somebody", 100.0, 1, 60.0)
        rates.take("a", 100.0, 1, 60.0)
        rates.give_back("a", 1, 60.0)
        rates.give_back("a", 1, 60.0)
        rates.give_back("a", 0, 60.0)
        rates.take("somebody", 200.0, 1, 60.0)
        assert len(rates) == 1

    def test_a_client_that_comes_back_is_remembered_for_longer(self):
        rates = ConnectionRates()
        rates.take("a", 0.0, 1, 10.0)
        assert rates.take("a", 10.0, 1, 10.0) == 0
        rates.take("b", 15.0, 1, 10.0)
        assert rates.take("a", 15.0, 1, 10.0) > 0

    def test_the_table_is_bounded_and_drops_who_connected_longest_ago(self):
        rates = ConnectionRates(max_clients=3)
        for name in ("a", "b", "c"):
            rates.take(name, 0.0, 2, 60.0)
        rates.take("a", 1.0, 2, 60.0)
        rates.take("d", 1.0, 2, 60.0)
        assert len(rates) == 3
        assert rates.take("a", 1.0, 2, 60.0) > 0, "a came again, so it stayed"
        assert [rates.take("b", 1.0, 2, 60.0) == 0 for _ in range(2)] == [True, True], "b was forgotten"

    def test_a_refused_client_does_not_push_anybody_out(self):
        rates = ConnectionRates(max_clients=2)
        rates.take("a", 0.0, 1, 60.0)
        rates.take("b", 0.0, 1, 60.0)
        for _ in range(10):
            assert rates.take("b", 0.0, 1, 60.0) > 0
        assert rates.take("a", 0.0, 1, 60.0) > 0

    def test_a_million_visitors_leave_nothing_behind(self):
        rates = ConnectionRates(max_clients=100)
        for number in range(100_000):
            rates.take(str(number), number / 1000, 10, 60.0)
        assert len(rates) <= 100
        assert sum(len(waiting) for waiting in rates._due.values()) == len(rates)
        rates.take("last", 1e6, 10, 60.0)
        assert len(rates) == len(rates._due) == 1

    @settings(max_examples=200, deadline=None)
    @given(
        st.lists(
            st.tuples(st.sampled_from("abcdef"), st.floats(0, 30), st.sampled_from([1, 3, 10])), max_size=80
        )
    )
    def test_forgetting_changes_no_answer(self, visits):
        """The table says what a meter per client kept for ever would say."""
        rates, meters, now = ConnectionRates(), {}, 0.0
        limit = visits[0][2] if visits else 1
        for name, gap, _ in visits:
            now += gap
            meter = meters.setdefault(name, Meter(limit, 20.0))
            assert rates.take(name, now, limit, 20.0) == meter.take(now)
        still_counting = {name for name, meter in meters.items() if meter.arrival >= now}
        assert still_counting <= set(rates._arrivals)
        assert all(arrival > now - 1 for arrival in rates._arrivals.values())


class TestOpenSockets:
    def test_sockets_are_counted_by_network_and_in_all(self):
        sockets = OpenSockets()
        for network in ("a", "a", "b"):
            sockets.enter(network)
        assert (sockets.total, sockets.of_network("a"), sockets.of_network("b")) == (3, 2, 1)
        sockets.leave("a")
        assert (sockets.total, sockets.of_network("a")) == (2, 1)

    def test_nothing_is_kept_of_who_left(self):
        sockets = OpenSockets()
        for number in range(100):
            sockets.of_network(str(number))
            sockets.enter(str(number))
            sockets.enter_user(str(number), number)
        for number in range(100):
            sockets.leave(str(number))
            sockets.leave_user(str(number), number)
        assert not sockets._by_network
        assert not sockets._by_user

    def test_sockets_of_a_user_come_oldest_first(self):
        sockets = OpenSockets()
        for socket in ("first", "second", "third"):
            sockets.enter_user("u", socket)
        sockets.leave_user("u", "second")
        assert sockets.of_user("u") == ["first", "third"]
        assert sockets.of_user("nobody") == []

    def test_leaving_a_user_twice_is_leaving_once(self):
        sockets = OpenSockets()
        sockets.enter_user("u", "first")
        sockets.leave_user("u", "first")
        sockets.leave_user("u", "first")
        assert sockets.of_user("u") == []
