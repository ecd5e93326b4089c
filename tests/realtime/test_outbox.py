"""What waits for a slow reader: never more than the box holds, and each policy gives up what it says."""

from __future__ import annotations

from typing import get_args

import pytest
from hypothesis import given
from hypothesis import strategies as st

from realtime.frames import Frame
from realtime.outbox import FRAME_OVERHEAD, Outbox, Policy, policy_of, weight

POLICIES = get_args(Policy)
YIELDING = ("drop_oldest", "coalesce")

policies = st.sampled_from(POLICIES)
frames = st.builds(
    lambda size, key: unit_frame(size, key=key),
    st.integers(1, 12),
    st.sampled_from([None, None, "a", "b", ("room", "type")]),
)
steps = st.lists(frames | st.sampled_from(["pop", "clear"]), max_size=50)


UNIT = FRAME_OVERHEAD
"""Frames of these tests count for whole units, of which a box holds ten."""


def unit_frame(units: int, *, key: object = None) -> Frame:
    """A frame that counts for this many units."""
    return Frame("x" * (units * UNIT - FRAME_OVERHEAD), key=key)


def new_box(policy: Policy, units: int = 10) -> Outbox:
    return Outbox(units * UNIT, policy)


def box(policy: Policy, *units: int) -> Outbox:
    """A box for ten units with frames of these in it."""
    outbox = new_box(policy)
    for number in units:
        assert outbox.put(unit_frame(number)) == "kept"
    return outbox


def mixed(*contents: tuple[Policy, int]) -> Outbox:
    """A box for ten units, direct messages of which disconnect, with frames of these policies and units in it."""
    outbox = new_box("disconnect")
    for policy, units in contents:
        assert outbox.put(unit_frame(units), policy) == "kept"
    return outbox


def emptied(outbox: Outbox) -> list[Frame]:
    return [outbox.pop() for _ in range(len(outbox))]


