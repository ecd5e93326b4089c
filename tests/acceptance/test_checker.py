"""The judge of the cluster tests: it lets pass what clients may see, and each wrong by itself is caught."""

from __future__ import annotations

import random

import pytest

from tests.acceptance.checker import Entry, Heard, Joined, Lost, Recovered, Welcomed, violations


def said(first: int, last: int) -> list[Entry]:
    """Messages by their offsets, called by them too."""
    return [Heard(f"m{offset}", offset) for offset in range(first, last + 1)]


NEW: list[Entry] = [Welcomed(False), Joined("a", 0)]
BACK: list[Entry] = [Lost(), Welcomed(True)]
WHOLE = [*NEW, *said(1, 6)]


def complete(start: int, to: int, epoch: str = "a") -> Recovered:
    return Recovered(True, start, to, epoch, to - start)


def gone(start: int, to: int, epoch: str = "a") -> Recovered:
    return Recovered(False, start, to, epoch, 0)


@pytest.mark.parametrize(
    "log",
    [
        pytest.param(WHOLE, id="never away"),
        pytest.param([*NEW, *said(1, 2), *BACK, complete(2, 4), *said(3, 6)], id="recovered, then new ones"),
        pytest.param([*NEW, *said(1, 2), *BACK, complete(2, 2), *said(3, 6)], id="nothing missed"),
        pytest.param(
            [*NEW, *said(1, 2), *BACK, complete(2, 5), *said(3, 3), *BACK, complete(3, 6), *said(4, 6)],
            id="lost again in the middle of a recovery",
        ),
        pytest.param([*NEW, *said(1, 2), Lost(), *BACK, complete(2, 6), *said(3, 6)], id="several attempts"),
        pytest.param([*NEW, *said(1, 4), complete(4, 4), *said(5, 6)], id="a repair without a loss"),
        pytest.param(
            [*NEW, *said(1, 2), *BACK, Joined("a", 2), complete(2, 6), *said(3, 6)], id="entered again"
        ),
        pytest.param(
            [*NEW, *said(1, 2), Lost(), *NEW, Welcomed(True), complete(2, 6), *said(3, 6)],
            id="welcomed before it could say who it is",
        ),
    ],
)
def test_what_may_be_seen_passes(log):
    assert violations({"one": WHOLE, "two": log}, acked=["m1", "m6"], strict=True) == []


@pytest.mark.parametrize(
    "log",
    [
        pytest.param([Welcomed(False), Joined("a", 4), *said(5, 6)], id="came later"),
        pytest.param([*NEW, *said(1, 2), *BACK, gone(2, 4), *said(5, 6)], id="told that it missed some"),
        pytest.param(
            [*NEW, *said(1, 2), Lost(), Welcomed(False), Joined("a", 4), *said(5, 6)], id="began afresh"
        ),
        pytest.param([*NEW, *said(1, 2), gone(2, 4), *said(5, 6)], id="told while it was there"),
    ],
)
def test_whoever_is_told_that_something_is_missing_may_miss_it(log):
    assert violations({"one": WHOLE, "two": log}, acked=["m1", "m5"]) == []


def test_whoever_came_later_misses_nothing_after_it_came():
    late: list[Entry] = [Welcomed(False), Joined("a", 4), Heard("m6", 5)]
    (_, found) = violations({"one": WHOLE, "two": late}, acked=["m1", "m4", "m5"], settled=True)[-2:]
    assert found == "two: never heard 1 acknowledged messages: 'm5'"


def test_a_room_may_go_on_in_another_epoch_without_a_loss():
    whole = [*NEW, *said(1, 4), complete(4, 4, "b"), *said(5, 6)]
    away = [*NEW, *said(1, 2), *BACK, complete(2, 5, "b"), *said(3, 6)]
    assert violations({"one": whole, "two": away}, acked=["m4", "m6"], strict=True) == []


def test_a_room_whose_history_was_lost_goes_on_in_another_epoch():
    """A publisher that was not answered says it again, and the state cannot know."""
    one = [*NEW, *said(1, 3), gone(3, 0, "b"), *said(1, 2)]
    two = [*NEW, *said(1, 1), *BACK, gone(1, 1, "b"), *said(2, 2)]
    assert violations({"one": one, "two": two}) == []


def test_a_room_without_history_is_judged_by_its_keys():
    assert violations({"one": [Welcomed(False), Joined(), Heard("m1"), Heard("m2")]}, acked=["m2"]) == []
    assert "heard 'm1' twice" in violations({"one": [Welcomed(False), Joined(), Heard("m1"), Heard("m1")]})[0]


