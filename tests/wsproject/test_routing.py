"""Addresses of sockets: what each one leads to, and that an unknown one is refused and no error."""

from __future__ import annotations

import pytest
from channels.testing import WebsocketCommunicator

from realtime.close_codes import FORBIDDEN
from realtime.testing import Refused, connect
from wsproject.consumers import MAX_ROOM_NAME
from wsproject.routing import route


@pytest.mark.parametrize(
    ("path", "room"),
    [
        pytest.param("/ws/chat/lobby/", "chat.lobby", id="plain"),
        pytest.param("/ws/chat/a/b/", "chat.a/b", id="slash"),
        pytest.param("/ws/chat/a%0Ab%20%F0%9F%8C%8A/", "chat.a\nb 🌊", id="line end, blank and emoji"),
        pytest.param(f"/ws/chat/{'x' * MAX_ROOM_NAME}/", f"chat.{'x' * MAX_ROOM_NAME}", id="longest"),
    ],
)
async def test_chat_room_may_be_called_anything(path, room):
    async with connect(route, path) as socket:
        assert (await socket.expect("system.joined"))["data"]["room"] == room


async def test_turbo_echo_puts_its_prefix_in_front():
    """B3"""
    async with connect(route, "/ws/turbo/echo/") as socket:
        await socket.send_raw("hello")
        assert await socket.receive_raw() == "Echo: hello"


async def test_turbo_broadcast_reaches_everybody():
    """B3"""
    async with connect(route, "/ws/turbo/broadcast/") as one, connect(route, "/ws/turbo/broadcast/") as other:
        await one.send_raw("hello")
        assert [await socket.receive_raw() for socket in (one, other)] == ["hello", "hello"]


@pytest.mark.parametrize(
    "path",
    [
        "/",
        "/ws/nowhere/",
        "/ws/echo",
        "/ws/chat//",
        pytest.param(f"/ws/chat/{'x' * (MAX_ROOM_NAME + 1)}/", id="name too long"),
    ],
)
async def test_unknown_address_is_refused_before_accept(path):
    with pytest.raises(Refused) as refused:
        async with connect(route, path):
            pass
    assert refused.value.code == FORBIDDEN.code


async def test_unknown_address_is_not_found_where_the_server_can_say_so():
    communicator = WebsocketCommunicator(route, "/ws/nowhere/")
    communicator.scope["extensions"] = {"websocket.http.response": {}}
    await communicator.send_input({"type": "websocket.connect"})
    assert (await communicator.receive_output())["status"] == 404
    await communicator.wait()


async def test_root_path_that_a_client_made_up_is_refused_and_no_error():
    with pytest.raises(Refused):
        async with connect(route, "/ws/echo/", scope={"root_path": "/made/up"}):
            pass
