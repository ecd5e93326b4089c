"""What every state promises: one suite for the one in memory and the one in Redis."""

from __future__ import annotations

import asyncio
import random

import pytest
from structlog.testing import capture_logs

from realtime.errors import PublishError, StateUnavailable
from realtime.state import REVOKED, Entered, Entry, History, MemoryState, Position, RedisState, State

SOON = 0.2
"""Seconds after which a thing is over."""
LATER = 0.3
"""Seconds after which it certainly is."""
LONG = 600.0


async def fill(state: State, room: str, count: int, size: int = 100, ttl: float = LONG) -> str:
    """Append ``0``, ``1``, ... and return the epoch."""
    epoch = ""
    for number in range(count):
        epoch = (await state.append(room, b"%d" % number, size=size, ttl=ttl)).epoch
    return epoch


def offsets(history: History) -> list[int] | None:
    return None if history.entries is None else [entry.offset for entry in history.entries]


class TestHistory:
    async def test_offsets_count_from_one(self, state):
        """C11"""
        added = [await state.append("room", b"x", size=9, ttl=LONG) for _ in range(3)]
        assert [one.offset for one in added] == [1, 2, 3]
        assert len({one.epoch for one in added}) == 1
        assert not any(one.duplicate for one in added)

    async def test_rooms_count_apart(self, state):
        one = await state.append("one", b"x", size=9, ttl=LONG)
        await state.append("one", b"x", size=9, ttl=LONG)
        two = await state.append("two", b"x", size=9, ttl=LONG)
        assert (one.offset, two.offset) == (1, 1)
        assert one.epoch != two.epoch

    @pytest.mark.parametrize(
        "payload", [b"", b"\x00\xff\r\n$-1\r\n", "ä€😀".encode(), b"x" * 300_000], ids=len
    )
    async def test_payloads_come_back_as_they_were(self, state, payload):
        await state.append("room", payload, size=9, ttl=LONG)
        assert (await state.since("room", 0, limit=9)).entries == [Entry(1, payload)]

    @pytest.mark.parametrize("room", ["a:b", "räum", "x y\n", "\ud800", "{a}"])
    async def test_a_room_may_be_called_anything(self, state, room):
        added = await state.append(room, b"x", size=9, ttl=LONG)
        assert await state.top([room]) == [Position(added.epoch, 1)]

    @pytest.mark.parametrize(
        ("offset", "found"),
        [
            pytest.param(0, [1, 2, 3, 4, 5], id="from the beginning"),
            pytest.param(3, [4, 5], id="the rest"),
            pytest.param(5, [], id="at the top nothing is missing"),
            pytest.param(6, None, id="nobody can have seen more than there is"),
        ],
    )
    async def test_what_follows_an_offset_comes_in_order(self, state, offset, found):
        epoch = await fill(state, "room", 5)
        history = await state.since("room", offset, limit=100)
        assert (history.epoch, history.top, offsets(history)) == (epoch, 5, found)
        assert all(entry.payload == b"%d" % (entry.offset - 1) for entry in history.entries or ())

    async def test_a_room_without_history_has_none(self, state):
        assert await state.since("room", 0, limit=9) == History("", 0, None)

    async def test_the_newest_are_kept(self, state):
        await fill(state, "room", 10, size=4)
        assert offsets(await state.since("room", 6, limit=100)) == [7, 8, 9, 10]

    async def test_what_is_not_there_in_full_is_not_given_in_part(self, state):
        """Recovery is never partial."""
        await fill(state, "room", 10, size=4)
        for offset in (0, 5):
            for limit in (1, 4, 100):
                assert (await state.since("room", offset, limit=limit)).entries is None

    async def test_a_smaller_size_trims_what_is_there(self, state):
        await fill(state, "room", 10)
        await state.append("room", b"x", size=2, ttl=LONG)
        assert offsets(await state.since("room", 9, limit=100)) == [10, 11]
        assert (await state.since("room", 8, limit=100)).entries is None

    async def test_the_oldest_come_first_where_there_are_more_than_asked_for(self, state):
        await fill(state, "room", 7)
        pages = [await state.since("room", start, limit=3) for start in (0, 3, 6)]
        assert [offsets(page) for page in pages] == [[1, 2, 3], [4, 5, 6], [7]]
        assert {page.top for page in pages} == {7}

    async def test_entries_go_and_the_position_stays(self, case):
        """Who has seen everything in a quiet room has missed nothing."""
        epoch = await fill(case.state, "room", 3, ttl=SOON)
        await case.wait(LATER)
        assert await case.state.since("room", 3, limit=9) == History(epoch, 3, [])
        assert (await case.state.since("room", 2, limit=9)).entries is None
        added = await case.state.append("room", b"x", size=9, ttl=LONG)
        assert (added.epoch, added.offset) == (epoch, 4)
        assert offsets(await case.state.since("room", 3, limit=9)) == [4]
        assert (await case.state.since("room", 2, limit=9)).entries is None

    async def test_an_entry_renews_those_before_it(self, case):
        await fill(case.state, "room", 2, ttl=SOON)
        await case.state.append("room", b"x", size=9, ttl=LONG)
        await case.wait(LATER)
        assert offsets(await case.state.since("room", 0, limit=9)) == [1, 2, 3]

    @pytest.mark.parametrize("use", ["append", "top", "since"])
    async def test_a_position_lasts_while_it_is_used(self, case, monkeypatch, use):
        for module in ("memory", "redis"):
            monkeypatch.setattr(f"realtime.state.{module}.POSITION_TTL", 2 * SOON)
        epoch = await fill(case.state, "room", 1, ttl=SOON)
        for _ in range(3):
            await case.wait(1.2 * SOON)
            if use == "append":
                now = (await case.state.append("room", b"x", size=1, ttl=SOON)).epoch
            elif use == "top":
                now = (await case.state.top(["room"]))[0].epoch
            else:
                now = (await case.state.since("room", 0, limit=1)).epoch
            assert now == epoch

    @pytest.mark.parametrize("use", ["append", "top", "since"])
    async def test_no_use_shortens_the_life_of_a_position(self, case, monkeypatch, use):
        """It lives as long as the entries, which may be longer than a day."""
        for module in ("memory", "redis"):
            monkeypatch.setattr(f"realtime.state.{module}.POSITION_TTL", SOON)
        epoch = await fill(case.state, "room", 1)
        if use == "append":
            await case.state.append("room", b"x", size=9, ttl=SOON)
        elif use == "top":
            await case.state.top(["room"])
        else:
            await case.state.since("room", 0, limit=1)
        await case.wait(LATER)
        assert (await case.state.since("room", 0, limit=9)).epoch == epoch

    async def test_a_room_nobody_uses_is_forgotten(self, case, monkeypatch):
        for module in ("memory", "redis"):
            monkeypatch.setattr(f"realtime.state.{module}.POSITION_TTL", SOON)
        epoch = await fill(case.state, "room", 3, ttl=SOON)
        await case.wait(LATER)
        assert await case.state.top(["room"]) == [None]
        assert await case.state.since("room", 3, limit=9) == History("", 0, None)
        added = await case.state.append("room", b"x", size=9, ttl=LONG)
        assert added.offset == 1
        assert added.epoch != epoch

    async def test_concurrent_appends_share_no_offset_and_keep_their_order(self, state):
        added = await asyncio.gather(
            *(state.append("room", b"%d" % number, size=500, ttl=LONG) for number in range(300))
        )
        assert [one.offset for one in added] == list(range(1, 301))
        history = await state.since("room", 0, limit=500)
        assert [int(entry.payload) for entry in history.entries or ()] == list(range(300))


