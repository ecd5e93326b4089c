"""The drain: who is sent away when, what they are told, and who is forced."""

from __future__ import annotations

import asyncio
import functools
import itertools
import logging
import time
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import pytest
from django.test import override_settings

from realtime import drain as module
from realtime.close_codes import RESTART, CloseReason
from realtime.drain import Batch, DrainReport, drain, plan, retry_after, see_off

# The plan.


@pytest.mark.parametrize(
    ("count", "batch", "window", "expected"),
    [
        pytest.param(0, 200, 15.0, [], id="nobody"),
        pytest.param(1, 200, 15.0, [Batch(1, 0.0)], id="one"),
        pytest.param(200, 200, 15.0, [Batch(200, 0.0)], id="exactly one batch"),
        pytest.param(201, 200, 15.0, [Batch(200, 0.2), Batch(1, 0.0)], id="one more than a batch"),
        pytest.param(5, 2, 0.2, [Batch(2, 0.1), Batch(2, 0.1), Batch(1, 0.0)], id="the window is short"),
        pytest.param(3, 1, 0.0, [Batch(1, 0.0)] * 3, id="no time at all"),
    ],
)
def test_the_plan(count: int, batch: int, window: float, expected: list[Batch]) -> None:
    assert plan(count, batch, window) == expected


@pytest.mark.parametrize("count", [1, 199, 200, 5_000, 100_000])
def test_a_plan_closes_everybody_within_the_window(count: int) -> None:
    batches = plan(count, 200, 15.0)
    assert sum(batch.size for batch in batches) == count
    assert sum(batch.pause for batch in batches) <= 15.0 + 1e-9


def test_five_thousand_are_told_within_five_seconds() -> None:
    assert 4 < sum(batch.pause for batch in plan(5_000, 200, 15.0)) < 5


@pytest.mark.parametrize(
    ("count", "spread", "latest"),
    [
        pytest.param(2, 10.0, 1.02, id="two need not wait for a crowd"),
        pytest.param(500, 10.0, 6.0, id="a crowd of some size"),
        pytest.param(10_000, 10.0, 10.0, id="a large crowd uses the whole spread"),
        pytest.param(10_000, 0.0, 0.0, id="no spread"),
        pytest.param(2, 0.5, 0.5, id="a spread shorter than a few need"),
    ],
)
def test_clients_come_back_spread_over_what_the_crowd_needs(count: int, spread: float, latest: float) -> None:
    assert retry_after(count, spread, lambda: 0.0) == 0
    assert retry_after(count, spread, lambda: 0.5) == pytest.approx(latest / 2)
    assert retry_after(count, spread, lambda: 1.0) == pytest.approx(latest)


def test_two_clients_are_told_different_times() -> None:
    assert len({retry_after(100, 10.0) for _ in range(10)}) == 10


# The drain.


class FakeCrowd:
    """Sockets, and when they are gone."""

    def __init__(self) -> None:
        self.members: list[FakeSocket] = []
        self._emptied = asyncio.Event()

    def __iter__(self) -> Iterator[FakeSocket]:
        return iter(list(self.members))

    def leave(self, member: FakeSocket) -> None:
        if member in self.members:
            self.members.remove(member)
        if not self.members:
            self._emptied.set()

    async def empty(self) -> None:
        if self.members:
            await self._emptied.wait()


class FakeSocket:
    """Answers a close ``answers`` seconds later, and cleans up for ``cleanup`` seconds; ``None`` is never."""

    def __init__(self, crowd: FakeCrowd, *, answers: float | None = 0.0, cleanup: float | None = 0.0) -> None:
        self.crowd, self.answers, self.cleanup = crowd, answers, cleanup
        self.closed = self.cancelled = False
        self.told: list[tuple[CloseReason, float | None]] = []
        self.transport = SimpleNamespace(is_open=True, aborted=False, abort=self._tcp_ends_hard)
        crowd.members.append(self)

    def close(self, reason: CloseReason, *, retry_after: float | None = None) -> None:
        self.closed = True
        self.told.append((reason, retry_after))
        if self.answers is not None:
            asyncio.get_running_loop().call_later(self.answers, self._tcp_ends)

    def abort(self) -> None:
        self.cancelled = True
        self.transport.abort()
        self.crowd.leave(self)

    def _tcp_ends_hard(self) -> None:
        self.transport.aborted = True
        self._tcp_ends()

    def _tcp_ends(self) -> None:
        if self.transport.is_open:
            self.transport.is_open = False
            if self.cleanup is not None:
                asyncio.get_running_loop().call_later(self.cleanup, self.crowd.leave, self)


