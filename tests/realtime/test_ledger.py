"""The ledger of a cluster: what holds over all nodes, whatever becomes of one of them or of the state."""

from __future__ import annotations

import asyncio
import itertools
import time

import pytest
from django.test import override_settings

from ratelimit import bans, counters
from ratelimit import ledger as ratelimit_ledger
from ratelimit.checks import check_settings
from ratelimit.conf import get_settings
from ratelimit.guards import open_guards
from ratelimit.middleware import RateLimit
from realtime import ledger as module
from realtime import nodes
from realtime.close_codes import REPLACED
from realtime.ledger import Book, ClusterLedger
from realtime.state import MemoryState, RedisState
from realtime.testing import stop_node, until
from tests.ratelimit.visitors import Echo, User, Visitor, gone
from tests.realtime.clusternodes import ClusterNode
from tests.watches import forget

LEASE = 1
_prefixes = (f"ledger-{number}" for number in itertools.count())


@pytest.fixture(params=["memory", pytest.param("redis", marks=pytest.mark.redis)])
async def state(request):
    """Each of the two states, empty."""
    if request.param == "memory":
        yield MemoryState()
        return
    state = RedisState(request.getfixturevalue("redis_server").url, prefix=next(_prefixes))
    yield state
    await state.aclose()


@pytest.fixture(autouse=True)
def uncounted(monkeypatch, settings):
    monkeypatch.setattr(counters, "process", counters.Counters())
    forget(bans.watch, monkeypatch)
    settings.REALTIME_NODE_LEASE = LEASE
    # Never asked: the nodes of these tests bring their own.
    settings.REALTIME_STATE_URL = "redis://127.0.0.1:1"
    settings.RATELIMIT_SCOPE = "cluster"
    settings.RATELIMIT_CONNECTIONS_PER_WINDOW = 0
    yield
    open_guards.clear()


@pytest.fixture
async def two(state, monkeypatch):
    """The books of two nodes that have come in."""
    monkeypatch.setattr(module, "_BOOKS", {})
    monkeypatch.setattr(module, "RETRY", 0.05)
    # So that limits which a test sets are no reason to count everything.
    monkeypatch.setattr(module, "LOOK", 3600.0)
    books = [Book(ClusterNode(state, name)) for name in ("blue", "green")]
    for book in books:
        await until(lambda book=book: "hold" in book.node.state.calls)
        book.node.state.calls.clear()
    yield books
    for book in books:
        await book.node.stop()


@pytest.fixture
async def red_of(state):
    """Makes the book of a third node, which has not come in yet."""
    books = []

    def make():
        books.append(Book(ClusterNode(state, "red")))
        return books[-1]

    yield make
    for book in books:
        book.node.state.slow = None
        await book.node.kill()


class Guest:
    """A socket, as its guard has it."""

    def __init__(self, book, network="192.0.2.1"):
        self.book = book
        self.loop = book.node.loop
        self.network = network
        self.entered = False
        self.user = None
        self.closed = []
        open_guards.add(self)

    def close_soon(self, reason):
        self.closed.append(reason)

    async def refused(self):
        """Knock; return the name of the refusal."""
        self.entered = True
        refusal = await self.book.enter(self.network, get_settings())
        self.entered = refusal is None
        return refusal and refusal.name

    async def user_refused(self, user="7"):
        self.user = user
        refusal = await self.book.enter_user(user, self, get_settings())
        if refusal is not None:
            self.user = None
        return refusal and refusal.name

    async def leave(self):
        """Go, and return when the state has been told."""
        if self.entered:
            self.entered = False
            self.book.leave(("address", self.network))
        if self.user is not None:
            user, self.user = self.user, None
            self.book.leave_user(user, self, get_settings())
        await until(lambda: not self.book._leaving)


async def let_in(book, count=1):
    """Let so many sockets in, and return them."""
    guests = [Guest(book) for _ in range(count)]
    for guest in guests:
        assert await guest.refused() is None
    return guests


async def test_an_address_has_so_many_open_on_all_nodes_together(two, settings):
    """C2."""
    settings.RATELIMIT_MAX_CONNECTIONS_PER_IP = 3
    blue, green = two
    (first, _), _ = await let_in(blue, 2), await let_in(green)
    assert await Guest(blue).refused() == "address_connections"
    assert await Guest(green).refused() == "address_connections"
    assert await Guest(green, "192.0.2.2").refused() is None
    await first.leave()
    await asyncio.sleep(module.FULL_FOR)
    assert await Guest(green).refused() is None
    assert await Guest(blue).refused() == "address_connections"


