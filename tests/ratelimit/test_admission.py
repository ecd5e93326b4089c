"""The door of a process."""

from __future__ import annotations

import threading

import pytest

from ratelimit.admission import Admission
from ratelimit.conf import RateLimitSettings


def door_and(**settings):
    return Admission(), RateLimitSettings(**{"connections_per_window": 0, **settings})


def test_the_process_has_room_for_so_many():
    """S7."""
    door, settings = door_and(max_connections=2)
    assert [door.enter(network, settings, 0.0) for network in ("a", "b")] == [None, None]
    refusal = door.enter("c", settings, 0.0)
    assert (refusal.status, refusal.name, refusal.close.code) == (503, "at_capacity", 1013)
    assert refusal.retry_after > 0
    door.leave("a")
    assert door.enter("c", settings, 0.0) is None
    assert door.total == 2


def test_an_address_may_have_so_many_open():
    """C2."""
    door, settings = door_and(max_connections_per_ip=1)
    assert door.enter("a", settings, 0.0) is None
    refusal = door.enter("a", settings, 0.0)
    assert (refusal.status, refusal.name, refusal.close.code) == (429, "address_connections", 4429)
    assert door.enter("b", settings, 0.0) is None
    door.leave("a")
    assert door.enter("a", settings, 0.0) is None


def test_an_address_may_connect_so_often():
    """C2, F2."""
    door, settings = door_and(connections_per_window=2, connection_window=10.0)
    assert [door.enter("a", settings, 0.0) for _ in range(2)] == [None, None]
    refusal = door.enter("a", settings, 1.0)
    assert (refusal.status, refusal.name, refusal.close.code) == (429, "address_rate", 4429)
    assert refusal.retry_after == pytest.approx(4.0, abs=0.0011)
    assert door.enter("a", settings, 1.0 + refusal.retry_after) is None


def test_connections_get_no_extra_burst():
    door, settings = door_and(connections_per_window=2, burst_multiplier=5.0)
    assert [door.enter("a", settings, 0.0) is None for _ in range(3)] == [True, True, False]


@pytest.mark.parametrize("limit", ["max_connections", "max_connections_per_ip"])
def test_who_finds_no_room_spends_no_rate(limit):
    door, settings = door_and(**{limit: 1}, connections_per_window=2, connection_window=10.0)
    assert door.enter("a", settings, 0.0) is None
    for _ in range(5):
        assert door.enter("a", settings, 0.0).name != "address_rate"
    door.leave("a")
    assert door.enter("a", settings, 0.0) is None


def test_everything_off_lets_everybody_in():
    door, settings = door_and()
    assert all(door.enter("a", settings, 0.0) is None for _ in range(1000))
    assert all(door.enter_user("u", number, settings) == (None, []) for number in range(1000))


def test_a_user_may_have_so_many_open():
    door, settings = door_and(max_connections_per_user=2)
    assert [door.enter_user("u", socket, settings) for socket in "ab"] == [(None, []), (None, [])]
    refusal, replaced = door.enter_user("u", "c", settings)
    assert (refusal.status, refusal.name, refusal.close.code, replaced) == (429, "user_connections", 4429, [])
    assert door.enter_user("v", "d", settings) == (None, [])
    door.leave_user("u", "a")
    assert door.enter_user("u", "c", settings) == (None, [])


def test_the_newest_socket_of_a_user_may_win():
    door, settings = door_and(max_connections_per_user=2, user_limit_policy="newest")
    for socket in "ab":
        assert door.enter_user("u", socket, settings) == (None, [])
    assert door.enter_user("u", "c", settings) == (None, ["a"])
    assert door.enter_user("u", "d", settings) == (None, ["b"])
    door.leave_user("u", "a")
    assert door.enter_user("u", "e", settings) == (None, ["c"])


def test_a_cap_that_was_lowered_makes_room_at_once():
    door, settings = door_and(max_connections_per_user=3, user_limit_policy="newest")
    for socket in "abc":
        door.enter_user("u", socket, settings)
    _, lower = door_and(max_connections_per_user=1, user_limit_policy="newest")
    assert door.enter_user("u", "d", lower) == (None, ["a", "b", "c"])


def test_threads_lose_no_count():
    """A process may run several loops."""
    door, settings = door_and()

    def come_and_go():
        for _ in range(2000):
            door.enter("a", settings, 0.0)
            door.enter("a", settings, 0.0)
            door.leave("a")

    threads = [threading.Thread(target=come_and_go) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert door.total == 8000


def test_a_socket_that_is_taken_back_has_spent_nothing():
    """X3."""
    door, settings = door_and(connections_per_window=2, connection_window=10.0)
    for _ in range(5):
        assert door.enter("a", settings, 0.0) is None
        door.take_back("a", settings)
    assert door.total == 0
    assert [door.enter("a", settings, 0.0) is None for _ in range(3)] == [True, True, False]
