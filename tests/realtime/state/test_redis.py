"""The state in Redis alone: what it costs, and what it does when Redis is not well."""

from __future__ import annotations

import asyncio
import contextlib
import os
import re
import signal
import ssl
import subprocess
import time
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path

import pytest
import uvloop
from structlog.testing import capture_logs

from realtime.errors import StateUnavailable
from realtime.state import Position, RedisState, State, link
from tests import machine
from tests.certificates import self_signed
from tests.redisserver import RedisServer, free_port, running

pytestmark = pytest.mark.redis

LONG = 600.0
TIMEOUT = 0.4
"""Seconds Redis may take in these tests."""
PATIENCE = 10.0


@contextlib.contextmanager
def server(*options: str, port: int | None = None) -> Iterator[RedisServer]:
    """A Redis of the test's own, to be mistreated."""
    binary = machine.redis_binary()
    assert binary is not None
    with running(binary, *options, port=port) as own:
        yield own


@contextlib.asynccontextmanager
async def opened(url: str, prefix: str = "own", **options) -> AsyncIterator[RedisState]:
    state = RedisState(url, prefix=prefix, **{"timeout": TIMEOUT, **options})
    try:
        yield state
    finally:
        await state.aclose()


async def add(state: State, payload: bytes = b"x", **options):
    return await state.append("room", payload, **{"size": 100, "ttl": LONG, **options})


async def until_available(state: State) -> None:
    there = asyncio.Event()
    state.on_change.append(lambda changed: there.set() if changed.available else None)
    if not state.available:
        async with asyncio.timeout(PATIENCE):
            await there.wait()


async def until_answered(state: State) -> None:
    """Wait until a call succeeds: for a Redis whose loss nobody may have noticed yet."""
    async with asyncio.timeout(PATIENCE):
        while True:
            with contextlib.suppress(StateUnavailable):
                await state.top(["room"])
                return
            await asyncio.sleep(0.02)


def commands(redis: RedisServer) -> dict[str, int]:
    """Return how often clients and scripts called each command."""
    stats = redis.command("INFO", "commandstats").decode()
    return {name: int(calls) for name, calls in re.findall(r"cmdstat_([\w|]+):calls=(\d+)", stats)}


class Proxy:
    """A way to Redis that can be made worse."""

    def __init__(self, target: int, tls: ssl.SSLContext | None = None) -> None:
        self.target = target
        self.tls = tls
        self.delay = 0.0
        self.pause = 0.0
        """Seconds after each piece of a large answer."""
        self.deaf = False
        """Whether it passes nothing on."""
        self.heard = asyncio.Event()
        """Set when the client says something that is not passed on."""
        self.packets = 0
        """Pieces that came from the client."""
        self.connections = 0
        self.writers: set[asyncio.StreamWriter] = set()
        self.tasks: set[asyncio.Task[None] | None] = set()

    async def __aenter__(self) -> Proxy:
        self.server = await asyncio.start_server(self.serve, "127.0.0.1", 0, ssl=self.tls)
        self.port = self.server.sockets[0].getsockname()[1]
        return self

    async def __aexit__(self, *exc: object) -> None:
        self.server.close()
        self.cut()
        await asyncio.gather(*filter(None, self.tasks), return_exceptions=True)

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        there, back = await asyncio.open_connection("127.0.0.1", self.target)
        self.writers |= {writer, back}
        self.tasks.add(asyncio.current_task())
        await asyncio.gather(self.pump(reader, back, count=True), self.pump(there, writer))

    async def pump(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, count: bool = False
    ) -> None:
        loop = asyncio.get_running_loop()
        with contextlib.suppress(OSError, ssl.SSLError):
            while data := await reader.read(65536):
                self.packets += count
                if count and self.deaf:
                    self.heard.set()
                if not self.deaf:
                    while self.pause and not count and len(data) > 8192:
                        piece, data = data[:8192], data[8192:]
                        writer.write(piece)
                        await asyncio.sleep(self.pause)
                    # Not a wait: that would let one piece through in each delay.
                    loop.call_later(self.delay, writer.write, data)
        writer.transport.abort()

    def cut(self) -> None:
        """Break every connection."""
        for writer in self.writers:
            writer.transport.abort()
        self.writers.clear()

    @property
    def url(self) -> str:
        return f"redis{'s' if self.tls else ''}://127.0.0.1:{self.port}/0"


