"""A client that comes back: it is who it was, knows what it knew, and gets each message it missed once."""

from __future__ import annotations

import asyncio
import functools
import itertools
import json
import urllib.parse
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from types import SimpleNamespace
from typing import Any

import pytest
from channels.testing import WebsocketCommunicator
from django.contrib.auth.models import User
from django.test import override_settings

from realtime import nodes, resumption
from realtime.close_codes import RESTART
from realtime.consumers import RealtimeConsumer
from realtime.errors import StateUnavailable
from realtime.handlers import on
from realtime.publish import disconnect_user, publish, revoke_session
from realtime.resumption import Sessions, revocation_key
from realtime.sessions import issue_token
from realtime.testing import until
from tests.realtime.server.engines import native

PATIENCE = 3.0
"""Seconds within which whatever a test waits for has long happened."""

pytestmark = pytest.mark.usefixtures("history")


_users = itertools.count(1000)


class Club(RealtimeConsumer):
    """Everybody is in the hall; other rooms are for those who ask, and some are closed."""

    closed_rooms: frozenset[str] = frozenset()

    async def connected(self) -> None:
        self.told = [("connected", self.client_id, self.is_resumed, self.get_session("name"))]
        await self.join("hall", recover=True)

    async def resumed(self) -> None:
        self.told.append(("resumed", self.client_id, self.is_resumed, self.get_session("name")))

    async def may_join(self, room: str) -> bool:
        return room.startswith("open")

    async def may_resume(self, room: str) -> bool:
        return room not in self.closed_rooms

    @on("say")
    async def say(self, data: dict[str, str]) -> None:
        await publish(data["room"], "said", data["text"])

    @on("name")
    async def name(self, data: dict[str, str]) -> None:
        self.set_session("name", data["name"])

    @on("enter")
    async def enter(self, data: dict[str, Any]) -> None:
        await self.join(**data)

    @on("leave")
    async def go(self, data: dict[str, str]) -> None:
        await self.leave(data["room"])

    @on("who")
    async def who(self) -> None:
        await self.send_event(
            "you",
            {"id": self.client_id, "name": self.get_session("name"), "rooms": sorted(self.connection.rooms)},
        )

    @on("told")
    async def what_was_told(self) -> None:
        await self.send_event("told", self.told)


class Other(Club):
    """Another consumer: its sessions are its own."""


class Shy(Club):
    """Somebody who is in no room."""

    async def connected(self) -> None:
        """Stay at the door."""


async def application(scope: Any, receive: Any, send: Any) -> None:
    """Serve what the path names to whom the query names."""
    user = dict(urllib.parse.parse_qsl(scope["query_string"].decode())).get("user")
    if user:
        scope["user"] = User(pk=int(user), username=f"user-{user}")
    consumer = {"/other": Other, "/shy": Shy}.get(scope["path"], Club)
    await consumer.as_asgi()(scope, receive, send)


class Client:
    """One socket, of whichever transport."""

    def __init__(
        self,
        send: Callable[[str], Awaitable[None]],
        receive: Callable[[], Awaitable[str | int]],
        drop: Callable[[], Awaitable[None]],
    ) -> None:
        self._send = send
        self._receive = receive
        self.drop = drop
        """Go without a goodbye."""
        self.seen: list[dict[str, Any]] = []
        """All that came, in order."""
        self.id = ""
        self.session = ""

    async def send(self, type: str, data: Any = None, **more: Any) -> None:
        await self._send(json.dumps({"type": type, "data": data, **more}))

    async def next(self) -> dict[str, Any] | int:
        async with asyncio.timeout(PATIENCE):
            received = await self._receive()
        if isinstance(received, int):
            return received
        message: dict[str, Any] = json.loads(received)
        self.seen.append(message)
        if message["type"] == "system.welcome":
            self.id, self.session = message["data"]["client_id"], message["data"]["session"]
        return message

    async def expect(self, type: str, **values: Any) -> Any:
        """Return the data of the next message of a type, with these values in its data."""
        while True:
            message = await self.next()
            assert not isinstance(message, int), f"closed with {message} before {type} {values}: {self.seen}"
            if message["type"] == type:
                data = message["data"]
                if not values or values.items() <= data.items():
                    return data

    async def said(self, count: int) -> list[tuple[str, str]]:
        """Return room and text of the next messages of rooms."""
        heard = []
        while len(heard) < count:
            message = await self.next()
            assert not isinstance(message, int), f"closed with {message} after {heard}"
            if message["type"] == "said":
                heard.append((message["room"], message["data"]))
        return heard

    async def code(self) -> int:
        while True:
            message = await self.next()
            if isinstance(message, int):
                return message

    async def you(self) -> dict[str, Any]:
        await self.send("who")
        you: dict[str, Any] = await self.expect("you")
        return you


