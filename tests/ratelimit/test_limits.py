"""Meters, budgets, and the policy of violations: rules only, time is an argument."""

from __future__ import annotations

import dataclasses
import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ratelimit.limits import Allowance, Limits, Meter, Numbers


class TestLimits:
    @pytest.mark.parametrize(
        ("name", "value"),
        [
            pytest.param("max_message_bytes", -1, id="negative"),
            pytest.param("messages_per_window", 1.5, id="part of a message"),
            pytest.param("disconnect_after", True, id="bool"),
            pytest.param("bytes_per_window", "10", id="text"),
            pytest.param("message_window", 0, id="no window"),
            pytest.param("message_window", math.nan, id="not a number"),
            pytest.param("message_window", math.inf, id="endless window"),
            pytest.param("burst_multiplier", 0.5, id="burst below the limit itself"),
            pytest.param("burst_multiplier", "2", id="text for a number"),
        ],
    )
    def test_a_number_that_cannot_be_a_limit_is_named(self, name, value):
        with pytest.raises(ValueError, match=f"{name} is {value!r}; it must be"):
            Limits(**{name: value})

    @pytest.mark.parametrize(
        ("name", "value"),
        [
            pytest.param("max_message_bytes", 0, id="0 is off"),
            pytest.param("message_window", 0.001, id="short window"),
            pytest.param("burst_multiplier", 1, id="no extra burst"),
            pytest.param("system_messages_per_window", None, id="left open"),
        ],
    )
    def test_a_number_that_can_be_a_limit_is_taken(self, name, value):
        assert getattr(Limits(**{name: value}), name) == value

    def test_only_what_is_said_replaces_a_number(self):
        numbers = Numbers(max_message_bytes=10, messages_per_window=60, disconnect_after=3)
        filled = Limits(max_message_bytes=0, messages_per_window=5).filled(numbers)
        assert filled == Numbers(max_message_bytes=0, messages_per_window=5, disconnect_after=3)

    def test_a_subclass_may_have_fields_of_its_own(self):
        @dataclasses.dataclass(frozen=True, kw_only=True)
        class RouteLimits(Limits):
            patience: float | None = None

        assert RouteLimits(messages_per_window=5, patience=-1.0).filled(Numbers()) == Numbers(
            messages_per_window=5
        )