class TestCost:
    """Few round trips, few commands."""

    async def test_an_append_is_one_command(self, redis_server, prefix):
        async with opened(redis_server.url, prefix) as state:
            await add(state)
            before = commands(redis_server)
            for _ in range(10):
                await add(state, dedupe=None)
            after = commands(redis_server)
        spent = {name: count - before.get(name, 0) for name, count in after.items()}
        assert spent["evalsha"] == 10
        del spent["evalsha"], spent["info"]
        # Inside the script: what is known, the entry, the new top, and how long both stay.
        inside = {name for name, count in spent.items() if count}
        assert inside == {"hmget", "xadd", "hset", "pttl", "pexpire"}
        assert max(spent[name] for name in ("hmget", "xadd", "hset", "pttl")) == 10

    async def test_calls_of_one_turn_go_out_together(self, redis_server, prefix):
        async with Proxy(redis_server.port) as proxy, opened(proxy.url, prefix) as state:
            await add(state)
            before = proxy.packets
            await asyncio.gather(*(add(state) for _ in range(100)))
            assert proxy.packets == before + 1
            assert proxy.connections == 1

    async def test_nobody_waits_for_the_answers_of_others(self, redis_server, prefix):
        """At 200 ms to Redis, ten turns of calls take as long as one."""
        async with Proxy(redis_server.port) as proxy, opened(proxy.url, prefix, timeout=5) as state:
            await add(state)
            proxy.delay = 0.1
            started = time.monotonic()
            calls = []
            for _ in range(10):
                calls.append(asyncio.ensure_future(add(state)))
                await asyncio.sleep(0.005)
            offsets = [call.offset for call in await asyncio.gather(*calls)]
            assert offsets == list(range(2, 12))
            assert time.monotonic() - started < 1.0

    @pytest.mark.parametrize("what", ["save", "resume", "drop"])
    async def test_sessions_of_many_clients_are_one_command_for_all_and_at_most_one_each(
        self, redis_server, prefix, what
    ):
        async with opened(redis_server.url, prefix) as state:
            ids = [f"s{number}" for number in range(100)]
            await asyncio.gather(*(state.save_session(id, b"x", LONG) for id in ids))
            calls = {
                "save": lambda id: state.save_session(id, b"y", LONG),
                "resume": lambda id: state.resume_session(id, LONG),
                "drop": state.drop_session,
            }
            before = commands(redis_server)
            await asyncio.gather(*map(calls[what], ids))
            after = commands(redis_server)
        spent = {name: count - before.get(name, 0) for name, count in after.items()}
        assert spent["evalsha"] == spent["mget"] == 1
        assert spent.get("set", 0) == (0 if what == "drop" else 100)
        assert sum(spent.values()) <= 100 + 4

    async def test_while_sessions_are_on_their_way_the_next_are_gathered(self, redis_server, prefix):
        async with Proxy(redis_server.port) as proxy, opened(proxy.url, prefix, timeout=5) as state:
            await add(state)
            proxy.delay = 0.05
            before = commands(redis_server)
            saving = []
            for number in range(20):
                saving += [
                    asyncio.ensure_future(state.save_session(f"{number}{twin}", b"x", LONG)) for twin in "ab"
                ]
                await asyncio.sleep(0.001)
            assert await asyncio.gather(*saving) == [True] * 40
            assert commands(redis_server)["evalsha"] - before["evalsha"] <= 3

    async def test_what_is_asked_of_a_session_keeps_its_order(self, redis_server, prefix):
        """Whether it is gathered with others or not."""
        async with opened(redis_server.url, prefix) as state:
            for number in range(20):
                saved, loaded, _, none, (kept, turn), late = await asyncio.gather(
                    state.save_session("s", b"%d" % number, LONG, turn=2**52),
                    state.load_session("s"),
                    state.drop_session("s"),
                    state.load_session("s"),
                    state.resume_session("s", LONG),
                    state.save_session("s", b"late", LONG, turn=2**52),
                )
                assert (saved, loaded, none, kept, turn > 2**52, late) == (
                    True,
                    b"%d" % number,
                    None,
                    None,
                    True,
                    False,
                )
                redis_server.command("DEL", f"{prefix}:session:s")

    async def test_a_large_session_goes_alone(self, redis_server, prefix):
        async with opened(redis_server.url, prefix) as state:
            before = commands(redis_server)
            large = b"x" * 300_000
            assert (
                await asyncio.gather(*(state.save_session(f"s{n}", large, LONG) for n in range(4)))
                == [True] * 4
            )
            assert commands(redis_server)["evalsha"] - before["evalsha"] == 4
            assert await state.load_session("s3") == large

    async def test_one_that_gave_up_keeps_nobody_from_being_saved(self, redis_server, prefix):
        async with opened(redis_server.url, prefix) as state:
            await add(state)
            saving = [asyncio.ensure_future(state.save_session(f"s{n}", b"x", LONG)) for n in range(3)]
            await asyncio.sleep(0)
            saving[1].cancel()
            done = await asyncio.gather(*saving, return_exceptions=True)
            assert [done[0], done[2]] == [True, True]
            # It was not on its way yet.
            assert await state.load_session("s1") is None

    async def test_rows_of_connections_and_presence_are_one_command_for_many(self, redis_server, prefix):
        async with opened(redis_server.url, prefix) as state:
            await state.renew_node("n", b"row", LONG)
            rows = {f"c{number}": b"%d" % number for number in range(1300)}
            before = commands(redis_server)
            await state.write_registry("n", rows)
            await state.set_presence("room", "n", rows)
            assert commands(redis_server)["hset"] - before["hset"] == 2 * 3
            assert await state.registry("n") == rows
            assert await state.presence("room") == {"n": rows}
            gone = list(rows)[:1200]
            before = commands(redis_server)
            await state.write_registry("n", {}, gone)
            await state.drop_presence("room", "n", gone)
            assert commands(redis_server)["hdel"] - before.get("hdel", 0) == 2 * 2
            assert len(await state.registry("n")) == await state.count_presence("room") == 100

    async def test_all_rooms_are_asked_in_one_round_trip(self, redis_server, prefix):
        async with Proxy(redis_server.port) as proxy, opened(proxy.url, prefix, timeout=5) as state:
            await add(state)
            proxy.delay = 0.3
            started = time.monotonic()
            await state.top([f"room-{number}" for number in range(2000)], create=True)
            assert 0.6 <= time.monotonic() - started < 0.6 * 3

    @pytest.mark.setting("REALTIME_STATE_POOL_SIZE")
    async def test_a_room_stays_on_its_connection(self, redis_server, prefix):
        async with Proxy(redis_server.port) as proxy, opened(proxy.url, prefix, pool_size=3) as state:
            await asyncio.gather(
                *(state.append(f"room-{n % 30}", b"x", size=9, ttl=LONG) for n in range(300))
            )
            assert proxy.connections == 3
            added = await asyncio.gather(*(add(state) for _ in range(100)))
            assert [one.offset for one in added] == list(range(1, 101))
            assert await state.top([f"room-{n}" for n in range(30)]) == [
                Position(position.epoch, 10) for position in await state.top([f"room-{n}" for n in range(30)])
            ]

    async def test_every_key_has_the_prefix_and_goes_by_itself(self, prefix):
        """The layout of docs/cluster.md: nothing stays for ever."""
        with server() as own:
            async with opened(own.url, prefix) as state:
                await use_everything(state)
                keys = re.findall(rb"\$\d+\r\n(.*?)\r\n", own.command("KEYS", "*"))
                assert len(keys) > 15
                for key in keys:
                    assert key.startswith(prefix.encode() + b":")
                    assert int(own.command("PTTL", key.decode())[1:]) > 0, key

    async def test_the_layout_is_documented(self, prefix):
        """Each kind of key has its row in docs/cluster.md, and no other has."""
        manual = Path(__file__).parents[3] / "docs" / "cluster.md"
        table = manual.read_text(encoding="utf-8").partition("\n## Keys\n")[2].partition("\n## ")[0]
        documented = re.findall(r"^\| `([\w-]+)[:`]", table, re.MULTILINE)
        with server() as own:
            async with opened(own.url, prefix) as state:
                await use_everything(state)
                keys = re.findall(rb"\$\d+\r\n(.*?)\r\n", own.command("KEYS", "*"))
        kinds = {key.decode().removeprefix(f"{prefix}:").split(":")[0] for key in keys}
        assert kinds == set(documented)