Open = Callable[..., Any]


@pytest.fixture(params=["plain ASGI", "native"])
async def open_socket(request: pytest.FixtureRequest) -> AsyncIterator[Open]:
    """Return what opens a socket for ``async with``: ``open_socket(path="/", user=None, session=None)``."""
    if request.param == "native":
        async with native(application) as server:
            yield lambda **how: _native(server, _address(**how))
    else:
        yield lambda **how: _plain(_address(**how))


def _address(path: str = "/", user: int | None = None, session: str | None = None) -> str:
    query = {"user": user, "session": session}
    return f"{path}?{urllib.parse.urlencode({k: v for k, v in query.items() if v is not None})}"


@asynccontextmanager
async def _plain(address: str) -> AsyncIterator[Client]:
    communicator = WebsocketCommunicator(application, address)
    await communicator.send_input({"type": "websocket.connect"})
    assert (await communicator.receive_output(PATIENCE))["type"] == "websocket.accept"

    async def send(text: str) -> None:
        await communicator.send_input({"type": "websocket.receive", "text": text})

    async def receive() -> str | int:
        event = await communicator.receive_output(PATIENCE)
        if event["type"] == "websocket.send":
            return str(event["text"])
        # As a peer does that is well.
        await communicator.send_input({"type": "websocket.disconnect", "code": event["code"]})
        return int(event["code"])

    async def drop() -> None:
        await communicator.send_input({"type": "websocket.disconnect", "code": 1006})
        await communicator.wait(PATIENCE)

    yield Client(send, receive, drop)
    if not communicator.future.done():
        await drop()


@asynccontextmanager
async def _native(server: Any, address: str) -> AsyncIterator[Client]:
    async with server.connect(address) as connection:

        async def receive() -> str | int:
            try:
                return str(await connection.recv())
            except Exception:
                if connection.close_code is None:
                    raise
                return int(connection.close_code)

        async def drop() -> None:
            known = {one.instance for one in nodes.current().registry}
            connection.transport.abort()
            await until(lambda: {one.instance for one in nodes.current().registry} != known, PATIENCE)

        yield Client(connection.send, receive, drop)


@pytest.fixture
def history() -> Any:
    with override_settings(REALTIME_HISTORY_SIZE={"hall": 5, "open*": 5}):
        yield


def places(**rooms: tuple[str, int]) -> dict[str, Any]:
    return {name: {"epoch": epoch, "offset": offset} for name, (epoch, offset) in rooms.items()}


async def welcomed(client: Client) -> dict[str, Any]:
    told: dict[str, Any] = await client.expect("system.welcome")
    return told


async def until_kept(client: Client, condition: Callable[[bytes], bool]) -> None:
    """Return when what is kept of a client is so."""
    async with asyncio.timeout(PATIENCE):
        while True:
            found = await nodes.current().state.load_session(client.id)
            if isinstance(found, bytes) and condition(found):
                return
            # The state tells nobody that it was written to.
            await asyncio.sleep(0.01)


async def kept(client: Client, *words: bytes) -> None:
    """Return when these are in what is kept of a client."""
    await until_kept(client, lambda found: all(word in found for word in words))


async def in_hall(client: Client) -> tuple[str, int]:
    """Return where the hall is."""
    joined = await client.expect("system.joined", room="hall")
    return joined["epoch"], joined["offset"]


class TestWelcome:
    async def test_everybody_gets_a_token_of_their_own(self, open_socket: Open) -> None:
        async with open_socket() as one, open_socket() as two:
            assert [(await welcomed(client))["resumed"] for client in (one, two)] == [False, False]
            assert one.session != two.session
            assert one.id != two.id

    async def test_the_token_is_told_to_nobody_else(
        self, open_socket: Open, caplog: pytest.LogCaptureFixture
    ) -> None:
        async with open_socket() as client:
            await welcomed(client)
            await client.send("system.resume", {"session": client.session[:-1], "rooms": {}})
            problem = await client.expect("system.error")
            async with open_socket(session=client.session) as again:
                await welcomed(again)
                assert client.session not in repr(nodes.connection_infos()) + json.dumps(problem)
        assert client.session not in caplog.text