class TestMeter:
    def test_the_burst_passes_at_once_and_not_one_more(self):
        meter = Meter(limit=60, window=60.0, multiplier=2.0)
        assert [meter.take(0.0) == 0 for _ in range(121)] == [True] * 120 + [False]

    def test_then_the_limit_is_sustained(self):
        meter = Meter(limit=60, window=60.0)
        for _ in range(60):
            meter.take(0.0)
        passed = sum(meter.take(tenth / 10) == 0 for tenth in range(1, 6001))
        assert passed == 600

    def test_retry_after_is_exact_to_a_millisecond_and_never_too_short(self):
        meter = Meter(limit=1, window=7.0)
        meter.take(100.0)
        assert meter.take(103.0) == pytest.approx(4.0, abs=0.0011)
        assert meter.take(103.0 + 3.998) > 0
        assert meter.take(103.0 + 4.0) == 0

    def test_a_wait_is_rounded_up_to_whole_milliseconds(self):
        meter = Meter(limit=3, window=1.0)
        for _ in range(3):
            meter.take(0.0)
        assert meter.wait(0.0) == 0.334

    def test_a_refused_unit_costs_nothing(self):
        meter = Meter(limit=1, window=1.0)
        meter.take(0.0)
        for _ in range(100):
            assert meter.take(0.5) > 0
        assert meter.take(1.0) == 0

    def test_several_units_cost_as_much_as_one_after_the_other(self):
        meter = Meter(limit=100, window=10.0)
        assert meter.take(0.0, 60) == 0
        assert meter.take(0.0, 41) == pytest.approx(0.1, abs=0.0011)
        assert meter.take(0.0, 40) == 0

    def test_a_cost_above_the_burst_counts_as_the_whole_burst(self):
        meter = Meter(limit=100, window=10.0)
        assert meter.take(0.0, 1_000_000) == 0
        assert meter.take(0.0, 1) > 0
        assert meter.take(5.0, 1_000_000) == pytest.approx(5.0, abs=0.0011)
        assert meter.take(10.0, 1_000_000) == 0

    def test_a_long_pause_saves_up_no_more_than_a_burst(self):
        meter = Meter(limit=10, window=10.0)
        meter.take(0.0)
        assert [meter.take(1e6) == 0 for _ in range(11)] == [True] * 10 + [False]

    def test_a_limit_of_0_is_off(self):
        meter = Meter(limit=0, window=60.0)
        assert all(meter.take(0.0, 1e12) == 0 for _ in range(1000))
        assert meter.remaining(0.0) is None

    def test_remaining_is_what_would_pass(self):
        meter = Meter(limit=10, window=10.0, multiplier=1.5)
        assert meter.remaining(0.0) == 15
        for _ in range(12):
            meter.take(0.0)
        assert meter.remaining(0.0) == 3
        assert meter.remaining(1.5) == 4
        assert meter.remaining(1000.0) == 15

    @settings(max_examples=300, deadline=None)
    @given(
        start=st.floats(0, 1e8),
        limit=st.integers(1, 100_000),
        window=st.floats(0.01, 86400),
        multiplier=st.floats(1, 10),
        steps=st.lists(st.tuples(st.floats(0, 1), st.integers(1, 50)), min_size=1, max_size=40),
    )
    def test_never_more_than_burst_and_rate_allow_pass(self, start, limit, window, multiplier, steps):
        """In any stretch of time: burst + rate * time."""
        meter, rate, burst = Meter(limit, window, multiplier), limit / window, limit * multiplier
        now, passed = start, []
        for gap, cost in steps:
            now += gap * window / limit * 3
            if meter.take(now, cost) == 0:
                passed.append((now, min(cost, burst)))
        slack = rate * 2e-6 + 1e-6
        for first in range(len(passed)):
            total = 0.0
            for moment, cost in passed[first:]:
                total += cost
                assert total <= burst + rate * (moment - passed[first][0]) + slack

    @settings(max_examples=500, deadline=None)
    @given(
        start=st.floats(0, 1e8),
        limit=st.integers(1, 1_000_000),
        window=st.floats(0.001, 86400),
        multiplier=st.floats(1, 1000),
        costs=st.lists(st.floats(0.1, 1e7), min_size=1, max_size=30),
    )
    def test_who_waits_as_long_as_told_is_served(self, start, limit, window, multiplier, costs):
        """F3: no rounding of floats fails a client that waited exactly ``retry_after``."""
        meter, now = Meter(limit, window, multiplier), start
        for cost in costs:
            wait = meter.take(now, cost)
            if wait:
                assert 0 < wait <= window * multiplier + 0.002
                now += wait
                assert meter.take(now, cost) == 0


def numbers(**changes):
    return Numbers(**{"messages_per_window": 2, "message_window": 10.0, "disconnect_after": 3, **changes})