async def test_an_address_connects_so_often_to_all_nodes_together(two, settings):
    """C2, F2."""
    settings.RATELIMIT_CONNECTIONS_PER_WINDOW = 2
    settings.RATELIMIT_CONNECTION_WINDOW = 1.0
    blue, green = two
    assert await Guest(blue).refused() is None
    assert await Guest(green).refused() is None
    refusal = await blue.enter("192.0.2.1", get_settings())
    assert refusal.name == "address_rate"
    assert 0.3 < refusal.retry_after <= 0.5
    await asyncio.sleep(refusal.retry_after)
    assert await Guest(blue).refused() is None


async def test_a_user_has_so_many_open_on_all_nodes_together(two, settings):
    settings.RATELIMIT_MAX_CONNECTIONS_PER_USER = 2
    blue, green = two
    first = Guest(blue)
    assert await first.user_refused() is None
    assert await Guest(green).user_refused() is None
    assert await Guest(green).user_refused() == "user_connections"
    assert await Guest(green).user_refused("8") is None
    await first.leave()
    await asyncio.sleep(module.FULL_FOR)
    assert await Guest(green).user_refused() is None


async def test_the_newest_socket_of_a_user_wins_wherever_the_oldest_is(two, settings):
    settings.RATELIMIT_MAX_CONNECTIONS_PER_USER = 2
    settings.RATELIMIT_USER_LIMIT_POLICY = "newest"
    blue, green = two
    oldest, older, newest = Guest(blue), Guest(green), Guest(green)
    for guest in (oldest, older, newest):
        assert await guest.user_refused() is None
    (told,) = green.node.hub.sent
    assert (told["op"], told["node"]) == ("seats_taken", blue.id)
    module._BOOKS[blue.node.loop] = blue
    await module._on_seats_taken(None, told)
    assert (oldest.closed, older.closed, newest.closed) == ([REPLACED], [], [])
    await oldest.leave()
    assert await Guest(blue).user_refused() is None
    assert green.id in {message["node"] for message in blue.node.hub.sent}


async def test_of_two_that_come_at_once_the_newer_one_wins(two, settings):
    """The other one has come in before this one, of an earlier time, is answered."""
    settings.RATELIMIT_MAX_CONNECTIONS_PER_USER = 1
    settings.RATELIMIT_USER_LIMIT_POLICY = "newest"
    blue, green = two
    state, room = green.node.state.state, module._room("7")
    newer = {"1": b"%.6f" % (green.node.lease.shared_time(time.monotonic()) + 5)}
    await state.set_presence(room, green.id, newer)
    assert await Guest(blue).user_refused() == "user_connections"
    await until(lambda: not blue._leaving)
    assert await state.presence(room) == {green.id: newer}
    assert blue.node.hub.sent == []


async def test_another_loop_of_this_process_is_told_without_a_channel_layer(two, settings):
    settings.RATELIMIT_MAX_CONNECTIONS_PER_USER = 1
    settings.RATELIMIT_USER_LIMIT_POLICY = "newest"
    blue, green = two
    module._BOOKS[blue.node.loop] = blue
    older, newer = Guest(blue), Guest(green)
    assert await older.user_refused() is None
    assert await newer.user_refused() is None
    assert (older.closed, green.node.hub.sent) == ([REPLACED], [])


async def test_a_wrong_clock_does_not_make_a_socket_newer(two, settings, monkeypatch):
    """X3: the clock of one node is ten minutes fast."""
    settings.RATELIMIT_MAX_CONNECTIONS_PER_USER = 1
    settings.RATELIMIT_USER_LIMIT_POLICY = "newest"
    blue, green = two
    right = time.time
    older, newer = Guest(blue), Guest(green)
    with monkeypatch.context() as fast:
        fast.setattr(time, "time", lambda: right() + 600)
        assert await older.user_refused() is None
    assert await newer.user_refused() is None
    assert green.node.hub.sent[0]["node"] == blue.id