class TestTop:
    async def test_positions_come_in_the_order_of_the_rooms(self, state):
        one = await fill(state, "one", 1)
        two = await fill(state, "two", 2)
        assert await state.top(["two", "none", "one"]) == [Position(two, 2), None, Position(one, 1)]

    async def test_no_room_has_no_position(self, state):
        assert await state.top([]) == []

    async def test_asking_begins_no_history(self, state):
        assert await state.top(["room"]) == [None]
        assert await state.top(["room"]) == [None]

    async def test_a_history_can_be_begun(self, state):
        """Who joins an empty room has a position to come back with."""
        (begun,) = await state.top(["room"], create=True)
        assert begun is not None
        assert begun.offset == 0
        assert await state.top(["room"], create=True) == [begun]
        assert await state.since("room", 0, limit=9) == History(begun.epoch, 0, [])
        added = await state.append("room", b"x", size=9, ttl=LONG)
        assert (added.epoch, added.offset) == (begun.epoch, 1)

    async def test_beginning_leaves_what_is_there(self, state):
        epoch = await fill(state, "room", 2)
        assert await state.top(["room"], create=True) == [Position(epoch, 2)]

    async def test_very_many_rooms(self, state):
        names = [f"room-{number}" for number in range(1200)]
        begun = await state.top(names, create=True)
        assert len({position.epoch for position in begun if position}) == 1200
        assert await state.top(names) == begun


