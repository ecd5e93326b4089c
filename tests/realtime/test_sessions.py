"""Sessions: a token that only its user can use, a record that any node can read, and writes in good time."""

from __future__ import annotations

import pytest
from django.conf import settings
from django.core.signing import Signer
from django.test import override_settings
from hypothesis import example, given
from hypothesis import strategies as st

from realtime.errors import SessionDataError
from realtime.sessions import (
    MAX_TOKEN,
    RoomPlace,
    Saves,
    Session,
    Token,
    TokenFlaw,
    issue_token,
    pack,
    read_token,
    unpack,
)

CLIENT = "0123456789abcdef01234567"
ann = {"user_id": "1", "audience": "chat"}


def token(now: float = 1000.0) -> str:
    return issue_token(CLIENT, **ann, now=now)


def session(**changed: object) -> Session:
    return Session(**{"client_id": CLIENT, "user_id": "1", "audience": "chat", **changed})


class TestTokens:
    """S4"""

    def test_a_token_says_who_it_is_for_and_when_it_was_issued(self):
        assert read_token(token(1000.5), **ann) == Token(CLIENT, 1000.5)

    @pytest.mark.parametrize(
        ("user_id", "audience"),
        [
            pytest.param("2", "chat", id="another user"),
            pytest.param(None, "chat", id="a visitor"),
            pytest.param("1", "other", id="another route"),
        ],
    )
    def test_it_is_no_good_for_anybody_else(self, user_id, audience):
        assert read_token(token(), user_id=user_id, audience=audience) is TokenFlaw.FOREIGN

    def test_a_user_and_a_route_are_not_taken_for_others_that_read_the_same(self):
        good = issue_token(CLIENT, user_id="1", audience="a b", now=0)
        assert read_token(good, user_id="1 a", audience="b") is TokenFlaw.FOREIGN

    def test_a_visitor_is_not_the_user_of_that_name(self):
        visitors = issue_token(CLIENT, user_id=None, audience="chat", now=0)
        assert isinstance(read_token(visitors, user_id=None, audience="chat"), Token)
        for name in ("", "None", "visitor"):
            assert read_token(visitors, user_id=name, audience="chat") is TokenFlaw.FOREIGN

    @pytest.mark.parametrize("index", range(0, len(token()), 7))
    def test_a_token_that_was_changed_anywhere_is_forged(self, index):
        good = token()
        other = "A" if good[index] != "A" else "B"
        if good[index] != ".":
            assert read_token(good[:index] + other + good[index + 1 :], **ann) is TokenFlaw.FORGED

    @pytest.mark.parametrize(
        "text",
        [
            pytest.param("", id="empty"),
            pytest.param("x" * 80, id="without a signature"),
            pytest.param("é.é", id="beyond ASCII"),
            pytest.param(token() + "A" * MAX_TOKEN, id="too long"),
            pytest.param(Signer(sep=".", salt="realtime.session").sign("AAAA"), id="signed, but empty"),
            pytest.param(Signer(sep=".", salt="realtime.session").sign("B" * 50), id="of another version"),
        ],
    )
    def test_what_was_never_a_token_is_malformed(self, text):
        assert read_token(text, **ann) is TokenFlaw.MALFORMED

    def test_a_signature_made_for_something_else_does_not_count(self):
        encoded = token().partition(".")[0]
        assert read_token(Signer(sep=".").sign(encoded), **ann) is TokenFlaw.FORGED

    @given(st.text())
    def test_no_text_is_a_token_by_chance(self, text):
        assert isinstance(read_token(text, **ann), TokenFlaw)

    def test_a_token_of_another_project_is_forged(self):
        good = token()
        with override_settings(SECRET_KEY="another"):
            assert read_token(good, **ann) is TokenFlaw.FORGED

    def test_it_stays_good_while_the_secret_key_is_rotated(self):
        good = token()
        with override_settings(SECRET_KEY="new", SECRET_KEY_FALLBACKS=["old", settings.SECRET_KEY]):
            assert read_token(good, **ann) == Token(CLIENT, 1000.0)

    def test_a_token_tells_nothing_of_its_user(self):
        named = issue_token(CLIENT, user_id="a-user-name", audience="chat.consumers.Chat", now=0)
        assert "a-user-name" not in named
        assert len(named) < 130
        assert named.isascii()
        assert all(character.isalnum() or character in "._-" for character in named)

    @pytest.mark.parametrize("client_id", ["", "00", CLIENT + "00", "no hexadecimal letters.."])
    def test_a_token_for_no_client_is_not_issued(self, client_id):
        with pytest.raises(ValueError, match=r"client id|hexadecimal"):
            issue_token(client_id, **ann, now=0)

    @pytest.mark.parametrize(
        ("now", "fresh"),
        [
            pytest.param(1000.0, True, id="at once"),
            pytest.param(1060.0, True, id="on time"),
            pytest.param(1060.1, False, id="late"),
            pytest.param(400.0, True, id="by a clock that is behind"),
        ],
    )
    def test_it_is_fresh_for_a_time(self, now, fresh):
        assert Token(CLIENT, 1000.0).is_fresh(now, 60.0) is fresh


