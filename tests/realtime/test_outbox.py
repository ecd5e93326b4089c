"""What waits for a slow reader: never more than the box holds, and each policy gives up what it says."""

from __future__ import annotations

from typing import get_args

import pytest
from hypothesis import given
from hypothesis import strategies as st

from realtime.frames import Frame
from realtime.outbox import Outbox, Policy

POLICIES = get_args(Policy)
policies = st.sampled_from(POLICIES)
frames = st.builds(
    lambda size, key: Frame("x" * size, key=key),
    st.integers(0, 12),
    st.sampled_from([None, None, "a", "b", ("room", "type")]),
)
steps = st.lists(frames | st.sampled_from(["pop", "clear"]), max_size=50)


def box(policy: Policy, *sizes: int, max_bytes: int = 10) -> Outbox:
    """A box with frames of these sizes in it."""
    outbox = Outbox(max_bytes, policy)
    for size in sizes:
        assert outbox.put(Frame("x" * size)) == "kept"
    return outbox


def emptied(outbox: Outbox) -> list[Frame]:
    return [outbox.pop() for _ in range(len(outbox))]


def sizes(outbox: Outbox) -> list[int]:
    return [frame.size for frame in emptied(outbox)]


@pytest.mark.parametrize("policy", POLICIES)
def test_what_fits_is_kept_in_order(policy):
    outbox = box(policy, 1, 2, 3)
    assert (len(outbox), outbox.bytes, outbox.dropped) == (3, 6, 0)
    assert sizes(outbox) == [1, 2, 3]
    assert (len(outbox), outbox.bytes) == (0, 0)


@pytest.mark.parametrize("policy", POLICIES)
def test_the_box_may_be_filled_to_the_last_byte(policy):
    outbox = box(policy, 4, 6)
    assert (outbox.bytes, outbox.dropped) == (10, 0)


@pytest.mark.parametrize(
    ("policy", "outcome", "left", "dropped"),
    [
        pytest.param("disconnect", "overflow", [4, 3, 3], 0, id="disconnect gives up nothing"),
        pytest.param("drop_oldest", "kept", [3, 3, 1], 1, id="drop_oldest makes room"),
        pytest.param("drop_newest", "dropped", [4, 3, 3], 1, id="drop_newest refuses it"),
        pytest.param("coalesce", "kept", [3, 3, 1], 1, id="coalesce makes room where no key repeats"),
    ],
)
def test_one_byte_too_many(policy, outcome, left, dropped):
    outbox = box(policy, 4, 3, 3)
    assert outbox.put(Frame("x")) == outcome
    assert outbox.bytes == sum(left)
    assert sizes(outbox) == left
    assert outbox.dropped == dropped


def test_as_many_of_the_oldest_go_as_are_needed():
    outbox = box("drop_oldest", 1, 1, 1, 7)
    assert outbox.put(Frame("xx")) == "kept"
    assert (sizes(outbox), outbox.dropped) == ([1, 7, 2], 2)


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
    assert outbox.put(Frame("x" * 11)) == outcome
    assert outbox.dropped == (outcome == "dropped")
    assert sizes(outbox) == [1, 2]


def test_the_newest_of_a_key_replaces_the_older_and_goes_to_the_end():
    outbox = Outbox(10, "coalesce")
    first, other, newest = Frame("1", key="a"), Frame("2", key="b"), Frame("3", key="a")
    for frame in (first, other, newest):
        assert outbox.put(frame) == "kept"
    assert (outbox.bytes, outbox.dropped) == (2, 1)
    assert emptied(outbox) == [other, newest]


def test_what_has_left_is_not_replaced():
    outbox = Outbox(10, "coalesce")
    outbox.put(Frame("1", key="a"))
    outbox.pop()
    newest = Frame("2", key="a")
    outbox.put(newest)
    assert outbox.dropped == 0
    assert emptied(outbox) == [newest]


def test_a_key_that_made_room_is_forgotten():
    outbox = Outbox(3, "coalesce")
    for text, key in (("11", "a"), ("22", "b"), ("3", "a")):
        assert outbox.put(Frame(text, key=key)) == "kept"
    assert outbox.dropped == 1
    assert [frame.payload for frame in emptied(outbox)] == ["22", "3"]


