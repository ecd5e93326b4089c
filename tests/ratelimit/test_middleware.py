"""The limits around a plain Channels consumer."""

from __future__ import annotations

import asyncio

import pytest

from ratelimit import bans, counters, guards, middleware
from ratelimit.bans import BanTable
from ratelimit.middleware import (
    ConnectionLimitMiddleware,
    MessageLimitMiddleware,
    RateLimit,
    SizeGuardMiddleware,
)
from tests.ratelimit.visitors import Echo, User, Visitor, gone

ALL = (ConnectionLimitMiddleware, MessageLimitMiddleware, SizeGuardMiddleware, RateLimit)


@pytest.fixture(autouse=True)
def bans_are_known(monkeypatch):
    """The table is what a test says; the database is another test's matter."""
    monkeypatch.setattr(bans.watch, "_read_at", float("inf"))


@pytest.mark.parametrize("middleware_class", ALL, ids=lambda cls: cls.__name__)
@pytest.mark.parametrize("kind", ["http", "lifespan"])
async def test_only_websockets_are_touched(middleware_class, kind):
    seen = []

    async def app(*arguments):
        seen.append(arguments)

    scope, receive, send = {"type": kind}, object(), object()
    await middleware_class(app)(scope, receive, send)
    assert seen == [(scope, receive, send)]
    assert scope == {"type": kind}


@pytest.mark.parametrize("middleware_class", ALL, ids=lambda cls: cls.__name__)
async def test_each_middleware_can_be_used_alone(middleware_class):
    visitor = Visitor(middleware_class(Echo.as_asgi()))
    assert await visitor.is_let_in()
    assert await visitor.echoed()
    await gone(visitor)


async def test_a_scope_that_says_nothing_of_the_client_is_served():
    visitor = Visitor(RateLimit(Echo.as_asgi()), address=None)
    assert await visitor.is_let_in()
    assert await visitor.echoed()
    await gone(visitor)


async def test_each_middleware_enforces_its_own_limits_only(settings):
    settings.RATELIMIT_MESSAGES_PER_WINDOW = 1
    settings.RATELIMIT_BURST_MULTIPLIER = 1
    settings.RATELIMIT_MAX_MESSAGE_BYTES = 5
    settings.RATELIMIT_MAX_CONNECTIONS = 1
    sizes = Visitor(SizeGuardMiddleware(Echo.as_asgi()))
    messages = Visitor(MessageLimitMiddleware(Echo.as_asgi()))
    connections = Visitor(ConnectionLimitMiddleware(Echo.as_asgi()))
    for visitor in (sizes, messages, connections):
        assert await visitor.is_let_in()
    assert await messages.echoed("much longer")
    assert [await connections.echoed("much longer") for _ in range(3)] == [True] * 3
    assert [await sizes.echoed("hi") for _ in range(3)] == [True] * 3
    await sizes.send_to("much longer")
    assert await sizes.close_code() == 1009
    assert (await messages.warned())["scope"] == "messages"
    assert not await Visitor(ConnectionLimitMiddleware(Echo.as_asgi())).is_let_in()
    await gone(sizes, messages, connections)


async def test_warnings_then_the_close_then_silence(settings, clock):
    """C3, F5."""
    settings.RATELIMIT_MESSAGES_PER_WINDOW = 2
    settings.RATELIMIT_MESSAGE_WINDOW = 10
    settings.RATELIMIT_BURST_MULTIPLIER = 1
    visitor = Visitor(RateLimit(Echo.as_asgi(), clock=clock))
    assert await visitor.is_let_in()
    assert [await visitor.echoed() for _ in range(2)] == [True, True]
    warnings = [await visitor.warned() for _ in range(2)]
    assert [warning["violations_left"] for warning in warnings] == [2, 1]
    assert {(warning["limit"], warning["window"], warning["scope"]) for warning in warnings} == {
        (2, 10.0, "messages")
    }
    await visitor.send_to("once more")
    assert await visitor.close_code() == 4429
    await visitor.send_to("nobody listens")
    assert await visitor.receive_nothing()
    await gone(visitor)
    assert counters.process.disconnects == 1