def units_of(outbox: Outbox) -> list[int]:
    return [weight(frame) // UNIT for frame in emptied(outbox)]


def lost(outbox: Outbox) -> int:
    return sum(outbox.dropped.values())


@pytest.mark.parametrize("policy", POLICIES)
def test_what_fits_is_kept_in_order(policy):
    outbox = box(policy, 1, 2, 3)
    assert (len(outbox), outbox.bytes, outbox.dropped) == (3, 6 * UNIT, {})
    assert units_of(outbox) == [1, 2, 3]
    assert (len(outbox), outbox.bytes) == (0, 0)


@pytest.mark.parametrize("policy", POLICIES)
def test_the_box_may_be_filled_to_the_last_byte(policy):
    outbox = box(policy, 4, 6)
    assert (outbox.bytes, outbox.dropped) == (outbox.max_bytes, {})


@pytest.mark.parametrize(
    ("policy", "outcome", "left", "dropped"),
    [
        pytest.param("disconnect", "overflow", [4, 3, 3], 0, id="disconnect gives up nothing"),
        pytest.param("drop_oldest", "kept", [3, 3, 1], 1, id="drop_oldest makes room"),
        pytest.param("drop_newest", "dropped", [4, 3, 3], 1, id="drop_newest refuses it"),
        pytest.param("coalesce", "kept", [3, 3, 1], 1, id="coalesce makes room where no key repeats"),
    ],
)
def test_one_frame_too_many(policy, outcome, left, dropped):
    outbox = box(policy, 4, 3, 3)
    assert outbox.put(unit_frame(1)) == outcome
    assert outbox.bytes == sum(left) * UNIT
    assert units_of(outbox) == left
    assert outbox.dropped == ({policy: dropped} if dropped else {})


@pytest.mark.parametrize("policy", POLICIES)
def test_one_byte_too_many_is_too_many(policy):
    outbox = Outbox(UNIT + 10, policy)
    assert outbox.put(Frame("x" * 11)) == ("overflow" if policy == "disconnect" else "dropped")
    assert outbox.put(Frame("x" * 10)) == "kept"


def test_as_many_of_the_oldest_go_as_are_needed():
    outbox = box("drop_oldest", 1, 1, 1, 7)
    assert outbox.put(unit_frame(2)) == "kept"
    assert (units_of(outbox), lost(outbox)) == ([1, 7, 2], 2)


@pytest.mark.parametrize(
    ("policy", "outcome"),
    [
        ("disconnect", "overflow"),
        ("drop_oldest", "dropped"),
        ("drop_newest", "dropped"),
        ("coalesce", "dropped"),
    ],
)
def test_a_frame_larger_than_the_box_is_not_kept_and_drives_nothing_out(policy, outcome):
    outbox = box(policy, 1, 2)
    assert outbox.put(unit_frame(11)) == outcome
    assert lost(outbox) == (outcome == "dropped")
    assert units_of(outbox) == [1, 2]


@pytest.mark.parametrize("policy", POLICIES)
def test_empty_frames_are_bounded_too(policy):
    """A million of them would cost a hundred megabytes, whatever their payloads weigh."""
    outbox = new_box(policy)
    for number in range(1000):
        outbox.put(Frame("", key=number))
    assert len(outbox) == 10


# Coalescing.


def test_the_newest_of_a_key_replaces_the_older_and_goes_to_the_end():
    outbox = new_box("coalesce")
    first, other, newest = unit_frame(1, key="a"), unit_frame(1, key="b"), unit_frame(1, key="a")
    for frame in (first, other, newest):
        assert outbox.put(frame) == "kept"
    assert (outbox.bytes, lost(outbox)) == (2 * UNIT, 1)
    assert emptied(outbox) == [other, newest]


def test_what_has_left_is_not_replaced():
    outbox = new_box("coalesce")
    outbox.put(unit_frame(1, key="a"))
    outbox.pop()
    newest = unit_frame(2, key="a")
    outbox.put(newest)
    assert outbox.dropped == {}
    assert emptied(outbox) == [newest]


def test_a_key_that_made_room_is_forgotten():
    outbox = new_box("coalesce", units=3)
    for units, key in ((2, "a"), (2, "b"), (1, "a")):
        assert outbox.put(unit_frame(units, key=key)) == "kept"
    assert lost(outbox) == 1
    assert units_of(outbox) == [2, 1]


def test_replacing_makes_room_before_others_are_given_up():
    outbox = new_box("coalesce", units=4)
    first, second, third = unit_frame(2, key="a"), unit_frame(2, key="b"), unit_frame(2, key="b")
    for frame in (first, second, third):
        assert outbox.put(frame) == "kept"
    assert emptied(outbox) == [first, third]


def test_the_older_of_a_key_stays_where_there_is_no_room_for_the_newer():
    """Losing both would be worse."""
    outbox = new_box("coalesce")
    older = unit_frame(1, key="a")
    outbox.put(older)
    assert outbox.put(unit_frame(11, key="a")) == "dropped"
    assert emptied(outbox) == [older]


def test_frames_without_a_key_are_not_coalesced():
    outbox = box("coalesce", 1, 1)
    assert len(outbox) == 2


@pytest.mark.parametrize("policy", [policy for policy in POLICIES if policy != "coalesce"])
def test_other_policies_do_not_look_at_keys(policy):
    outbox = new_box(policy)
    for _ in range(2):
        outbox.put(unit_frame(1, key="a"))
    assert len(outbox) == 2


def test_replacing_takes_as_long_in_a_full_box_as_in_an_empty_one():
    """The frame that is replaced is never searched for: none is compared with another."""

    class Watched(Frame):
        def __eq__(self, other: object) -> bool:
            raise AssertionError("searched")

        __hash__ = None  # type: ignore[assignment]

    outbox = Outbox(1000 * UNIT, "coalesce")
    for number in range(2000):
        assert outbox.put(Watched("", key=number % 500)) == "kept"
    assert (len(outbox), lost(outbox)) == (500, 1500)
    assert len(emptied(outbox)) == 500


# Several policies in one box.


@pytest.mark.parametrize(
    ("contents", "policy", "outcome", "left"),
    [
        pytest.param(
            [("disconnect", 5), ("drop_oldest", 3), ("drop_oldest", 2)], "drop_oldest", "kept", [5, 2, 1],
            id="what is given up is the oldest of those that may be",
        ),
        pytest.param(
            [("coalesce", 3), ("drop_oldest", 7)], "drop_oldest", "kept", [7, 1],
            id="drop_oldest and coalesce make room for one another",
        ),
        pytest.param(
            [("drop_oldest", 3), ("disconnect", 7)], "disconnect", "kept", [7, 1],
            id="they make room for what must not be lost",
        ),
        pytest.param(
            [("disconnect", 6), ("drop_newest", 4)], "drop_oldest", "dropped", [6, 4],
            id="drop_oldest itself is given up where nothing makes room",
        ),
        pytest.param(
            [("disconnect", 6), ("drop_newest", 4)], "coalesce", "dropped", [6, 4],
            id="and so is coalesce",
        ),
        pytest.param(
            [("disconnect", 6), ("drop_newest", 4)], "disconnect", "overflow", [6, 4],
            id="what must not be lost overflows where nothing makes room",
        ),
        pytest.param(
            [("drop_oldest", 5), ("coalesce", 5)], "drop_newest", "dropped", [5, 5],
            id="drop_newest drives nothing out",
        ),
    ],
)  # fmt: skip
def test_one_frame_too_many_among_several_policies(contents, policy, outcome, left):
    outbox = mixed(*contents)
    assert outbox.put(unit_frame(1), policy) == outcome
    assert units_of(outbox) == left


def test_nothing_is_given_up_for_a_frame_that_does_not_fit_all_the_same():
    outbox = mixed(("drop_oldest", 2), ("disconnect", 8))
    assert outbox.put(unit_frame(3), "disconnect") == "overflow"
    assert outbox.put(unit_frame(3), "drop_oldest") == "dropped"
    assert units_of(outbox) == [2, 8]


def test_what_is_given_up_is_counted_under_its_own_policy():
    outbox = mixed(("drop_oldest", 5), ("coalesce", 5))
    outbox.put(unit_frame(6), "disconnect")
    outbox.put(unit_frame(5), "drop_newest")
    assert outbox.dropped == {"drop_oldest": 1, "coalesce": 1, "drop_newest": 1}


def test_a_frame_is_replaced_only_by_one_that_coalesces():
    outbox = new_box("disconnect")
    for policy in ("disconnect", "coalesce", "drop_oldest", "coalesce"):
        outbox.put(unit_frame(1, key="a"), policy)
    assert (len(outbox), outbox.dropped) == (3, {"coalesce": 1})


def test_direct_messages_have_the_policy_of_the_box():
    outbox = box("drop_newest", 10)
    assert outbox.put(unit_frame(1)) == "dropped"
    assert outbox.dropped == {"drop_newest": 1}


puts = st.lists(st.tuples(frames, policies) | st.sampled_from(["pop", "clear"]), max_size=60)


@given(puts)
def test_only_what_may_be_given_up_ever_is(puts):
    """X5: what came to be kept leaves through the door, in order, whatever came beside it."""
    outbox = new_box("disconnect")
    taken: list[Frame] = []
    waiting: list[tuple[Frame, Policy]] = []
    for step in puts:
        if step == "clear":
            outbox.clear()
            waiting.clear()
        elif step == "pop":
            if outbox:
                taken.append(outbox.pop())
                # What is before it was given up.
                place = next(i for i, (frame, _) in enumerate(waiting) if frame is taken[-1])
                assert all(policy in YIELDING for _, policy in waiting[:place])
                del waiting[: place + 1]
        else:
            frame, policy = step
            frame = Frame(frame.payload, key=frame.key)
            outcome = outbox.put(frame, policy)
            assert (outcome == "overflow") <= (policy == "disconnect")
            assert (outcome == "dropped") <= (policy != "disconnect")
            if outcome == "kept":
                waiting.append((frame, policy))
        assert 0 <= outbox._yielding_bytes <= outbox.bytes <= outbox.max_bytes
    left = emptied(outbox)
    for frame, policy in waiting:
        assert any(frame is one for one in left) or policy in YIELDING
    assert [frame for frame, _ in waiting if any(frame is one for one in left)] == left
    assert (outbox.bytes, outbox._yielding_bytes, len(outbox._yielding), len(outbox._replaceable)) == (
        0,
        0,
        0,
        0,
    )


# Emptying.


@pytest.mark.parametrize("policy", POLICIES)
def test_the_same_frame_may_wait_twice(policy):
    """A broadcast to a room is one frame for all its members, and may be published again."""
    outbox, frame = new_box(policy), unit_frame(1)
    for _ in range(2):
        outbox.put(frame)
    assert emptied(outbox) == [frame, frame]
    assert outbox.bytes == 0


@pytest.mark.parametrize("policy", POLICIES)
def test_a_cleared_box_is_like_new(policy):
    outbox = box(policy, 4, 6)
    outbox.clear()
    assert (len(outbox), outbox.bytes) == (0, 0)
    assert outbox.put(unit_frame(10, key="a")) == "kept"
    assert (units_of(outbox), outbox.dropped) == ([10], {})


def test_an_empty_box_has_nothing_to_pop():
    with pytest.raises(IndexError):
        new_box("disconnect").pop()


@given(policies, steps)
def test_no_sequence_fills_the_box_above_its_bound_or_loses_count(policy, steps):
    """X5"""
    outbox = new_box(policy)
    put: list[Frame] = []
    gone = 0
    for step in steps:
        if step == "clear":
            gone += len(outbox)
            outbox.clear()
        elif step == "pop":
            if outbox:
                outbox.pop()
                gone += 1
        else:
            assert isinstance(step, Frame)
            before = outbox.bytes
            outcome = outbox.put(step)
            too_much = before + weight(step) > outbox.max_bytes
            assert (outcome == "overflow") == (policy == "disconnect" and too_much)
            if outcome != "overflow":
                put.append(step)
        assert 0 <= outbox.bytes <= outbox.max_bytes
        assert len(put) == len(outbox) + gone + lost(outbox)
    waiting_bytes, waiting = outbox.bytes, emptied(outbox)
    assert waiting_bytes == sum(weight(frame) for frame in waiting)
    places = [next(i for i, frame in enumerate(put) if frame is one) for one in waiting]
    assert places == sorted(places)


@given(st.lists(frames, max_size=40))
def test_coalesce_keeps_the_newest_of_each_key(frames):
    """Where there is room, what waits is every frame that no later one replaces."""
    outbox = new_box("coalesce", units=10_000)
    for frame in frames:
        outbox.put(frame)
    last = {frame.key: frame for frame in frames}
    assert emptied(outbox) == [frame for frame in frames if frame.key is None or last[frame.key] is frame]


@given(steps)
def test_coalesce_never_holds_a_frame_beside_a_newer_one_of_its_key(steps):
    outbox = new_box("coalesce")
    newest: dict[object, Frame] = {}
    for step in steps:
        if isinstance(step, Frame):
            if outbox.put(step) == "kept":
                newest[step.key] = step
        elif step == "clear":
            outbox.clear()
        elif outbox:
            outbox.pop()
    assert all(frame.key is None or newest[frame.key] is frame for frame in emptied(outbox))


@given(st.lists(frames, max_size=40))
def test_drop_oldest_keeps_as_many_of_the_newest_as_fit(frames):
    frames = [frame for frame in frames if weight(frame) <= 10 * UNIT]
    outbox = new_box("drop_oldest")
    for frame in frames:
        assert outbox.put(frame) == "kept"
    start = len(frames)
    while start and sum(weight(frame) for frame in frames[start - 1 :]) <= 10 * UNIT:
        start -= 1
    assert lost(outbox) == start
    assert emptied(outbox) == frames[start:]


# The policy of a room.

BY_ROOM = {
    "ticker-*": "coalesce",
    "ticker-slow": "drop_newest",
    "log-[0-9]": "drop_oldest",
    "*": "drop_newest",
}


@pytest.mark.parametrize(
    ("chosen", "room", "policy"),
    [
        pytest.param("drop_oldest", "any", "drop_oldest", id="one policy is that of every room"),
        pytest.param("drop_oldest", None, "drop_oldest", id="and of direct messages"),
        pytest.param(BY_ROOM, "ticker-eur", "coalesce", id="a pattern"),
        pytest.param(BY_ROOM, "ticker-slow", "coalesce", id="the first that matches"),
        pytest.param(BY_ROOM, "log-7", "drop_oldest", id="a set of characters"),
        pytest.param(BY_ROOM, "log-77", "drop_newest", id="the whole name has to match"),
        pytest.param(BY_ROOM, "Ticker-eur", "drop_newest", id="letters as they are"),
        pytest.param(BY_ROOM, "ticker-\n/ü", "coalesce", id="whatever characters it has"),
        pytest.param(BY_ROOM, None, "drop_newest", id="the rest is that of direct messages"),
        pytest.param({"a": "coalesce"}, "b", "disconnect", id="no pattern matches"),
        pytest.param({"a": "coalesce"}, None, "disconnect", id="direct messages have no pattern"),
        pytest.param({}, "b", "disconnect", id="no patterns at all"),
    ],
)
def test_the_policy_of_a_room(chosen, room, policy):
    assert policy_of(chosen, room) == policy
