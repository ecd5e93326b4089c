"""The open connections of a node: by id, by user, and the moment the last is gone."""

from __future__ import annotations

import asyncio
import dataclasses
import secrets
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from realtime.registry import ConnectionInfo, Registry


def connection(id: str, user_id: str | None = None) -> Any:
    return SimpleNamespace(id=id, user_id=user_id, instance=secrets.token_hex(8))


def registry(*connections: Any) -> Registry:
    filled = Registry()
    for one in connections:
        filled.add(one)
    return filled


def test_connections_are_found_by_id():
    one, other = connection("1"), connection("2")
    open_ = registry(one, other)
    assert (open_.get("1"), open_.get("2"), open_.get("3")) == (one, other, None)
    assert (len(open_), list(open_)) == (2, [one, other])


def test_connections_are_found_by_user():
    tab, phone, other = connection("1", "ann"), connection("2", "ann"), connection("3", "bob")
    open_ = registry(tab, phone, other, connection("4"))
    assert open_.of_user("ann") == [tab, phone]
    assert open_.of_user("bob") == [other]
    assert open_.of_user("cid") == []
    assert open_.named == 3


def test_a_visitor_belongs_to_no_user():
    open_ = registry(connection("1"))
    assert (open_.named, open_.of_user("None"), open_.of_user("")) == (0, [], [])


def test_a_connection_that_left_is_not_found():
    tab, phone = connection("1", "ann"), connection("2", "ann")
    open_ = registry(tab, phone)
    open_.remove(tab)
    assert (open_.get("1"), open_.of_user("ann"), open_.named, len(open_)) == (None, [phone], 1, 1)


class TestReplacing:
    """S4: a client that comes back before its old socket is noticed to be gone."""

    def test_the_newer_is_found_and_both_are_counted(self):
        old, new = connection("1", "ann"), connection("1", "ann")
        open_ = registry(old, new)
        assert open_.get("1") is new
        assert (len(open_), set(map(id, open_)), len(open_.of_user("ann"))) == (2, {id(old), id(new)}, 2)

    def test_the_older_that_ends_late_does_not_take_the_newer_out(self):
        old, new = connection("1", "ann"), connection("1", "ann")
        open_ = registry(old, new)
        open_.remove(old)
        assert (open_.get("1"), list(open_), open_.of_user("ann")) == (new, [new], [new])
        open_.remove(new)
        assert (len(open_), open_.named) == (0, 0)

    def test_the_newer_may_go_first(self):
        old, new = connection("1", "ann"), connection("1", "ann")
        open_ = registry(old, new)
        open_.remove(new)
        assert (open_.get("1"), list(open_)) == (None, [old])
        open_.remove(old)
        assert (len(open_), open_.named) == (0, 0)

    def test_a_connection_can_take_an_id_that_is_taken(self):
        old, new = connection("1", "ann"), connection("2", "ann")
        open_ = registry(old, new)
        open_.rekey(new, "1")
        assert (new.id, open_.get("1"), open_.get("2"), len(open_)) == ("1", new, None, 2)
        for one in (old, new):
            open_.remove(one)
        assert (len(open_), open_.named) == (0, 0)


@pytest.mark.parametrize("stranger", [connection("9"), connection("9", "ann"), connection("9", "eve")])
def test_removing_who_is_not_there_changes_nothing(stranger):
    tab = connection("1", "ann")
    open_ = registry(tab)
    open_.remove(stranger)
    assert (list(open_), open_.of_user("ann")) == ([tab], [tab])


def test_users_who_left_leave_nothing_behind():
    open_ = Registry()
    for number in range(100):
        one = connection(str(number), f"user {number}")
        open_.add(one)
        open_.remove(one)
    assert open_._by_user == {}


def test_connections_may_leave_while_they_are_walked_through():
    open_ = registry(*(connection(str(number), "ann") for number in range(5)))
    for one in open_:
        open_.remove(one)
    for one in registry(connection("1", "ann"), connection("2", "ann")).of_user("ann"):
        open_.remove(one)
    assert len(open_) == 0


@given(st.lists(st.tuples(st.booleans(), st.integers(0, 9))))
def test_it_is_what_two_dictionaries_would_be(steps):
    """Connection ``n`` is of user ``n % 3``, and of a visitor where that is 0."""
    all_ = [connection(str(n), str(n % 3) if n % 3 else None) for n in range(10)]
    open_, model = Registry(), {}
    for comes, number in steps:
        if comes:
            open_.add(all_[number])
            model.setdefault(number, all_[number])
        else:
            open_.remove(all_[number])
            model.pop(number, None)
        assert set(map(id, open_)) == set(map(id, model.values()))
        assert open_.named == sum(1 for n in model if n % 3)
        for user in (1, 2):
            assert {int(one.id) for one in open_.of_user(str(user))} == {n for n in model if n % 3 == user}


async def test_an_empty_registry_is_empty_at_once():
    async with asyncio.timeout(1):
        await Registry().empty()


async def test_waiting_ends_with_the_last_connection():
    one, other = connection("1"), connection("2")
    open_ = registry(one, other)
    waiting = asyncio.ensure_future(open_.empty())
    await asyncio.sleep(0)
    open_.remove(one)
    await asyncio.sleep(0)
    assert not waiting.done()
    open_.remove(other)
    await asyncio.wait_for(waiting, 1)


async def test_waiting_goes_on_if_somebody_came_before_it_was_noticed():
    one, other = connection("1"), connection("2")
    open_ = registry(one)
    waiting = asyncio.ensure_future(open_.empty())
    await asyncio.sleep(0)
    open_.remove(one)
    open_.add(other)
    await asyncio.sleep(0)
    assert not waiting.done()
    open_.remove(other)
    await asyncio.wait_for(waiting, 1)


async def test_many_may_wait():
    """A drain from the admin, and the signal that comes while it goes on."""
    one = connection("1")
    open_ = registry(one)
    waiting = [asyncio.ensure_future(open_.empty()) for _ in range(3)]
    await asyncio.sleep(0)
    open_.remove(one)
    done, _ = await asyncio.wait(waiting, timeout=0.5)
    for each in waiting:
        each.cancel()
    assert len(done) == 3


async def test_waiting_can_be_done_again():
    open_ = Registry()
    for number in range(2):
        one = connection(str(number))
        open_.add(one)
        waiting = asyncio.ensure_future(open_.empty())
        await asyncio.sleep(0)
        open_.remove(one)
        await asyncio.wait_for(waiting, 1)


def test_what_an_observer_is_given_cannot_be_changed():
    info = ConnectionInfo(**{field.name: None for field in dataclasses.fields(ConnectionInfo)})  # type: ignore[arg-type]
    with pytest.raises(dataclasses.FrozenInstanceError):
        info.user = "mallory"  # type: ignore[misc]