async def test_who_waits_as_long_as_told_is_served(settings, clock):
    """F3: again and again, and to the millisecond."""
    settings.RATELIMIT_MESSAGES_PER_WINDOW = 3
    settings.RATELIMIT_MESSAGE_WINDOW = 0.7
    settings.RATELIMIT_BURST_MULTIPLIER = 1
    visitor = Visitor(RateLimit(Echo.as_asgi(), clock=clock))
    assert await visitor.is_let_in()
    for _ in range(3):
        assert await visitor.echoed()
    for _ in range(30):
        wait = (await visitor.warned())["retry_after"]
        clock.pass_(wait - 0.002)
        assert (await visitor.warned())["retry_after"] <= 0.0041
        clock.pass_(0.002)
        assert await visitor.echoed()
    await gone(visitor)


async def test_the_application_never_sees_a_message_that_is_too_big(settings):
    """C4."""
    settings.RATELIMIT_MAX_MESSAGE_BYTES = 10
    seen = []

    class Listener(Echo):
        async def receive(self, text_data=None, bytes_data=None):
            seen.append(text_data or bytes_data)

    visitors = [Visitor(RateLimit(Listener.as_asgi())) for _ in range(2)]
    for visitor, message in zip(
        visitors, ({"text_data": "\u20ac" * 4}, {"bytes_data": b"x" * 11}), strict=True
    ):
        assert await visitor.is_let_in()
        await visitor.send_to(**message)
        assert await visitor.close_code() == 1009
    await gone(*visitors)
    assert seen == []


async def test_after_a_close_the_application_learns_of_the_disconnect(settings):
    """Its own cleanup runs."""
    settings.RATELIMIT_MAX_MESSAGE_BYTES = 1
    codes = []

    class Tidy(Echo):
        async def disconnect(self, code):
            codes.append(code)

    visitor = Visitor(RateLimit(Tidy.as_asgi()))
    assert await visitor.is_let_in()
    await visitor.send_to("too big")
    assert await visitor.close_code() == 1009
    await visitor.disconnect(code=1009)
    assert codes == [1009]


async def test_stacking_a_middleware_twice_limits_once(settings):
    settings.RATELIMIT_MESSAGES_PER_WINDOW = 4
    settings.RATELIMIT_BURST_MULTIPLIER = 1
    settings.RATELIMIT_MAX_CONNECTIONS = 1
    visitor = Visitor(RateLimit(RateLimit(MessageLimitMiddleware(Echo.as_asgi()))))
    assert await visitor.is_let_in()
    assert [await visitor.echoed() for _ in range(4)] == [True] * 4
    assert (await visitor.warned())["violations_left"] == 2
    await gone(visitor)


async def test_a_place_is_free_again_when_its_holder_leaves(settings):
    settings.RATELIMIT_MAX_CONNECTIONS_PER_IP = 1
    app = RateLimit(Echo.as_asgi())
    first, second, other = Visitor(app), Visitor(app), Visitor(app, "192.0.2.2")
    assert await first.is_let_in()
    assert await second.connect() == (False, 4429)
    assert await other.is_let_in()
    await gone(first)
    again = Visitor(app)
    assert await again.is_let_in()
    await gone(other, again)
    assert guards.door.total == 0


async def test_a_place_is_free_again_when_the_application_fails_or_is_cancelled(settings):
    settings.RATELIMIT_MAX_CONNECTIONS = 1

    async def broken(scope, receive, send):
        raise KeyError("mine")

    with pytest.raises(KeyError):
        await Visitor(RateLimit(broken)).connect()
    assert guards.door.total == 0
    visitor = Visitor(RateLimit(Echo.as_asgi()))
    assert await visitor.is_let_in()
    visitor.future.cancel()
    await asyncio.gather(visitor.future, return_exceptions=True)
    assert guards.door.total == 0


async def test_ipv6_addresses_of_one_prefix_share_a_limit(settings):
    settings.RATELIMIT_MAX_CONNECTIONS_PER_IP = 1
    app = RateLimit(Echo.as_asgi())
    first = Visitor(app, "2001:db8::1")
    assert await first.is_let_in()
    assert not await Visitor(app, "2001:db8::2:1").is_let_in()
    other = Visitor(app, "2001:db8:0:1::1")
    assert await other.is_let_in()
    await gone(first, other)