async def use_everything(state: State) -> None:
    """Leave a key of every kind."""
    await add(state, dedupe="m", window=LONG)
    await state.claim("key", LONG)
    await state.save_session("s", b"data", LONG)
    await state.resume_session("s", LONG)
    await state.put("key", b"value", LONG)
    await state.renew_node("n", b"row", LONG)
    await state.write_registry("n", {"c": b"1"})
    await state.set_presence("room", "n", {"c": b"1"})
    await state.enter("ip", "x", "n", max_concurrent=9, rate=9, window=LONG)
    await state.hold("n", {("ip", "x"): 1})
    await state.lead("n", "chores", LONG)
    await state.sweep()
    await state.bus.group_add("g", "another.1")
    await state.bus.group_send("g", {})


class TestTime:
    async def test_a_node_with_a_wrong_clock_gets_the_leases_right(self, redis_server, prefix, monkeypatch):
        """Ten minutes off, either way."""
        async with opened(redis_server.url, prefix) as state:
            real = time.time
            for error in (600.0, -600.0):
                monkeypatch.setattr(time, "time", lambda error=error: real() + error)
                renewed = await state.renew_node(f"n{error}", b"", 60.0)
                assert abs(renewed.now - real()) < 5
                assert (await state.enter("ip", f"{error}", "n", rate=1, window=60.0)).ok
                assert 55 < (await state.enter("ip", f"{error}", "n", rate=1, window=60.0)).retry_after <= 60
            assert all(node.age < 5 for node in await state.nodes())
            assert len(await state.nodes()) == 2

    async def test_the_sweep_renews_the_keys_of_the_living(self, redis_server, prefix, monkeypatch):
        """A room in which nothing happens for days keeps its people."""
        async with opened(redis_server.url, prefix) as state:
            monkeypatch.setattr("realtime.state.redis.KEY_TTL", 0.4)
            monkeypatch.setattr("realtime.state.redis._RENEWAL", 0.05)
            await state.set_presence("room", "n", {"c": b"1"})
            await state.enter("ip", "x", "n", max_concurrent=9)
            for _ in range(6):
                await state.renew_node("n", b"", LONG)
                if _ == 0:
                    await state.set_presence("room", "n", {"c": b"1"})
                    await state.enter("ip", "x", "n", max_concurrent=9)
                await state.sweep()
                await asyncio.sleep(0.12)
            assert await state.count_presence("room") == 1
            assert not (await state.enter("ip", "x", "n", max_concurrent=1)).ok
            await asyncio.sleep(0.5)
            assert await state.count_presence("room") == 0