@pytest.fixture
def crowd() -> FakeCrowd:
    return FakeCrowd()


@pytest.fixture(autouse=True)
def hurry(monkeypatch: pytest.MonkeyPatch) -> None:
    """A grace of a moment: the tests do not wait for dead phones."""
    monkeypatch.setattr(module, "ANSWER_SECONDS", 0.05)
    monkeypatch.setattr(module, "LAST_SECONDS", 0.05)


def outcome(report: DrainReport) -> tuple[int, int]:
    return report.closed, report.forced


async def test_everybody_is_told_to_come_back_and_the_drain_ends_with_the_last(crowd: FakeCrowd) -> None:
    sockets = [FakeSocket(crowd) for _ in range(3)]
    report = await see_off(crowd, timeout=30)
    assert outcome(report) == (3, 0)
    assert report.seconds < 1
    for socket in sockets:
        ((reason, retry_after),) = socket.told
        assert reason is RESTART
        assert retry_after is not None
        assert 0 <= retry_after <= 1.03


async def test_nobody_there_takes_no_time(crowd: FakeCrowd) -> None:
    report = await see_off(crowd, timeout=30)
    assert outcome(report) == (0, 0)
    assert report.seconds < 0.1


@pytest.mark.setting("REALTIME_DRAIN_BATCH")
@override_settings(REALTIME_DRAIN_BATCH=2)
async def test_batches_leave_one_after_another(crowd: FakeCrowd) -> None:
    sockets = [FakeSocket(crowd) for _ in range(3)]
    draining = asyncio.ensure_future(see_off(crowd, timeout=30))
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    assert [socket.closed for socket in sockets] == [True, True, False]
    assert outcome(await draining) == (3, 0)


@override_settings(REALTIME_DRAIN_BATCH=1)
async def test_the_time_that_closing_takes_does_not_stretch_the_window(crowd: FakeCrowd) -> None:
    """A pause is shortened by what the batch before it took, but never to less than half of it."""
    clock = asyncio.get_running_loop().time
    moments: list[float] = []

    class Laborious(FakeSocket):
        def close(self, reason: CloseReason, *, retry_after: float | None = None) -> None:
            moments.append(clock())
            time.sleep(0.04 if len(moments) < 10 else 0.4)
            super().close(reason, retry_after=retry_after)

    for _ in range(13):
        Laborious(crowd)
    await see_off(crowd, timeout=2.4)
    apart = [later - earlier for earlier, later in itertools.pairwise(moments)]
    # Thirteen in 1.2 seconds.
    assert moments[9] - moments[0] < 9 * 0.12
    assert all(gap >= 0.4 + 0.04 for gap in apart[9:])


@pytest.mark.setting("REALTIME_RECONNECT_SPREAD")
@override_settings(REALTIME_RECONNECT_SPREAD=0)
async def test_without_a_spread_everybody_may_come_back_at_once(crowd: FakeCrowd) -> None:
    socket = FakeSocket(crowd)
    await see_off(crowd, timeout=30)
    assert socket.told[0][1] == 0


async def test_a_peer_that_does_not_answer_is_dropped_after_the_grace_and_its_consumer_cleans_up(
    crowd: FakeCrowd,
) -> None:
    silent, polite = FakeSocket(crowd, answers=None), FakeSocket(crowd)
    report = await see_off(crowd, timeout=30)
    assert outcome(report) == (1, 1)
    assert silent.transport.aborted
    assert not polite.transport.aborted
    assert not silent.cancelled


@override_settings(REALTIME_DRAIN_BATCH=2)
async def test_each_peer_has_the_same_time_to_answer_and_no_other_watch_gives_it_up_first(
    crowd: FakeCrowd,
) -> None:
    """A connection gives its peer up by itself after some seconds; those who were told first would not be counted."""
    gave_up = []

    class Watched(FakeSocket):
        def close(self, reason: CloseReason, *, retry_after: float | None = None) -> None:
            super().close(reason, retry_after=retry_after)
            asyncio.get_running_loop().call_later(module.ANSWER_SECONDS * 1.5, self._give_up)

        def _give_up(self) -> None:
            gave_up.append(self.transport.is_open)
            self._tcp_ends()

    sockets = [Watched(crowd, answers=None) for _ in range(5)]
    polite = [FakeSocket(crowd, answers=0.02) for _ in range(2)]
    report = await see_off(crowd, timeout=0.8)
    assert outcome(report) == (2, 5)
    assert all(socket.transport.aborted for socket in sockets)
    assert not any(socket.transport.aborted for socket in polite)
    assert True not in gave_up