@pytest.mark.parametrize(
    ("name", "status", "close_code"),
    [
        pytest.param("RATELIMIT_MAX_CONNECTIONS", 503, 1013, id="capacity"),
        pytest.param("RATELIMIT_MAX_CONNECTIONS_PER_IP", 429, 4429, id="concurrency"),
        pytest.param("RATELIMIT_CONNECTIONS_PER_WINDOW", 429, 4429, id="rate"),
    ],
)
async def test_refusals_come_before_accept(name, status, close_code, settings):
    """C2, S7: HTTP where the server can deny, a close code where it cannot."""
    setattr(settings, name, 1)
    opened = []

    class Listening(Echo):
        async def connect(self):
            opened.append(self)
            await self.accept()

    app = RateLimit(Listening.as_asgi())
    first = Visitor(app)
    assert await first.is_let_in()
    got, headers, body = await Visitor(app, denial=True).denied()
    assert got == status
    assert int(headers[b"retry-after"]) >= body["retry_after"] > 0
    assert await Visitor(app).connect() == (False, close_code)
    await gone(first)
    assert len(opened) == 1


async def test_a_banned_address_gets_403_and_no_word_of_coming_back():
    bans.watch.table = BanTable([("192.0.2.0/24", None, None)])
    app = RateLimit(Echo.as_asgi())
    status, headers, body = await Visitor(app, denial=True).denied()
    assert (status, body["error"], body["retry_after"]) == (403, "banned", None)
    assert b"retry-after" not in headers
    assert await Visitor(app).connect() == (False, 1008)
    assert counters.process.refused == {"banned": 2}
    assert counters.process.connections == 0


async def test_a_user_who_is_known_outside_the_limits_is_capped(settings):
    """``AuthMiddlewareStack(RateLimit(...))``."""
    settings.RATELIMIT_MAX_CONNECTIONS_PER_USER = 1
    app = RateLimit(Echo.as_asgi())
    first = Visitor(app, user=User(7))
    assert await first.is_let_in()
    assert not await Visitor(app, "192.0.2.2", user=User(7)).is_let_in()
    other = Visitor(app, user=User(8))
    assert await other.is_let_in()
    await gone(first, other)


async def test_a_refused_user_gives_the_place_back(settings):
    settings.RATELIMIT_MAX_CONNECTIONS_PER_USER = 1
    app = RateLimit(Echo.as_asgi())
    first = Visitor(app, user=User(7))
    assert await first.is_let_in()
    assert not await Visitor(app, user=User(7)).is_let_in()
    assert guards.door.total == 1
    await gone(first)


async def test_a_ban_closes_open_sockets_and_swallows_what_they_still_say():
    visitor = Visitor(RateLimit(Echo.as_asgi()))
    assert await visitor.is_let_in()
    guards.close_banned(BanTable([("192.0.2.1", None, None)]))
    assert await visitor.close_code() == 1008
    await visitor.send_to("please")
    assert await visitor.receive_nothing()
    await gone(visitor)


async def test_settings_of_a_connection_are_those_at_its_beginning(settings):
    settings.RATELIMIT_MAX_MESSAGE_BYTES = 10
    app = RateLimit(Echo.as_asgi())
    before = Visitor(app)
    assert await before.is_let_in()
    settings.RATELIMIT_MAX_MESSAGE_BYTES = 3
    after = Visitor(app)
    assert await after.is_let_in()
    assert await before.echoed("four")
    await after.send_to("four")
    assert await after.close_code() == 1009
    await gone(before, after)


@pytest.mark.parametrize(
    "limiting",
    [
        RateLimit,
        middleware.ConnectionLimitMiddleware,
        middleware.SizeGuardMiddleware,
        middleware.MessageLimitMiddleware,
    ],
)
async def test_middleware_objects_keep_nothing_of_a_socket(limiting):
    """One object serves every socket."""
    app = limiting(Echo.as_asgi())
    before = dict(vars(app))
    visitor = Visitor(app)
    assert await visitor.is_let_in()
    assert await visitor.echoed()
    await gone(visitor)
    assert vars(app) == before
    assert set(before) == {"app", "clock"}
