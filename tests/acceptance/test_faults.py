"""Faults that a cluster survives: nodes die or restart, Redis goes away, freezes or loses its data, lines are cut."""

from __future__ import annotations

import asyncio
import itertools
import json
import os
import random
import sys
import time
import urllib.request
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Collection, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any

import pytest
from websockets.asyncio.client import ClientConnection
from websockets.asyncio.client import connect as ws_connect
from websockets.exceptions import InvalidStatus

from tests.acceptance.checker import Recovered, Welcomed, violations
from tests.acceptance.cluster import Cluster, RoomClient, all_of
from tests.acceptance.faultproxy import FaultProxy
from tests.acceptance.processes import ROOT, ServerProcess

pytestmark = pytest.mark.redis

SCALE = float(os.environ.get("SCALE", "5"))
"""
How much faster everything goes here than with the settings a node has by itself: leases, timeouts, checks and faults
alike, so that a fault lasts as long as it would beside them. 1 is as long as in life.
"""
LEASE = 15.0 / SCALE
STATE_TIMEOUT = 2.0 / SCALE
OUTAGE = 20.0 / SCALE
CUT = 30.0 / SCALE
LATENCY = 0.5
"""Seconds each way; not scaled, and neither is the timeout where it is used."""
CROWD = int(os.environ.get("CROWD", "300"))
"""Clients of the rolling restart. 2,000 take a machine that does nothing else."""
CIRCLE = 10
"""How many of them are in one room."""
DRAIN_TIMEOUT = 30.0
SPREAD = 1.0
"""Seconds over which even a few are spread; more of them come back over longer, if they may."""
UNMOVED = 0.1
"""Seconds most echoes may take while Redis does not answer: what waits for Redis takes four times as long at least."""
STALL = 1.0
"""Seconds that one may take on a busy machine: the first to wait for a Redis that does not answer takes twice as long."""

ENVIRONMENT = {
    "ASGI_APPLICATION": "tests.acceptance.apps.faults.application",
    "REALTIME_HISTORY_SIZE": json.dumps({"plain*": 0, "*": 5000}),
    "REALTIME_NODE_LEASE": str(LEASE),
    "REALTIME_STATE_TIMEOUT": str(STATE_TIMEOUT),
    "REALTIME_HISTORY_CHECK_INTERVAL": str(5.0 / SCALE),
    "REALTIME_REGISTRY_SYNC_INTERVAL": str(2.0 / SCALE),
    "REALTIME_SESSION_SAVE_INTERVAL": str(10.0 / SCALE),
    "REALTIME_DRAIN_TIMEOUT": str(DRAIN_TIMEOUT),
    "REALTIME_RECONNECT_SPREAD": str(SPREAD),
    # What channels_redis has unless it is told otherwise.
    "LAYER_CAPACITY": "100",
}


def nodes_of(*ports: int, **environment: str) -> Cluster:
    """Return a cluster with a node for each of these ways to Redis."""
    return Cluster(ports, environment={**ENVIRONMENT, **environment})


class Guest(RoomClient):
    """A client that also sees who is in its room, and how it is sent away."""

    def __init__(self, name: str, room: str, ports: Sequence[int], *, first: int = 0) -> None:
        super().__init__(name, room, ports, first=first)
        self.id = ""
        self.present: dict[str, str] = {}
        """Who is in the room, by the id that others see."""
        self.retry_afters: list[float] = []
        self.spoken: list[str] = []

    async def say(self, key: str) -> None:
        """Publish something that has not been said yet."""
        self.spoken.append(key)
        await self.publish(key)

    async def ask(self, type: str, data: Any) -> None:
        """Send a message that is not answered."""
        assert self._connection is not None
        await self._say(self._connection, type, data)

    async def insist(self, seconds: float = 30.0) -> None:
        """Send again what was refused, with the ids it had, until all that was ever said is published."""
        async with asyncio.timeout(seconds):
            await self.until_answered(seconds)
            while refused := set(self.spoken) - set(self.acked):
                for key in refused:
                    await self.publish(key)
                await self.until_answered(seconds)

    @property
    def label(self) -> str:
        """What others see of it."""
        return f"guest-{self.id[:4]}"

    async def _received(self, connection: ClientConnection, message: dict[str, Any]) -> None:
        data = message.get("data")
        match message["type"]:
            case "system.joined" if "presence" in data:
                self.present = {entry["id"]: entry["user"] for entry in data["presence"]}
            case "system.presence":
                self.present |= {entry["id"]: entry["user"] for entry in data["joins"]}
                for entry in data["leaves"]:
                    self.present.pop(entry["id"], None)
            case "system.closing":
                self.retry_afters.append(data["retry_after"])
        await super()._received(connection, message)
        if message["type"] == "system.welcome" and not self._is_resuming:
            self.id = data["client_id"]