class TestDedupe:
    async def add(self, state: State, dedupe: str | None, room: str = "room", window: float = LONG):
        return await state.append(room, b"x", size=9, ttl=LONG, dedupe=dedupe, window=window)

    async def test_the_second_is_told_where_the_first_is(self, state):
        """A resend after a reconnect appears once."""
        first = await self.add(state, "m1")
        await self.add(state, "m2")
        again = await self.add(state, "m1")
        assert (again.epoch, again.offset, again.duplicate) == (first.epoch, 1, True)
        assert offsets(await state.since("room", 0, limit=9)) == [1, 2]

    async def test_without_an_id_nothing_is_a_duplicate(self, state):
        assert [(await self.add(state, None)).offset for _ in range(2)] == [1, 2]

    async def test_ids_count_in_their_room(self, state):
        assert not (await self.add(state, "m", room="one")).duplicate
        assert not (await self.add(state, "m", room="two")).duplicate

    async def test_no_id_reaches_into_another_room(self, state):
        """Clients choose ids."""
        await self.add(state, "b:c", room="a")
        assert not (await self.add(state, "c", room="a:b")).duplicate

    async def test_the_window_ends(self, case):
        await self.add(case.state, "m", window=SOON)
        await case.wait(LATER)
        assert not (await self.add(case.state, "m")).duplicate

    async def test_a_window_of_no_time_is_none(self, state):
        await self.add(state, "m", window=0)
        assert not (await self.add(state, "m", window=0)).duplicate

    async def test_of_many_at_once_one_is_the_first(self, state):
        added = await asyncio.gather(*(self.add(state, "m") for _ in range(50)))
        assert sum(not one.duplicate for one in added) == 1
        assert {one.offset for one in added} == {1}


class TestClaim:
    async def test_only_the_first_has_it(self, state):
        assert [await state.claim("key", LONG) for _ in range(3)] == [True, False, False]
        assert await state.claim("other", LONG)

    async def test_the_window_ends(self, case):
        await case.state.claim("key", SOON)
        await case.wait(LATER)
        assert await case.state.claim("key", LONG)

    async def test_a_refused_claim_does_not_lengthen_the_window(self, case):
        await case.state.claim("key", 2 * SOON)
        await case.wait(SOON)
        assert not await case.state.claim("key", LONG)
        await case.wait(LATER)
        assert await case.state.claim("key", LONG)