async def test_a_peer_that_does_not_answer_is_forced_though_its_consumer_has_ended(crowd: FakeCrowd) -> None:
    """A consumer ends when it hears that its socket is closed; the close frame may be answered later, or never."""

    class Quick(FakeSocket):
        def close(self, reason: CloseReason, *, retry_after: float | None = None) -> None:
            super().close(reason, retry_after=retry_after)
            crowd.members.remove(self)

    silent, polite = Quick(crowd, answers=None), Quick(crowd, answers=0.01)
    FakeSocket(crowd, answers=0.03)
    FakeSocket(crowd, cleanup=0.1)
    assert outcome(await see_off(crowd, timeout=30)) == (3, 1)
    assert silent.transport.aborted
    assert not polite.transport.aborted


async def test_where_a_transport_cannot_tell_the_consumer_counts(crowd: FakeCrowd) -> None:
    silent, polite = FakeSocket(crowd, answers=None), FakeSocket(crowd)
    for socket in (silent, polite):
        plain = SimpleNamespace(abort=functools.partial(crowd.leave, socket))
        socket.transport = plain
        socket._tcp_ends = plain.abort  # type: ignore[method-assign]
    assert outcome(await see_off(crowd, timeout=30)) == (1, 1)


async def test_a_peer_that_goes_without_an_answer_was_not_forced(crowd: FakeCrowd) -> None:
    socket = FakeSocket(crowd, answers=None)
    asyncio.get_running_loop().call_later(0.02, socket._tcp_ends)
    assert outcome(await see_off(crowd, timeout=30)) == (1, 0)
    assert not socket.transport.aborted


async def test_one_that_came_while_others_were_told_is_forced_in_the_end(crowd: FakeCrowd) -> None:
    FakeSocket(crowd)
    asyncio.get_running_loop().call_soon(FakeSocket, crowd)
    report = await see_off(crowd, timeout=0.1)
    assert outcome(report) == (1, 1)


async def test_a_consumer_that_takes_its_time_to_clean_up_is_left_to_it(crowd: FakeCrowd) -> None:
    slow = FakeSocket(crowd, cleanup=0.2)
    assert outcome(await see_off(crowd, timeout=30)) == (1, 0)
    assert not slow.cancelled


async def test_a_consumer_that_does_not_end_is_forced_at_the_end_of_the_time(crowd: FakeCrowd) -> None:
    stuck = FakeSocket(crowd, cleanup=None)
    report = await see_off(crowd, timeout=0.2)
    assert outcome(report) == (0, 1)
    assert stuck.cancelled
    assert 0.2 <= report.seconds < 1


async def test_without_time_everybody_is_told_and_dropped(crowd: FakeCrowd) -> None:
    socket = FakeSocket(crowd, answers=None)
    report = await see_off(crowd, timeout=0)
    assert outcome(report) == (0, 1)
    assert socket.told
    assert report.seconds < 0.5


async def test_a_node_is_marked_before_anybody_is_told(crowd: FakeCrowd) -> None:
    seen = []

    class Watching(FakeSocket):
        def close(self, reason: CloseReason, *, retry_after: float | None = None) -> None:
            seen.append(node.draining)
            super().close(reason, retry_after=retry_after)

    node: Any = SimpleNamespace(draining=False, registry=crowd)
    Watching(crowd)
    assert outcome(await drain(node, timeout=1)) == (1, 0)
    assert seen == [True]
    assert node.draining


async def test_one_line_reports_it(crowd: FakeCrowd, caplog: pytest.LogCaptureFixture) -> None:
    FakeSocket(crowd)
    with caplog.at_level(logging.INFO, "realtime"):
        await see_off(crowd, timeout=30)
    (record,) = caplog.records
    assert record.getMessage() == "Drained: 1 closed, 0 forced, 0.0 s."
    assert (record.__dict__["closed"], record.__dict__["forced"]) == (1, 0)