@asynccontextmanager
async def guests_of(
    cluster: Cluster, room: str, count: int, *, ports: Sequence[int] = (), called: str = ""
) -> AsyncIterator[list[Guest]]:
    """Clients that are in the room, one after another on the nodes in turn, with only these ``ports`` if any."""
    async with AsyncExitStack() as stack:
        known = ports or cluster.ports
        guests = [Guest(f"{called or room}-{number}", room, known, first=number) for number in range(count)]
        for guest in guests:
            await stack.enter_async_context(guest)
        await all_of(guests, lambda guest: guest.is_member, 60)
        yield guests


@asynccontextmanager
async def talking(guests: Collection[Guest], pause: float) -> AsyncIterator[None]:
    """All of them publish meanwhile, each with ``pause`` seconds between two messages, more or less."""

    async def talk(guest: Guest) -> None:
        dice = random.Random(guest.name)
        await asyncio.sleep(dice.uniform(0, pause))
        for number in itertools.count(len(guest.spoken)):
            await guest.say(f"{guest.name}:{number}")
            await asyncio.sleep(dice.uniform(0.5, 1.5) * pause)

    tasks = [asyncio.create_task(talk(guest)) for guest in guests]
    try:
        yield
    finally:
        for task in tasks:
            task.cancel()
        ends = await asyncio.gather(*tasks, return_exceptions=True)
    assert all(isinstance(end, asyncio.CancelledError) for end in ends), ends


async def settle(guests: Sequence[Guest]) -> None:
    """Return when all that was said is published, and everybody has got what comes after it."""
    await asyncio.gather(*(guest.insist() for guest in guests))
    last = f"{guests[0].room}:last"
    await guests[0].say(last)
    await guests[0].insist()
    await all_of(guests, lambda guest: last in guest.heard[-1:])


async def until_all_heard(guests: Sequence[Guest]) -> None:
    """Return when everybody has heard all of it: without a history nothing says what comes before what."""
    await asyncio.gather(*(guest.insist() for guest in guests))
    keys = {key for guest in guests for key in guest.spoken}
    await all_of(guests, lambda guest: keys <= set(guest.heard))


def judge(guests: Sequence[Guest], *, strict: bool) -> list[str]:
    """Return what is wrong. ``strict``: nothing may be lost, even if clients were told so."""
    acked = [key for guest in guests for key in guest.acked]
    assert sorted(acked) == sorted(key for guest in guests for key in guest.spoken)
    return violations({guest.name: guest.log for guest in guests}, acked=acked, strict=strict)


async def echoes(connection: ClientConnection, over: asyncio.Event) -> list[float]:
    """Return how many seconds echoes took until it was over, the fastest first."""
    took = []
    while not over.is_set():
        started = time.perf_counter()
        await connection.send(json.dumps({"type": "echo", "data": started}))
        while json.loads(await connection.recv())["type"] != "echoed":
            pass
        took.append(time.perf_counter() - started)
        await asyncio.sleep(0.005)
    return sorted(took)