class TestSessions:
    """S4"""

    async def test_what_is_saved_can_be_loaded(self, state):
        assert await state.load_session("s") is None
        for data in (b"one", b"", b"r", b"\x00" * 100_000):
            assert await state.save_session("s", data, LONG)
            assert await state.load_session("s") == data
        assert await state.load_session("other") is None

    async def test_it_goes_after_its_time(self, case):
        await case.state.save_session("s", b"data", SOON)
        await case.wait(LATER)
        assert await case.state.load_session("s") is None

    async def test_saving_renews_it(self, case):
        await case.state.save_session("s", b"data", SOON)
        await case.state.save_session("s", b"more", LONG)
        await case.wait(LATER)
        assert await case.state.load_session("s") == b"more"

    async def test_it_can_be_dropped(self, state):
        await state.save_session("s", b"data", LONG)
        await state.drop_session("s")
        await state.drop_session("s")
        assert await state.load_session("s") is None
        assert await state.save_session("s", b"again", LONG)

    async def test_what_is_asked_of_one_session_in_one_turn_is_done_in_order(self, state):
        assert all(await asyncio.gather(*(state.save_session("s", b"%d" % n, LONG) for n in range(100))))
        assert await state.load_session("s") == b"99"
        await asyncio.gather(state.save_session("s", b"last", LONG), state.drop_session("s"))
        assert await state.load_session("s") is None

    async def test_revoked_is_not_absent(self, state):
        await state.save_session("s", b"data", LONG)
        await state.revoke_session("s", LONG)
        assert await state.load_session("s") is REVOKED

    async def test_a_node_that_does_not_know_cannot_undo_it(self, state):
        await state.revoke_session("s", LONG)
        assert not await state.save_session("s", b"data", LONG)
        await state.drop_session("s")
        assert await state.load_session("s") is REVOKED

    async def test_it_is_revoked_for_a_time(self, case):
        await case.state.revoke_session("s", SOON)
        await case.wait(LATER)
        assert await case.state.load_session("s") is None
        assert await case.state.save_session("s", b"data", LONG)

    async def test_each_resume_has_a_higher_turn(self, state):
        await state.save_session("s", b"data", LONG)
        resumed = [await state.resume_session("s", LONG) for _ in range(3)]
        assert [kept for kept, _ in resumed] == [b"data"] * 3
        turns = [turn for _, turn in resumed]
        assert 0 < turns[0] < turns[1] < turns[2]

    async def test_of_many_resumes_at_once_no_two_have_the_same_turn(self, state):
        resumed = await asyncio.gather(*(state.resume_session("s", LONG) for _ in range(50)))
        assert len({turn for _, turn in resumed}) == 50

    async def test_what_was_never_saved_can_be_resumed(self, state):
        kept, turn = await state.resume_session("s", LONG)
        assert kept is None
        assert turn > 0

    async def test_what_is_revoked_cannot(self, state):
        await state.revoke_session("s", LONG)
        assert await state.resume_session("s", LONG) == (REVOKED, 0)

    async def test_who_was_resumed_by_another_saves_nothing_any_more(self, state):
        await state.save_session("s", b"first", LONG)
        _, second = await state.resume_session("s", LONG)
        assert not await state.save_session("s", b"late first", LONG)
        assert await state.save_session("s", b"second", LONG, turn=second)
        _, third = await state.resume_session("s", LONG)
        assert not await state.save_session("s", b"late second", LONG, turn=second)
        assert await state.load_session("s") == b"second"
        assert await state.save_session("s", b"third", LONG, turn=third)

    async def test_one_that_was_dropped_remembers_who_resumed_it_last(self, state):
        await state.save_session("s", b"data", LONG)
        _, turn = await state.resume_session("s", LONG)
        await state.drop_session("s")
        assert await state.load_session("s") is None
        assert not await state.save_session("s", b"late", LONG)
        assert await state.save_session("s", b"again", LONG, turn=turn)

    async def test_a_resume_keeps_it_for_longer(self, case):
        await case.state.save_session("s", b"data", SOON)
        await case.state.resume_session("s", LONG)
        await case.wait(LATER)
        assert await case.state.load_session("s") == b"data"
        assert not await case.state.save_session("s", b"late", LONG)

    async def test_saving_keeps_the_turn_for_longer(self, case):
        _, turn = await case.state.resume_session("s", SOON)
        await case.state.save_session("s", b"data", LONG, turn=turn)
        await case.wait(LATER)
        assert not await case.state.save_session("s", b"late", LONG)


async def test_it_has_the_clock_by_which_leases_run(state):
    before = await state.now()
    renewed = await state.renew_node("n", b"row", LONG)
    assert before <= renewed.now + 0.001 <= await state.now() + 0.002


class TestValues:
    async def test_what_is_put_can_be_got(self, state):
        assert await state.get("key") is None
        for value in (b"one", b"", b"\x00" * 100_000):
            await state.put("key", value, LONG)
            assert await state.get("key") == value
        assert await state.get("other") is None

    async def test_it_goes_after_its_time(self, case):
        await case.state.put("key", b"value", SOON)
        await case.wait(LATER)
        assert await case.state.get("key") is None

    async def test_putting_again_counts_from_then(self, case):
        await case.state.put("key", b"value", SOON)
        await case.state.put("key", b"more", LONG)
        await case.wait(LATER)
        assert await case.state.get("key") == b"more"