async def test_a_connection_costs_one_question(two, settings):
    settings.RATELIMIT_MAX_CONNECTIONS_PER_IP = 5
    settings.RATELIMIT_CONNECTIONS_PER_WINDOW = 5
    blue, _ = two
    await let_in(blue)
    assert [call for call in blue.node.state.calls if call not in ("renew_node", "lead", "sweep")] == [
        "enter"
    ]


async def test_a_node_counts_nobody_before_it_has_come_in(two, settings, red_of):
    """What it wrote before would be lost when it does; who waits for that is not counted twice."""
    settings.RATELIMIT_MAX_CONNECTIONS_PER_IP = 3
    _, green = two
    red = red_of()
    red.node.state.slow = asyncio.Event()
    entering = asyncio.create_task(let_in(red, 2))
    await until(lambda: "renew_node" in red.node.state.calls)
    assert "enter" not in red.node.state.calls
    red.node.state.slow.set()
    await entering
    await until(lambda: "hold" in red.node.state.calls)
    await asyncio.sleep(0.05)
    assert [await Guest(green).refused() is None for _ in range(2)] == [True, False]


async def test_what_is_not_limited_costs_none(two, settings):
    blue, _ = two
    guest = Guest(blue)
    assert await guest.refused() is None
    assert await guest.user_refused() is None
    assert "enter" not in blue.node.state.calls


async def test_a_flood_that_was_refused_costs_no_more_questions(two, settings):
    settings.RATELIMIT_CONNECTIONS_PER_WINDOW = 1
    blue, green = two
    assert await Guest(green).refused() is None
    refusals = [await blue.enter("192.0.2.1", get_settings()) for _ in range(100)]
    assert {refusal.name for refusal in refusals} == {"address_rate"}
    assert 60 >= refusals[0].retry_after >= refusals[-1].retry_after > 59
    assert blue.node.state.calls.count("enter") == 1
    settings.RATELIMIT_CONNECTIONS_PER_WINDOW = 2
    await Guest(blue).refused()
    assert blue.node.state.calls.count("enter") == 2, "other limits, another judgement"


async def test_a_node_that_was_killed_no_longer_counts_after_its_lease(two, settings):
    """X3."""
    settings.RATELIMIT_MAX_CONNECTIONS_PER_IP = 2
    blue, green = two
    await let_in(blue, 2)
    await blue.node.kill()
    killed = time.monotonic()
    assert await Guest(green).refused() == "address_connections"
    while await Guest(green).refused() is not None:
        assert time.monotonic() - killed < 2 * LEASE
        await asyncio.sleep(module.FULL_FOR)
    assert time.monotonic() - killed > LEASE / 2


async def test_a_node_that_ends_gives_everything_back(two, settings):
    settings.RATELIMIT_MAX_CONNECTIONS_PER_IP = 2
    blue, green = two
    await let_in(blue, 2)
    await blue.node.stop()
    assert await Guest(green).refused() is None


async def test_a_node_that_drains_gives_all_back_with_one_word(two, settings):
    settings.RATELIMIT_MAX_CONNECTIONS_PER_IP = 3
    blue, green = two
    guests = await let_in(blue, 3)
    blue.node.draining = True
    for guest in guests:
        await guest.leave()
    assert blue.node.state.calls.count("hold") == 1
    assert "leave" not in blue.node.state.calls
    await let_in(green, 3)


