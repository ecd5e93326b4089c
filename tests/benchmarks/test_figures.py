"""The arithmetic of the benchmarks."""

from __future__ import annotations

import pytest

from benchmarks import figures


def turns(*values: float | None, measure: str = "per_second") -> list[dict]:
    return [{"problems": [], measure: value} for value in values]


FAILED = {"problems": ["lost"], "per_second": 5.0}


@pytest.mark.parametrize(
    ("share", "expected"), [(0.5, 50.0), (0.99, 99.0), (0.0, 0.0), (1.0, 100.0)], ids=str
)
def test_a_quantile_is_the_time_within_which_the_share_lies(share, expected):
    milliseconds = [*range(100, -1, -1)]
    assert figures.quantile_ms([value * 10**6 for value in milliseconds], share) == expected


def test_there_is_no_quantile_of_nothing():
    assert figures.latencies([]) == {"p50_ms": None, "p99_ms": None, "p999_ms": None}


def test_the_median_is_over_the_turns():
    assert figures.median(turns(3.0, 100.0, 1.0), "per_second") == 3.0


@pytest.mark.parametrize("measure", ["per_second", "server_us"])
def test_there_is_no_median_where_a_turn_failed_or_did_not_measure(measure):
    assert figures.median([*turns(3.0), FAILED], measure) is None


def test_a_ratio_is_the_median_of_the_turns_ratios():
    """Not the ratio of the medians, which is 10 here: the machine was slow for both in the second turn."""
    subject, against = turns(100.0, 40.0, 120.0), turns(10.0, 2.0, 60.0)
    assert figures.ratio(subject, against, "per_second") == 10.0
    assert figures.ratio(turns(100.0, 40.0, 50.0), turns(10.0, 2.0, 40.0), "per_second") == 10.0


@pytest.mark.parametrize(
    "against",
    [[FAILED], turns(None), turns(0.0), [{"problems": []}]],
    ids=["failed", "none", "zero", "absent"],
)
def test_there_is_no_ratio_to_what_was_not_measured(against):
    assert figures.ratio(turns(1.0), against, "per_second") is None
    assert figures.ratio(against, turns(1.0), "per_second") is None


@pytest.mark.parametrize(
    ("target", "met", "missed"),
    [
        (figures.Target(2.5), 2.5, 2.49),
        (figures.Target(1.15, "at most"), 1.15, 1.16),
    ],
    ids=str,
)
def test_a_target_is_met_at_its_bound(target, met, missed):
    assert target.is_met(met)
    assert not target.is_met(missed)


@pytest.mark.parametrize(
    ("target", "text"),
    [
        (figures.Target(10), "at least 10"),
        (figures.Target(0.6), "at least 0.6"),
        (figures.Target(1 / 12, "at most"), "at most 1/12"),
    ],
    ids=str,
)
def test_a_target_says_itself(target, text):
    assert str(target) == text


@pytest.mark.parametrize(
    ("value", "text"),
    [(None, "failed"), (1 / 16.7, "1/16.7"), (0.964, "0.96"), (1.0, "1.00"), (10.84, "10.8"), (0.0, "0.00")],
)
def test_a_ratio_is_shown_as_people_say_it(value, text):
    assert figures.shown_ratio(value) == text