class TestNodes:
    async def test_a_node_is_fresh_once(self, state):
        assert (await state.renew_node("n", b"row", LONG)).fresh
        assert not (await state.renew_node("n", b"row", LONG)).fresh

    async def test_the_living_are_listed_by_id(self, state):
        for id in ("b", "a"):
            await state.renew_node(id, id.encode(), LONG)
        await state.renew_node("a", b"new", LONG)
        assert [(node.id, node.row) for node in await state.nodes()] == [("a", b"new"), ("b", b"b")]
        assert all(0 <= node.age < 5 for node in await state.nodes())

    async def test_age_is_the_time_since_the_renewal(self, case):
        first = await case.state.renew_node("n", b"", LONG)
        await case.wait(LATER)
        (node,) = await case.state.nodes()
        assert LATER * 0.9 < node.age < LATER + 5
        again = await case.state.renew_node("n", b"", LONG)
        assert LATER * 0.9 < again.now - first.now < LATER + 5
        assert (await case.state.nodes())[0].age < node.age

    async def test_one_whose_lease_ran_out_is_dead(self, case):
        """R11"""
        await case.state.renew_node("dead", b"", SOON)
        await case.state.renew_node("alive", b"", LONG)
        await case.wait(LATER)
        assert [node.id for node in await case.state.nodes()] == ["alive"]

    async def test_a_late_renewal_finds_everything_as_it_was(self, case):
        """Nobody saw it meanwhile, but nobody has swept either."""
        await case.state.renew_node("n", b"", SOON)
        await case.state.write_registry("n", {"c": b"1"})
        await case.wait(LATER)
        assert not (await case.state.renew_node("n", b"", LONG)).fresh
        assert await case.state.registry("n") == {"c": b"1"}

    async def test_one_that_was_swept_is_fresh_and_has_nothing(self, case):
        state = case.state
        await state.renew_node("n", b"", SOON)
        await state.write_registry("n", {"c": b"1"})
        await state.set_presence("room", "n", {"c": b"1"})
        await state.enter("ip", "x", "n", max_concurrent=1)
        await case.wait(LATER)
        assert await state.sweep() == 1
        # Late writes of the node that was taken for dead.
        await state.write_registry("n", {"late": b"1"})
        await state.set_presence("room", "n", {"late": b"1"})
        assert (await state.renew_node("n", b"", LONG)).fresh
        assert await state.registry("n") == {}
        assert await state.presence("room") == {}
        assert (await state.enter("ip", "x", "n", max_concurrent=1)).ok

    async def test_a_dropped_node_takes_everything_along(self, state):
        for id in ("n", "other"):
            await state.renew_node(id, b"", LONG)
            await state.write_registry(id, {id: b"1"})
            await state.set_presence("room", id, {id: b"1"})
            await state.enter("ip", "x", id, max_concurrent=9)
        await state.drop_node("n")
        await state.drop_node("n")
        assert [node.id for node in await state.nodes()] == ["other"]
        assert await state.registries() == {"other": {"other": b"1"}}
        assert await state.presence("room") == {"other": {"other": b"1"}}
        assert (await state.enter("ip", "x", "other", max_concurrent=2)).ok
        assert (await state.renew_node("n", b"", LONG)).fresh

    async def test_a_sweep_takes_the_dead_only(self, case):
        state = case.state
        for id, lease in (("dead", SOON), ("gone", SOON), ("alive", LONG)):
            await state.renew_node(id, b"", lease)
            await state.set_presence("room", id, {id: b"1"})
        # Not a node yet: it renews its lease in a moment.
        await state.set_presence("room", "coming", {"c": b"1"})
        await case.wait(LATER)
        assert await state.sweep() == 2
        assert await state.sweep() == 0
        assert await state.presence("room") == {"alive": {"alive": b"1"}}


class TestRegistry:
    async def test_changes_add_up(self, state):
        """X1"""
        await state.renew_node("n", b"", LONG)
        await state.write_registry("n", {"a": b"1", "b": b"1"})
        await state.write_registry("n", {"b": b"2", "c": b"2"}, ["a", "unknown"])
        assert await state.registry("n") == {"b": b"2", "c": b"2"}

    async def test_one_that_came_back_in_the_same_breath_is_gone(self, state):
        await state.renew_node("n", b"", LONG)
        await state.write_registry("n", {"a": b"1"}, ["a"])
        assert await state.registry("n") == {}

    async def test_nodes_are_apart(self, state):
        for id in ("n", "m", "empty"):
            await state.renew_node(id, b"", LONG)
        await state.write_registry("n", {"a": b"n"})
        await state.write_registry("m", {"a": b"m"})
        assert await state.registries() == {"m": {"a": b"m"}, "n": {"a": b"n"}, "empty": {}}
        assert await state.registry("unknown") == {}

    async def test_only_of_the_living(self, case):
        await case.state.renew_node("dead", b"", SOON)
        await case.state.write_registry("dead", {"a": b"1"})
        await case.state.write_registry("never", {"a": b"1"})
        assert await case.state.registry("never") == {}
        await case.wait(LATER)
        assert await case.state.registry("dead") == {}
        assert await case.state.registries() == {}

    async def test_very_many_rows(self, state):
        rows = {f"client-{number}": b"x" * 200 for number in range(5000)}
        await state.renew_node("n", b"", LONG)
        await state.write_registry("n", rows)
        assert await state.registries() == {"n": rows}
        await state.write_registry("n", {}, rows)
        assert await state.registry("n") == {}


