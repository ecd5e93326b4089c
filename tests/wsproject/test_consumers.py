"""The demonstration's sockets: what is said reaches the room, and an echo is the very same message."""

from __future__ import annotations

import pytest
from django.contrib.auth.models import User

from realtime.testing import connect
from wsproject.consumers import MAX_LINE
from wsproject.routing import route

LOBBY = "/ws/chat/lobby/"


async def test_line_reaches_everybody_in_the_room_with_the_speaker():
    async with connect(route, LOBBY) as speaker, connect(route, LOBBY) as listener:
        await listener.expect("system.joined")
        await speaker.send("chat.send", {"text": "Anyone aboard?"}, id="c7")
        for socket in (speaker, listener):
            line = await socket.expect("chat.line")
            assert line["room"] == "chat.lobby"
            assert line["data"] == {
                "user": f"guest-{speaker.client_id[:4].lower()}",
                "text": "Anyone aboard?",
            }
            assert isinstance(line["ts"], float)
        assert (await speaker.expect("system.ack"))["data"]["id"] == "c7"


async def test_line_stays_in_its_room():
    async with connect(route, LOBBY) as speaker, connect(route, "/ws/chat/harbour/") as elsewhere:
        await elsewhere.expect("system.presence")
        await speaker.send("chat.send", {"text": "here"})
        await speaker.expect("chat.line")
        await elsewhere.expect_nothing()


async def test_visitor_is_told_what_others_call_them():
    async with connect(route, LOBBY) as socket:
        name = (await socket.expect("system.welcome"))["data"]["user"]
        present = (await socket.expect("system.joined"))["data"]["presence"]
        assert [person["user"] for person in present] == [name]


async def test_user_goes_by_their_name():
    async with connect(route, LOBBY, user=User(pk=7, username="alice")) as socket:
        assert (await socket.expect("system.welcome"))["data"]["user"] == "alice"


@pytest.mark.parametrize(
    ("data", "code"),
    [
        pytest.param({"text": ""}, "bad_payload", id="empty"),
        pytest.param({"text": "x" * (MAX_LINE + 1)}, "bad_payload", id="one character too long"),
        pytest.param({"text": 7}, "bad_payload", id="a number"),
        pytest.param({}, "bad_payload", id="nothing"),
        pytest.param({"text": " \n\t "}, "blank_line", id="only blanks"),
    ],
)
async def test_line_that_says_nothing_or_too_much_is_refused(data, code):
    async with connect(route, LOBBY) as socket:
        await socket.send("chat.send", data, id="c1")
        error = await socket.expect("system.error")
        assert (error["data"]["code"], error["data"]["id"]) == (code, "c1")
        assert "chat.line" not in [message["type"] for message in socket.skipped]


async def test_longest_line_passes_as_it_is():
    text = " " + "🌊" * (MAX_LINE - 1)
    async with connect(route, LOBBY) as socket:
        await socket.send("chat.send", {"text": text})
        assert (await socket.expect("chat.line"))["data"]["text"] == text


@pytest.mark.parametrize("message", ["hello", "", '{"type": "system.ping"}', "\x00é🌊", b"\x00\xff"])
async def test_echo_is_the_very_same_message(message):
    async with connect(route, "/ws/echo/") as socket:
        await socket.send_raw(message)
        assert await socket.receive_raw() == message
