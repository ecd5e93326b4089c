"""What each setting does, seen by a visitor of a plain Channels consumer."""

from __future__ import annotations

import pytest
from channels.db import database_sync_to_async

from ratelimit import watches
from ratelimit.middleware import RateLimit
from ratelimit.models import Ban
from tests.ratelimit.visitors import Echo, User, Visitor, gone

PONG = '{"type":"system.pong"}'


@pytest.fixture
def app(settings, clock):
    """An echo with every limit off, so that a test sees the one it sets."""
    for name in (
        "MESSAGES_PER_WINDOW",
        "BYTES_PER_WINDOW",
        "SYSTEM_MESSAGES_PER_WINDOW",
        "DISCONNECT_AFTER",
        "MAX_MESSAGE_BYTES",
        "CONNECTIONS_PER_WINDOW",
    ):
        setattr(settings, f"RATELIMIT_{name}", 0)
    settings.RATELIMIT_BURST_MULTIPLIER = 1
    return RateLimit(Echo.as_asgi(), clock=clock)


async def let_in(app, *arguments, **options):
    visitor = Visitor(app, *arguments, **options)
    assert await visitor.is_let_in()
    return visitor


@pytest.mark.setting("RATELIMIT_MESSAGES_PER_WINDOW")
@pytest.mark.parametrize(("limit", "passing"), [(3, 3), (5, 5), (0, 200)])
async def test_messages_per_window(app, settings, limit, passing):
    settings.RATELIMIT_MESSAGES_PER_WINDOW = limit
    visitor = await let_in(app)
    for _ in range(passing):
        assert await visitor.echoed()
    if limit:
        warning = await visitor.warned()
        assert (warning["scope"], warning["limit"]) == ("messages", limit)
    await gone(visitor)


@pytest.mark.setting("RATELIMIT_MESSAGE_WINDOW")
@pytest.mark.parametrize("window", [10, 0.5])
async def test_message_window(app, settings, clock, window):
    settings.RATELIMIT_MESSAGES_PER_WINDOW = 1
    settings.RATELIMIT_MESSAGE_WINDOW = window
    visitor = await let_in(app)
    assert await visitor.echoed()
    warning = await visitor.warned()
    assert warning["window"] == window
    assert warning["retry_after"] == pytest.approx(window, abs=0.0011)
    clock.pass_(window)
    assert await visitor.echoed()
    await gone(visitor)


@pytest.mark.setting("RATELIMIT_BYTES_PER_WINDOW")
async def test_bytes_per_window(app, settings, clock):
    settings.RATELIMIT_MAX_MESSAGE_BYTES = 50
    settings.RATELIMIT_BYTES_PER_WINDOW = 100
    settings.RATELIMIT_MESSAGE_WINDOW = 10
    visitor = await let_in(app)
    assert [await visitor.echoed("x" * 50) for _ in range(2)] == [True, True]
    warning = await visitor.warned("x" * 10)
    assert (warning["scope"], warning["limit"]) == ("bytes", 100)
    clock.pass_(warning["retry_after"])
    assert await visitor.echoed("x" * 10)
    await gone(visitor)


@pytest.mark.setting("RATELIMIT_SYSTEM_MESSAGES_PER_WINDOW")
async def test_system_messages_per_window(app, settings):
    settings.RATELIMIT_MESSAGES_PER_WINDOW = 1
    settings.RATELIMIT_SYSTEM_MESSAGES_PER_WINDOW = 3
    visitor = await let_in(app)
    assert await visitor.echoed()
    assert [await visitor.echoed(PONG) for _ in range(3)] == [True] * 3
    assert (await visitor.warned(PONG))["scope"] == "system"
    await gone(visitor)