def p99(took: Sequence[float]) -> float:
    assert len(took) >= 100
    return took[len(took) * 99 // 100]


async def status(process: ServerProcess) -> dict[str, Any]:
    """
    Return what a node knows.

    ``reasons`` why it is not well, the names of ``nodes`` and ids of ``clients``, why its limits count it ``alone``, and how
    many sockets it ``judged_alone``.

    """

    def fetch() -> dict[str, Any]:
        with urllib.request.urlopen(f"{process.url}/", timeout=10) as answer:
            found: dict[str, Any] = json.load(answer)
        return found

    return await asyncio.to_thread(fetch)


async def until(condition: Callable[[], Awaitable[object]], seconds: float, what: str) -> None:
    """Ask until it is so."""
    try:
        async with asyncio.timeout(seconds):
            # Another process has to be asked.
            while not await condition():  # noqa: ASYNC110
                await asyncio.sleep(0.05)
    except TimeoutError:
        raise TimeoutError(f"waited {seconds:g} s in vain until {what}") from None


async def is_let_in(process: ServerProcess) -> bool:
    """Whether a node lets in one more, who goes at once."""
    try:
        # Not in the room of the others, who would see it come and go.
        connection = await ws_connect(f"{process.ws}/aside", proxy=None)
    except InvalidStatus as refused:
        if refused.response.status_code != 429:
            raise
        return False
    await connection.close()
    return True


async def assert_full(cluster: Cluster, number: int, seconds: float = 20.0) -> None:
    """
    Nobody more gets in at a node.

    On a machine that does other things Redis may be late for once. Then a node judges alone, lets in, and says so: it is
    asked again when each counts over all nodes.

    """
    process = cluster[number]

    async def all_count_over_all() -> bool:
        return not any([(await status(process))["alone"] for process in cluster])

    async with asyncio.timeout(seconds):
        while True:
            await until(all_count_over_all, seconds, "limits count over all nodes")
            before = (await status(process))["judged_alone"]
            if not await is_let_in(process):
                return
            assert (await status(process))["judged_alone"] > before, f"node-{number} lets in one too many"


async def until_known(process: ServerProcess, guests: Collection[Guest], seconds: float) -> None:
    """Return when a node knows of these clients everywhere, and of no others."""
    expected = sorted(guest.id for guest in guests)
    found: list[str] = []

    async def as_expected() -> bool:
        found[:] = (await status(process))["clients"]
        return found == expected

    try:
        await until(as_expected, seconds, "the registry is right")
    except TimeoutError as error:
        raise TimeoutError(f"{error}: {found} instead of {expected}") from None


async def until_seen(guests: Sequence[Guest], people: Collection[Guest], seconds: float) -> None:
    """Return when each of them sees these people in its room, and no others."""
    expected = sorted(guest.label for guest in people)
    try:
        await all_of(guests, lambda guest: sorted(guest.present.values()) == expected, seconds)
    except TimeoutError as error:
        seen = {guest.name: sorted(guest.present.values()) for guest in guests}
        raise TimeoutError(f"{error}: {seen} instead of {expected}") from None


def is_away(reasons: Collection[str]) -> bool:
    return any("what nodes share cannot be reached" in reason for reason in reasons)


async def until_well(process: ServerProcess, seconds: float = 10.0) -> None:
    """Return when a node can reach Redis, and no room of it waits for anything."""

    async def is_well() -> bool:
        reasons = (await status(process))["reasons"]
        return not any("what nodes share" in reason or "rooms wait" in reason for reason in reasons)

    await until(is_well, seconds, "the node is well")


def assert_calm(cluster: Cluster) -> None:
    """No node has left a traceback of ours: channels_redis has tasks that nobody awaits, whose errors asyncio reports."""
    for process in cluster:
        for package in ("ratelimit", "realtime"):
            assert f'File "{ROOT}/{package}/' not in process.stderr, process.stderr


def report(**figures: object) -> None:
    """Write down what was measured, for ``pytest -rP``."""
    words = (
        f"{name}={figure:.2f}" if isinstance(figure, float) else f"{name}={figure}"
        for name, figure in figures.items()
    )
    sys.stdout.write(f"FIGURES {' '.join(words)}\n")


async def test_a_node_that_is_killed_under_load_loses_nothing(redis):
    """C11: its clients go on at the others; who does not come back is seen nowhere within two leases."""
    async with (
        nodes_of(*[redis.port] * 3) as cluster,
        guests_of(cluster, "people", 12) as guests,
        guests_of(cluster, "people", 3, ports=cluster.ports[:1], called="lost") as lost,
    ):
        everybody = [*guests, *lost]
        await until_seen(everybody, everybody, 10)
        struck = [guest for guest in guests if guest.node == "node-0"]
        assert len(struck) == 4
        async with talking(guests, 0.05):
            await all_of(guests, lambda guest: len(guest.heard) >= 200)
            before = len(guests[-1].heard)
            died = time.monotonic()
            await cluster.kill(0)
            await all_of(struck, lambda guest: guest.node != "node-0" and guest.is_member)
            resumed = time.monotonic() - died
            await until_seen(guests, guests, died + 2 * LEASE - time.monotonic())
            presence = time.monotonic() - died
            await until_known(cluster[1], guests, died + 2 * LEASE - time.monotonic())
            await until_known(cluster[2], guests, died + 2 * LEASE - time.monotonic())
            healed = time.monotonic() - died
            await all_of(guests, lambda guest: len(guest.heard) >= before + 200)
        await settle(guests)
        assert {code for guest in struck for code in guest.codes} == {1006}
        assert all(guest.log.count(Welcomed(True)) == 1 for guest in struck)
        assert [guest.codes for guest in guests if guest not in struck] == [[]] * 8
        # Those who are gone saw some of it, in order.
        assert judge(guests, strict=True) == []
        assert violations({guest.name: guest.log for guest in everybody}, settled=False, strict=True) == []
        assert_calm(cluster)
        said = sum(len(guest.spoken) for guest in guests)
    report(said=said, resumed=resumed, presence=presence, registry=healed, lease=LEASE)


@pytest.mark.parametrize("keep", [True, False], ids=["with its data", "without its data"])
async def test_redis_is_stopped_and_started_again(redis, keep):
    """C11: nobody is sent away, publishes fail with a word, and no room is short of anything without saying so."""
    async with (
        nodes_of(*[redis.port] * 3) as cluster,
        guests_of(cluster, "people", 9) as guests,
        guests_of(cluster, "plain", 3) as others,
    ):
        everybody = [*guests, *others]
        await until_seen(guests, guests, 10)
        async with talking(guests, 0.05):
            await all_of(guests, lambda guest: len(guest.heard) >= 100)
            await asyncio.to_thread(redis.stop)
            stopped = time.monotonic()
            await all_of(guests, lambda guest: "unavailable" in guest.refused.values(), 5)
            for guest in others:
                await guest.say(f"{guest.name}:alone")
            await all_of(others, lambda guest: f"{guest.name}:alone" in guest.heard, 2)
            await asyncio.sleep(stopped + OUTAGE - time.monotonic())
            for process in (cluster[0], cluster[1], cluster[2]):
                assert is_away((await status(process))["reasons"])
            if not keep:
                redis.forget()
            await asyncio.to_thread(redis.start)
            back = time.monotonic()
            marks = {guest.name: len(guest.acked) for guest in guests}
            await all_of(guests, lambda guest: len(guest.acked) > marks[guest.name] + 10)
            served = time.monotonic() - back
        await settle(guests)
        await settle(others)
        if keep:
            await until_all_heard(others)
        assert [guest.codes for guest in everybody] == [[]] * 12
        assert {code for guest in guests for code in guest.refused.values()} == {"unavailable"}
        assert judge(guests, strict=keep) == []
        # Of what waited for a layer that forgot who listens, a room without a history has no trace.
        said = [key for guest in others for key in guest.spoken if keep or not key.endswith(":alone")]
        assert violations({guest.name: guest.log for guest in others}, acked=said, strict=True) == []
        told = [entry.complete for guest in guests for entry in guest.log if isinstance(entry, Recovered)]
        # A room of which nothing is left is told to everybody.
        assert told.count(False) == (0 if keep else 9)
        for number in range(3):
            await until_known(cluster[number], everybody, 2 * LEASE)
            await until_well(cluster[number])
        await until_seen(guests, guests, 2 * LEASE)
        assert_calm(cluster)
        refused, said = (
            sum(len(guest.refused) for guest in guests),
            sum(len(guest.spoken) for guest in guests),
        )
    report(said=said, refused=refused, served_again_after=served, told=dict(Counter(told)))


@pytest.mark.parametrize("fault", ["frozen", "late", "reset"])
async def test_event_loops_do_not_wait_for_a_bad_redis(redis, fault):
    """R11: an echo takes as long as ever, a room without a history goes on, and afterwards nothing is missing."""
    timeout = str(STATE_TIMEOUT) if fault == "reset" else "2"
    async with (
        FaultProxy(redis.port) as proxy,
        nodes_of(*[proxy.port] * 2, REALTIME_STATE_TIMEOUT=timeout) as cluster,
        guests_of(cluster, "room", 6) as guests,
        guests_of(cluster, "plain", 2) as others,
        ws_connect(f"{cluster[0].ws}/aside", ping_interval=None) as one,
        ws_connect(f"{cluster[1].ws}/aside", ping_interval=None) as other,
    ):

        async def measure(during: Callable[[], Awaitable[None]]) -> list[list[float]]:
            over = asyncio.Event()
            measuring = [asyncio.create_task(echoes(connection, over)) for connection in (one, other)]
            async with talking(guests, 0.1):
                await during()
                over.set()
                return list(await asyncio.gather(*measuring))

        async def fail() -> None:
            """Be bad for three seconds."""
            until = time.monotonic() + 3
            for guest in others:
                await guest.ask("say", f"{guest.name}:meanwhile")
            await all_of(others, lambda guest: f"{guest.name}:meanwhile" in guest.heard, 0.5)
            while fault == "reset" and time.monotonic() < until:
                proxy.reset()
                await asyncio.sleep(0.1)
            await asyncio.sleep(until - time.monotonic())

        calm = await measure(lambda: asyncio.sleep(2))
        if fault == "frozen":
            redis.freeze()
        elif fault == "late":
            proxy.latency = LATENCY
        try:
            bad = await measure(fail)
        finally:
            redis.thaw()
            proxy.latency = 0.0
        for before, during in zip(calm, bad, strict=True):
            assert p99(during) < max(UNMOVED, 2 * p99(before))
            assert during[-1] < STALL
        await settle(guests)
        assert [guest.codes for guest in (*guests, *others)] == [[]] * 8
        assert judge(guests, strict=True) == []
        for number in (0, 1):
            await until_well(cluster[number])
        assert_calm(cluster)
    report(
        p99_before_ms=[round(1000 * p99(took), 1) for took in calm],
        p99_during_ms=[round(1000 * p99(took), 1) for took in bad],
        slowest_ms=[round(1000 * took[-1], 1) for took in bad],
        echoes=[len(took) for took in bad],
    )


@pytest.mark.parametrize("how", ["held up", "thrown away"])
async def test_one_node_is_cut_off_from_redis(redis, how):
    """R11, C11: it says so; afterwards nobody is seen who is gone, and everybody gets everything again."""
    async with (
        FaultProxy(redis.port) as proxy,
        # A layer that throws away what does not fit would have nothing to do with the cut.
        nodes_of(proxy.port, redis.port, redis.port, LAYER_CAPACITY="10000") as cluster,
        guests_of(cluster, "people", 9) as guests,
        guests_of(cluster, "plain", 3) as others,
        AsyncExitStack() as leaving,
        AsyncExitStack() as coming,
    ):
        gone = await leaving.enter_async_context(guests_of(cluster, "people", 3, called="gone"))
        await until_seen([*guests, *gone], [*guests, *gone], 10)
        async with talking(guests, 0.1):
            if how == "held up":
                proxy.freeze()
            else:
                proxy.swallow()
            started = time.monotonic()

            async def says_so() -> bool:
                return is_away((await status(cluster[0]))["reasons"])

            await until(says_so, CUT, "the node says that it is cut off")
            said_after = time.monotonic() - started
            assert not is_away((await status(cluster[1]))["reasons"])
            # Meanwhile some leave, and some come.
            await leaving.aclose()
            newcomers = await coming.enter_async_context(guests_of(cluster, "people", 3, called="new"))
            # In a room that the node cut off has not asked the layer for.
            fresh = await coming.enter_async_context(guests_of(cluster, "plain-new", 2))
            connected = [guest for guest in (*guests, *newcomers) if guest.node != "node-0"]
            await until_seen(connected, connected, 2 * LEASE)
            await asyncio.sleep(started + CUT - time.monotonic())
            if how == "held up":
                proxy.thaw()
            else:
                proxy.clear()
            healed = time.monotonic()
            here = [*guests, *newcomers]
            await until_seen(here, here, 10)
            seen_after = time.monotonic() - healed
            everybody = [*here, *others, *fresh]
            await until_known(cluster[0], everybody, 10)
            await until_known(cluster[1], everybody, 10)
            known_after = time.monotonic() - healed
            await until_well(cluster[0])
        await settle(here)
        # Without a history there is no offset to find out by that a subscription is gone.
        for guest in (*others, *fresh):
            await guest.say(f"{guest.name}:after")
        await until_all_heard(others)
        await until_all_heard(fresh)
        assert [guest.codes for guest in everybody] == [[]] * 17
        for room in (here, others, fresh):
            assert judge(room, strict=True) == []
        assert_calm(cluster)
    report(said_after=said_after, seen_after=seen_after, known_after=known_after)


async def test_a_rolling_restart_loses_nothing(redis):
    """C11, S4: everybody publishes on, comes back a little later than the next one, and gets each message once."""
    # A hundred messages a second in all, each to the ten of its room.
    pause = CROWD / 100
    async with nodes_of(*[redis.port] * 3) as cluster, AsyncExitStack() as stack:
        circles = await asyncio.gather(
            *(
                stack.enter_async_context(guests_of(cluster, f"circle-{number}", CIRCLE))
                for number in range(CROWD // CIRCLE)
            )
        )
        crowd = [guest for circle in circles for guest in circle]
        async with talking(crowd, pause):
            await all_of(crowd, lambda guest: guest.heard)
            started = time.monotonic()
            ended = await cluster.rolling_restart()
            await all_of(crowd, lambda guest: guest.is_member)
            took = time.monotonic() - started
        await asyncio.gather(*(settle(circle) for circle in circles))
        assert [end.code for end in ended] == [0, 0, 0]
        assert max(end.seconds for end in ended) < DRAIN_TIMEOUT
        assert {code for guest in crowd for code in guest.codes} == {1012}
        for circle in circles:
            assert judge(circle, strict=True) == []
        waits = sorted(wait for guest in crowd for wait in guest.retry_afters)
        assert len(waits) >= CROWD
        quarters = Counter(int(4 * wait / SPREAD) for wait in waits)
        assert all(quarters[quarter] > len(waits) / 8 for quarter in range(4)), quarters
    said = sum(len(guest.spoken) for guest in crowd)
    drains = [round(end.seconds, 2) for end in ended]
    shares = [round(quarters[quarter] / len(waits), 2) for quarter in range(4)]
    report(clients=len(crowd), said=said, seconds=took, drains=drains, closes=len(waits), quarters=shares)


@pytest.mark.parametrize("late", [False, True], ids=["all read on", "one does not read"])
async def test_a_burst_of_a_thousand_reaches_everybody_on_three_nodes_in_order(redis, late):
    """C11: the stock layer at its default capacity delivers a hundred of them; what it drops is fetched."""
    # In batches a burst is a few messages of the layer.
    capacity = "1" if late else "100"
    async with (
        nodes_of(*[redis.port] * 3, LAYER_CAPACITY=capacity) as cluster,
        guests_of(cluster, "burst", 9) as guests,
    ):
        if late:
            cluster.freeze(2)
        started = time.monotonic()
        await guests[0].ask("burst", 1000)
        await all_of(
            [guest for guest in guests if guest.node != "node-2"], lambda guest: len(guest.heard) >= 1000
        )
        expected = [f"burst-{number}" for number in range(1000)]
        if late:
            cluster.thaw(2)
            # It gets this one before those that it has to fetch.
            await guests[0].say("after")
            expected.append("after")
        await all_of(guests, lambda guest: len(guest.heard) >= len(expected))
        took = time.monotonic() - started
        await settle(guests)
        assert all(guest.heard[:-1] == expected for guest in guests)
        assert judge(guests, strict=True) == []
        assert_calm(cluster)
    report(seconds=took)


async def test_clocks_of_nodes_are_wrong(redis):
    """C2, C11: leases, sessions and limits go by the clock of Redis; one node is ten minutes late, one early."""
    limits = {"RATELIMIT_SCOPE": "cluster", "RATELIMIT_MAX_CONNECTIONS_PER_IP": "11"}
    names = ["node-0", "node-1", "node-2"]
    async with nodes_of(*[redis.port] * 3, **limits) as cluster, AsyncExitStack() as stack:
        await asyncio.gather(
            cluster.restart(0, CLOCK_OFFSET="-600"),
            cluster.restart(2, CLOCK_OFFSET="600"),
        )
        guests = await stack.enter_async_context(guests_of(cluster, "people", 9))
        lost = await stack.enter_async_context(
            guests_of(cluster, "people", 2, ports=[cluster.ports[0], cluster.ports[2]], called="lost")
        )
        everybody = [*guests, *lost]
        await until_seen(everybody, everybody, 10)
        async with talking(guests, 0.1):
            enough = time.monotonic() + 2 * LEASE
            while time.monotonic() < enough:
                # All live, all know who is there, and none lets in one too many.
                for number in range(3):
                    assert (await status(cluster[number]))["nodes"] == names
                    await assert_full(cluster, number)
                await until_seen(everybody, everybody, 0.1)
                await asyncio.sleep(LEASE / 4)
            # Nor does it matter that Redis is late for once.
            redis.freeze()
            asyncio.get_running_loop().call_later(1.5 * STATE_TIMEOUT, redis.thaw)
            for number in range(3):
                await assert_full(cluster, number)
            for number in range(3):
                await until_known(cluster[number], everybody, 5)
            # A session of one is good at the next, whichever of them is wrong.
            moving = {guest: guest.node for guest in guests[:3]}
            assert sorted(moving.values()) == names
            for guest in moving:
                guest.drop()
            await all_of(list(moving), lambda guest: guest.log.count(Welcomed(True)) == 1 and guest.is_member)
            assert all(guest.node != before for guest, before in moving.items())
            died = time.monotonic()
            await asyncio.gather(cluster.kill(0), cluster.kill(2))
            # They are let in as soon as those they were do not count any more.
            await all_of(guests, lambda guest: guest.node == "node-1" and guest.is_member, 2 * LEASE)
            await until_seen(guests, guests, died + 2 * LEASE - time.monotonic())
            await until_known(cluster[1], guests, died + 2 * LEASE - time.monotonic())
            healed = time.monotonic() - died
        await settle(guests)
        assert_calm(cluster)
        assert judge(guests, strict=True) == []
    report(healed=healed, lease=LEASE)