class TestResume:
    """S4"""

    async def test_by_its_address(self, open_socket: Open) -> None:
        async with open_socket() as before:
            await welcomed(before)
            await in_hall(before)
            await before.send("name", {"name": "Ann"})
            await before.send("enter", {"room": "club"})
            await before.expect("system.joined", room="club")
            await before.drop()
        async with open_socket(session=before.session) as after:
            told = await welcomed(after)
            assert (told["resumed"], told["client_id"]) == (True, before.id)
            assert told["session"]
            await after.expect("system.joined", room="club")
            assert await after.you() == {"id": before.id, "name": "Ann", "rooms": ["club", "hall"]}
            await after.send("told")
            assert await after.expect("told") == [
                ["connected", before.id, True, "Ann"],
                ["resumed", before.id, True, "Ann"],
            ]

    async def test_by_its_first_frame(self, open_socket: Open) -> None:
        async with open_socket() as before:
            await welcomed(before)
            await before.send("name", {"name": "Ann"})
            await before.send("enter", {"room": "club"})
            await before.expect("system.joined", room="club")
            await before.drop()
        async with open_socket() as after:
            assert not (await welcomed(after))["resumed"]
            afresh = after.id
            await after.send("system.resume", {"session": before.session})
            told = await welcomed(after)
            assert (told["resumed"], told["client_id"]) == (True, before.id)
            await after.expect("system.joined", room="club")
            assert await after.you() == {"id": before.id, "name": "Ann", "rooms": ["club", "hall"]}
            await after.send("told")
            assert await after.expect("told") == [
                ["connected", afresh, False, None],
                ["resumed", before.id, True, "Ann"],
            ]
            registry = nodes.current().registry
            assert registry.get(afresh) is None
            assert registry.get(before.id) is not None

    async def test_later_than_the_first_frame_is_too_late(self, open_socket: Open) -> None:
        async with open_socket() as before:
            await welcomed(before)
            await before.drop()
        async with open_socket() as after:
            await welcomed(after)
            afresh = await after.you()
            await after.send("system.resume", {"session": before.session})
            assert (await after.expect("system.error"))["code"] == "too_late"
            assert await after.you() == afresh

    async def test_again_and_again(self, open_socket: Open) -> None:
        """Each welcome has a token, and the older ones stay good."""
        tokens: list[str] = []
        for number in range(4):
            async with open_socket(session=tokens[number // 2] if tokens else None) as client:
                await welcomed(client)
                if tokens:
                    assert (await client.you())["name"] == f"{number - 1}"
                tokens.append(client.session)
                await client.send("name", {"name": f"{number}"}, id="n")
                await client.expect("system.ack")
                await client.drop()

    async def test_a_room_that_was_left_stays_left(self, open_socket: Open) -> None:
        async with open_socket() as before:
            await welcomed(before)
            await before.send("enter", {"room": "club"})
            await before.send("leave", {"room": "club"})
            await before.expect("system.left", room="club")
            await before.drop()
        async with open_socket(session=before.session) as after:
            await welcomed(after)
            assert (await after.you())["rooms"] == ["hall"]

    async def test_the_application_may_keep_a_room_from_being_entered_again(
        self, open_socket: Open, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        async with open_socket() as before:
            await welcomed(before)
            for room in ("club", "other"):
                await before.send("enter", {"room": room})
                await before.expect("system.joined", room=room)
            await before.drop()
        monkeypatch.setattr(Club, "closed_rooms", frozenset({"club"}))
        async with open_socket(session=before.session) as after:
            await after.expect("system.left", room="club")
            assert (await after.you())["rooms"] == ["hall", "other"]

    async def test_a_visitor_is_seen_once_and_by_the_old_name(self, open_socket: Open) -> None:
        async with open_socket() as watcher:
            await welcomed(watcher)
            await watcher.send("enter", {"room": "club", "presence": True})
            await watcher.expect("system.joined", room="club")
            async with open_socket() as before:
                await welcomed(before)
                await before.send("enter", {"room": "club", "presence": True})
                await before.expect("system.joined", room="club")
                await before.drop()
            async with open_socket() as after:
                await welcomed(after)
                await after.send("system.resume", {"session": before.session})
                people = (await after.expect("system.joined", room="club"))["presence"]
                assert sorted(one["user"] for one in people) == sorted(
                    f"guest-{id[:4]}" for id in (watcher.id, before.id)
                )

    async def test_a_room_it_enters_anyway_shows_it_under_its_old_name(
        self, open_socket: Open, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """It was a stranger there for a moment."""

        async def connected(self: Club) -> None:
            self.told = []
            await self.join("hall", presence=True, recover=True)

        monkeypatch.setattr(Club, "connected", connected)
        async with open_socket() as before:
            await welcomed(before)
            await before.expect("system.joined", room="hall")
            # Its old socket is still there.
            async with open_socket() as after:
                await welcomed(after)
                await after.expect("system.joined", room="hall")
                await after.send("system.resume", {"session": before.session})
                people = (await after.expect("system.joined", room="hall"))["presence"]
                assert [one["user"] for one in people] == [f"guest-{before.id[:4]}"]
                assert await before.code() == 4409
                await until(lambda: len(nodes.current().registry) == 1)
                # The end of the old socket has not taken it out.
                roster = nodes.current().hub.rooms["hall"].roster
                assert [one["user"] for one in roster.told()] == [f"guest-{before.id[:4]}"]
            async with open_socket(session=after.session) as again:
                people = (await again.expect("system.joined", room="hall"))["presence"]
                assert [one["user"] for one in people] == [f"guest-{before.id[:4]}"]


@pytest.mark.usefixtures("seldom")
class TestKeeping:
    """What another node can resume when this one dies without a word."""

    @pytest.fixture
    def seldom(self) -> Any:
        with override_settings(REALTIME_SESSION_SAVE_INTERVAL=3600):
            yield

    @pytest.fixture
    def no_rounds(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """Nothing is written but what is written at once."""
        monkeypatch.setattr(resumption, "ROUND", 3600.0)

    async def test_a_session_is_kept_from_the_welcome_on(self, no_rounds: None, open_socket: Open) -> None:
        async with open_socket(path="/shy") as client:
            await welcomed(client)
            await kept(client)

    async def test_a_room_is_kept_when_it_is_entered_and_when_it_is_left(
        self, no_rounds: None, open_socket: Open
    ) -> None:
        async with open_socket() as client:
            await welcomed(client)
            await kept(client, b"hall")
            await client.send("enter", {"room": "club"})
            await kept(client, b"club")
            await client.send("leave", {"room": "club"})
            await until_kept(client, lambda found: b"club" not in found and b"hall" in found)

    async def test_the_first_thing_that_is_set_is_kept_soon(self, open_socket: Open) -> None:
        async with open_socket() as client:
            await welcomed(client)
            await kept(client, b"hall")
            await client.send("name", {"name": "Ann"})
            await kept(client, b"Ann")

    async def test_one_who_turns_out_to_be_another_leaves_nothing_behind(self, open_socket: Open) -> None:
        async with open_socket() as before:
            await welcomed(before)
            await before.drop()
        async with open_socket() as after:
            await welcomed(after)
            stranger = after.id
            await kept(after)
            await after.send("system.resume", {"session": before.session})
            assert (await welcomed(after))["resumed"]
            state = nodes.current().state
            async with asyncio.timeout(PATIENCE):
                # The state tells nobody that it was written to.
                while await state.load_session(stranger) is not None:  # noqa: ASYNC110
                    await asyncio.sleep(0.01)

    async def test_one_who_resumes_itself_is_still_kept(
        self, open_socket: Open, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        async with open_socket() as client:
            await welcomed(client)
            await kept(client, b"hall")
            dropped: list[str] = []

            async def drop(id: str) -> None:
                dropped.append(id)

            monkeypatch.setattr(nodes.current().state, "drop_session", drop)
            own = client.id
            await client.send("system.resume", {"session": client.session})
            assert (await welcomed(client))["resumed"]
            await client.send("enter", {"room": "club"})
            await kept(client, b"hall", b"club")
            assert (client.id, dropped) == (own, [])

    async def test_one_who_goes_while_it_comes_back_is_kept_with_all_of_its_rooms(
        self, open_socket: Open, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        async with open_socket() as before:
            await welcomed(before)
            await before.send("name", {"name": "Ann"})
            for room in ("club", "open bar"):
                await before.send("enter", {"room": room, "recover": True})
                await before.expect("system.joined", room=room)
            await before.drop()
        asked, never = asyncio.Event(), asyncio.Event()

        async def may_resume(self: Club, room: str) -> bool:
            if room == "club":
                asked.set()
                await never.wait()
            return True

        monkeypatch.setattr(Club, "may_resume", may_resume)
        async with open_socket() as after:
            await welcomed(after)
            await after.send("system.resume", {"session": before.session})
            await asyncio.wait_for(asked.wait(), PATIENCE)
            await after.expect("system.joined", room="open bar")
            # It has been saved meanwhile, and is saved again as it closes.
            nodes.current().sessions.changed(nodes.current().registry.get(before.id), rooms=True)
            await until(lambda: not nodes.current().sessions._saves._urgent)
            await kept(before, b"hall", b"club", b"open bar", b"Ann")
            never.set()
            await after.drop()
        await kept(before, b"hall", b"club", b"open bar", b"Ann")
        assert not nodes.current().sessions._returning

    async def test_a_thousand_at_once_cost_a_few_round_trips(self, monkeypatch: pytest.MonkeyPatch) -> None:
        node = nodes.current()
        rounds: dict[float, int] = {}
        loop = asyncio.get_running_loop()

        async def slow(id: str, data: bytes, ttl: float, **how: Any) -> bool:
            now = loop.time()
            started = next((one for one in rounds if now - one < 0.05), now)
            rounds[started] = rounds.get(started, 0) + 1
            await asyncio.sleep(0.1)
            return True

        monkeypatch.setattr(node.state, "save_session", slow)
        crowd: list[Any] = [
            SimpleNamespace(
                id=f"{number:024x}",
                instance=f"{number}",
                user_id=None,
                consumer="c",
                data={},
                places={},
                turn=0,
            )
            for number in range(1000)
        ]
        for connection in crowd:
            node.registry._by_id[connection.id] = connection
            node.sessions.opened(connection)
            await asyncio.sleep(0)
        await until(lambda: sum(rounds.values()) == 1000, PATIENCE)
        assert len(rounds) <= 4
        for connection in crowd:
            del node.registry._by_id[connection.id]

    async def test_while_the_state_is_away_nobody_waits_and_when_it_is_back_all_are_kept(
        self, open_socket: Open, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        state, asked = nodes.current().state, []
        save = type(state).save_session

        async def away(*args: Any, **how: Any) -> bool:
            asked.append(args)
            raise StateUnavailable("The state is away.")

        monkeypatch.setattr(state, "save_session", away)
        async with open_socket() as first, open_socket() as second:
            await welcomed(first)
            await until(lambda: asked, PATIENCE)
            state._set_reason("The state is away.")
            count = len(asked)
            await welcomed(second)
            await second.send("name", {"name": "Ann"})
            await second.you()
            # A round has passed in which nothing was asked.
            await asyncio.sleep(resumption.ROUND + 0.2)
            assert len(asked) == count
            monkeypatch.setattr(state, "save_session", functools.partial(save, state))
            state._set_reason("")
            await kept(first, b"hall")
            await kept(second, b"hall", b"Ann")


REFUSED = {
    "malformed": "bad_session",
    "forged": "bad_session",
    "another user's": "bad_session",
    "another route's": "bad_session",
    "expired": "session_expired",
    "revoked": "session_revoked",
    "of a user whose sessions are revoked": "session_revoked",
}


@pytest.mark.parametrize("how", ["address", "frame"])
@pytest.mark.parametrize(("kind", "code"), REFUSED.items(), ids=REFUSED)
async def test_a_token_that_is_no_good_is_answered_and_the_socket_goes_on(
    open_socket: Open, kind: str, code: str, how: str
) -> None:
    # What is kept of a user in the memory of this process is not for the next test to find.
    owner = next(_users)
    async with open_socket(user=owner, path="/other" if kind == "another route's" else "/") as before:
        await welcomed(before)
        await before.send("name", {"name": "Ann"})
        await before.drop()
    token = before.session
    state = nodes.current().state
    if kind == "malformed":
        token = "what"
    elif kind == "forged":
        token = token[:-2] + ("aa" if token[-2:] != "aa" else "bb")
    elif kind == "expired":
        await state.drop_session(before.id)
        token = issue_token(
            before.id, user_id=str(owner), audience=f"{Club.__module__}.Club", now=await state.now() - 3601
        )
    elif kind == "revoked":
        await revoke_session(before.id)
    elif kind == "of a user whose sessions are revoked":
        await disconnect_user(owner, revoke=True)
        # Tokens have the time in milliseconds, and in doubt they are older.
        await asyncio.sleep(0.002)
    user = next(_users) if kind == "another user's" else owner
    async with open_socket(user=user, session=token if how == "address" else None) as after:
        told = await welcomed(after)
        if how == "frame":
            await after.send("system.resume", {"session": token}, id="r")
            problem = await after.expect("system.error", id="r")
            assert problem["code"] == code
        else:
            assert told["problem"] == code
        assert not told["resumed"]
        assert await after.you() == {"id": after.id, "name": None, "rooms": ["hall"]}
        assert after.id != before.id
        # The new one is a session like any other.
        await after.send("name", {"name": "Bob"})
        await after.drop()
    async with open_socket(user=user, session=after.session) as again:
        assert (await welcomed(again))["resumed"]
        assert (await again.you())["name"] == "Bob"


async def test_what_is_lost_is_not_said_to_be_there(open_socket: Open) -> None:
    """The token proves who it is; that nothing is left of the session is said."""
    async with open_socket() as before:
        await welcomed(before)
        await before.drop()
    await nodes.current().state.drop_session(before.id)
    async with open_socket(session=before.session) as after:
        told = await welcomed(after)
        assert (told["resumed"], told["client_id"]) == (False, before.id)


async def test_a_state_that_is_away_keeps_nobody_out(
    open_socket: Open, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with open_socket() as before:
        await welcomed(before)
        await before.drop()

    async def away(*args: Any, **how: Any) -> Any:
        raise StateUnavailable("The state is away.")

    monkeypatch.setattr(nodes.current().state, "resume_session", away)
    async with open_socket(session=before.session) as after:
        told = await welcomed(after)
        assert (told["resumed"], told["client_id"]) == (False, before.id)
        assert (await after.you())["id"] == before.id


class TestReplacing:
    async def test_the_older_connection_is_closed_and_the_newer_stays(self, open_socket: Open) -> None:
        async with open_socket(user=1) as older:
            await welcomed(older)
            await older.send("name", {"name": "Ann"}, id="n")
            await older.expect("system.ack")
            async with open_socket(user=1) as newer:
                await welcomed(newer)
                await newer.send("system.resume", {"session": older.session})
                assert (await welcomed(newer))["resumed"]
                assert await older.code() == 4409
                # What was set a moment ago, and written nowhere yet, is there.
                assert (await newer.you())["name"] == "Ann"
                await until(lambda: len(nodes.current().registry) == 1)
                assert nodes.current().registry.get(older.id).turn > 0
                await publish("hall", "said", "still here")
                assert await newer.said(1) == [("hall", "still here")]
                # And its session is written as before.
                await newer.send("name", {"name": "Bob"})
                await kept(newer, b"Bob")

    async def test_one_that_ends_late_overwrites_nothing(self, open_socket: Open) -> None:
        """Of two sockets of a client on two nodes the newer one's word holds."""
        async with open_socket() as older:
            await welcomed(older)
            await kept(older, b"hall")
            state = nodes.current().state
            # As another node does it.
            _, turn = await state.resume_session(older.id, 60)
            assert await state.save_session(older.id, b"newer", 60, turn=turn)
            await older.send("name", {"name": "late"}, id="n")
            await older.expect("system.ack")
            await older.drop()
            assert await state.load_session(older.id) == b"newer"

    async def test_what_another_node_says_closes_the_older_only(self, open_socket: Open) -> None:
        async with open_socket() as client:
            await welcomed(client)
            sessions = nodes.current().sessions
            connection = nodes.current().registry.get(client.id)
            sessions.replaced(client.id, 5, connection.instance)
            connection.turn = 6
            sessions.replaced(client.id, 5, "another")
            sessions.replaced("nobody", 9, "another")
            assert not connection.closed
            sessions.replaced(client.id, 7, "another")
            assert await client.code() == 4409

    async def test_one_that_was_not_told_is_closed_when_it_is_saved(
        self, open_socket: Open, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        async with open_socket() as client:
            await welcomed(client)
            await nodes.current().state.resume_session(client.id, 60)
            await client.send("name", {"name": "Ann"})
            assert await client.code() == 4409


class TestRecovery:
    async def test_by_offsets_each_missed_message_comes_once_and_in_order(self, open_socket: Open) -> None:
        async with open_socket() as before:
            await welcomed(before)
            epoch, offset = await in_hall(before)
            await publish("hall", "said", "0")
            assert await before.said(1) == [("hall", "0")]
            await before.drop()
        for number in "123":
            await publish("hall", "said", number)
        async with open_socket() as after:
            await welcomed(after)
            await after.send(
                "system.resume", {"session": before.session, "rooms": places(hall=(epoch, offset + 1))}
            )
            told = await after.expect("system.recovered", room="hall")
            assert (told["complete"], told["count"], told["from"], told["to"]) == (
                True,
                3,
                offset + 1,
                offset + 4,
            )
            await publish("hall", "said", "4")
            assert await after.said(4) == [("hall", number) for number in "1234"]

    async def test_by_address_nothing_that_was_not_confirmed_is_left_out(self, open_socket: Open) -> None:
        async with open_socket() as before:
            await welcomed(before)
            await in_hall(before)
            await before.drop()
        await publish("hall", "said", "missed")
        async with open_socket(session=before.session) as after:
            told = await after.expect("system.recovered", room="hall")
            assert (told["complete"], told["count"]) == (True, 1)
            assert await after.said(1) == [("hall", "missed")]

    @pytest.mark.parametrize("how", ["pong", "close"])
    async def test_by_address_nothing_that_was_confirmed_comes_again(
        self, open_socket: Open, how: str
    ) -> None:
        """What answers a ping, or the close of a server that restarts, has read what came before it."""
        async with open_socket() as before:
            await welcomed(before)
            await in_hall(before)
            # The first message of a client says that it is new.
            await before.you()
            await publish("hall", "said", "heard")
            await before.said(1)
            connection = nodes.current().registry.get(before.id)
            if how == "pong":
                connection.ping("message")
                ping = await before.expect("system.ping")
                await publish("hall", "said", "after the ping")
                await before.said(1)
                await before.send("system.pong", ping)
                await before.you()
                await before.drop()
            else:
                connection.close(RESTART)
                assert await before.code() == 1012
                await until(lambda: not nodes.current().registry)
        await publish("hall", "said", "missed")
        missed = [("hall", "after the ping")] if how == "pong" else []
        async with open_socket(session=before.session) as after:
            told = await after.expect("system.recovered", room="hall")
            assert told["complete"]
            assert await after.said(told["count"]) == [*missed, ("hall", "missed")]

    async def test_what_is_gone_from_the_history_is_said_to_be(self, open_socket: Open) -> None:
        async with open_socket() as before:
            await welcomed(before)
            epoch, offset = await in_hall(before)
            await before.drop()
        for number in range(6):
            await publish("hall", "said", str(number))
        async with open_socket() as after:
            await welcomed(after)
            await after.send(
                "system.resume", {"session": before.session, "rooms": places(hall=(epoch, offset))}
            )
            told = await after.expect("system.recovered", room="hall")
            assert (told["complete"], told["count"]) == (False, 0)
            await publish("hall", "said", "next")
            assert await after.said(1) == [("hall", "next")]

    async def test_offsets_open_no_door(self, open_socket: Open) -> None:
        """A room that only the client knows it was in takes may_join()."""
        async with open_socket() as before:
            await welcomed(before)
            await before.drop()
        for room in ("secret", "open"):
            await publish(room, "said", room)
        async with open_socket() as after:
            await welcomed(after)
            await after.send(
                "system.resume",
                {"session": before.session, "rooms": places(secret=("x", 0), open=("x", 0))},
            )
            await after.expect("system.left", room="secret")
            assert (await after.you())["rooms"] == ["hall", "open"]

    async def test_a_client_that_is_new_hears_the_room_after_its_first_message(
        self, open_socket: Open
    ) -> None:
        async with open_socket() as client:
            await in_hall(client)
            await client.send("say", {"room": "hall", "text": "hello"})
            assert await client.said(1) == [("hall", "hello")]


class TestOnce:
    """X16"""

    @pytest.mark.parametrize("room", ["hall", "unkept"])
    async def test_a_message_that_is_sent_again_after_a_reconnect_appears_once(
        self, open_socket: Open, room: str
    ) -> None:
        async with open_socket() as listener:
            await welcomed(listener)
            await listener.send("enter", {"room": room})
            await listener.expect("system.joined", room=room)
            async with open_socket() as before:
                await welcomed(before)
                await before.send("say", {"room": room, "text": "one"}, id="m1")
                first = await before.expect("system.ack", id="m1")
                await before.drop()
            async with open_socket() as after:
                await welcomed(after)
                await after.send("system.resume", {"session": before.session})
                await welcomed(after)
                await after.send("say", {"room": room, "text": "one"}, id="m1")
                assert await after.expect("system.ack", id="m1") == first
                await after.send("say", {"room": room, "text": "two"}, id="m2")
                second = await after.expect("system.ack", id="m2")
            assert await listener.said(2) == [(room, "one"), (room, "two")]
            if room == "hall":
                assert second["offset"] == first["offset"] + 1

    async def test_without_an_id_it_is_said_twice(self, open_socket: Open) -> None:
        async with open_socket() as client:
            await welcomed(client)
            await client.send("say", {"room": "hall", "text": "one"}, id="m1")
            for _ in range(2):
                await client.send("say", {"room": "hall", "text": "again"})
            assert await client.said(3) == [("hall", "one"), ("hall", "again"), ("hall", "again")]

    async def test_another_client_with_the_same_id_is_heard(self, open_socket: Open) -> None:
        async with open_socket() as one, open_socket() as two:
            for client in (one, two):
                await welcomed(client)
                await client.send("say", {"room": "hall", "text": client.id}, id="m1")
            assert sorted(await one.said(2)) == sorted([("hall", one.id), ("hall", two.id)])


class TestRevocation:
    async def test_a_revoked_session_is_closed(self, open_socket: Open) -> None:
        async with open_socket() as client, open_socket() as other:
            for one in (client, other):
                await welcomed(one)
            await revoke_session(client.id)
            assert await client.code() == 4410
            await other.you()

    async def test_a_user_is_disconnected_and_cannot_come_back_as_it_was(self, open_socket: Open) -> None:
        async with open_socket(user=1) as client, open_socket(user=2) as other:
            for one in (client, other):
                await welcomed(one)
            await disconnect_user(1, revoke=True)
            assert await client.code() == 4410
            await other.you()
        async with open_socket(user=1, session=client.session) as again:
            told = await welcomed(again)
            assert (told["resumed"], told["problem"]) == (False, "session_revoked")
        async with open_socket(user=2, session=other.session) as again:
            assert (await welcomed(again))["resumed"]

    async def test_without_revoke_it_can(self, open_socket: Open) -> None:
        async with open_socket(user=1) as client:
            await welcomed(client)
            await disconnect_user(1)
            assert await client.code() == 4410
            await until(lambda: len(nodes.current().registry) == 0)
        async with open_socket(user=1, session=client.session) as again:
            assert (await welcomed(again))["resumed"]

    async def test_one_that_was_not_told_is_closed_when_it_is_saved(self, open_socket: Open) -> None:
        async with open_socket() as client:
            await welcomed(client)
            await nodes.current().state.revoke_session(client.id, 60)
            await client.send("name", {"name": "Ann"})
            assert await client.code() == 4410


class TestSettings:
    @pytest.mark.setting("REALTIME_SESSION_TTL")
    @pytest.mark.parametrize(("ttl", "resumed"), [(3600, True), (1, False)])
    async def test_a_session_is_kept_for_a_time(
        self, open_socket: Open, monkeypatch: pytest.MonkeyPatch, ttl: int, resumed: bool
    ) -> None:
        with override_settings(REALTIME_SESSION_TTL=ttl):
            async with open_socket() as before:
                await welcomed(before)
                await before.drop()
            monkeypatch.setattr(nodes.current().state, "_clock", _ahead(nodes.current().state._clock, 2.0))
            monkeypatch.setattr(Sessions, "_now", _ahead(Sessions._now, 2.0))
            async with open_socket(session=before.session) as after:
                assert (await welcomed(after))["resumed"] is resumed

    @pytest.mark.setting("REALTIME_SESSION_SAVE_INTERVAL")
    @pytest.mark.parametrize(("interval", "writes"), [(0, 2), (3600, 1)])
    async def test_a_session_that_changes_often_is_written_now_and_then(
        self, open_socket: Open, monkeypatch: pytest.MonkeyPatch, interval: int, writes: int
    ) -> None:
        with override_settings(REALTIME_SESSION_SAVE_INTERVAL=interval):
            async with open_socket() as client:
                await welcomed(client)
                await kept(client, b"hall")
                state, saved = nodes.current().state, []
                save = state.save_session

                async def note(id: str, data: bytes, ttl: float, **how: Any) -> bool:
                    saved.append(data)
                    return await save(id, data, ttl, **how)

                monkeypatch.setattr(state, "save_session", note)
                await client.send("name", {"name": "Ann"})
                await until(lambda: saved, PATIENCE)
                await client.send("name", {"name": "Bob"})
                await asyncio.sleep(1.3)
                assert len(saved) == writes


def _ahead(clock: Callable[..., float], seconds: float) -> Callable[..., float]:
    return lambda *args: clock(*args) + seconds


def test_each_user_has_a_key_of_their_own() -> None:
    assert revocation_key("1") != revocation_key("11")