class TestPresence:
    @pytest.fixture(autouse=True)
    async def living(self, state):
        for id in ("n", "m"):
            await state.renew_node(id, b"", LONG)

    async def test_who_is_in_a_room(self, state):
        """C2"""
        await state.set_presence("room", "n", {"a": b"1", "b": b"1"})
        await state.set_presence("room", "m", {"c": b"1"})
        await state.set_presence("room", "n", {"b": b"2"})
        await state.set_presence("other", "n", {"a": b"1"})
        assert await state.presence("room") == {"m": {"c": b"1"}, "n": {"a": b"1", "b": b"2"}}
        assert await state.count_presence("room") == 3

    async def test_nobody(self, state):
        await state.set_presence("room", "n", {})
        await state.drop_presence("room", "n", ["a"])
        assert await state.presence("room") == {}
        assert await state.count_presence("room") == 0

    async def test_who_left_is_not_there(self, state):
        await state.set_presence("room", "n", {"a": b"1", "b": b"1"})
        await state.drop_presence("room", "n", ["a", "unknown"])
        assert await state.presence("room") == {"n": {"b": b"1"}}
        await state.drop_presence("room", "m", ["b"])
        await state.drop_presence("room", "n", ["b"])
        assert await state.presence("room") == {}
        await state.set_presence("room", "n", {"c": b"1"})
        assert await state.count_presence("room") == 1

    async def test_only_of_the_living(self, case):
        """A ``kill -9`` heals by itself."""
        await case.state.renew_node("dead", b"", SOON)
        for id in ("dead", "never", "n"):
            await case.state.set_presence("room", id, {id: b"1"})
        await case.wait(LATER)
        assert await case.state.presence("room") == {"n": {"n": b"1"}}
        assert await case.state.count_presence("room") == 1

    async def test_names_do_not_run_into_each_other(self, state):
        await state.renew_node("n:x", b"", LONG)
        await state.set_presence("y", "n:x", {"a": b"1"})
        await state.set_presence("x:y", "n", {"b": b"1"})
        assert await state.presence("y") == {"n:x": {"a": b"1"}}
        assert await state.presence("x:y") == {"n": {"b": b"1"}}


