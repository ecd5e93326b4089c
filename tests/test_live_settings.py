"""Every setting that is marked live is read again: what runs already goes by an override that comes while it runs."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any

import pytest

from dashboard.conf import get_settings as get_dashboard_settings
from dashboard.moments import Moment
from docs.generate import SETTINGS
from ratelimit import bans, guards, overrides
from ratelimit.admission import Admission
from ratelimit.appsettings import is_live
from ratelimit.guards import open_guards
from ratelimit.middleware import RateLimit
from realtime import drain, news, nodes
from realtime.consumers import RealtimeConsumer
from realtime.counters import Counters
from realtime.errors import ClientError, PublishQueueFull, SessionDataError
from realtime.frames import Frame
from realtime.handlers import on
from realtime.heartbeat import patience_of
from realtime.memory import MemoryKeeper
from realtime.once import Once, handling
from realtime.publish import _promises
from realtime.registrar import Registrar
from realtime.rooms import history_of
from realtime.server.server import Server
from realtime.state import MemoryState
from realtime.supervisor import Supervisor
from realtime.testing import connect, stop_node, until
from tests.ratelimit.visitors import Echo, User, Visitor
from tests.realtime.clusternodes import ClusterNode
from tests.watches import forget

LIVE = {name for cls in SETTINGS for name, field in cls.names().items() if is_live(field)}

Change = Callable[[], Awaitable[None]]
"""Override the setting, as news from another node would."""
Probe = Callable[[Change], Awaitable[tuple[Any, Any]]]
"""Return what is seen before and after a change, of something that is made before it."""


class Chat(RealtimeConsumer):
    """A consumer with one handler for each thing to see."""

    released: asyncio.Event
    most = running = 0

    @on("slow")
    async def slow(self) -> None:
        await asyncio.sleep(60)

    @on("beside")
    async def beside(self) -> None:
        type(self).running += 1
        type(self).most = max(self.most, self.running)
        await asyncio.sleep(0.05)
        type(self).running -= 1


def let_in(**known: Any) -> Visitor:
    return Visitor(RateLimit(Echo.as_asgi()), **known)


async def settled() -> None:
    """Let what was scheduled in this loop happen."""
    for _ in range(5):
        await asyncio.sleep(0)


@asynccontextmanager
async def two_sockets() -> AsyncIterator[None]:
    """Two sockets that are open, one after the other."""
    async with AsyncExitStack() as stack:
        for _ in range(2):
            socket = await stack.enter_async_context(connect(Chat.as_asgi()))
            await socket.expect("system.welcome")
        yield


# The limits of a socket that is open.


def number(field: str) -> Probe:
    """A number that an open socket is judged by."""

    async def probe(change: Change) -> tuple[Any, Any]:
        visitor = let_in()
        assert await visitor.is_let_in()
        (guard,) = open_guards
        before = getattr(guard.limits, field)
        await change()
        after = getattr(guard.limits, field)
        await visitor.disconnect()
        return before, after

    return probe


async def passing(change: Change) -> tuple[int, int]:
    """How many messages of an open socket pass before one is refused."""
    visitor = let_in()
    assert await visitor.is_let_in()

    async def passed() -> int:
        for count in range(10):
            if not await visitor.echoed():
                return count
        return 10

    before = await passed()
    await change()
    after = await passed()
    await visitor.disconnect()
    return before, after


# The door.


def coming(*others: dict[str, Any], last: dict[str, Any] | None = None) -> Probe:
    """Whether one more socket is let in beside others that are open."""

    async def probe(change: Change) -> tuple[Any, Any]:
        app = RateLimit(Echo.as_asgi())
        here = [Visitor(app, **known) for known in others]
        for visitor in here:
            assert await visitor.is_let_in()
        seen = []
        for step in (settled, change):
            await step()
            visitor = Visitor(app, **(last or {}))
            seen.append(await visitor.is_let_in())
            if seen[-1]:
                await visitor.disconnect()
        for visitor in here:
            await visitor.disconnect()
        return seen[0], seen[1]

    return probe


async def retry_after(change: Change) -> tuple[Any, Any]:
    """When an address that comes too often may come again, in seconds."""
    app = RateLimit(Echo.as_asgi())
    seen = []
    for step in (settled, change):
        await step()
        first = Visitor(app, f"192.0.2.{len(seen)}")
        assert await first.is_let_in()
        _, _, body = await Visitor(app, f"192.0.2.{len(seen)}", denial=True).denied()
        seen.append(round(body["retry_after"]))
        await first.disconnect()
    return seen[0], seen[1]


async def second_of_address(change: Change) -> tuple[Any, Any]:
    """Whether an address that nobody has come from may come twice."""
    app = RateLimit(Echo.as_asgi())
    seen = []
    for step in (settled, change):
        await step()
        first, second = Visitor(app, f"192.0.2.{len(seen)}"), Visitor(app, f"192.0.2.{len(seen)}")
        assert await first.is_let_in()
        seen.append(await second.is_let_in())
        await first.disconnect()
        if seen[-1]:
            await second.disconnect()
    return seen[0], seen[1]


async def oldest_of_user(change: Change) -> tuple[Any, Any]:
    """Whether the newest socket of a user gets in."""
    return await coming({"user": User(1)}, last={"user": User(1)})(change)


async def network(change: Change) -> tuple[Any, Any]:
    """What a socket that comes through a proxy counts as."""
    app = RateLimit(Echo.as_asgi())
    seen = []
    for step in (settled, change):
        await step()
        visitor = Visitor(app, "2001:db8::1", forwarded_for="2001:db8:1:2::3")
        assert await visitor.is_let_in()
        seen.append(next(iter(open_guards)).network)
        await visitor.disconnect()
    return seen[0], seen[1]


async def reads_of_bans(change: Change) -> tuple[Any, Any]:
    """How often three sockets have the bans read."""
    app = RateLimit(Echo.as_asgi())
    seen, reads = [], []
    bans.watch.query = lambda: (reads.append(1), bans.BanTable())[1]  # type: ignore[method-assign]
    for step in (settled, change):
        await step()
        reads.clear()
        for _ in range(3):
            visitor = Visitor(app)
            assert await visitor.is_let_in()
            await visitor.disconnect()
        seen.append(len(reads))
    return seen[0], seen[1]


# A socket that is open, and its node.


def of_connection(see: Callable[[Any], Any]) -> Probe:
    """Something of a connection that is open."""

    async def probe(change: Change) -> tuple[Any, Any]:
        async with connect(Chat.as_asgi()) as socket:
            await socket.expect("system.welcome")
            (connection,) = nodes.current().registry
            before = see(connection)
            await change()
            return before, see(connection)

    return probe


def deadline(connection: Any) -> bool:
    """Whether an open socket is to be looked at within the minute."""
    return bool(connection.node.heartbeat._deadlines.next() < time.monotonic() + 60)


def room_policy(connection: Any) -> str:
    return str(connection.node.hub.rooms["lobby"].policy)


async def policy_of_rooms(change: Change) -> tuple[Any, Any]:
    async with connect(Chat.as_asgi()) as socket:
        await socket.expect("system.welcome")
        (connection,) = nodes.current().registry
        await connection.node.hub.join(connection, "lobby")
        before = connection.outbox.policy, room_policy(connection)
        await change()
        return before, (connection.outbox.policy, room_policy(connection))


async def errors_left(change: Change) -> tuple[Any, Any]:
    async with connect(Chat.as_asgi()) as socket:
        seen = []
        for step in (settled, change):
            await step()
            await socket.send("unheard-of")
            seen.append((await socket.expect("system.error"))["data"]["errors_left"])
        return seen[0], seen[1]


async def slow_handler(change: Change) -> tuple[Any, Any]:
    async with connect(Chat.as_asgi()) as socket:
        await socket.expect("system.welcome")
        await change()
        await socket.send("slow")
        return None, (await socket.expect("system.error"))["data"]["code"]


async def handlers_at_once(change: Change) -> tuple[Any, Any]:
    """Of a socket that comes after the change: the others keep their order."""
    seen = []
    for step in (settled, change):
        await step()
        Chat.most = 0
        async with connect(Chat.as_asgi()) as socket:
            for id in ("1", "2"):
                await socket.send("beside", id=id)
            for _ in range(2):
                await socket.expect("system.ack")
        seen.append(Chat.most)
    return seen[0], seen[1]


def refused(*errors: type[Exception]) -> Callable[[Callable[[Any], Awaitable[Any]]], Probe]:
    """Whether something is refused for an open socket."""

    def make(act: Callable[[Any], Awaitable[Any]]) -> Probe:
        async def probe(change: Change) -> tuple[Any, Any]:
            async with connect(Chat.as_asgi()) as socket:
                await socket.expect("system.welcome")
                (connection,) = nodes.current().registry
                seen = []
                for step in (settled, change):
                    await step()
                    try:
                        await act(connection)
                    except errors:
                        seen.append(True)
                    else:
                        seen.append(False)
                return seen[0], seen[1]

        return probe

    return make


@refused(ClientError)
async def second_room(connection: Any) -> None:
    await connection.node.hub.join(connection, f"room.{len(connection.rooms)}")


@refused(SessionDataError)
async def session_data(connection: Any) -> None:
    consumer = SimpleNamespace(connection=connection, node=connection.node)
    RealtimeConsumer.set_session(consumer, "key", "x" * 100)  # type: ignore[arg-type]


@refused(PublishQueueFull)
async def one_more_publish(connection: Any) -> None:
    hub = connection.node.hub
    hub._deliveries.append(None)
    try:
        hub.refuse_if_full()
    finally:
        hub._deliveries.clear()


async def evicted(change: Change) -> tuple[Any, Any]:
    """How many of two sockets are sent away for memory."""
    async with two_sockets():
        node = nodes.current()
        for connection in node.registry:
            connection.keep({}, 2000)
        before = await node.memory.check()
        await change()
        return before, await node.memory.check()


async def who_is_evicted(change: Change) -> tuple[Any, Any]:
    """Which of two sockets is sent away for memory: the oldest, or the one that holds most."""
    seen = []
    for step in (settled, change):
        await step()
        async with two_sockets():
            oldest, newest = sorted(nodes.current().registry, key=lambda one: one.opened)
            newest.keep({}, 2000)
            assert await nodes.current().memory.check() == 1
            seen.append("oldest" if oldest.closed else "newest")
    return seen[0], seen[1]


async def delivered_at_once(change: Change) -> tuple[Any, Any]:
    """Whether a publish reaches two members before anything else gets a turn."""
    async with two_sockets():
        node = nodes.current()
        for connection in node.registry:
            await node.hub.join(connection, "lobby")
        seen = []
        for step in (settled, change):
            await step()
            task = asyncio.ensure_future(node.hub.to_room("lobby", Frame("{}")))
            await asyncio.sleep(0)
            seen.append(task.done())
            await task
        return seen[0], seen[1]


# What is done every so often: quick before, and no more for an hour after.


async def goes_on(count: Callable[[], int], change: Change) -> tuple[bool, bool]:
    await until(lambda: count() >= 3)
    await change()
    await asyncio.sleep(0.05)
    seen = count()
    await asyncio.sleep(0.1)
    return True, count() > seen


async def checks_of_memory(change: Change) -> tuple[Any, Any]:
    keeper, checks = MemoryKeeper(nodes.current().registry, Counters()), []

    async def check() -> int:
        checks.append(1)
        return 0

    keeper.check = check  # type: ignore[method-assign]
    task = asyncio.create_task(keeper.run())
    seen = await goes_on(lambda: len(checks), change)
    task.cancel()
    return seen


async def restarts(change: Change) -> tuple[Any, Any]:
    supervisor = Supervisor(Counters())

    async def ends() -> None:
        """Return at once."""

    supervisor.start("ends", ends)
    seen = await goes_on(lambda: supervisor.states()[0].restarts, change)
    await supervisor.stop()
    return seen


async def writes_of_registry(change: Change) -> tuple[Any, Any]:
    node, writes = ClusterNode(MemoryState(), "blue"), []
    registrar = Registrar(nodes.current().registry, node.state, node.lease)  # type: ignore[arg-type]

    async def write() -> None:
        writes.append(1)

    node.lease.keep()
    registrar.write = write  # type: ignore[method-assign]
    task = asyncio.create_task(registrar.run())
    seen = await goes_on(lambda: len(writes), change)
    task.cancel()
    await node.stop()
    return seen


async def checks_of_history(change: Change) -> tuple[Any, Any]:
    repairs, checks = nodes.current().hub.repairs, []

    async def check(rooms: Any) -> None:
        checks.append(1)

    repairs._check = check  # type: ignore[method-assign]
    repairs.start()
    return await goes_on(lambda: len(checks), change)


async def lease(change: Change) -> tuple[Any, Any]:
    """For how long a node that goes on renewing its lease is believed in, in whole seconds."""
    node = ClusterNode(MemoryState(), "blue")
    node.lease.keep()
    await node.lease.asked()
    state = node.state.state

    def left() -> int:
        return round(state._nodes[node.lease.id].expires - state._clock())

    before = left()
    await change()
    await until(lambda: left() > before)
    after = left()
    await node.stop()
    return before, after


# The end.


async def drain_timeout(change: Change) -> tuple[Any, Any]:
    server: Any = SimpleNamespace(signal_handlers=True)
    before = Server._drain_timeout(server)
    await change()
    return before, Server._drain_timeout(server)


async def first_batch(change: Change) -> tuple[Any, Any]:
    """How many of two sockets are sent away together."""
    seen = []
    for step in (settled, change):
        await step()
        async with two_sockets():
            crowd = list(nodes.current().registry)
            going = asyncio.create_task(drain.see_off(nodes.current().registry, timeout=10.0))
            await asyncio.sleep(0)
            seen.append(sum(one.closed for one in crowd))
            going.cancel()
    return seen[0], seen[1]


async def told_to_come_back(change: Change) -> tuple[Any, Any]:
    """Whether a socket that is sent away is told to come back at once."""
    seen = []
    for step in (settled, change):
        await step()
        async with connect(Chat.as_asgi()) as socket:
            await socket.expect("system.welcome")
            going = asyncio.create_task(drain.see_off(nodes.current().registry, timeout=1.0))
            seen.append((await socket.expect("system.closing"))["data"]["retry_after"] == 0)
            await socket.disconnect()
            await going
    return seen[0], seen[1]


# Publishing.


async def kept_for(change: Change) -> tuple[Any, Any]:
    def ttl() -> float | None:
        kept = history_of("quiz.1")
        return None if kept is None else kept.ttl

    before = ttl()
    await change()
    return before, ttl()


async def happens_once(change: Change) -> tuple[Any, Any]:
    """Whether what a message of a client with an id publishes is published once."""
    token = handling.set(Once("client", "m1"))
    before = _promises("lobby")[1] is not None
    await change()
    after = _promises("lobby")[1] is not None
    handling.reset(token)
    return before, after


# The admin.


async def page_interval(change: Change) -> tuple[Any, Any]:
    before = get_dashboard_settings().refresh_interval
    await change()
    return before, get_dashboard_settings().refresh_interval


async def rows(change: Change) -> tuple[Any, Any]:
    """How many of two clients are listed."""
    async with two_sockets():
        before = len(Moment().own_connections)
        await change()
        return before, len(Moment().own_connections)


@dataclass(frozen=True)
class Case:
    """A setting, its value before and as it is overridden, and what is to be seen."""

    probe: Probe
    before: Any
    """The value that is deployed."""
    value: Any
    sees: tuple[Any, Any]
    besides: tuple[tuple[str, Any], ...] = ()
    """Other settings that are deployed."""


OTHER = {"address": "192.0.2.2"}
SAME: dict[str, Any] = {}
PROXY = "2001:db8::/64"

CASES = {
    "RATELIMIT_MESSAGES_PER_WINDOW": Case(passing, 0, 3, (10, 3), (("RATELIMIT_BURST_MULTIPLIER", 1),)),
    "RATELIMIT_MESSAGE_WINDOW": Case(number("message_window"), 60, 5, (60, 5)),
    "RATELIMIT_BYTES_PER_WINDOW": Case(
        passing,
        0,
        10,
        (10, 2),
        (
            ("RATELIMIT_MESSAGES_PER_WINDOW", 0),
            ("RATELIMIT_MAX_MESSAGE_BYTES", 10),
            ("RATELIMIT_BURST_MULTIPLIER", 1),
        ),
    ),
    "RATELIMIT_SYSTEM_MESSAGES_PER_WINDOW": Case(number("system_messages_per_window"), 600, 5, (600, 5)),
    "RATELIMIT_BURST_MULTIPLIER": Case(passing, 1, 3, (2, 6), (("RATELIMIT_MESSAGES_PER_WINDOW", 2),)),
    "RATELIMIT_DISCONNECT_AFTER": Case(number("disconnect_after"), 3, 7, (3, 7)),
    "RATELIMIT_MAX_MESSAGE_BYTES": Case(number("max_message_bytes"), 1000, 500, (1000, 500)),
    "RATELIMIT_CONNECTIONS_PER_WINDOW": Case(second_of_address, 0, 1, (True, False)),
    "RATELIMIT_CONNECTION_WINDOW": Case(
        retry_after, 10, 40, (10, 40), (("RATELIMIT_CONNECTIONS_PER_WINDOW", 1),)
    ),
    "RATELIMIT_MAX_CONNECTIONS": Case(coming(SAME, last=OTHER), 0, 1, (True, False)),
    "RATELIMIT_MAX_CONNECTIONS_PER_IP": Case(coming(SAME), 0, 1, (True, False)),
    "RATELIMIT_MAX_CONNECTIONS_PER_USER": Case(oldest_of_user, 0, 1, (True, False)),
    "RATELIMIT_USER_LIMIT_POLICY": Case(
        oldest_of_user, "refuse", "newest", (False, True), (("RATELIMIT_MAX_CONNECTIONS_PER_USER", 1),)
    ),
    "RATELIMIT_TRUSTED_PROXIES": Case(network, [], [PROXY], ("2001:db8::/64", "2001:db8:1:2::/64")),
    "RATELIMIT_IPV6_PREFIX": Case(network, 64, 32, ("2001:db8::/64", "2001:db8::/32")),
    "RATELIMIT_BAN_REFRESH": Case(reads_of_bans, 3600, 0, (1, 3)),
    "REALTIME_HEARTBEAT_INTERVAL": Case(
        of_connection(deadline),
        3600,
        5,
        (False, True),
        (("REALTIME_HEARTBEAT_TIMEOUT", 7200), ("REALTIME_HEARTBEAT_TYPE", "message")),
    ),
    "REALTIME_HEARTBEAT_TIMEOUT": Case(of_connection(lambda one: patience_of(one).timeout), 60, 90, (60, 90)),
    "REALTIME_HEARTBEAT_TYPE": Case(of_connection(deadline), "ping", "message", (False, True)),
    "REALTIME_IDLE_TIMEOUT": Case(
        of_connection(deadline), 0, 5, (False, True), (("REALTIME_HEARTBEAT_TYPE", "ping"),)
    ),
    "REALTIME_MAX_CONNECTION_AGE": Case(
        of_connection(deadline), 0, 5, (False, True), (("REALTIME_HEARTBEAT_TYPE", "ping"),)
    ),
    "REALTIME_MAX_CLIENT_ERRORS": Case(errors_left, 10, 5, (9, 3)),
    "REALTIME_HANDLER_CONCURRENCY": Case(handlers_at_once, 1, 2, (1, 2)),
    "REALTIME_HANDLER_TIMEOUT": Case(slow_handler, 30, 0.01, (None, "handler_timeout")),
    "REALTIME_MAX_OUTBOUND_BYTES": Case(
        of_connection(lambda one: one.outbox.max_bytes), 5000, 2000, (5000, 2000)
    ),
    "REALTIME_SLOW_CONSUMER": Case(
        policy_of_rooms,
        "disconnect",
        {"lobby": "coalesce", "*": "drop_oldest"},
        (("disconnect", "disconnect"), ("drop_oldest", "coalesce")),
    ),
    "REALTIME_MAX_ROOMS": Case(second_room, 100, 1, (False, True)),
    "REALTIME_MAX_SESSION_DATA_BYTES": Case(session_data, 1000, 50, (False, True)),
    "REALTIME_MAX_MEMORY_PER_CONNECTION": Case(evicted, 0, 1000, (0, 2)),
    "REALTIME_MAX_TOTAL_MEMORY": Case(evicted, 0, 20_000, (0, 1)),
    "REALTIME_MEMORY_EVICTION_POLICY": Case(
        who_is_evicted, "fifo", "largest", ("oldest", "newest"), (("REALTIME_MAX_TOTAL_MEMORY", 20_000),)
    ),
    "REALTIME_MEMORY_CHECK_INTERVAL": Case(checks_of_memory, 0.005, 3600, (True, False)),
    "REALTIME_MAX_QUEUE_SIZE": Case(one_more_publish, 2, 1, (False, True)),
    "REALTIME_MAX_CONCURRENT_BROADCAST": Case(delivered_at_once, 1000, 1, (True, False)),
    "REALTIME_TASK_RESTART_INTERVAL": Case(restarts, 0.005, 3600, (True, False)),
    "REALTIME_DRAIN_TIMEOUT": Case(drain_timeout, 30, 7, (30, 7)),
    "REALTIME_DRAIN_BATCH": Case(first_batch, 200, 1, (2, 1)),
    "REALTIME_RECONNECT_SPREAD": Case(told_to_come_back, 10, 0, (False, True)),
    "REALTIME_NODE_LEASE": Case(lease, 1, 30, (1, 30)),
    "REALTIME_REGISTRY_SYNC_INTERVAL": Case(writes_of_registry, 0.005, 60, (True, False)),
    "REALTIME_HISTORY_TTL": Case(kept_for, 300, 77, (300, 77), (("REALTIME_HISTORY_SIZE", {"quiz.*": 10}),)),
    "REALTIME_HISTORY_CHECK_INTERVAL": Case(checks_of_history, 0.005, 3600, (True, False)),
    "REALTIME_DEDUPE_WINDOW": Case(happens_once, 300, 0, (True, False)),
    "DASHBOARD_REFRESH_INTERVAL": Case(page_interval, 2, 9, (2, 9)),
    "DASHBOARD_MAX_ROWS": Case(rows, 10000, 1, (2, 1)),
}


@pytest.fixture
def fresh_process(monkeypatch, settings):
    """A process that has seen nobody yet, and lets everybody in."""
    monkeypatch.setattr(guards, "door", Admission())
    forget(bans.watch, monkeypatch)
    monkeypatch.setattr(bans.watch, "query", bans.BanTable)
    settings.RATELIMIT_CONNECTIONS_PER_WINDOW = 0


@pytest.mark.parametrize("name", sorted(CASES))
async def test_an_override_is_seen_without_a_restart(name, fresh_process, settings, monkeypatch):
    case = CASES[name]
    stored: dict[str, Any] = {}
    monkeypatch.setattr(overrides.watch, "query", lambda: json.loads(json.dumps(stored)))
    for other, value in (*case.besides, (name, case.before)):
        setattr(settings, other, value)

    async def change() -> None:
        stored[name] = case.value
        await news.OVERRIDES._read()
        await settled()

    assert await case.probe(change) == case.sees
    await stop_node()


def test_each_live_setting_has_a_case():
    assert set(CASES) == LIVE
