"""What may name a room, and what the channel layer calls it."""

from __future__ import annotations

import pytest
from channels.layers import BaseChannelLayer
from hypothesis import assume, given
from hypothesis import strategies as st

from realtime.rooms import MAX_NAME, Room, checked_name, group_name

names = st.text(st.characters(exclude_categories=()), min_size=1)
plain = st.text("abcXYZ019._-", min_size=1, max_size=60)


@pytest.mark.parametrize(
    "name",
    [
        pytest.param("a", id="one character"),
        pytest.param("x" * MAX_NAME, id="the longest"),
        pytest.param("Café ☕/#1", id="any characters"),
        pytest.param(" ", id="a space"),
        pytest.param("\x00", id="NUL"),
    ],
)
def test_a_room_is_named_by_any_short_string(name):
    assert checked_name(name) is name


@pytest.mark.parametrize(
    ("name", "error", "words"),
    [
        pytest.param("", ValueError, "has 0", id="empty"),
        pytest.param("x" * (MAX_NAME + 1), ValueError, "has 1025", id="too long"),
        pytest.param(None, TypeError, "not by None", id="None"),
        pytest.param(b"lobby", TypeError, "not by b'lobby'", id="bytes"),
        pytest.param(7, TypeError, "not by 7", id="number"),
        pytest.param(["lobby"], TypeError, r"not by \['lobby'\]", id="list"),
    ],
)
def test_what_cannot_name_a_room(name, error, words):
    with pytest.raises(error, match=words):
        checked_name(name)


@pytest.mark.parametrize(
    ("name", "group"),
    [
        pytest.param("lobby", "realtime.room.lobby", id="plain"),
        pytest.param("Chat.room_1-a", "realtime.room.Chat.room_1-a", id="all characters a layer takes"),
        pytest.param("x" * 60, "realtime.room." + "x" * 60, id="longest that stays readable"),
        pytest.param(
            "café", "realtime.hashed.e72f2a758c1aecf49e63260610ff9119cb62dbdbf1cee352", id="not ASCII"
        ),
    ],
)
def test_the_group_of_a_room_is_the_same_in_every_process_and_version(name, group):
    assert group_name(name) == group


@pytest.mark.parametrize("name", ["x" * 61, "a b", "lobby\n", "a/b", "٣", "é", "\ud800", "realtime.room.a!"])
def test_other_names_are_hashed(name):
    assert group_name(name).startswith("realtime.hashed.")


@given(names | plain)
def test_every_layer_takes_every_group(name):
    group = group_name(name)
    assert BaseChannelLayer().require_valid_group_name(group)
    assert len(group) < 100


@given(names | plain, names | plain)
def test_two_rooms_are_two_groups(one, other):
    assume(one != other)
    assert group_name(one) != group_name(other)


def test_two_lone_surrogates_are_two_rooms():
    assert group_name("\ud800") != group_name("\udfff")


@given(names)
def test_a_room_cannot_be_named_after_the_group_of_another(name):
    assert group_name(group_name(name)) != group_name(name)


def test_a_new_room_is_empty_and_not_connected():
    room = Room("lobby")
    assert (room.name, room.group, room.members, len(room.roster)) == ("lobby", group_name("lobby"), {}, 0)
    assert (room.subscribed, room.syncing, room.announcing) == (False, None, False)
