"""Who is in a room: a person is there once, and the differences always lead to the whole."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from realtime.presence import Person, Roster

people = st.sampled_from(["ann", "bob", "cid"])
connections = st.sampled_from(["1", "2", "3"])
enter = st.tuples(st.just("enter"), people, connections, st.sampled_from(["x", "y"]))
leave = st.tuples(st.just("leave"), people, connections, st.none())
ask = st.tuples(st.just("ask"), st.none(), st.none(), st.none())


def everyone(roster: Roster) -> list[dict[str, Any]]:
    """Return all entries, and leave what the roster has told as it is."""
    return list(roster._now().values())


def seen(entries: list[dict[str, Any]]) -> list[str]:
    return [entry["user"] for entry in entries]


def test_a_person_with_two_connections_is_one_entry():
    """X4"""
    roster = Roster()
    roster.enter("ann", "tab 1", {"user": "Ann"})
    roster.enter("ann", "tab 2", {"user": "Ann"})
    assert seen(everyone(roster)) == ["Ann"]
    assert len(roster) == 1


def test_a_person_leaves_with_the_last_connection():
    roster = Roster()
    roster.enter("ann", "tab 1", {"user": "Ann"})
    roster.enter("ann", "tab 2", {"user": "Ann"})
    roster.leave("ann", "tab 1")
    assert seen(everyone(roster)) == ["Ann"]
    roster.leave("ann", "tab 2")
    assert (everyone(roster), len(roster)) == ([], 0)


def test_a_connection_that_enters_twice_leaves_once():
    roster = Roster()
    roster.enter("ann", "tab", {"user": "Ann"})
    roster.enter("ann", "tab", {"user": "Ann"})
    roster.leave("ann", "tab")
    assert len(roster) == 0


@pytest.mark.parametrize(
    ("identity", "connection"),
    [pytest.param("bob", "tab", id="unknown person"), pytest.param("ann", "other", id="unknown connection")],
)
def test_leaving_without_being_there_changes_nothing(identity, connection):
    roster = Roster()
    roster.enter("ann", "tab", {"user": "Ann"})
    roster.leave(identity, connection)
    assert seen(everyone(roster)) == ["Ann"]


def test_the_longest_here_is_first():
    roster = Roster()
    for name in ("ann", "bob", "cid"):
        roster.enter(name, name, {"user": name})
    roster.leave("ann", "ann")
    roster.enter("ann", "ann", {"user": "ann"})
    roster.enter("bob", "second tab", {"user": "bob"})
    assert seen(everyone(roster)) == ["bob", "cid", "ann"]


def test_changes_are_told_once():
    roster = Roster()
    roster.enter("ann", "tab", {"user": "Ann"})
    joins, leaves = roster.changes()
    assert (seen(joins), leaves) == (["Ann"], [])
    assert roster.changes() == ([], [])
    roster.leave("ann", "tab")
    joins, leaves = roster.changes()
    assert (joins, seen(leaves)) == ([], ["Ann"])
    assert roster.changes() == ([], [])


def test_who_came_and_went_between_two_questions_was_never_there():
    roster = Roster()
    roster.enter("ann", "tab", {"user": "Ann"})
    roster.leave("ann", "tab")
    assert roster.changes() == ([], [])


def test_who_went_and_came_back_between_two_questions_never_left():
    """A reload shows nobody leaving."""
    roster = Roster()
    roster.enter("ann", "tab", {"user": "Ann"})
    roster.changes()
    roster.leave("ann", "tab")
    roster.enter("ann", "reloaded", {"user": "Ann"})
    assert roster.changes() == ([], [])


def test_a_person_who_looks_different_is_told_as_a_join():
    roster = Roster()
    roster.enter("ann", "tab", {"user": "Ann"})
    roster.changes()
    roster.enter("ann", "second", {"user": "Ann (away)"})
    joins, leaves = roster.changes()
    assert (seen(joins), leaves) == (["Ann (away)"], [])


def test_an_entry_is_what_it_was_when_it_was_given():
    roster = Roster()
    entry = {"user": "Ann"}
    roster.enter("ann", "tab", entry)
    entry["user"] = "Mallory"
    assert seen(everyone(roster)) == ["Ann"]


@given(st.lists(enter | leave | ask, max_size=40))
def test_a_list_kept_by_differences_is_everyone(steps):
    """What a client does: show everyone once, then add and replace the joins and take out the leaves."""
    roster = Roster()
    here: dict[str, dict[str, str]] = {}
    look: dict[str, str] = {}
    shown: dict[str, dict[str, Any]] = {}
    for action, identity, connection, user in [*steps, ("ask", None, None, None)]:
        if action == "enter":
            here.setdefault(identity, {})[connection] = user
            look[identity] = user
            roster.enter(identity, connection, {"id": identity, "user": user})
        elif action == "leave":
            here.get(identity, {}).pop(connection, None)
            if not here.get(identity):
                here.pop(identity, None)
            roster.leave(identity, connection)
        else:
            joins, leaves = roster.changes()
            assert not {entry["id"] for entry in joins} & {entry["id"] for entry in leaves}
            assert all(shown.get(entry["id"]) != entry for entry in joins)
            for entry in leaves:
                del shown[entry["id"]]
            shown |= {entry["id"]: entry for entry in joins}
            assert shown == {entry["id"]: entry for entry in everyone(roster)}
        assert everyone(roster) == [{"id": name, "user": look[name]} for name in here]
        assert len(roster) == len(here)


others = st.dictionaries(people, st.tuples(st.sampled_from(["x", "y"]), st.integers(0, 3)))
elsewhere = st.tuples(st.just("elsewhere"), others, st.none(), st.none())
come = st.tuples(st.just("come"), st.none(), st.none(), st.none())


@given(st.lists(enter | leave | ask | elsewhere | come, max_size=40))
def test_whoever_comes_when_sees_everyone_after_the_next_differences(steps):
    """Also those who come between two differences, and with people at other nodes."""
    roster = Roster()
    lists: list[dict[str, dict[str, Any]]] = []
    for number, (action, who, connection, user) in enumerate([*steps, ("ask", None, None, None)]):
        if action == "enter":
            roster.enter(who, connection, {"id": who, "user": user}, number / 10)
        elif action == "leave":
            roster.leave(who, connection)
        elif action == "elsewhere":
            roster.set_others(
                (one, Person({"id": one, "user": look}, since)) for one, (look, since) in who.items()
            )
        elif action == "come":
            told = roster.told()
            lists.append({entry["id"]: entry for entry in told})
            assert len(lists[-1]) == len(told)
        else:
            joins, leaves = roster.changes()
            for shown in lists:
                for entry in leaves:
                    shown.pop(entry["id"], None)
                shown |= {entry["id"]: entry for entry in joins}
                assert shown == {entry["id"]: entry for entry in everyone(roster)}


def test_one_who_goes_before_it_was_told_has_gone_for_those_who_were_shown_it():
    roster = Roster()
    roster.enter("ann", "tab", {"user": "Ann"})
    assert seen(roster.told()) == ["Ann"]
    roster.leave("ann", "tab")
    joins, leaves = roster.changes()
    assert (joins, seen(leaves)) == ([], ["Ann"])


def test_one_who_is_gone_for_a_moment_is_shown_to_who_comes_in_that_moment():
    roster = Roster()
    roster.enter("ann", "tab", {"user": "Ann"})
    roster.changes()
    roster.leave("ann", "tab")
    assert seen(roster.told()) == ["Ann"]


def test_one_who_looks_different_for_a_moment_is_told_again_to_who_came_in_that_moment():
    roster = Roster()
    roster.enter("ann", "tab", {"user": "Ann"})
    roster.changes()
    roster.enter("ann", "tab", {"user": "Ann (away)"})
    roster.told()
    roster.enter("ann", "tab", {"user": "Ann"})
    joins, _ = roster.changes()
    assert seen(joins) == ["Ann"]


def test_the_number_of_people_is_told_when_it_is_another_one():
    roster = Roster()
    assert roster.recount() is None
    roster.enter("ann", "tab", {"user": "Ann"})
    roster.count_elsewhere = 4
    assert (roster.recount(), roster.recount()) == (5, None)