class TestRecords:
    FULL = session(
        data=b'{"a":1}',
        rooms={
            "lobby": RoomPlace(presence=True, recover=True, epoch="e", offset=41),
            "räume\n": RoomPlace(),
        },
    )

    def test_everything_in_it_comes_back(self):
        assert unpack(pack(self.FULL)) == self.FULL

    def test_a_record_larger_than_allowed_is_refused_with_its_size(self):
        size = len(pack(self.FULL))
        assert pack(self.FULL, max_bytes=size)
        with pytest.raises(
            SessionDataError, match=f"takes {size} bytes with its 2 rooms; at most {size - 1}"
        ):
            pack(self.FULL, max_bytes=size - 1)

    def test_a_room_that_is_no_text_is_refused(self):
        with pytest.raises(SessionDataError, match="cannot be kept"):
            pack(session(rooms={"\ud800": RoomPlace()}))

    @given(st.binary(max_size=60))
    @example(b"\x93\xa1\x80\xc0\xa0")
    @example(b"\x93\xa1")
    def test_whatever_the_state_has_there_is_read_or_is_no_session(self, packed):
        assert isinstance(unpack(packed), Session | None)

    @pytest.mark.parametrize("packed", [b"", b"\xc0", b"\x90", b"\x93\xa1\x80\xc0\xa0"])
    def test_what_is_no_record_is_no_session(self, packed):
        assert unpack(packed) is None

    def test_a_record_that_was_cut_off_is_no_session(self):
        packed = pack(self.FULL)
        assert [unpack(packed[:size]) for size in range(len(packed))] == [None] * len(packed)

    def test_a_record_of_a_newer_version_is_read(self):
        packed = pack(self.FULL)
        assert packed[0] == 0x95, "an array of five"
        assert unpack(b"\x96" + packed[1:] + b"\xc3") == self.FULL

    @pytest.mark.parametrize(
        ("user_id", "audience", "belongs"),
        [("1", "chat", True), ("2", "chat", False), (None, "chat", False), ("1", "other", False)],
    )
    def test_it_belongs_to_one_user_of_one_route(self, user_id, audience, belongs):
        assert session().belongs_to(user_id, audience) is belongs