class TestRedisAway:
    async def test_nobody_there_is_said_at_once(self):
        port = free_port("127.0.0.1")
        async with opened(f"redis://127.0.0.1:{port}/0") as state:
            with pytest.raises(StateUnavailable, match=f"127.0.0.1:{port} cannot be reached"):
                await add(state)
            assert not state.available
            started = time.monotonic()
            with pytest.raises(StateUnavailable):
                await add(state)
            assert time.monotonic() - started < 0.1

    async def test_a_name_that_can_be_nobodys_is_no_crash(self):
        async with opened(f"redis://{'a' * 70}:1/0") as state:
            for _ in range(2):
                with pytest.raises(StateUnavailable, match="cannot be reached"):
                    await add(state)

    @pytest.mark.setting("REALTIME_STATE_TIMEOUT")
    async def test_a_frozen_redis_holds_nobody_up(self):
        """SIGSTOP: calls fail within the timeout, health hears of it, and all is well after SIGCONT."""
        with server() as own:
            async with opened(own.url) as state:
                changes: list[bool] = []
                state.on_change.append(lambda changed: changes.append(changed.available))
                await add(state)
                os.kill(own.pid, signal.SIGSTOP)
                try:
                    started = time.monotonic()
                    calls = [add(state), state.top(["room"]), state.load_session("s"), state.nodes()]
                    answers = await asyncio.gather(*calls, return_exceptions=True)
                    assert [type(answer) for answer in answers] == [StateUnavailable] * 4
                    assert "did not answer within 0.4 seconds" in str(answers[0])
                    assert TIMEOUT * 0.9 < time.monotonic() - started < TIMEOUT + 1
                    assert changes == [False]
                    started = time.monotonic()
                    with pytest.raises(StateUnavailable):
                        await add(state)
                    assert time.monotonic() - started < 0.1
                finally:
                    os.kill(own.pid, signal.SIGCONT)
                await until_available(state)
                assert changes == [False, True]
                assert not (await add(state)).duplicate

    async def test_who_tries_again_at_once_does_not_hold_the_loop(self):
        async with opened(f"redis://127.0.0.1:{free_port('127.0.0.1')}/0") as state:

            async def insist() -> None:
                while True:
                    with contextlib.suppress(StateUnavailable):
                        await add(state)

            insisting = asyncio.ensure_future(insist())
            await asyncio.sleep(0.1)
            insisting.cancel()
            assert not state.available

    async def test_an_idle_state_notices_that_redis_came_back(self):
        """Nobody has to call for ``available`` to be right again."""
        port = free_port("127.0.0.1")
        async with opened(f"redis://127.0.0.1:{port}/0") as state:
            with pytest.raises(StateUnavailable):
                await add(state)
            with server(port=port):
                await until_available(state)

    async def test_latency_below_the_timeout_is_no_failure(self, redis_server, prefix):
        async with Proxy(redis_server.port) as proxy, opened(proxy.url, prefix, timeout=2.0) as state:
            await add(state)
            proxy.delay = 0.25
            assert [(await add(state)).offset for _ in range(2)] == [2, 3]
            assert state.available

    async def test_a_large_answer_may_take_its_time(self, redis_server, prefix):
        """As long as something comes Redis is there, and so is who waits behind."""
        async with Proxy(redis_server.port) as proxy, opened(proxy.url, prefix) as state:
            await add(state, b"x" * 100_000)
            proxy.pause = TIMEOUT / 6
            large, behind = await asyncio.gather(state.since("room", 0, limit=9), state.top(["room"]))
            assert len(large.entries or ()) == 1
            assert behind[0] is not None
            assert state.available

    async def test_a_silent_network_is_noticed(self, redis_server, prefix):
        async with Proxy(redis_server.port) as proxy, opened(proxy.url, prefix) as state:
            await add(state)
            proxy.deaf = True
            with pytest.raises(StateUnavailable, match="did not answer"):
                await add(state)
            proxy.deaf = False
            await until_available(state)
            await add(state)

    @pytest.mark.parametrize("run", [asyncio.run, uvloop.run], ids=["asyncio", "uvloop"])
    @pytest.mark.parametrize("turns", [1, 2], ids=["before it asked", "before it read"])
    def test_a_loop_that_was_held_up_does_not_blame_redis(self, redis_server, prefix, run, turns):
        async def call() -> None:
            async with opened(redis_server.url, prefix, timeout=0.2) as state:
                await add(state)
                call = asyncio.ensure_future(add(state))
                for _ in range(turns):
                    await asyncio.sleep(0)
                time.sleep(0.5)
                assert (await call).offset == 2
                assert state.available

        run(call())

    async def test_what_waits_is_bounded(self, redis_server, prefix, monkeypatch):
        monkeypatch.setattr(link, "MOST_WAITING", 50)
        async with opened(redis_server.url, prefix) as state:
            answers = await asyncio.gather(*(add(state) for _ in range(60)), return_exceptions=True)
            refused = [answer for answer in answers if isinstance(answer, StateUnavailable)]
            assert len(refused) == 10
            assert "50 calls wait" in str(refused[0])
            assert state.available

    async def test_one_that_is_closed_fails_what_waits_and_what_comes(self, redis_server, prefix):
        async with Proxy(redis_server.port) as proxy:
            state = RedisState(proxy.url, prefix=prefix, timeout=5)
            await add(state)
            proxy.deaf = True
            waiting = asyncio.ensure_future(add(state))
            await asyncio.sleep(0.01)
            await state.aclose()
            for call in (waiting, add(state)):
                with pytest.raises(StateUnavailable, match="closed"):
                    await call
            await state.aclose()

    async def test_a_caller_that_gave_up_disturbs_nobody(self, redis_server, prefix):
        async with opened(redis_server.url, prefix) as state:
            await add(state)
            impatient = asyncio.ensure_future(add(state))
            patient = asyncio.ensure_future(add(state))
            await asyncio.sleep(0)
            await asyncio.sleep(0)
            impatient.cancel()
            assert (await patient).offset == 3

    def test_a_loop_that_ends_leaves_nothing_open(self, redis_server, prefix):
        """``publish_sync`` has a loop for a moment only; a warning would fail this test."""

        async def call() -> int:
            return (await add(RedisState(redis_server.url, prefix=prefix))).offset

        assert [asyncio.run(call()) for _ in range(2)] == [1, 2]


