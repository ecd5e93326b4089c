"""A room's past: each message once and in order, nothing lost in silence, nothing without a bound."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from realtime.history import (
    RETIRED_EPOCHS,
    Entry,
    Filled,
    Place,
    Recovery,
    Ring,
    Sequencer,
    Shelf,
    numbered,
    restored,
    stored,
)


def entries(*offsets: int, size: int = 1) -> list[Entry[str]]:
    return [Entry(offset, f"m{offset}", size) for offset in offsets]


def rows(*offsets: int) -> list[tuple[int, str, int]]:
    return [(offset, f"m{offset}", 1) for offset in offsets]


def offsets(of: Iterable[Entry[Any]] | None) -> list[int]:
    assert of is not None
    return [entry.offset for entry in of]


def ring(*kept: int, max_count: int = 100, max_bytes: int = 1000, shelf: Shelf | None = None) -> Ring[str]:
    made: Ring[str] = Ring(max_count, max_bytes, shelf)
    for entry in entries(*kept):
        made.append(entry)
    return made


def sequencer(
    epoch: str = "e",
    offset: int = 0,
    *,
    base: Place | None = None,
    max_waiting: int = 100,
    max_waiting_bytes: int = 1000,
    max_ring: int = 100,
) -> Sequencer[str]:
    """A sequencer that stands at ``offset`` of ``epoch``."""
    made: Sequencer[str] = Sequencer(
        ring(max_count=max_ring), max_waiting=max_waiting, max_waiting_bytes=max_waiting_bytes
    )
    assert made.checked(made.mark(), Place(epoch, offset), base) is None
    return made


def take(one: Sequencer[str], *which: int, epoch: str = "e", size: int = 1) -> list[int]:
    """Take messages in; return the offsets that were handed out."""
    return [entry.offset for offset in which for entry in one.take(epoch, offset, f"m{offset}", size)]


def told(recovery: Recovery[Any] | None) -> tuple[bool, int, int, str]:
    assert recovery is not None
    return recovery.complete, recovery.start, recovery.to, recovery.epoch


class TestRing:
    def test_the_newest_entries_are_kept_in_order(self):
        assert offsets(ring(5, 6, 7).after(4)) == [5, 6, 7]
        assert offsets(ring(5, 6, 7).after(5)) == [6, 7]
        assert offsets(ring(5, 6, 7).after(7)) == []

    def test_what_is_not_all_here_is_not_given_in_part(self):
        assert ring(5, 6, 7).after(3) is None
        assert ring().after(0) is None

    def test_an_entry_that_does_not_follow_makes_the_older_ones_useless(self):
        holed = ring(1, 2, 4)
        assert (len(holed), holed.bytes, holed.first) == (1, 1, 4)
        assert holed.after(2) is None

    def test_more_entries_than_it_may_hold_push_out_the_oldest(self):
        full = ring(1, 2, 3, 4, max_count=3)
        assert (len(full), full.first, offsets(full.after(1))) == (3, 2, [2, 3, 4])

    def test_bytes_are_bounded_too(self):
        full: Ring[str] = Ring(100, 10)
        for entry in [*entries(1, 2, size=5), *entries(3)]:
            full.append(entry)
        assert (full.bytes, full.first) == (6, 2)

    def test_an_entry_larger_than_the_ring_is_not_kept(self):
        small: Ring[str] = Ring(100, 10)
        small.append(entries(1, size=11)[0])
        assert (len(small), small.bytes, small.first) == (0, 0, None)

    def test_what_was_fetched_goes_before_the_oldest_as_far_as_there_is_room(self):
        some = ring(5, 6, max_count=4)
        some.extend_back(entries(1, 2, 3, 4))
        assert (some.first, offsets(some.after(2)), some.bytes) == (3, [3, 4, 5, 6], 4)

    def test_what_was_fetched_stays_within_the_bytes(self):
        some = ring(5, 6, max_bytes=3)
        some.extend_back(entries(3, 4))
        assert (some.first, some.bytes) == (4, 3)

    @given(
        st.lists(st.tuples(st.integers(0, 4), st.integers(0, 6)), max_size=60),
        st.integers(0, 5),
        st.integers(0, 12),
        st.integers(0, 20),
    )
    def test_whatever_comes_no_bound_is_passed_and_there_is_no_hole(self, steps, count, size, shelved):
        shelf = Shelf(shelved)
        rings: list[Ring[str]] = [Ring(count, size, shelf), Ring(count, size, shelf)]
        for number, (gap, length) in enumerate(steps):
            one = rings[number % 2]
            newest = offsets(one.after(one.first - 1))[-1] if one.first else number
            one.append(Entry(newest + (2 if gap == 0 else 1), "m", length))
            for each in rings:
                kept = each.after(each.first - 1) if each.first else []
                assert kept is not None
                assert len(kept) == len(each) <= count
                assert sum(entry.size for entry in kept) == each.bytes <= size
                assert offsets(kept) == list(range(each.first or 0, (each.first or 0) + len(kept)))
            assert shelf.used == sum(each.bytes for each in rings) <= shelved


class TestShelf:
    def test_the_ring_that_has_been_quiet_for_longest_gives_way(self):
        shelf = Shelf(5)
        busy, quiet = ring(1, shelf=shelf), ring(1, 2, 3, shelf=shelf)
        busy.append(entries(2)[0])
        assert (quiet.first, len(busy), shelf.used) == (1, 2, 5)
        busy.append(entries(3)[0])
        assert (quiet.first, len(busy), shelf.used) == (2, 3, 5)

    def test_an_entry_that_fills_the_shelf_empties_every_ring(self):
        shelf = Shelf(5)
        first, second = ring(1, 2, shelf=shelf), ring(1, shelf=shelf)
        second.append(entries(2, size=6)[0])
        assert (len(first), len(second), shelf.used) == (0, 0, 0)

    def test_what_is_fetched_pushes_nothing_out(self):
        shelf = Shelf(5)
        other, one = ring(1, 2, shelf=shelf), ring(8, 9, shelf=shelf)
        one.extend_back(entries(5, 6, 7))
        assert (len(other), one.first, shelf.used) == (2, 7, 5)

    def test_a_ring_that_is_cleared_gives_its_bytes_back(self):
        shelf = Shelf(5)
        one = ring(1, 2, shelf=shelf)
        one.clear()
        assert (len(one), one.bytes, shelf.used) == (0, 0, 0)


class TestOrder:
    def test_messages_go_out_as_they_come_when_they_come_in_order(self):
        one = sequencer()
        assert [take(one, offset) for offset in (1, 2, 3)] == [[1], [2], [3]]
        assert (one.position, one.top, one.behind) == (3, 3, False)

    def test_a_message_that_is_early_waits_for_those_before_it(self):
        one = sequencer()
        assert take(one, 3, 2) == []
        assert (one.behind, one.wanted()) == (True, (0, 1))
        assert take(one, 1) == [1, 2, 3]
        assert (one.behind, one.wanted()) == (False, None)

    def test_a_message_that_comes_twice_goes_out_once(self):
        one = sequencer()
        assert take(one, 1, 1, 3, 3, 2, 2, 1, 3) == [1, 2, 3]

    def test_what_was_before_its_position_is_not_delivered(self):
        assert take(sequencer(offset=5), 4, 5, 6) == [6]

    def test_more_than_may_wait_is_not_kept_but_known_to_be_missing(self):
        one = sequencer(max_waiting=2)
        assert take(one, 3, 4, 5) == []
        assert one.top == 5
        assert take(one, 1, 2) == [1, 2, 3, 4]
        assert one.wanted() == (4, 1)

    def test_the_bytes_that_wait_are_bounded_and_given_back(self):
        one = sequencer(max_waiting_bytes=10)
        assert take(one, 3, 4, size=5) == []
        assert take(one, 5) == []
        assert take(one, 1, 2) == [1, 2, 3, 4]
        assert take(one, 7, 8, size=5) == []
        assert take(one, 5, 6) == [5, 6, 7, 8]

    def test_a_message_that_waits_and_comes_again_takes_no_more_room(self):
        one = sequencer(max_waiting_bytes=10)
        assert take(one, 3, 3, 4, size=5) == []
        assert take(one, 1, 2) == [1, 2, 3, 4]

    @given(st.permutations(range(1, 13)), st.lists(st.integers(1, 12), max_size=12))
    def test_any_order_and_any_repetition_comes_out_once_and_in_order(self, order, again):
        mixed = [offset for pair in zip(order, [*again, *order], strict=False) for offset in pair]
        assert take(sequencer(), *mixed) == list(range(1, 13))


class TestGaps:
    def test_one_answer_fills_every_hole(self):
        one = sequencer()
        assert take(one, 2, 5, 6) == []
        assert one.wanted() == (0, 4)
        filled = one.fill(0, Place("e", 6), rows(1, 2, 3, 4))
        assert (offsets(filled.entries), filled.lost) == ([1, 2, 3, 4, 5, 6], None)
        assert not one.behind

    def test_a_hint_shows_what_nobody_sent(self):
        one = sequencer()
        one.hint("e", 2)
        assert one.wanted() == (0, 2)
        assert offsets(one.fill(0, Place("e", 2), rows(1, 2)).entries) == [1, 2]

    def test_a_check_of_the_top_shows_what_nobody_sent(self):
        one = sequencer()
        assert one.checked(one.mark(), Place("e", 2)) is None
        assert one.wanted() == (0, 2)

    def test_an_old_hint_changes_nothing(self):
        one = sequencer(offset=5)
        one.hint("e", 5)
        one.hint("e", 1)
        assert not one.behind

    def test_what_came_meanwhile_is_not_delivered_again(self):
        one = sequencer()
        take(one, 2)
        assert take(one, 1, 3) == [1, 2, 3]
        assert one.fill(0, Place("e", 3), rows(1, 2)) == Filled([])

    def test_an_answer_in_parts_asks_for_the_rest(self):
        one = sequencer()
        one.hint("e", 5)
        assert offsets(one.fill(0, Place("e", 5), rows(1, 2)).entries) == [1, 2]
        assert one.wanted() == (2, 3)

    def test_what_the_state_does_not_know_of_is_not_asked_for_again(self):
        one = sequencer()
        one.hint("e", 9)
        assert one.fill(0, Place("e", 0), []) == Filled([])
        assert not one.behind

    def test_what_waits_is_believed_though_the_state_answered_before_it_came(self):
        one = sequencer()
        take(one, 3)
        one.fill(0, Place("e", 1), rows(1))
        assert (one.position, one.wanted()) == (1, (1, 1))

    def test_what_cannot_be_had_is_told_and_what_is_there_goes_on(self):
        one = sequencer(offset=4)
        take(one, 7, 8)
        filled = one.fill(4, Place("e", 8), None)
        assert told(filled.lost) == (False, 4, 6, "e")
        assert offsets(filled.entries) == [7, 8]
        assert not one.behind

    def test_where_nothing_is_there_members_go_on_from_the_top(self):
        one = sequencer(offset=4)
        one.hint("e", 8)
        filled = one.fill(4, Place("e", 9), None)
        assert (told(filled.lost), filled.entries) == ((False, 4, 9, "e"), [])
        assert take(one, 9, 10) == [10]

    def test_no_more_is_given_up_than_the_state_has_answered_for(self):
        one = sequencer(offset=4)
        take(one, 20)
        assert told(one.fill(4, Place("e", 10), None).lost) == (False, 4, 10, "e")
        assert one.wanted() == (10, 9)

    def test_a_hole_that_was_filled_meanwhile_is_not_given_up(self):
        one = sequencer()
        take(one, 2)
        take(one, 1)
        assert one.fill(0, Place("e", 2), None) == Filled()
        assert (one.position, one.behind) == (2, False)

    def test_a_hole_that_has_moved_is_another_question(self):
        one = sequencer()
        take(one, 5)
        take(one, 1)
        assert one.fill(0, Place("e", 5), None) == Filled()
        assert one.wanted() == (1, 3)

    def test_what_is_from_before_a_loss_helps_nobody_any_more(self):
        one = sequencer(offset=4)
        take(one, 5)
        one.hint("e", 8)
        one.fill(5, Place("e", 8), None)
        assert len(one.ring) == 0

    def test_after_a_loss_the_ring_has_no_hole(self):
        one = sequencer(offset=4)
        take(one, 5, 9)
        one.fill(5, Place("e", 9), None)
        assert one.recovery("e", 4) is None
        assert offsets(one.recovery("e", 8).entries) == [9]


class TestPlacing:
    def test_until_it_has_a_position_it_hands_out_nothing(self):
        one: Sequencer[str] = Sequencer(ring(), max_waiting=10, max_waiting_bytes=100)
        assert (one.placed, one.behind, one.wanted()) == (False, True, None)
        assert one.take("e", 1, "m1", 1) == []

    def test_what_came_while_the_state_was_asked_is_looked_for_again(self):
        one: Sequencer[str] = Sequencer(ring(), max_waiting=10, max_waiting_bytes=100)
        mark = one.mark()
        one.take("e", 7, "m7", 1)
        assert one.checked(mark, Place("e", 6)) is None
        assert (one.placed, one.position, one.doubt) == (True, 6, "epoch")
        assert one.checked(one.mark(), Place("e", 7)) is None
        assert one.wanted() == (6, 1)

    def test_a_doubtful_sequencer_that_has_a_position_goes_on(self):
        one = sequencer()
        one.hint("other", 1)
        assert take(one, 1) == [1]


class TestEpochs:
    """``base`` is what the state says of a room that goes on in a new epoch."""

    def test_a_message_of_an_unknown_epoch_is_not_delivered_before_the_state_was_asked(self):
        one = sequencer("e", 5)
        assert take(one, 6, epoch="f") == []
        assert (one.doubt, one.epoch, one.position, one.wanted()) == ("epoch", "e", 5, None)

    def test_where_nothing_is_in_common_all_of_the_new_epoch_follows_a_truthful_word(self):
        one = sequencer("e", 5)
        take(one, 2, epoch="f")
        assert told(one.checked(one.mark(), Place("f", 2))) == (False, 5, 0, "f")
        assert offsets(one.fill(0, Place("f", 2), rows(1, 2)).entries) == [1, 2]
        assert (one.epoch, one.behind) == ("f", False)

    def test_where_the_new_epoch_goes_on_from_here_nothing_is_lost(self):
        """Redis was restarted, with all its data."""
        one = sequencer("e", 5)
        take(one, 7, epoch="f")
        assert told(one.checked(one.mark(), Place("f", 7), Place("e", 5))) == (True, 5, 5, "f")
        assert one.wanted() == (5, 2)

    def test_where_the_new_epoch_has_more_of_the_old_one_it_is_fetched(self):
        one = sequencer("e", 3)
        assert told(one.checked(one.mark(), Place("f", 5), Place("e", 5))) == (True, 3, 3, "f")
        assert one.wanted() == (3, 2)

    def test_where_the_state_has_lost_what_members_saw_they_are_told_and_get_what_is_new(self):
        """Redis was restarted from a snapshot."""
        one = sequencer("e", 5)
        assert told(one.checked(one.mark(), Place("f", 4), Place("e", 3))) == (False, 5, 3, "f")
        assert one.wanted() == (3, 1)

    def test_where_the_state_has_lost_what_was_known_to_exist_they_are_told(self):
        one = sequencer("e", 3)
        one.hint("e", 5)
        assert told(one.checked(one.mark(), Place("f", 4), Place("e", 4))) == (False, 3, 3, "f")

    def test_where_an_epoch_was_missed_members_get_what_is_surely_new(self):
        """Redis was restarted twice, and what it had of the epoch between cannot be told from what members saw."""
        one = sequencer("e", 5)
        assert told(one.checked(one.mark(), Place("g", 7), Place("f", 6))) == (False, 5, 6, "g")

    def test_what_waited_in_the_old_epoch_is_not_delivered_in_the_new_one(self):
        one = sequencer("e", 1)
        take(one, 3)
        one.checked(one.mark(), Place("f", 2), Place("e", 1))
        assert take(one, 2, epoch="f") == [2]
        assert take(one, 3, epoch="f") == [3]

    def test_latecomers_of_an_earlier_epoch_are_dropped_without_a_question(self):
        one = sequencer("e", 5)
        one.checked(one.mark(), Place("f", 5), Place("e", 5))
        assert take(one, 5, epoch="e") == []
        assert one.doubt is None

    def test_a_latecomer_that_the_new_epoch_does_not_have_is_a_loss(self):
        one = sequencer("f", 5, base=Place("e", 5))
        assert take(one, 6, epoch="e") == []
        assert one.doubt == "loss"
        assert told(one.checked(one.mark(), Place("f", 5), Place("e", 5))) == (False, 5, 5, "f")
        one.hint("e", 7)
        assert one.doubt is None, "it was told once"

    def test_a_loss_is_told_whatever_else_comes_before_the_answer(self):
        one = sequencer("f", 5, base=Place("e", 5))
        take(one, 6, epoch="e")
        take(one, 1, epoch="g")
        assert told(one.checked(one.mark(), Place("f", 5), Place("e", 5))) == (False, 5, 5, "f")

    def test_a_doubt_that_came_after_the_question_stays(self):
        one = sequencer("e", 5)
        mark = one.mark()
        take(one, 1, epoch="f")
        assert one.checked(mark, Place("e", 5)) is None
        assert one.doubt == "epoch"

    def test_a_doubt_that_the_state_does_not_share_ends(self):
        """A latecomer of an epoch from before this process knew the room."""
        one = sequencer("e", 5)
        take(one, 1, epoch="d")
        assert one.checked(one.mark(), Place("e", 5)) is None
        assert one.doubt is None

    def test_an_answer_that_was_overtaken_does_not_bring_an_epoch_back(self):
        one = sequencer("e", 5)
        one.checked(one.mark(), Place("f", 0))
        assert one.checked(one.mark(), Place("e", 5)) is None
        assert one.fill(0, Place("e", 5), rows(1)) == Filled()
        assert (one.epoch, one.position, one.doubt) == ("f", 0, None)

    def test_entries_of_another_epoch_fill_nothing(self):
        one = sequencer("e", 0)
        one.hint("e", 1)
        assert one.fill(0, Place("f", 1), rows(1)) == Filled()
        assert (one.position, one.doubt) == (0, "epoch")

    def test_a_room_whose_epoch_changes_all_the_time_is_remembered_within_a_bound(self):
        one = sequencer("e0")
        for number in range(1, RETIRED_EPOCHS + 2):
            one.checked(one.mark(), Place(f"e{number}", 0))
        one.hint("e1", 1)
        assert one.doubt is None
        one.hint("e0", 1)
        assert one.doubt == "epoch"


class TestRecovery:
    def test_who_has_missed_nothing_gets_nothing(self):
        assert sequencer("e", 5).recovery("e", 5) == Recovery(True, 5, 5, "e", [])

    def test_what_was_missed_comes_from_the_ring_in_order(self):
        one = sequencer()
        take(one, 1, 2, 3)
        found = one.recovery("e", 1)
        assert (told(found), offsets(found.entries)) == ((True, 1, 3, "e"), [2, 3])

    def test_what_is_no_longer_in_the_ring_has_to_be_fetched(self):
        one = sequencer(max_ring=2)
        take(one, 1, 2, 3, 4)
        assert one.recovery("e", 1) is None
        assert offsets(one.recovery("e", 1, entries(2, 3, 4)).entries) == [2, 3, 4]

    def test_what_came_after_the_fetch_is_taken_from_the_ring(self):
        one = sequencer(max_ring=2)
        take(one, 1, 2, 3, 4, 5)
        assert offsets(one.recovery("e", 1, entries(2, 3)).entries) == [2, 3, 4, 5]
        assert one.recovery("e", 1, entries(2)) is None

    def test_what_was_fetched_but_not_delivered_here_comes_later_and_live(self):
        one = sequencer(offset=3)
        found = one.recovery("e", 1, entries(2, 3, 4, 5))
        assert (told(found), offsets(found.entries)) == ((True, 1, 3, "e"), [2, 3])

    def test_what_was_fetched_with_a_hole_is_no_recovery(self):
        assert sequencer(offset=4).recovery("e", 1, entries(2, 4)) is None

    @pytest.mark.parametrize(
        ("epoch", "offset"),
        [
            pytest.param("other", 3, id="another epoch"),
            pytest.param("", 0, id="no epoch"),
            pytest.param("e", 4, id="ahead of the room"),
        ],
    )
    def test_who_cannot_be_helped_is_told_so_and_gets_nothing(self, epoch, offset):
        one = sequencer()
        take(one, 1, 2, 3)
        assert one.recovery(epoch, offset, entries(1, 2, 3)) == Recovery(False, offset, 3, "e")

    @pytest.mark.parametrize(
        ("offset", "complete"),
        [pytest.param(3, True, id="at the base"), pytest.param(4, False, id="beyond it")],
    )
    def test_who_comes_from_the_epoch_before_recovers_up_to_what_both_have(self, offset, complete):
        one = sequencer("f", 3, base=Place("e", 3))
        take(one, 4, 5, epoch="f")
        found = one.recovery("e", offset)
        assert (found.complete, offsets(found.entries)) == (complete, [4, 5] if complete else [])

    def test_where_the_epoch_before_is_known_to_have_lost_something_nobody_recovers_from_it(self):
        one = sequencer("f", 3, base=Place("e", 3))
        one.hint("e", 4)
        one.checked(one.mark(), Place("f", 3), Place("e", 3))
        assert one.recovery("e", 3).complete is False

    def test_members_who_lost_something_with_the_epoch_are_believed(self):
        one = sequencer("e", 5)
        one.checked(one.mark(), Place("f", 3), Place("e", 3))
        assert one.recovery("e", 2).complete is False

    def test_what_was_fetched_for_one_is_there_for_the_next(self):
        one = sequencer(offset=5)
        one.remember(entries(3, 4, 5, 6))
        assert offsets(one.recovery("e", 2).entries) == [3, 4, 5]
        take(one, 6)
        one.remember(entries(1, 2, 3))
        assert offsets(one.recovery("e", 0).entries) == [1, 2, 3, 4, 5, 6]

    @pytest.mark.parametrize("fetched", [(), (2, 3)], ids=["nothing", "what does not reach the ring"])
    def test_what_leaves_a_hole_is_not_remembered(self, fetched):
        one = sequencer(offset=4)
        take(one, 5)
        one.remember(entries(*fetched))
        assert one.ring.first == 5


@dataclass
class Origin:
    """What a model of the state knows of a room."""

    epoch: int = 0
    log: list[str] = field(default_factory=list)
    first: int = 1
    base: Place | None = None

    def top(self) -> Place:
        return Place(f"e{self.epoch}", len(self.log))

    def since(self, offset: int, limit: int) -> list[tuple[int, str, int]] | None:
        if offset < len(self.log) and offset + 1 < self.first:
            return None
        return [(place, self.log[place - 1], 1) for place in range(offset + 1, len(self.log) + 1)][:limit]


class ARoomUnderFire(RuleBasedStateMachine):
    """
    Publishes that arrive late, twice, out of order or not at all; a history that is trimmed; a state that loses data.

    Whatever happens, a member gets each message at most once and in order, and what it did not get it was told of.

    """

    def __init__(self) -> None:
        super().__init__()
        self.origin = Origin()
        self.published = 0
        self.under_way: list[tuple[str, int, str]] = []
        self.got: list[str] = []
        """What a member got since it was last told of a loss."""
        self.told_at: int | None = None
        """The offset it was then told to go on from."""
        self.vanished: set[str] = set()
        """Messages of which nobody but the state ever heard."""
        self.ever: set[str] = set()
        self.sequencer = sequencer("e0", max_waiting=3, max_ring=4)

    def deliver(self, entries: Iterable[Entry[str]]) -> None:
        for entry in entries:
            assert entry.item not in self.ever, "delivered twice"
            self.ever.add(entry.item)
            self.got.append(entry.item)

    def tell(self, recovery: Recovery[str] | None) -> None:
        if recovery is not None and not recovery.complete:
            self.got, self.told_at = [], recovery.to

    @rule()
    def publish(self) -> None:
        self.published += 1
        self.origin.log.append(f"m{self.published}")
        epoch, offset = self.origin.top()
        self.under_way.append((epoch, offset, f"m{self.published}"))

    @precondition(lambda self: self.under_way)
    @rule(data=st.data(), fate=st.sampled_from(["arrives", "arrives", "arrives", "twice", "lost", "hint"]))
    def arrive(self, data: st.DataObject, fate: str) -> None:
        index = data.draw(st.integers(0, len(self.under_way) - 1))
        epoch, offset, item = self.under_way[index]
        if fate != "twice":
            del self.under_way[index]
        if fate == "hint":
            self.sequencer.hint(epoch, offset)
        elif fate == "lost":
            self.vanished.add(item)
        else:
            self.deliver(self.sequencer.take(epoch, offset, item, 1))

    @rule(keep=st.integers(0, 6))
    def trim(self, keep: int) -> None:
        self.origin.first = max(self.origin.first, len(self.origin.log) + 1 - keep)

    @rule(kept=st.integers(0, 100), goes_on=st.booleans())
    def restart(self, kept: int, goes_on: bool) -> None:
        """The state comes back with what it had at some time, or without anything."""
        epoch = self.origin.top().epoch
        self.origin.epoch += 1
        if goes_on:
            self.origin.log = self.origin.log[: max(kept, self.origin.first - 1)]
            self.origin.base = Place(epoch, len(self.origin.log))
        else:
            self.origin.log, self.origin.first, self.origin.base = [], 1, None

    @rule(overtaken=st.booleans())
    def check(self, overtaken: bool) -> None:
        mark, top, base = self.sequencer.mark(), self.origin.top(), self.origin.base
        if overtaken:
            self.publish()
            self.arrive_all()
        self.tell(self.sequencer.checked(mark, top, base))

    @rule(overtaken=st.booleans())
    def fill(self, overtaken: bool) -> None:
        if (wanted := self.sequencer.wanted()) is None:
            return
        top, found = self.origin.top(), self.origin.since(*wanted)
        if overtaken:
            self.arrive_all()
        filled = self.sequencer.fill(wanted[0], top, found)
        self.tell(filled.lost)
        self.deliver(filled.entries)

    def arrive_all(self) -> None:
        for epoch, offset, item in self.under_way:
            self.deliver(self.sequencer.take(epoch, offset, item, 1))
        self.under_way.clear()

    @invariant()
    def what_was_got_is_in_order(self) -> None:
        numbers = [int(item[1:]) for item in self.got]
        assert numbers == sorted(numbers)

    @invariant()
    def nothing_grows(self) -> None:
        assert len(self.sequencer.ring) <= 4
        assert len(self.sequencer._waiting) <= self.sequencer.top - self.sequencer.position

    def teardown(self) -> None:
        """After it has been quiet, a member has everything there is, or was told that it has not."""
        self.arrive_all()
        for _ in range(20):
            self.tell(self.sequencer.checked(self.sequencer.mark(), self.origin.top(), self.origin.base))
            self.fill(overtaken=False)
        assert Place(self.sequencer.epoch, self.sequencer.position) == self.origin.top()
        assert not self.sequencer.behind
        assert self.got == self.origin.log[self.told_at or 0 :]
        if self.told_at is None:
            # Nobody but the state knew of them, and it has lost them: that cannot be told.
            assert self.published - len(self.got) == len(self.vanished - set(self.got))


TestARoomUnderFire = ARoomUnderFire.TestCase


class TestStoredEvents:
    EVENT = b'{"type":"chat.line","room":"a","data":{},"ts":1.0}'

    def test_an_event_is_stored_as_it_is(self):
        assert stored(self.EVENT) == self.EVENT
        assert restored(self.EVENT) == (self.EVENT, ())

    def test_who_must_not_get_it_is_stored_with_it(self):
        assert restored(stored(self.EVENT, ["a", "b"])) == (self.EVENT, ("a", "b"))

    @pytest.mark.parametrize("payload", [b"", b"x", b"[]", b'["a"]\n', b"\n{}"])
    def test_what_nobody_stored_is_refused(self, payload):
        with pytest.raises(ValueError, match=r"not a stored event|malformed|truncated"):
            restored(payload)

    @given(st.lists(st.text(), max_size=3), st.dictionaries(st.text(), st.text(), min_size=1))
    def test_whatever_is_in_it_comes_back(self, exclude, event):
        encoded = msgspec.json.encode(event)
        assert restored(stored(encoded, exclude)) == (encoded, tuple(exclude))

    def test_an_event_is_numbered_without_being_decoded(self):
        message = msgspec.json.decode(numbered(self.EVENT, 41))
        assert message == {"offset": 41, **msgspec.json.decode(self.EVENT)}