@pytest.mark.parametrize(
    ("log", "sentence"),
    [
        pytest.param([*NEW, *said(1, 2), *said(4, 6)], "missed offsets 3 to 3", id="a hole"),
        pytest.param([*NEW, *said(2, 6)], "missed offsets 1 to 1", id="a hole at the beginning"),
        pytest.param(
            [*NEW, *said(1, 3), Heard("m2", 2), *said(4, 6)], "heard offset 2 after 3", id="out of order"
        ),
        pytest.param([*NEW, *said(1, 3), Heard("m3", 3), *said(4, 6)], "heard 'm3' twice", id="twice"),
        pytest.param(
            [*NEW, *said(1, 3), Heard("m2", 4), *said(5, 6)], "heard 'm2' twice", id="published twice"
        ),
        pytest.param([*NEW, *said(1, 4)], "ended at 4, others at 6", id="the end is missing"),
        pytest.param(
            [*NEW, *said(1, 2), *BACK, *said(5, 6)], "missed offsets 3 to 4", id="no word of a recovery"
        ),
        pytest.param(
            [*NEW, *said(1, 2), *BACK, complete(2, 4), *said(5, 6)],
            "of a recovery that was called complete",
            id="called complete, and nothing came",
        ),
        pytest.param(
            [*NEW, *said(1, 2), *BACK, complete(2, 5), *said(3, 3), *said(5, 6)],
            "missed offsets 4 to 4 of a recovery that was called complete",
            id="called complete, with a hole",
        ),
        pytest.param(
            [*NEW, *said(1, 2), *BACK, complete(2, 6)],
            "ended at 2, others at 6",
            id="called complete, nothing at all",
        ),
        pytest.param(
            [*NEW, *said(1, 2), *BACK, Recovered(True, 2, 4, "a", 1), *said(3, 6)],
            "was promised 1 messages for the offsets after 2 to 4",
            id="a wrong count",
        ),
        pytest.param(
            [*NEW, *said(1, 2), *BACK, Recovered(False, 2, 4, "a", 1), *said(4, 6)],
            "got 1 messages of a recovery that is not complete",
            id="a part of what was missed",
        ),
        pytest.param(
            [*NEW, *said(1, 3), *BACK, complete(4, 4), *said(5, 6)],
            "was recovered from 4, but was at 3",
            id="from where it was not",
        ),
        pytest.param(
            [*NEW, *said(1, 2), *BACK, complete(2, 4, "b"), *said(2, 6)],
            "heard offset 2 after 2",
            id="again in the epoch that goes on",
        ),
        pytest.param(
            [*NEW, *said(1, 2), *BACK, complete(2, 4, "b"), *said(4, 6)],
            "missed offsets 3 to 3 of a recovery that was called complete",
            id="complete across epochs, with a hole",
        ),
        pytest.param(
            [Welcomed(False), complete(0, 6), *said(1, 6)],
            "without ever having been in the room",
            id="never there",
        ),
        pytest.param([Welcomed(False), *said(1, 6)], "before it knew where it was", id="never told where"),
        pytest.param(
            [*NEW, *said(1, 4), Joined("a", 2), *said(5, 6)],
            "entered at 2, which is before 4",
            id="sent back",
        ),
        pytest.param(
            [*NEW, *said(1, 3), Heard("other", 4), *said(5, 6)],
            "is 'm4' to one and 'other' to the other",
            id="another message at the same place",
        ),
        pytest.param(
            [*NEW, *said(1, 6), gone(6, 0, "b")], "different epochs", id="left behind in another epoch"
        ),
    ],
)
def test_what_must_not_be_seen_is_caught(log, sentence):
    found = violations({"one": WHOLE, "two": log}, acked=[])
    assert any(sentence in line for line in found), found


def test_an_acknowledged_message_nobody_heard_is_caught():
    (found,) = violations({"one": WHOLE}, acked=["m1", "never"])
    assert found == "one: never heard 1 acknowledged messages: 'never'"


@pytest.mark.parametrize(
    "log",
    [
        pytest.param([*NEW, *said(1, 2), *BACK, gone(2, 4), *said(5, 6)], id="an incomplete recovery"),
        pytest.param(
            [*NEW, *said(1, 2), Lost(), Welcomed(False), Joined("a", 4), *said(5, 6)], id="began afresh"
        ),
        pytest.param(
            [*NEW, *said(1, 4), Lost(), Welcomed(False), Joined("a", 6)], id="began afresh at the end"
        ),
    ],
)
def test_where_nothing_may_be_given_up_that_is_caught(log):
    assert violations({"one": WHOLE, "two": log}) == []
    assert violations({"one": WHOLE, "two": log}, strict=True)


def test_before_they_have_settled_clients_may_be_behind():
    assert violations({"one": WHOLE, "two": [*NEW, *said(1, 2)]}, acked=["m6"], settled=False) == []


def test_a_message_taken_out_or_moved_anywhere_is_caught():
    """Random logs that are right stay right, and each damaged in one place is wrong."""
    source = random.Random(7)
    for _ in range(200):
        log, at = list(NEW), 0
        while at < 12:
            step = source.randint(1, 3)
            if source.random() < 0.5:
                log += [*BACK, complete(at, at + step)]
            log += said(at + 1, at + step)
            at += step
        other = [*NEW, *said(1, at)]
        assert violations({"one": other, "two": log}, strict=True) == []
        places = [number for number, entry in enumerate(log) if isinstance(entry, Heard)]
        one, two = sorted(source.sample(places, 2))
        without = [*log[:one], *log[one + 1 :]]
        again = [*log[: two + 1], log[one], *log[two + 1 :]]
        swapped = [*log[:one], log[two], *log[one + 1 : two], log[one], *log[two + 1 :]]
        for damaged in (without, again, swapped):
            assert violations({"one": other, "two": damaged})