class TestWithoutTheState:
    async def test_nobody_is_refused_for_it(self, two, settings, caplog):
        settings.RATELIMIT_MAX_CONNECTIONS_PER_IP = 1
        settings.RATELIMIT_MAX_CONNECTIONS_PER_USER = 1
        blue, _ = two
        blue.node.state.cut = True
        for _ in range(3):
            guest = Guest(blue)
            assert await guest.refused() is None
            assert await guest.user_refused() is None
        settings.RATELIMIT_USER_LIMIT_POLICY = "newest"
        assert await Guest(blue).user_refused() is None
        said = [record.message for record in caplog.records]
        assert said.count("limits count in this process only") == 1
        snapshot = counters.snapshot()
        assert (snapshot.alone, snapshot.judged_alone) == ("The line is cut.", 7)

    async def test_what_is_open_is_counted_once_when_it_is_back(self, two, settings, caplog):
        settings.RATELIMIT_MAX_CONNECTIONS_PER_IP = 4
        caplog.set_level("INFO")
        blue, green = two
        (counted,) = await let_in(blue)
        blue.node.state.cut = True
        gone_meanwhile, _, _ = await let_in(blue, 3)
        await gone_meanwhile.leave()
        await counted.leave()
        blue.node.state.mend()
        await until(lambda: not counters.process.alone)
        assert "limits count over all nodes again" in [record.message for record in caplog.records]
        assert [await Guest(green).refused() is None for _ in range(3)] == [True, True, False]

    async def test_it_is_told_as_soon_as_it_is_back(self, two, settings, monkeypatch):
        """Until then the other nodes know nothing of who came in meanwhile, and let in too many."""
        monkeypatch.setattr(module, "RETRY", 3600.0)
        settings.RATELIMIT_MAX_CONNECTIONS_PER_IP = 1
        blue, green = two
        blue.node.state.cut = True
        await let_in(blue)
        await until(lambda: "hold" in blue.node.state.calls)
        blue.node.state.mend()
        await until(lambda: not counters.process.alone)
        assert await Guest(green).refused() == "address_connections"

    async def test_an_answer_that_was_lost_is_made_good(self, two, settings):
        """The state has counted the socket, and the node does not know."""
        settings.RATELIMIT_MAX_CONNECTIONS_PER_IP = 2
        blue, green = two
        await blue.node.state.state.enter("address", "192.0.2.1", blue.id, max_concurrent=2)
        blue.node.state.cut = True
        (guest,) = await let_in(blue)
        blue.node.state.mend()
        await until(lambda: not counters.process.alone)
        await let_in(green)
        await guest.leave()
        await asyncio.sleep(module.FULL_FOR)
        assert await Guest(green).refused() is None

    async def test_seats_are_taken_again_when_it_is_back(self, two, settings):
        settings.RATELIMIT_MAX_CONNECTIONS_PER_USER = 1
        settings.RATELIMIT_USER_LIMIT_POLICY = "newest"
        blue, green = two
        blue.node.state.cut = True
        older = Guest(blue)
        assert await older.user_refused() is None
        blue.node.state.mend()
        await until(lambda: not counters.process.alone)
        assert await Guest(green).user_refused() is None
        assert green.node.hub.sent[0]["node"] == blue.id

    async def test_a_state_that_lost_everything_is_told_again(self, two, settings):
        settings.RATELIMIT_MAX_CONNECTIONS_PER_IP = 2
        blue, green = two
        await let_in(blue, 2)
        await blue.node.state.state.drop_node(blue.id)
        blue.node.state.calls.clear()
        await until(lambda: "hold" in blue.node.state.calls)
        await asyncio.sleep(0.05)
        assert await Guest(green).refused() == "address_connections"


async def test_a_limit_that_is_set_later_counts_who_is_in_already(two, settings, monkeypatch, red_of):
    _, green = two
    monkeypatch.setattr(module, "LOOK", 0.05)
    red = red_of()
    await let_in(red, 2)
    await until(lambda: "hold" in red.node.state.calls)
    red.node.state.calls.clear()
    settings.RATELIMIT_MAX_CONNECTIONS_PER_IP = 2
    await until(lambda: "hold" in red.node.state.calls)
    await asyncio.sleep(0.05)
    assert await Guest(green).refused() == "address_connections"


async def test_who_leaves_makes_room_at_once(two, settings):
    settings.RATELIMIT_MAX_CONNECTIONS_PER_IP = 1
    blue, _ = two
    (first,) = await let_in(blue)
    assert await Guest(blue).refused() == "address_connections"
    await first.leave()
    assert await Guest(blue).refused() is None


async def test_a_seat_is_not_taken_before_the_time_is_known(two, settings, red_of):
    settings.RATELIMIT_MAX_CONNECTIONS_PER_USER = 1
    settings.RATELIMIT_USER_LIMIT_POLICY = "newest"
    red = red_of()
    red.node.state.slow = asyncio.Event()
    entering = asyncio.create_task(Guest(red).user_refused())
    await until(lambda: "renew_node" in red.node.state.calls)
    await asyncio.sleep(0.01)
    assert "set_presence" not in red.node.state.calls
    red.node.state.slow.set()
    assert await entering is None


