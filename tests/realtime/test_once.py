"""A publish that is asked for twice has the same key twice, and no other publish has it."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from realtime.once import Once, handling

CLIENT = "0123456789abcdef01234567"
messages = st.tuples(
    st.text("0123456789abcdef", min_size=1, max_size=4), st.text(max_size=8), st.integers(1, 30)
)


def key(client_id: str, message_id: str, nth: int = 1) -> str:
    once = Once(client_id, message_id)
    return [once.next_key() for _ in range(nth)][-1]


def test_a_message_that_is_sent_again_publishes_under_the_same_keys():
    """X16"""
    first, again = Once(CLIENT, "c7"), Once(CLIENT, "c7")
    keys = [first.next_key() for _ in range(3)]
    assert [again.next_key() for _ in range(3)] == keys
    assert len(set(keys)) == 3


@given(messages, messages)
def test_no_two_publishes_share_a_key(one, other):
    assert (key(*one) == key(*other)) is (one == other)


@pytest.mark.parametrize(
    ("one", "other"),
    [
        pytest.param(("ab", "c", 1), ("a", "bc", 1), id="client and message"),
        pytest.param(("1a", "c", 1), ("a", "c", 11), id="number and client"),
    ],
)
def test_publishes_that_read_alike_are_told_apart(one, other):
    assert key(*one) != key(*other)


def test_a_key_is_short_whatever_the_client_writes():
    for message_id in ("", "\ud800", "x" * 128):
        found = key(CLIENT, message_id)
        assert len(found) == 32
        assert found.isalnum()


def test_outside_of_a_handler_nothing_is_being_handled():
    assert handling.get() is None
    assert Once(CLIENT, "c7").offset is None
