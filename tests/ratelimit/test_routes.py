"""Limits of one route."""

from __future__ import annotations

import pytest

from ratelimit import bans, guards
from ratelimit.bans import BanTable
from ratelimit.limits import Limits
from ratelimit.middleware import RateLimit
from ratelimit.routes import limited, user_key
from tests.ratelimit.visitors import Echo, User, Visitor, gone


@pytest.fixture(autouse=True)
def bans_are_known(monkeypatch):
    """The table is what a test says; the database is another test's matter."""
    monkeypatch.setattr(bans.watch, "_read_at", float("inf"))


class Anonymous:
    is_authenticated = False
    pk = None


@pytest.mark.parametrize(
    ("limits", "sent", "code"),
    [
        pytest.param({"max_message_bytes": 5}, ["123456"], 1009, id="max_message_bytes"),
        pytest.param({"messages_per_window": 1}, ["a", "b"], 4429, id="messages_per_window"),
        pytest.param({"bytes_per_window": 5}, ["1234", "56"], 4429, id="bytes_per_window"),
        pytest.param(
            {"system_messages_per_window": 1},
            ['{"type":"system.a"}'] * 2,
            4429,
            id="system_messages_per_window",
        ),
    ],
)
async def test_a_route_alone_enforces_what_it_says(limits, sent, code):
    """B1, without any middleware around it."""
    visitor = Visitor(limited(Echo.as_asgi(), Limits(**limits, disconnect_after=1)))
    assert await visitor.is_let_in()
    for text in sent[:-1]:
        assert await visitor.echoed(text)
    await visitor.send_to(sent[-1])
    assert await visitor.close_code() == code
    await gone(visitor)


async def test_burst_window_and_violations_of_a_route():
    """B1."""
    limits = Limits(messages_per_window=2, message_window=100.0, burst_multiplier=2.0, disconnect_after=2)
    visitor = Visitor(limited(Echo.as_asgi(), limits))
    assert await visitor.is_let_in()
    assert [await visitor.echoed() for _ in range(4)] == [True] * 4
    warning = await visitor.warned()
    assert warning["violations_left"] == 1
    assert warning["window"] == 100.0
    assert 49 < warning["retry_after"] <= 50.002
    await visitor.send_to("again")
    assert await visitor.close_code() == 4429
    await gone(visitor)


async def test_a_route_replaces_only_what_it_says(settings):
    """B1."""
    settings.RATELIMIT_MAX_MESSAGE_BYTES = 5
    settings.RATELIMIT_MESSAGES_PER_WINDOW = 1
    settings.RATELIMIT_BURST_MULTIPLIER = 1
    generous = Visitor(RateLimit(limited(Echo.as_asgi(), Limits(messages_per_window=0))))
    assert await generous.is_let_in()
    assert [await generous.echoed("hi") for _ in range(10)] == [True] * 10
    await generous.send_to("123456")
    assert await generous.close_code() == 1009
    await gone(generous)


async def test_without_limits_of_its_own_a_route_has_those_around_it(settings):
    settings.RATELIMIT_MAX_MESSAGE_BYTES = 5
    visitor = Visitor(RateLimit(limited(Echo.as_asgi())))
    assert await visitor.is_let_in()
    await visitor.send_to("123456")
    assert await visitor.close_code() == 1009
    await gone(visitor)


async def test_the_cap_by_user_holds_where_the_user_is_known(settings):
    settings.RATELIMIT_MAX_CONNECTIONS_PER_USER = 1

    def knows_the_user(app):
        async def authenticated(scope, receive, send):
            await app({**scope, "user": User(7)}, receive, send)

        return authenticated

    app = RateLimit(knows_the_user(limited(Echo.as_asgi())))
    first = Visitor(app)
    assert await first.is_let_in()
    status, _, body = await Visitor(app, denial=True).denied()
    assert (status, body["error"]) == (429, "user_connections")
    assert await Visitor(app).connect() == (False, 4429)
    await gone(first)
    again = Visitor(app)
    assert await again.is_let_in()
    await gone(again)


async def test_a_banned_user_is_refused_whatever_the_address():
    bans.watch.table = BanTable([("", 7, None)])
    app = RateLimit(limited(Echo.as_asgi()))
    assert await Visitor(app, user=User(7)).connect() == (False, 1008)
    other = Visitor(app, user=User(8))
    assert await other.is_let_in()
    await gone(other)


@pytest.mark.parametrize("denial", [True, False])
async def test_the_application_of_a_refused_user_never_runs(denial):
    bans.watch.table = BanTable([("", 7, None)])
    ran = []

    async def app(scope, receive, send):
        ran.append(scope)

    visitor = Visitor(limited(app), user=User(7), denial=denial)
    await (visitor.denied() if denial else visitor.connect())
    await visitor.wait()
    assert ran == []


async def test_anonymous_visitors_are_no_user(settings):
    settings.RATELIMIT_MAX_CONNECTIONS_PER_USER = 1
    app = limited(Echo.as_asgi())
    visitors = [Visitor(app, user=Anonymous()), Visitor(app, user=Anonymous()), Visitor(app)]
    for visitor in visitors:
        assert await visitor.is_let_in()
    await gone(*visitors)


async def test_other_protocols_pass_through():
    seen = []

    async def app(*arguments):
        seen.append(arguments)

    await limited(app, Limits(max_message_bytes=1))({"type": "http"}, 1, 2)
    assert seen == [({"type": "http"}, 1, 2)]


async def test_a_route_lets_its_sockets_go():
    visitor = Visitor(limited(Echo.as_asgi()), user=User(7))
    assert await visitor.is_let_in()
    await gone(visitor)
    assert guards.door._sockets.of_user("7") == []


@pytest.mark.parametrize(
    ("scope", "key"),
    [
        pytest.param({"user": User(7)}, "7", id="logged in"),
        pytest.param({"user": Anonymous()}, None, id="anonymous"),
        pytest.param({"user": None}, None, id="unset"),
        pytest.param({}, None, id="no authentication"),
    ],
)
def test_the_key_of_a_user_is_the_primary_key_as_text(scope, key):
    assert user_key(scope) == key