def test_replacing_makes_room_before_others_are_given_up():
    outbox = Outbox(4, "coalesce")
    for text, key in (("11", "a"), ("22", "b"), ("33", "b")):
        assert outbox.put(Frame(text, key=key)) == "kept"
    assert [frame.payload for frame in emptied(outbox)] == ["11", "33"]


def test_frames_without_a_key_are_not_coalesced():
    outbox = Outbox(10, "coalesce")
    for text in ("1", "2"):
        outbox.put(Frame(text))
    assert len(outbox) == 2


@pytest.mark.parametrize("policy", [policy for policy in POLICIES if policy != "coalesce"])
def test_other_policies_do_not_look_at_keys(policy):
    outbox = Outbox(10, policy)
    for text in ("1", "2"):
        outbox.put(Frame(text, key="a"))
    assert len(outbox) == 2


@pytest.mark.parametrize("policy", POLICIES)
def test_the_same_frame_may_wait_twice_in_turn(policy):
    outbox, frame = Outbox(10, policy), Frame("xx", key="a")
    for _ in range(2):
        outbox.put(frame)
        assert outbox.pop() is frame
    assert outbox.bytes == 0


@pytest.mark.parametrize("policy", POLICIES)
def test_a_cleared_box_is_like_new(policy):
    outbox = Outbox(4, policy)
    outbox.put(Frame("old", key="a"))
    outbox.clear()
    assert (len(outbox), outbox.bytes) == (0, 0)
    assert outbox.put(Frame("next", key="a")) == "kept"
    assert (sizes(outbox), outbox.dropped) == ([4], 0)


def test_an_empty_box_has_nothing_to_pop():
    with pytest.raises(IndexError):
        Outbox(10, "disconnect").pop()


@given(policies, steps)
def test_no_sequence_fills_the_box_above_its_bound_or_loses_count(policy, steps):
    """X5"""
    outbox = Outbox(10, policy)
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
            assert (outcome == "overflow") == (policy == "disconnect" and before + step.size > 10)
            if outcome != "overflow":
                put.append(step)
        assert 0 <= outbox.bytes <= outbox.max_bytes
        assert len(put) == len(outbox) + gone + outbox.dropped
    if policy in ("disconnect", "drop_newest"):
        assert policy == "drop_newest" or outbox.dropped == 0
    waiting_bytes, waiting = outbox.bytes, emptied(outbox)
    assert waiting_bytes == sum(frame.size for frame in waiting)
    places = [next(i for i, frame in enumerate(put) if frame is one) for one in waiting]
    assert places == sorted(places)


@given(st.lists(frames, max_size=40))
def test_coalesce_keeps_the_newest_of_each_key(frames):
    """Where there is room, what waits is every frame that no later one replaces."""
    outbox = Outbox(10_000, "coalesce")
    for frame in frames:
        outbox.put(frame)
    last = {frame.key: frame for frame in frames}
    assert emptied(outbox) == [frame for frame in frames if frame.key is None or last[frame.key] is frame]


@given(steps)
def test_coalesce_never_holds_a_frame_beside_a_newer_one_of_its_key(steps):
    outbox = Outbox(10, "coalesce")
    newest: dict[object, Frame] = {}
    for step in steps:
        if isinstance(step, Frame):
            outbox.put(step)
            newest[step.key] = step
        elif step == "clear":
            outbox.clear()
        elif outbox:
            outbox.pop()
    assert all(frame.key is None or newest[frame.key] is frame for frame in emptied(outbox))


@given(st.lists(frames, max_size=40))
def test_drop_oldest_keeps_as_many_of_the_newest_as_fit(frames):
    frames = [frame for frame in frames if 0 < frame.size <= 10]
    outbox = Outbox(10, "drop_oldest")
    for frame in frames:
        assert outbox.put(frame) == "kept"
    start = len(frames)
    while start and sum(frame.size for frame in frames[start - 1 :]) <= 10:
        start -= 1
    assert outbox.dropped == start
    assert emptied(outbox) == frames[start:]