async def test_a_socket_that_is_refused_while_everything_is_counted_is_not_counted(two, settings):
    settings.RATELIMIT_MAX_CONNECTIONS_PER_IP = 1
    blue, green = two
    (holder,) = await let_in(green)
    blue.node.state.slow = asyncio.Event()
    knocking = asyncio.create_task(Guest(blue).refused())
    await until(lambda: "enter" in blue.node.state.calls)
    counting = asyncio.create_task(blue.reconcile(get_settings()))
    await asyncio.sleep(0.05)
    blue.node.state.calls.clear()
    blue.node.state.slow.set()
    await counting
    assert await knocking == "address_connections"
    await until(lambda: "hold" in blue.node.state.calls)
    await asyncio.sleep(0.05)
    await holder.leave()
    assert await Guest(green).refused() is None


async def test_a_socket_that_goes_while_everything_is_counted_is_given_back_once(two, settings):
    settings.RATELIMIT_MAX_CONNECTIONS_PER_IP = 2
    blue, green = two
    _, goes = await let_in(blue, 2)
    goes.entered = False
    blue.leave(("address", goes.network))
    await blue.reconcile(get_settings())
    await until(lambda: not blue._leaving)
    assert [await Guest(green).refused() is None for _ in range(2)] == [True, False]


async def test_who_gives_up_while_the_state_thinks_is_counted_right_in_the_end(two, settings):
    settings.RATELIMIT_MAX_CONNECTIONS_PER_IP = 2
    blue, green = two
    (stays,) = await let_in(blue)
    blue.node.state.slow = asyncio.Event()
    goes = Guest(blue)
    knocking = asyncio.create_task(goes.refused())
    await until(lambda: blue.node.state.calls.count("enter") == 2)
    knocking.cancel()
    await asyncio.gather(knocking, return_exceptions=True)
    blue.node.state.slow.set()
    goes.entered = True
    await goes.leave()
    await until(lambda: "hold" in blue.node.state.calls)
    await asyncio.sleep(0.05)
    assert [await Guest(green).refused() is None for _ in range(2)] == [True, False]
    assert stays.entered


async def test_more_than_can_be_told_is_counted_again_instead(two, settings, monkeypatch):
    settings.RATELIMIT_MAX_CONNECTIONS_PER_IP = 50
    monkeypatch.setattr(module, "_MOST_LEAVING", 10)
    blue, green = two
    guests = await let_in(blue, 50)
    await asyncio.gather(*(guest.leave() for guest in guests))
    assert blue.node.state.calls.count("leave") <= 10
    await until(lambda: "hold" in blue.node.state.calls)
    await asyncio.sleep(0.05)
    await let_in(green, 50)


def test_a_memory_that_nobody_shares_is_an_error():
    assert check_settings() == []
    with override_settings(REALTIME_STATE_URL="memory://"):
        (error,) = check_settings()
    assert error.id == "ratelimit.E011"
    assert "RATELIMIT_SCOPE is 'cluster', and REALTIME_STATE_URL is 'memory://'" in error.msg
    assert "Give REALTIME_STATE_URL a Redis" in error.hint


@pytest.mark.redis
@pytest.mark.setting("RATELIMIT_SCOPE")
@pytest.mark.parametrize(("scope", "let_in"), [("process", True), ("cluster", False)])
async def test_another_process_counts_where_the_scope_is_the_cluster(redis_server, settings, scope, let_in):
    settings.RATELIMIT_MAX_CONNECTIONS_PER_IP = 1
    settings.REALTIME_STATE_URL = redis_server.url
    settings.REALTIME_STATE_PREFIX = prefix = next(_prefixes)
    settings.RATELIMIT_SCOPE = scope
    other = RedisState(redis_server.url, prefix=prefix)
    await other.renew_node("other", b"", 60)
    await other.enter("address", "192.0.2.1", "other", max_concurrent=1)
    visitor = Visitor(RateLimit(Echo.as_asgi()), user=User(7))
    assert await visitor.is_let_in() == let_in
    if let_in:
        await gone(visitor)
    elsewhere = Visitor(RateLimit(Echo.as_asgi()), "192.0.2.2")
    assert await elsewhere.is_let_in()
    await gone(elsewhere)
    assert nodes.live() if scope == "cluster" else True
    await stop_node()
    await other.aclose()


async def test_the_app_is_what_counts():
    assert isinstance(ratelimit_ledger._ledger, ClusterLedger)