class TestConcurrentLimit:
    """S15"""

    @pytest.fixture(autouse=True)
    async def living(self, state):
        for id in ("n", "m"):
            await state.renew_node(id, b"", LONG)

    async def test_all_nodes_count_together(self, state):
        assert (await state.enter("ip", "x", "n", max_concurrent=2)).ok
        assert (await state.enter("ip", "x", "m", max_concurrent=2)).ok
        assert await state.enter("ip", "x", "n", max_concurrent=2) == Entered(False, "concurrent", 0.0)

    async def test_kinds_and_keys_count_apart(self, state):
        for kind, key in (("ip", "x"), ("ip", "y"), ("user", "x")):
            assert (await state.enter(kind, key, "n", max_concurrent=1)).ok

    async def test_who_leaves_makes_room(self, state):
        for id in ("n", "n", "m"):
            await state.enter("ip", "x", id, max_concurrent=3)
        await state.leave("ip", "x", "n")
        assert (await state.enter("ip", "x", "m", max_concurrent=3)).ok
        assert not (await state.enter("ip", "x", "m", max_concurrent=3)).ok

    async def test_nobody_can_leave_twice(self, state):
        await state.enter("ip", "x", "n", max_concurrent=9)
        for _ in range(3):
            await state.leave("ip", "x", "n")
            await state.leave("ip", "x", "m")
        assert (await state.enter("ip", "x", "n", max_concurrent=1)).ok
        assert not (await state.enter("ip", "x", "n", max_concurrent=1)).ok

    async def test_dead_nodes_do_not_count(self, case):
        await case.state.renew_node("dead", b"", SOON)
        await case.state.enter("ip", "x", "dead", max_concurrent=1)
        assert not (await case.state.enter("ip", "x", "n", max_concurrent=1)).ok
        await case.wait(LATER)
        assert (await case.state.enter("ip", "x", "n", max_concurrent=1)).ok

    async def test_a_node_counts_before_its_first_lease(self, state):
        assert (await state.enter("ip", "x", "new", max_concurrent=1)).ok
        assert not (await state.enter("ip", "x", "new", max_concurrent=1)).ok

    async def test_a_limit_of_nothing_is_none(self, state):
        for _ in range(20):
            assert await state.enter("ip", "x", "n") == Entered(True, None, 0.0)
        assert (await state.enter("ip", "x", "n", max_concurrent=1)).ok

    async def test_a_node_can_say_what_it_holds(self, state):
        """After it was taken for dead, and against what got lost."""
        await state.enter("ip", "old", "n", max_concurrent=1)
        await state.hold("n", {("ip", "x"): 2, ("ip", "none"): 0})
        assert not (await state.enter("ip", "x", "m", max_concurrent=2)).ok
        assert (await state.enter("ip", "x", "m", max_concurrent=3)).ok
        assert (await state.enter("ip", "old", "m", max_concurrent=1)).ok
        assert (await state.enter("ip", "none", "m", max_concurrent=1)).ok
        await state.hold("n", {})
        assert (await state.enter("ip", "x", "m", max_concurrent=2)).ok


class TestRate:
    async def enter(self, state: State, key: str = "x", *, rate: float = 2) -> Entered:
        return await state.enter("ip", key, "n", rate=rate, window=LONG)

    async def test_as_many_as_the_rate_may_come_at_once(self, state):
        assert [(await self.enter(state)).ok for _ in range(3)] == [True, True, False]
        assert (await self.enter(state, "other")).ok

    async def test_who_is_refused_is_told_when_to_come_back(self, state):
        for _ in range(2):
            await self.enter(state)
        refused = await self.enter(state)
        assert (refused.ok, refused.reason) == (False, "rate")
        assert LONG / 2 - 5 < refused.retry_after <= LONG / 2

    async def test_it_is_let_in_again_at_the_rate(self, case):
        async def enter() -> Entered:
            return await case.state.enter("ip", "x", "n", rate=1, window=SOON)

        assert (await enter()).ok
        refused = await enter()
        assert 0 < refused.retry_after <= SOON
        await case.wait(refused.retry_after + 0.01)
        assert (await enter()).ok

    async def test_who_is_refused_spends_nothing(self, state):
        await state.enter("ip", "x", "n", max_concurrent=1)
        for _ in range(5):
            refused = await state.enter("ip", "x", "n", max_concurrent=1, rate=1, window=LONG)
            assert refused.reason == "concurrent"
        assert (await state.enter("ip", "x", "n", max_concurrent=2, rate=1, window=LONG)).ok
        refused = await state.enter("ip", "x", "n", max_concurrent=3, rate=1, window=LONG)
        assert refused.reason == "rate"
        assert (await state.enter("ip", "x", "n", max_concurrent=3)).ok


class TestLead:
    async def test_one_leads(self, state):
        """X3"""
        assert await state.lead("n", "chores", LONG)
        assert await state.lead("n", "chores", LONG)
        assert not await state.lead("m", "chores", LONG)
        assert await state.lead("m", "other", LONG)

    async def test_the_next_leads_when_the_lease_ran_out(self, case):
        await case.state.lead("n", "chores", SOON)
        await case.wait(LATER)
        assert await case.state.lead("m", "chores", LONG)
        assert not await case.state.lead("n", "chores", LONG)

    async def test_a_leader_keeps_its_lease_by_renewing_it(self, case):
        await case.state.lead("n", "chores", SOON)
        await case.state.lead("n", "chores", LONG)
        await case.wait(LATER)
        assert not await case.state.lead("m", "chores", LONG)