@pytest.mark.setting("RATELIMIT_BURST_MULTIPLIER")
@pytest.mark.parametrize(("multiplier", "passing"), [(1, 2), (2.5, 5)])
async def test_burst_multiplier(app, settings, clock, multiplier, passing):
    settings.RATELIMIT_MESSAGES_PER_WINDOW = 2
    settings.RATELIMIT_MESSAGE_WINDOW = 10
    settings.RATELIMIT_BURST_MULTIPLIER = multiplier
    visitor = await let_in(app)
    for _ in range(passing):
        assert await visitor.echoed()
    assert (await visitor.warned())["retry_after"] == pytest.approx(5, abs=0.0011), (
        "sustained, the rate is the same"
    )
    await gone(visitor)


@pytest.mark.setting("RATELIMIT_DISCONNECT_AFTER")
@pytest.mark.parametrize("violations", [1, 3])
async def test_disconnect_after(app, settings, clock, violations):
    settings.RATELIMIT_MESSAGES_PER_WINDOW = 1
    settings.RATELIMIT_MESSAGE_WINDOW = 1
    settings.RATELIMIT_DISCONNECT_AFTER = violations
    visitor = await let_in(app)
    for _ in range(2):  # a processed message starts the count again
        clock.pass_(1)
        assert await visitor.echoed()
        left = [(await visitor.warned())["violations_left"] for _ in range(violations - 1)]
        assert left == list(range(violations - 1, 0, -1))
    await visitor.send_to("once too often")
    assert await visitor.close_code() == 4429
    await gone(visitor)


@pytest.mark.setting("RATELIMIT_DISCONNECT_AFTER")
async def test_disconnect_after_0_never_closes(app, settings):
    settings.RATELIMIT_MESSAGES_PER_WINDOW = 1
    visitor = await let_in(app)
    assert await visitor.echoed()
    assert (await visitor.warned())["violations_left"] is None
    for _ in range(100):
        await visitor.send_to("again")
    assert await visitor.receive_nothing()
    await gone(visitor)


@pytest.mark.setting("RATELIMIT_MAX_MESSAGE_BYTES")
@pytest.mark.parametrize(("limit", "size", "passes"), [(10, 10, True), (10, 11, False), (0, 3_000_000, True)])
async def test_max_message_bytes(app, settings, limit, size, passes):
    settings.RATELIMIT_MAX_MESSAGE_BYTES = limit
    visitor = await let_in(app)
    await visitor.send_to("x" * size)
    if passes:
        assert len(await visitor.receive_from()) == size
    else:
        assert await visitor.close_code() == 1009
    await gone(visitor)


@pytest.mark.setting("RATELIMIT_CONNECTIONS_PER_WINDOW")
@pytest.mark.parametrize(("limit", "passing"), [(2, 2), (0, 50)])
async def test_connections_per_window(app, settings, limit, passing):
    settings.RATELIMIT_CONNECTIONS_PER_WINDOW = limit
    for _ in range(passing):
        await gone(await let_in(app))
    if limit:
        assert await Visitor(app).connect() == (False, 4429)
        await gone(await let_in(app, "192.0.2.2"))


@pytest.mark.setting("RATELIMIT_CONNECTION_WINDOW")
async def test_connection_window(app, settings, clock):
    settings.RATELIMIT_CONNECTIONS_PER_WINDOW = 2
    settings.RATELIMIT_CONNECTION_WINDOW = 8
    for _ in range(2):
        await gone(await let_in(app))
    status, headers, body = await Visitor(app, denial=True).denied()
    assert (status, headers[b"retry-after"]) == (429, b"4")
    assert body["retry_after"] == pytest.approx(4, abs=0.0011)
    clock.pass_(body["retry_after"])
    await gone(await let_in(app))


@pytest.mark.setting("RATELIMIT_MAX_CONNECTIONS")
async def test_max_connections(app, settings):
    """S7."""
    settings.RATELIMIT_MAX_CONNECTIONS = 2
    visitors = [await let_in(app, "192.0.2.1"), await let_in(app, "192.0.2.2")]
    assert (await Visitor(app, "192.0.2.3", denial=True).denied())[0] == 503
    await gone(visitors.pop())
    visitors.append(await let_in(app, "192.0.2.3"))
    await gone(*visitors)