class TestReset:
    async def test_between_calls_nobody_notices(self, redis_server, prefix):
        async with Proxy(redis_server.port) as proxy, opened(proxy.url, prefix) as state:
            for offset in (1, 2, 3):
                assert (await add(state)).offset == offset
                proxy.cut()
                await asyncio.sleep(0.01)
            assert state.available
            assert proxy.connections >= 3

    async def test_what_can_be_asked_again_is(self, redis_server, prefix):
        async with Proxy(redis_server.port) as proxy, opened(proxy.url, prefix, timeout=5) as state:
            added = await add(state)
            proxy.deaf = True
            reading = asyncio.ensure_future(state.top(["room"]))
            adding = asyncio.ensure_future(add(state))
            await proxy.heard.wait()
            proxy.deaf = False
            proxy.cut()
            assert await reading == [Position(added.epoch, 1)]
            # Nobody knows whether this one was carried out.
            with pytest.raises(StateUnavailable, match="broke before it answered"):
                await adding
            assert state.available

    async def test_what_is_asked_again_keeps_its_order(self, redis_server, prefix):
        async with Proxy(redis_server.port) as proxy, opened(proxy.url, prefix, timeout=5) as state:
            await add(state)
            proxy.deaf = True
            saving = [
                asyncio.ensure_future(state.save_session("s", b"%d" % number, LONG)) for number in range(9)
            ]
            await proxy.heard.wait()
            proxy.deaf = False
            proxy.cut()
            assert await asyncio.gather(*saving) == [True] * 9
            assert await state.load_session("s") == b"8"

    async def test_every_call_is_answered_once_while_connections_break(self, redis_server, prefix):
        """What was said to be added is there, once, in order."""
        async with Proxy(redis_server.port) as proxy, opened(proxy.url, prefix, timeout=5) as state:
            added: list[int] = []

            async def publish() -> None:
                for number in range(60):
                    while True:
                        with contextlib.suppress(StateUnavailable):
                            payload = b"%d" % number
                            done = await add(state, payload, dedupe=f"m{number}", window=LONG)
                            break
                        await asyncio.sleep(0.005)
                    added.append(done.offset)

            publishing = asyncio.ensure_future(publish())
            while not publishing.done():
                proxy.cut()
                await asyncio.sleep(0.03)
            await publishing
            history = await state.since("room", 0, limit=100)
            assert added == list(range(1, 61))
            assert [int(entry.payload) for entry in history.entries or ()] == list(range(60))

    async def test_nonsense_is_a_broken_connection(self, redis_server, prefix):
        async def talk_nonsense(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            await reader.read(1)
            writer.write(b"HTTP/1.1 400 Bad Request\r\n\r\n")
            await reader.read()
            writer.close()

        async with await asyncio.start_server(talk_nonsense, "127.0.0.1", 0) as web:
            port = web.sockets[0].getsockname()[1]
            async with opened(f"redis://127.0.0.1:{port}/0") as state:
                with pytest.raises(StateUnavailable):
                    await add(state)


class TestRestart:
    async def test_without_its_data_rooms_have_new_epochs(self):
        port = free_port("127.0.0.1")
        async with opened(f"redis://127.0.0.1:{port}/0") as state:
            with server(port=port):
                first = await add(state)
                await state.renew_node("n", b"", LONG)
                await state.write_registry("n", {"c": b"1"})
            with server(port=port):
                await until_answered(state)
                assert await state.top(["room"]) == [None]
                again = await add(state)
                assert again.offset == 1
                assert again.epoch != first.epoch
                assert (await state.renew_node("n", b"", LONG)).fresh

    async def test_with_its_data_the_room_goes_on_and_says_from_where(self, tmp_path):
        """A Redis that comes back may lack the last it said yes to; what both epochs have is told."""
        port = free_port("127.0.0.1")
        kept = ("--dir", str(tmp_path), "--appendonly", "yes", "--appendfsync", "always")
        async with opened(f"redis://127.0.0.1:{port}/0") as state:
            with server(*kept, port=port):
                for number in range(3):
                    first = await add(state, b"%d" % number)
                await state.renew_node("n", b"", LONG)
                await state.save_session("s", b"data", LONG)
            with server(*kept, port=port):
                await until_answered(state)
                (position,) = await state.top(["room"])
                assert position is not None
                assert position.epoch != first.epoch
                assert (position.offset, position.before) == (3, Position(first.epoch, 3))
                again = await add(state, b"3")
                assert (again.epoch, again.offset) == (position.epoch, 4)
                history = await state.since("room", 1, limit=9)
                assert [entry.payload for entry in history.entries or ()] == [b"1", b"2", b"3"]
                assert history.before == Position(first.epoch, 3)
                assert await state.load_session("s") == b"data"
                assert (await state.renew_node("n", b"", LONG)).fresh

    async def test_an_older_copy_does_not_pass_for_the_room(self, tmp_path):
        """Offsets 4 and 5 were given out, lost, and given out again: the epoch tells them apart."""
        port = free_port("127.0.0.1")
        kept = ("--dir", str(tmp_path), "--dbfilename", "dump.rdb")
        async with opened(f"redis://127.0.0.1:{port}/0") as state:
            with server(*kept, port=port) as own:
                for _ in range(3):
                    first = await add(state)
                own.command("SAVE")
                for _ in range(2):
                    await add(state, b"lost")
                os.kill(own.pid, signal.SIGKILL)
            with server(*kept, port=port):
                await until_answered(state)
                again = await add(state, b"other")
                history = await state.since("room", 3, limit=9)
                assert again.offset == 4
                assert again.epoch != first.epoch
                assert history.before == Position(first.epoch, 3)

    async def test_flushed_while_it_runs(self):
        with server() as own:
            async with opened(own.url) as state:
                first = await add(state)
                await state.renew_node("n", b"", LONG)
                own.command("FLUSHALL")
                assert await state.since("room", 1, limit=9) == ("", 0, None, None)
                again = await add(state)
                assert again.epoch != first.epoch
                assert (await state.renew_node("n", b"", LONG)).fresh

    async def test_scripts_that_were_forgotten_are_brought_along(self):
        with server() as own:
            async with opened(own.url) as state:
                await add(state)
                own.command("SCRIPT", "FLUSH")
                added = await asyncio.gather(*(add(state) for _ in range(20)))
                assert [one.offset for one in added] == list(range(2, 22))
                assert state.available

    async def test_a_renewal_that_got_no_answer_leaves_a_node_fresh(self, redis_server, prefix):
        """The answer that was lost may have been the one that said so."""
        async with Proxy(redis_server.port) as proxy, opened(proxy.url, prefix, timeout=5) as state:
            await state.top(["room"])
            proxy.delay = 0.2
            renewing = asyncio.ensure_future(state.renew_node("n", b"", LONG))
            await asyncio.sleep(0.3)
            proxy.cut()
            with pytest.raises(StateUnavailable):
                await renewing
            proxy.delay = 0
            assert (await state.renew_node("n", b"", LONG)).fresh
            assert not (await state.renew_node("n", b"", LONG)).fresh


class TestRefusal:
    async def test_a_full_redis_is_not_available(self):
        with server("--maxmemory-policy", "noeviction") as own:
            async with opened(own.url) as state:
                await add(state)
                own.command("CONFIG", "SET", "maxmemory", "1")
                with pytest.raises(StateUnavailable, match="OOM"):
                    await add(state)
                assert not state.available
                assert "OOM" in state.reason
                # It can still be asked.
                assert (await state.top(["room"]))[0] is not None
                assert not state.available
                own.command("CONFIG", "SET", "maxmemory", "0")
                await add(state)
                assert state.available

    async def test_a_refused_append_leaves_nothing_half_done(self):
        with server("--maxmemory-policy", "noeviction") as own:
            async with opened(own.url) as state:
                await add(state)
                own.command("CONFIG", "SET", "maxmemory", "1")
                with pytest.raises(StateUnavailable):
                    await add(state, dedupe="m", window=LONG)
                own.command("CONFIG", "SET", "maxmemory", "0")
                added = await add(state, dedupe="m", window=LONG)
                assert (added.offset, added.duplicate) == (2, False)

    async def test_a_wrong_password_is_said_without_it(self):
        with server() as own:
            own.command("CONFIG", "SET", "requirepass", "right-secret")
            url = f"redis://:wrong%2Fsecret@127.0.0.1:{own.port}/0"
            with capture_logs() as logs:
                async with opened(url) as state:
                    with pytest.raises(StateUnavailable) as caught:
                        await add(state)
                    said = f"{caught.value} {state.reason} {state!r} {state._links!r} {logs}"
            assert "WRONGPASS" in str(caught.value)
            assert "wrong/secret" not in said
            assert "wrong%2Fsecret" not in said

    async def test_a_missing_password_is_said(self):
        with server() as own:
            own.command("CONFIG", "SET", "requirepass", "right-secret")
            async with opened(own.url) as state:
                with pytest.raises(StateUnavailable, match="NOAUTH"):
                    await add(state)

    async def test_user_password_and_database_are_used(self):
        with server() as own:
            own.command("ACL", "SETUSER", "ada", "on", ">p@ss", "~*", "+@all")
            async with opened(f"redis://ada:p%40ss@127.0.0.1:{own.port}/3", "x") as state:
                await add(state)
            assert b"db3:keys=2" in own.command("INFO", "keyspace")

    async def test_a_user_who_may_not_is_told(self):
        with server() as own:
            own.command("ACL", "SETUSER", "bob", "on", ">pass", "~*", "+@all", "-xadd")
            async with opened(f"redis://bob:pass@127.0.0.1:{own.port}/0") as state:
                with pytest.raises(StateUnavailable, match=r"can't run|permissions"):
                    await add(state)

    async def test_a_replica_is_not_used(self):
        with server() as own:
            async with opened(own.url) as state:
                await add(state)
                own.command("REPLICAOF", "127.0.0.1", "1")
                with pytest.raises(StateUnavailable, match="READONLY"):
                    await add(state)
                # The way to the master is looked for again.
                assert not state.available
                own.command("REPLICAOF", "NO", "ONE")
                await until_answered(state)
                assert (await add(state)).offset == 2

    async def test_an_evicted_position_takes_its_entries_along(self, redis_server, prefix):
        async with opened(redis_server.url, prefix) as state:
            for _ in range(3):
                first = await add(state, b"old")
            redis_server.command("DEL", f"{prefix}:top:room")
            again = await add(state, b"new")
            assert (again.offset, again.epoch == first.epoch) == (1, False)
            assert [e.payload for e in (await state.since("room", 0, limit=9)).entries or ()] == [b"new"]

    async def test_a_hole_is_never_skipped(self, redis_server, prefix):
        async with opened(redis_server.url, prefix) as state:
            for _ in range(5):
                await add(state)
            redis_server.command("XDEL", f"{prefix}:history:room", "3-0")
            assert len((await state.since("room", 0, limit=2)).entries or ()) == 2
            for offset, limit in ((0, 9), (1, 2), (2, 1), (2, 9)):
                assert (await state.since("room", offset, limit=limit)).entries is None
            assert len((await state.since("room", 3, limit=9)).entries or ()) == 2

    async def test_a_key_of_somebody_else_is_no_crash(self, redis_server, prefix):
        redis_server.command("SET", f"{prefix}:history:room", "mine")
        redis_server.command("HSET", f"{prefix}:top:room", "epoch", "e", "top", "1", "run", "r")
        async with opened(redis_server.url, prefix) as state:
            with pytest.raises(StateUnavailable, match="WRONGTYPE"):
                await add(state)
            assert state.available

    @pytest.mark.setting("REALTIME_STATE_PREFIX")
    async def test_projects_with_their_own_prefix_share_a_redis(self, redis_server, prefix):
        async with opened(redis_server.url, prefix) as one, opened(redis_server.url, f"{prefix}-2") as two:
            await add(one)
            assert await two.top(["room"]) == [None]


class TestOtherWays:
    async def test_a_unix_socket(self, tmp_path):
        path = tmp_path / "redis.sock"
        with server("--unixsocket", str(path)):
            async with opened(f"unix://{path}?db=2") as state:
                assert (await add(state)).offset == 1

    async def test_tls_with_an_authority_of_ones_own(self, redis_server, prefix, certificate):
        authority, context = certificate
        async with (
            Proxy(redis_server.port, tls=context) as proxy,
            opened(f"{proxy.url}?ssl_ca_certs={authority}", prefix) as state,
        ):
            added = await asyncio.gather(*(add(state, b"x" * 50_000) for _ in range(20)))
            assert [one.offset for one in added] == list(range(1, 21))
            history = await state.since("room", 0, limit=20)
            assert len(history.entries or ()) == 20

    async def test_tls_with_a_stranger_is_refused(self, redis_server, prefix, certificate):
        _, context = certificate
        async with Proxy(redis_server.port, tls=context) as proxy, opened(proxy.url, prefix) as state:
            with pytest.raises(StateUnavailable, match=r"(?i)certificate"):
                await add(state)

    async def test_tls_with_another_host_is_refused(self, redis_server, prefix, certificate):
        authority, context = certificate
        async with Proxy(redis_server.port, tls=context) as proxy:
            url = f"rediss://localhost:{proxy.port}/0?ssl_ca_certs={authority}"
            async with opened(url, prefix) as state:
                with pytest.raises(StateUnavailable, match=r"(?i)hostname"):
                    await add(state)
            async with opened(f"{url}&ssl_check_hostname=false", prefix) as state:
                await add(state)

    async def test_a_sentinel_leads_to_the_master_and_to_the_next_one(self, tmp_path):
        """The old master is killed: the state finds the new one, and the epoch says what both have."""
        with (
            server("--repl-diskless-sync-delay", "0") as master,
            server("--replicaof", "127.0.0.1", str(master.port)) as replica,
            sentinel(tmp_path, master, replica) as port,
        ):
            url = f"sentinel://127.0.0.1:1,127.0.0.1:{port}/cluster?db=0"
            async with opened(url, timeout=2.0) as state:
                await until_answered(state)
                first = await add(state)
                until(lambda: replica.command("EXISTS", "own:top:room") == b":1\r\n")
                os.kill(master.pid, signal.SIGKILL)
                async with asyncio.timeout(30):
                    while True:
                        with contextlib.suppress(StateUnavailable):
                            again = await add(state, dedupe="m", window=LONG)
                            break
                        await asyncio.sleep(0.1)
                assert (again.offset, again.epoch == first.epoch) == (2, False)
                assert (await state.top(["room"]))[0].before == Position(first.epoch, 1)

    async def test_a_sentinel_that_does_not_know_is_said(self, tmp_path):
        with server() as master, sentinel(tmp_path, master) as port:
            async with opened(f"sentinel://127.0.0.1:{port}/other", timeout=2.0) as state:
                with pytest.raises(StateUnavailable, match=f"127.0.0.1:{port}.* 'other'"):
                    await add(state)


def until(holds: Callable[[], bool]) -> None:
    """Wait for another process."""
    deadline = time.monotonic() + PATIENCE
    while True:
        with contextlib.suppress(OSError):
            if holds():
                return
        assert time.monotonic() < deadline
        time.sleep(0.02)


@contextlib.contextmanager
def sentinel(folder: Path, master: RedisServer, replica: RedisServer | None = None) -> Iterator[int]:
    """A Sentinel that watches over ``master`` as the service ``cluster``; its port."""
    # A Sentinel looks for replicas when it starts, and then every ten seconds.
    until(lambda: replica is None or b"master_link_status:up" in replica.command("INFO", "replication"))
    configuration = folder / "sentinel.conf"
    port = free_port("127.0.0.1")
    configuration.write_text(
        f"port {port}\nsentinel monitor cluster {master.host} {master.port} 1\n"
        "sentinel down-after-milliseconds cluster 500\nsentinel failover-timeout cluster 2000\n"
    )
    process = subprocess.Popen(
        [str(machine.redis_binary()), str(configuration), "--sentinel"],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
    )
    try:
        watcher = RedisServer("127.0.0.1", port, process.pid)
        until(lambda: watcher.command("PING") == b"+PONG\r\n")
        until(lambda: replica is None or b"slaves=1" in watcher.command("INFO", "sentinel"))
        yield port
    finally:
        process.terminate()
        process.wait()


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, ssl.SSLContext]:
    """An authority's file, and the context of a server at 127.0.0.1 that it vouches for."""
    public, private = self_signed(tmp_path_factory.mktemp("tls"), "127.0.0.1")
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(public, private)
    return public, context