class TestSaves:
    @pytest.fixture
    def saves(self):
        made = Saves(interval=10.0, renewal=100.0)
        for number, client_id in enumerate("abc"):
            made.opened(client_id, float(number))
        return made

    def test_a_session_in_which_nothing_changes_is_not_written_again(self, saves):
        assert saves.take_urgent(50.0, limit=10) == []
        assert saves.take_due(50.0, limit=10) == []

    def test_what_cannot_wait_is_written_at_once(self, saves):
        for client_id in "abc":
            saves.changed(client_id, at_once=True)
        assert saves.has_urgent
        assert saves.take_due(3.0, limit=10) == []
        assert [saves.take_urgent(3.0, limit=2) for _ in range(3)] == [["a", "b"], ["c"], []]
        assert not saves.has_urgent

    def test_with_what_could_have_waited(self, saves):
        saves.changed("b")
        saves.changed("c")
        saves.changed("b", at_once=True)
        assert saves.take_urgent(2.0, limit=10) == ["b"]
        assert saves.take_due(2.0, limit=10) == ["c"]

    def test_however_often_it_happens(self, saves):
        for moment in (2.0, 2.1):
            saves.changed("b", at_once=True)
            assert saves.take_urgent(moment, limit=10) == ["b"]

    def test_what_is_written_at_once_renews(self, saves):
        saves.changed("a", at_once=True)
        saves.take_urgent(60.0, limit=10)
        assert saves.take_due(110.0, limit=10) == ["b", "c"]

    def test_it_does_not_keep_the_first_change_waiting_but_the_next(self, saves):
        saves.changed("b")
        assert saves.take_due(2.0, limit=10) == ["b"]
        saves.changed("b", at_once=True)
        assert saves.take_urgent(20.0, limit=10) == ["b"]
        saves.changed("b")
        assert saves.take_due(29.9, limit=10) == []
        assert saves.take_due(30.0, limit=10) == ["b"]

    def test_one_that_could_not_be_written_is_due_again_but_not_at_once(self, saves):
        saves.changed("b")
        saves.take_due(2.0, limit=10)
        saves.failed("b")
        saves.failed("never there")
        assert saves.take_urgent(3.0, limit=10) == []
        assert saves.take_due(3.0, limit=10) == ["b"]

    def test_the_first_change_is_written_soon(self, saves):
        saves.changed("b")
        assert saves.take_due(2.0, limit=10) == ["b"]
        assert saves.take_due(2.0, limit=10) == []

    def test_further_changes_wait_for_the_interval(self, saves):
        saves.changed("b")
        saves.take_due(2.0, limit=10)
        saves.changed("b")
        assert saves.take_due(11.9, limit=10) == []
        assert saves.take_due(12.0, limit=10) == ["b"]

    def test_a_session_is_renewed_before_it_runs_out_whether_it_changes_or_not(self, saves):
        assert saves.take_due(101.5, limit=10) == ["a", "b"]
        assert saves.take_due(102.0, limit=10) == ["c"]
        assert saves.take_due(201.4, limit=10) == []
        assert saves.take_due(201.5, limit=10) == ["a", "b"]

    def test_writing_a_change_renews(self, saves):
        saves.changed("a")
        saves.take_due(60.0, limit=10)
        assert saves.take_due(110.0, limit=10) == ["b", "c"]

    def test_not_more_than_asked_for_are_due_and_no_change_is_forgotten(self, saves):
        for client_id in "abc":
            saves.changed(client_id)
        assert [saves.take_due(5.0, limit=2), saves.take_due(5.0, limit=2)] == [["a", "b"], ["c"]]

    def test_those_that_run_out_come_before_those_that_changed(self, saves):
        saves.changed("c")
        assert saves.take_due(101.0, limit=1) == ["a"]
        assert saves.take_due(101.0, limit=9) == ["b", "c"]

    def test_a_session_that_changed_and_runs_out_is_due_once(self, saves):
        saves.changed("a")
        assert saves.take_due(100.0, limit=10) == ["a"]

    def test_one_whose_socket_is_gone_is_forgotten(self, saves):
        saves.changed("a")
        saves.changed("a", at_once=True)
        saves.forget("a")
        saves.forget("never there")
        saves.changed("a")
        saves.changed("a", at_once=True)
        assert "a" not in saves
        assert saves.take_urgent(100.5, limit=10) == []
        assert saves.take_due(100.5, limit=10) == []
        assert len(saves) == 2

    def test_one_that_opens_again_begins_anew(self, saves):
        saves.changed("a")
        saves.opened("a", 50.0)
        assert saves.take_due(60.0, limit=10) == []
        assert len(saves) == 3
        assert saves.take_due(120.0, limit=10) == ["b", "c"]