@pytest.mark.setting("RATELIMIT_MAX_CONNECTIONS_PER_IP")
async def test_max_connections_per_ip(app, settings):
    settings.RATELIMIT_MAX_CONNECTIONS_PER_IP = 2
    visitors = [await let_in(app), await let_in(app), await let_in(app, "192.0.2.2")]
    assert (await Visitor(app, denial=True).denied())[0] == 429
    await gone(*visitors)


@pytest.mark.setting("RATELIMIT_MAX_CONNECTIONS_PER_USER")
async def test_max_connections_per_user(app, settings):
    settings.RATELIMIT_MAX_CONNECTIONS_PER_USER = 1
    visitors = [await let_in(app, user=User(1)), await let_in(app, user=User(2))]
    assert (await Visitor(app, "192.0.2.2", user=User(1), denial=True).denied())[0] == 429
    await gone(*visitors)


@pytest.mark.setting("RATELIMIT_USER_LIMIT_POLICY")
@pytest.mark.parametrize("policy", ["refuse", "newest"])
async def test_user_limit_policy(app, settings, policy):
    settings.RATELIMIT_MAX_CONNECTIONS_PER_USER = 1
    settings.RATELIMIT_USER_LIMIT_POLICY = policy
    oldest, newest = await let_in(app, user=User(1)), Visitor(app, user=User(1))
    assert await newest.is_let_in() == (policy == "newest")
    if policy == "newest":
        assert await oldest.close_code() == 4409
        assert await newest.echoed()
        await gone(newest)
    else:
        assert await oldest.echoed()
    await gone(oldest)


@pytest.mark.setting("RATELIMIT_TRUSTED_PROXIES")
async def test_trusted_proxies(app, settings):
    settings.RATELIMIT_MAX_CONNECTIONS_PER_IP = 1
    settings.RATELIMIT_TRUSTED_PROXIES = ["10.0.0.0/8"]
    visitors = [
        await let_in(app, "10.0.0.1", forwarded_for="192.0.2.1"),
        await let_in(app, "10.0.0.1", forwarded_for="192.0.2.2"),
    ]
    assert not await Visitor(app, "10.0.0.2", forwarded_for="1.1.1.1, 192.0.2.1").is_let_in()
    settings.RATELIMIT_TRUSTED_PROXIES = []
    visitors.append(await let_in(app, "10.0.0.1", forwarded_for="192.0.2.3"))
    assert not await Visitor(app, "10.0.0.1", forwarded_for="192.0.2.4").is_let_in()
    await gone(*visitors)


@pytest.mark.setting("RATELIMIT_IPV6_PREFIX")
@pytest.mark.parametrize(("prefix", "is_same"), [(64, False), (48, True)])
async def test_ipv6_prefix(app, settings, prefix, is_same):
    settings.RATELIMIT_MAX_CONNECTIONS_PER_IP = 1
    settings.RATELIMIT_IPV6_PREFIX = prefix
    first, second = await let_in(app, "2001:db8:0:1::1"), Visitor(app, "2001:db8:0:2::1")
    assert await second.is_let_in() != is_same
    await gone(first)
    if not is_same:
        await gone(second)


@pytest.mark.setting("RATELIMIT_BAN_REFRESH")
@pytest.mark.django_db(transaction=True)
async def test_ban_refresh(app, settings, monkeypatch):
    now = 1000.0
    monkeypatch.setattr(watches.time, "monotonic", lambda: now)
    settings.RATELIMIT_BAN_REFRESH = 30
    await gone(await let_in(app))
    # As another process would: nothing in this one hears of it.
    await database_sync_to_async(Ban.objects.bulk_create)([Ban(network="192.0.2.1/32")])
    now += 29
    await gone(await let_in(app))
    now += 1
    assert await Visitor(app).connect() == (False, 1008)