class TestAllowance:
    def test_a_message_over_the_budget_says_which_and_for_how_long(self):
        allowance = Allowance(numbers())
        assert allowance.spend(1, False, 0.0) is None
        assert allowance.spend(1, False, 1.0) is None
        violation = allowance.spend(1, False, 2.0)
        assert violation.budget == "messages"
        assert violation.retry_after == pytest.approx(3.0, abs=0.0011)
        assert (violation.limit, violation.window, violation.violations_left) == (2, 10.0, 2)
        assert violation.warn

    def test_the_nth_violation_in_a_row_leaves_none(self):
        """F5."""
        allowance = Allowance(numbers(messages_per_window=1))
        allowance.spend(1, False, 0.0)
        assert [allowance.spend(1, False, 0.0).violations_left for _ in range(3)] == [2, 1, 0]

    def test_a_processed_message_starts_the_count_again(self):
        """F5."""
        allowance = Allowance(numbers(messages_per_window=1))
        allowance.spend(1, False, 0.0)
        assert [allowance.spend(1, False, 1.0).violations_left for _ in range(2)] == [2, 1]
        assert allowance.spend(1, False, 10.0) is None
        assert allowance.spend(1, False, 11.0).violations_left == 2

    def test_system_messages_neither_spend_the_budget_of_messages_nor_the_other_way_round(self):
        """F4."""
        allowance = Allowance(numbers(messages_per_window=1, system_messages_per_window=2))
        assert [allowance.spend(1, True, 0.0) is None for _ in range(3)] == [True, True, False]
        assert allowance.spend(1, False, 0.0) is None
        assert allowance.spend(1, False, 0.0).budget == "messages"
        assert allowance.spend(1, True, 0.0).budget == "system"

    def test_system_messages_do_not_excuse_a_flood(self):
        """A client that pings between refused messages is closed all the same."""
        allowance = Allowance(numbers(messages_per_window=1, system_messages_per_window=100))
        allowance.spend(1, False, 0.0)
        left = []
        for _ in range(3):
            left.append(allowance.spend(1, False, 0.0).violations_left)
            assert allowance.spend(1, True, 0.0) is None
        assert left == [2, 1, 0]

    def test_bytes_are_a_budget_of_their_own(self):
        allowance = Allowance(numbers(messages_per_window=0, bytes_per_window=100))
        assert allowance.spend(80, False, 0.0) is None
        violation = allowance.spend(30, False, 0.0)
        assert (violation.budget, violation.limit) == ("bytes", 100)
        assert violation.retry_after == pytest.approx(1.0, abs=0.0011)
        assert allowance.spend(20, False, 0.0) is None

    def test_system_messages_spend_bytes(self):
        allowance = Allowance(numbers(bytes_per_window=100))
        assert allowance.spend(100, True, 0.0) is None
        assert allowance.spend(1, True, 0.0).budget == "bytes"

    def test_a_message_refused_for_one_budget_is_charged_to_neither(self):
        allowance = Allowance(numbers(messages_per_window=2, bytes_per_window=100))
        assert allowance.spend(100, False, 0.0) is None
        assert allowance.spend(50, False, 0.0) is not None
        assert allowance.remaining(0.0) == 1

    def test_who_is_over_both_budgets_is_told_the_longer_wait(self):
        """F3: told the shorter one, the client would meet the other refusal."""
        allowance = Allowance(numbers(messages_per_window=1, bytes_per_window=10, burst_multiplier=1.0))
        assert allowance.spend(10, False, 0.0) is None
        violation = allowance.spend(1, False, 0.5)
        assert violation.budget == "messages"
        assert violation.retry_after == pytest.approx(9.5, abs=0.0011)
        assert allowance.spend(1, False, 0.5 + violation.retry_after) is None

    def test_the_longer_wait_may_be_the_one_for_bytes(self):
        allowance = Allowance(numbers(messages_per_window=10, bytes_per_window=10))
        for _ in range(10):
            assert allowance.spend(1, False, 0.0) is None
        violation = allowance.spend(5, False, 0.0)
        assert violation.budget == "bytes"
        assert allowance.spend(5, False, violation.retry_after) is None

    def test_the_burst_holds_for_each_budget(self):
        allowance = Allowance(
            numbers(
                messages_per_window=2, bytes_per_window=50, system_messages_per_window=3, burst_multiplier=2.0
            )
        )
        assert [allowance.spend(0, False, 0.0) is None for _ in range(5)] == [True] * 4 + [False]
        assert [allowance.spend(0, True, 0.0) is None for _ in range(7)] == [True] * 6 + [False]
        allowance = Allowance(numbers(messages_per_window=0, bytes_per_window=50, burst_multiplier=2.0))
        assert [allowance.spend(50, False, 0.0) is None for _ in range(3)] == [True, True, False]

    def test_a_socket_that_is_never_closed_is_warned_once_per_wait(self):
        """Or a client that never stops would make the server talk for ever."""
        allowance = Allowance(numbers(messages_per_window=1, disconnect_after=0))
        allowance.spend(1, False, 0.0)
        violations = [allowance.spend(1, False, moment) for moment in (0.0, 1.0, 9.9)]
        assert [violation.warn for violation in violations] == [True, False, False]
        assert {violation.violations_left for violation in violations} == {None}
        assert allowance.spend(1, False, 10.1) is None
        assert allowance.spend(1, False, 10.2).warn

    def test_everything_off_lets_everything_pass(self):
        allowance = Allowance(Numbers())
        assert all(allowance.spend(10**9, kind, 0.0) is None for kind in (True, False) for _ in range(1000))
        assert allowance.remaining(0.0) is None

    @settings(max_examples=200, deadline=None)
    @given(
        messages=st.integers(0, 20),
        size=st.integers(0, 200),
        window=st.floats(0.1, 100),
        multiplier=st.floats(1, 5),
        steps=st.lists(
            st.tuples(st.floats(0, 1), st.integers(0, 300), st.booleans()), min_size=1, max_size=40
        ),
    )
    def test_who_waits_as_long_as_told_is_served(self, messages, size, window, multiplier, steps):
        """F3, with all budgets at once."""
        allowance = Allowance(
            Numbers(
                messages_per_window=messages,
                system_messages_per_window=messages * 2,
                bytes_per_window=size,
                message_window=window,
                burst_multiplier=multiplier,
            )
        )
        now = 12345.678
        for gap, cost, system in steps:
            now += gap
            violation = allowance.spend(cost, system, now)
            if violation is not None:
                now += violation.retry_after
                assert allowance.spend(cost, system, now) is None