class TestAvailability:
    async def test_it_is_there(self, state):
        await state.top(["room"])
        assert state.available
        assert state.reason == ""

    def test_a_listener_is_told_when_it_changes_and_only_then(self):
        state = MemoryState()
        told = []
        state.on_change.append(lambda changed: told.append((changed.available, changed.reason)))
        for reason in ("", "one", "two", "", ""):
            state._set_reason(reason)
        assert told == [(False, "one"), (True, "")]

    def test_a_listener_that_fails_keeps_the_others_from_nothing(self):
        state = MemoryState()
        told = []
        state.on_change.append(lambda changed: 1 / 0)
        state.on_change.append(lambda changed: told.append(changed.reason))
        with capture_logs() as logs:
            state._set_reason("away")
        assert told == ["away"]
        assert [log["event"] for log in logs if log.get("exc_info")] == [
            "a listener to the shared state failed"
        ]

    def test_a_publisher_need_not_know_of_it(self):
        assert issubclass(StateUnavailable, PublishError)


@pytest.mark.redis
async def test_both_do_the_same_whatever_is_done(redis_server, prefix):
    """A thousand steps at random: what one answers, the other does."""
    seed = random.randrange(2**32)
    chance = random.Random(seed)
    memory, redis = MemoryState(), RedisState(redis_server.url, prefix=prefix, pool_size=2)
    epochs: dict[str, str] = {"": ""}
    for step in range(1000):
        name, call = _any_step(chance)
        one, other = _plain(await call(memory), epochs), _plain(await call(redis), epochs)
        assert one == other, f"step {step} ({name}) of seed {seed}"
    await redis.aclose()


def _any_step(chance: random.Random):
    """Return the name of a step and what does it to a state."""
    room, node, client = (chance.choice(names) for names in (("r", "s"), ("n", "m", "o"), ("a", "b", "c")))
    number, value = chance.randrange(8), chance.randbytes(3)
    dedupe = chance.choice((None, None, client))
    steps = {
        "append": lambda s: s.append(room, value, size=5, ttl=LONG, dedupe=dedupe, window=LONG),
        "since": lambda s: s.since(room, number, limit=3),
        "top": lambda s: s.top(["r", "s", "t"]),
        "create": lambda s: s.top([room], create=True),
        "claim": lambda s: s.claim(f"{client}{number}", LONG),
        "save": lambda s: s.save_session(client, value, LONG),
        "save late": lambda s: s.save_session(client, value, LONG, turn=2**52),
        "load": lambda s: s.load_session(client),
        "drop": lambda s: s.drop_session(client),
        "put": lambda s: s.put(client, value, LONG),
        "get": lambda s: s.get(client),
        "revoke": lambda s: s.revoke_session(f"{client}{number}", LONG),
        "renew": lambda s: s.renew_node(node, value, LONG),
        "nodes": lambda s: s.nodes(),
        "drop_node": lambda s: s.drop_node(node),
        "write": lambda s: s.write_registry(node, {client: value}, [f"{client}{number}"]),
        "gone": lambda s: s.write_registry(node, {}, [client]),
        "registry": lambda s: s.registry(node),
        "registries": lambda s: s.registries(),
        "set": lambda s: s.set_presence(room, node, {client: value}),
        "unset": lambda s: s.drop_presence(room, node, [client]),
        "presence": lambda s: s.presence(room),
        "count": lambda s: s.count_presence(room),
        "enter": lambda s: s.enter("ip", client, node, max_concurrent=number),
        "rate": lambda s: s.enter("ip", f"{room}", node, rate=3, window=1e6),
        "leave": lambda s: s.leave("ip", client, node),
        "hold": lambda s: s.hold(node, {("ip", client): number}),
        "lead": lambda s: s.lead(node, room, LONG),
        "sweep": lambda s: s.sweep(),
    }
    return chance.choice(list(steps.items()))


def _plain(answer, epochs: dict[str, str]):
    """Return an answer without what may differ: how epochs are called, and the time."""
    if isinstance(answer, History | Position) or hasattr(answer, "epoch"):
        name = epochs.setdefault(answer.epoch, f"epoch {(len(epochs) + 1) // 2}")
        return answer._replace(epoch=name)
    if hasattr(answer, "now"):
        return answer.fresh
    if isinstance(answer, Entered):
        return answer._replace(retry_after=round(answer.retry_after, -1))
    if isinstance(answer, list):
        return [(one.id, one.row) if hasattr(one, "age") else one and _plain(one, epochs) for one in answer]
    return answer
