"""Which sockets live: nobody who answers is closed, nobody who is silent stays, and nobody is asked too late."""

from __future__ import annotations

import asyncio
import itertools
import time
import weakref
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from types import SimpleNamespace
from typing import Any

import pytest
from django.test import override_settings
from hypothesis import assume, given
from hypothesis import strategies as st

from realtime import heartbeat
from realtime.close_codes import HEARTBEAT_TIMEOUT, RESTART, SERVER_ERROR, CloseReason
from realtime.counters import Counters
from realtime.heartbeat import Deadlines, HeartbeatWorker, Patience, Signs, patience_of, verdict
from realtime.limits import Limits
from realtime.testing import until

NEVER = float("inf")


# The verdict.


def patient(interval: float = 10, timeout: float = 30, idle: float = 0, age: float = 0) -> Patience:
    return Patience(interval, timeout, idle, age)


def signs(heard: float = 100, **others: Any) -> Signs:
    """What is known of a socket opened at 100 and heard at ``heard``, pinged, asked and held as given."""
    given_ = {"opened": 100, "last_heard": heard, "last_message": heard, "pinged_at": 0, "asked_at": 0}
    return Signs(**given_ | others)


@pytest.mark.parametrize(
    ("patience", "seen", "now", "action", "again"),
    [
        # Asking.
        pytest.param(patient(), signs(), 100, None, 110, id="just opened"),
        pytest.param(patient(), signs(), 109.9, None, 110, id="not yet silent for the interval"),
        pytest.param(patient(), signs(), 110, "ping", 120, id="silent for the interval"),
        pytest.param(patient(), signs(heard=105), 110, None, 115, id="heard since"),
        pytest.param(patient(), signs(pinged_at=110, asked_at=110), 112, None, 120, id="asked, not again at once"),
        pytest.param(patient(), signs(pinged_at=110, asked_at=110), 120, "ping", 130, id="asked again"),
        pytest.param(patient(timeout=15), signs(), 110, "ping", 115, id="looked at again when its time is over"),
        pytest.param(patient(timeout=0), signs(), 1000, "ping", 1010, id="no timeout: asked for ever"),
        pytest.param(
            patient(timeout=0), signs(pinged_at=990, asked_at=110), 1000, "ping", 1010, id="no timeout: never silent"
        ),
        # Silence.
        pytest.param(patient(), signs(pinged_at=120, asked_at=110), 129.9, None, 130, id="almost silent"),
        pytest.param(patient(), signs(pinged_at=120, asked_at=110), 130, "silent", 130, id="silent for the timeout"),
        pytest.param(
            patient(), signs(heard=121, pinged_at=120, asked_at=110), 130, None, 131, id="answered in between"
        ),
        pytest.param(patient(), signs(), 200, "ping", 210, id="never asked, so not silent"),
        pytest.param(patient(), signs(pinged_at=200, asked_at=200), 219.9, "ping", 220, id="asked late, time to answer"),
        pytest.param(patient(), signs(pinged_at=200, asked_at=200), 220, "silent", 220, id="asked late, that is over"),
        pytest.param(patient(interval=0), signs(), 1000, None, NEVER, id="never asked, never silent"),
        # Idleness.
        pytest.param(patient(0, 0, idle=50), signs(), 149.9, None, 150, id="almost idle"),
        pytest.param(patient(0, 0, idle=50), signs(), 150, "idle", 150, id="idle"),
        pytest.param(
            patient(idle=50), signs(heard=149, last_message=100), 150, "idle", 150, id="pongs are no messages"
        ),
        pytest.param(patient(idle=5), signs(), 103, None, 105, id="idle before it is asked"),
        pytest.param(patient(idle=15), signs(), 110, "ping", 115, id="asked, and looked at when idle"),
        # Age.
        pytest.param(patient(0, 0, age=50), signs(heard=149), 149.9, None, 150, id="almost old"),
        pytest.param(patient(0, 0, age=50), signs(heard=149), 150, "old", 150, id="old, however lively"),
        pytest.param(patient(idle=50, age=50), signs(), 150, "old", 150, id="old before idle: it may come back"),
        pytest.param(
            patient(age=30), signs(pinged_at=120, asked_at=110), 130, "old", 130, id="old before silent"
        ),
        pytest.param(patient(age=5), signs(), 103, None, 105, id="old before it is asked"),
        # Being held.
        pytest.param(patient(), signs(held=True), 200, None, 201, id="held: not asked, looked at soon"),
        pytest.param(
            patient(), signs(pinged_at=120, asked_at=110, held=True), 130, None, 131, id="held: not silent"
        ),
        pytest.param(patient(idle=50), signs(held=True), 200, None, 201, id="held: not idle"),
        pytest.param(patient(age=50), signs(held=True), 150, "old", 150, id="held: old all the same"),
        pytest.param(patient(age=50), signs(held=True), 149.5, None, 150, id="held: looked at when old"),
        pytest.param(patient(0.5), signs(held=True), 200, None, 200.5, id="held: looked at within the interval"),
        pytest.param(patient(0, 0), signs(held=True), 200, None, 201, id="held: without an interval too"),
        pytest.param(patient(), signs(), 200, "ping", 210, id="not held any more: asked first"),
        # Nothing.
        pytest.param(patient(0, 0), signs(), 10_000, None, NEVER, id="no limit at all"),
    ],
)  # fmt: skip
def test_the_verdict(patience, seen, now, action, again):
    assert verdict(patience, seen, now) == (action, again)


seconds = st.integers(4, 160).map(lambda quarters: quarters / 4)
"""Whole quarters, so that sums are exact."""


class Life:
    """A socket whose peer is heard at given times, looked at as the verdict says, up to ``late`` later."""

    def __init__(
        self, patience: Patience, heard: list[float], late: Iterator[float], holds: list[tuple[float, float]]
    ) -> None:
        self.patience = patience
        self.holds = holds
        """When it is not read, each from something heard to the moment when reading goes on."""
        self.heard = sorted(heard)
        self.late = late
        self.signs = Signs(opened=1000, last_heard=1000, last_message=1000, pinged_at=0, asked_at=0)
        self.pings: list[float] = []
        self.now = 1000.0

    def listen(self) -> None:
        reached = [self._reached(at) for at in [*self.heard, *(start for start, _ in self.holds)]]
        past = [at for at in reached if at <= self.now]
        if past:
            self.signs = self._with(last_heard=max(past))
        self.signs = self._with(held=any(start <= self.now < end for start, end in self.holds))

    def _reached(self, at: float) -> float:
        """When something the peer says at this moment is heard."""
        return next((end for start, end in self.holds if start < at < end), at)

    def ping(self) -> None:
        asked = self.now if self.signs.asked_at <= self.signs.last_heard else self.signs.asked_at
        self.signs = self._with(pinged_at=self.now, asked_at=asked)
        self.pings.append(self.now)

    def _with(self, **changes: Any) -> Signs:
        return self.signs._replace(**changes)

    def looks(self) -> Iterator[tuple[Any, float]]:
        """Yield what is found at each look, and when the one before said to look, until it is closed."""
        due = 1000.0
        while due < 2000:
            self.now = due + next(self.late)
            self.listen()
            action, again = verdict(self.patience, self.signs, self.now)
            yield action, due
            if action == "ping":
                self.ping()
            elif action is not None:
                return
            assert again > self.now, "a look that asks for another at once never ends"
            due = again


@st.composite
def lives(draw: st.DrawFn, *, on_time: bool) -> Life:
    interval, more = draw(seconds), draw(seconds)
    heard = draw(st.lists(st.integers(0, 480).map(lambda quarters: 1000 + quarters / 4), max_size=20))
    late = draw(
        st.lists(
            st.just(0.0) if on_time else st.integers(0, 400).map(lambda q: q / 4), min_size=1, max_size=10
        )
    )
    return Life(patient(interval, interval + more), heard, itertools.cycle(late), [])


@st.composite
def held_lives(draw: st.DrawFn) -> Life:
    life = draw(lives(on_time=False))
    lengths = st.lists(st.integers(1, 400).map(lambda quarters: quarters / 4), max_size=3)
    start = 1000.0
    for apart in draw(lengths):
        start += apart
        end = start + draw(seconds)
        life.holds.append((start, end))
        start = end
    return life


@given(held_lives())
def test_a_socket_that_was_held_is_asked_anew_and_has_the_whole_time_to_answer(life):
    """However long nothing of it could be heard."""
    for action, _ in life.looks():
        if action in ("silent", "ping"):
            assert not life.signs.held
        if action == "silent":
            released = max([end for _, end in life.holds if end <= life.now], default=0.0)
            assert life.signs.asked_at >= released
            assert life.now - life.signs.asked_at >= life.patience.timeout - life.patience.interval


@given(held_lives())
def test_a_socket_that_says_nothing_after_it_was_held_is_closed_all_the_same(life):
    last_action = None
    for action, _ in life.looks():
        last_action = action
    assert last_action == "silent"


@given(lives(on_time=False))
def test_a_socket_heard_within_the_timeout_is_never_closed(life):
    """However late the worker comes."""
    for action, _ in life.looks():
        if action == "silent":
            assert life.now - life.signs.last_heard >= life.patience.timeout


@given(lives(on_time=False))
def test_nobody_is_called_silent_who_had_less_time_to_answer_than_others_have(life):
    for action, _ in life.looks():
        if action == "silent":
            assert life.signs.asked_at > life.signs.last_heard
            assert life.now - life.signs.asked_at >= life.patience.timeout - life.patience.interval


@given(lives(on_time=True))
def test_a_socket_silent_for_the_timeout_is_closed_at_that_very_moment(life):
    """Not a tick later: the timeout that is configured is the timeout that happens."""
    last_action = None
    for action, _ in life.looks():
        last_action = action
    assert last_action == "silent"
    assert life.now == life.signs.last_heard + life.patience.timeout
    assert all(at <= life.signs.last_heard for at in life.heard if at <= life.now)


@given(lives(on_time=False))
def test_a_socket_silent_for_the_timeout_and_asked_is_closed_when_looked_at(life):
    for action, _ in life.looks():
        patience, seen = life.patience, life.signs
        if (
            life.now - seen.last_heard >= patience.timeout
            and seen.asked_at > seen.last_heard
            and life.now - seen.asked_at >= patience.timeout - patience.interval
        ):
            assert action == "silent"


@given(lives(on_time=True))
def test_a_ping_comes_exactly_the_interval_after_the_last_sign_or_ping(life):
    before = life.signs
    for action, _ in life.looks():
        before = life.signs
        quiet_since = max(before.last_heard, before.pinged_at)
        assert life.now - quiet_since <= life.patience.interval
        assert (action == "ping") <= (life.now - quiet_since == life.patience.interval)


@given(lives(on_time=False))
def test_the_next_look_is_never_later_than_something_that_is_to_be_done(life):
    for _, due in life.looks():
        quiet_since = max(life.signs.last_heard, life.signs.pinged_at)
        assert due <= quiet_since + life.patience.interval


@given(
    st.lists(st.sampled_from([0.0, 5.0, 12.0]), min_size=4, max_size=4),
    st.integers(0, 200),
    st.integers(0, 200),
)
def test_idle_and_age_end_a_socket_whatever_else_is_set(numbers, quiet, open_for):
    interval, timeout, idle, age = numbers
    assume(not (interval and timeout) or timeout > interval)
    now = 1000.0
    seen = Signs(opened=now - open_for, last_heard=now, last_message=now - quiet, pinged_at=0, asked_at=0)
    action, again = verdict(Patience(interval, timeout, idle, age), seen, now)
    expected = "old" if age and open_for >= age else "idle" if idle and quiet >= idle else None
    assert action == expected
    if action is None:
        ends = [interval, idle and idle - quiet, age and age - open_for]
        assert again - now == min([end for end in ends if end], default=NEVER)


# The deadlines.


def test_what_is_due_comes_out_once_the_longest_overdue_first():
    deadlines: Deadlines[str] = Deadlines()
    for key, at in (("c", 3.0), ("a", 1.0), ("d", 4.0), ("b", 2.0)):
        deadlines.add(key, at)
    assert deadlines.next() == 1.0
    assert list(deadlines.due(3.0)) == ["a", "b", "c"]
    assert list(deadlines.due(3.0)) == []
    assert (deadlines.next(), len(deadlines)) == (4.0, 1)


def test_without_keys_nothing_is_ever_due():
    deadlines: Deadlines[str] = Deadlines()
    assert (deadlines.next(), len(deadlines), list(deadlines.due(NEVER))) == (NEVER, 0, [])


def test_keys_of_the_same_moment_come_in_the_order_they_were_added():
    """And are never compared: sockets cannot be."""
    deadlines: Deadlines[Any] = Deadlines()
    keys = [object() for _ in range(5)]
    for key in keys:
        deadlines.add(key, 1.0)
    assert list(deadlines.due(1.0)) == keys


def test_a_forgotten_key_is_let_go_of_at_once():
    class Socket:
        pass

    deadlines: Deadlines[Any] = Deadlines()
    socket = Socket()
    gone = weakref.ref(socket)
    place = deadlines.add(socket, 1.0)
    del socket
    deadlines.forget(place)
    assert gone() is None


def test_forgetting_twice_or_after_it_was_due_does_nothing():
    deadlines: Deadlines[str] = Deadlines()
    taken, twice = deadlines.add("taken", 1.0), deadlines.add("twice", 2.0)
    deadlines.add("left", 3.0)
    assert list(deadlines.due(1.0)) == ["taken"]
    for place in (taken, twice, twice):
        deadlines.forget(place)
    assert len(deadlines) == 1
    assert list(deadlines.due(3.0)) == ["left"]


def test_forgotten_keys_are_swept_out_when_they_are_the_most():
    """Sockets that come and go do not fill the memory until their deadlines come."""
    deadlines: Deadlines[int] = Deadlines()
    places = [deadlines.add(number, float(number)) for number in range(1000)]
    for place in places[:900]:
        deadlines.forget(place)
    assert len(deadlines) == 100
    assert len(deadlines._heap) < 300
    assert list(deadlines.due(NEVER)) == list(range(900, 1000))


def test_keys_added_while_the_due_ones_are_taken_out_are_due_too():
    deadlines: Deadlines[str] = Deadlines()
    deadlines.add("first", 1.0)
    due = deadlines.due(5.0)
    assert next(due) == "first"
    deadlines.add("second", 2.0)
    deadlines.add("later", 6.0)
    assert list(due) == ["second"]


moments = st.integers(0, 30).map(float)
operations = st.lists(
    st.one_of(
        st.tuples(st.just("add"), moments, st.integers(1, 60)),
        st.tuples(st.just("forget"), st.integers(0, 1000), st.integers(1, 60)),
        st.tuples(st.just("due"), moments, st.none()),
    ),
    max_size=30,
)


@given(operations)
def test_deadlines_do_what_a_sorted_list_does(operations):
    deadlines: Deadlines[int] = Deadlines()
    model: dict[int, float] = {}
    places: list[list[int]] = []
    for action, number, times in operations:
        if action == "add":
            for _ in range(times):
                model[len(places)] = number
                places.append(deadlines.add(len(places), number))
        elif action == "forget":
            for key in range(number, min(number + times, len(places))):
                model.pop(key, None)
                deadlines.forget(places[key])
        else:
            due = sorted((at, key) for key, at in model.items() if at <= number)
            assert list(deadlines.due(number)) == [key for _, key in due]
            for _, key in due:
                del model[key]
        assert len(deadlines) == len(model)
        assert deadlines.next() <= min(model.values(), default=NEVER)


# The worker.


def now() -> float:
    """Monotonic seconds of a machine that has been up for days: a test can look back before its own boot."""
    return time.monotonic() + 1e6


@pytest.fixture(autouse=True)
def long_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(heartbeat, "time", SimpleNamespace(monotonic=now))


class Peer:
    """A connection as the worker sees it; its peer answers ``after`` seconds, or never."""

    def __init__(
        self,
        *,
        silent_for: float = 0,
        limits: Limits | None = None,
        answers_after: float | None = None,
        can: bool = True,
    ) -> None:
        self.id = f"peer-{id(self)}"
        self.limits = limits or Limits()
        self.opened = self.last_heard = self.last_message = now() - silent_for
        self.pinged_at = self.asked_at = 0.0
        self.heartbeat: Any = None
        self.closed = False
        self.transport = SimpleNamespace(is_held=False)
        self.pinged: list[str] = []
        self.reasons: list[CloseReason] = []
        self.closed_at = 0.0
        self._answers_after = answers_after
        self._can = can

    def can_be_asked(self, how: str) -> bool:
        return self._can

    def ping(self, how: str) -> None:
        self.pinged.append(how)
        self.pinged_at = now()
        if self.asked_at <= self.last_heard:
            self.asked_at = self.pinged_at
        if self._answers_after is not None:
            asyncio.get_running_loop().call_later(self._answers_after, self.heard)

    def heard(self) -> None:
        self.last_heard = now()

    def close(self, reason: CloseReason) -> None:
        self.closed = True
        self.closed_at = now()
        self.reasons.append(reason)


class Broken(Peer):
    """A connection whose transport fails in a way nobody thought of."""

    def ping(self, how: str) -> None:
        super().ping(how)
        raise RuntimeError("Attempt to send on a closed protocol")


@pytest.fixture
def worker() -> HeartbeatWorker:
    return HeartbeatWorker(Counters())


def watched(worker: HeartbeatWorker, *peers: Any) -> None:
    for peer in peers:
        worker.track(peer)


@asynccontextmanager
async def running(worker: HeartbeatWorker) -> AsyncIterator[asyncio.Task[None]]:
    task = asyncio.create_task(worker.run())
    # One turn, so that it is asleep and has to be woken.
    await asyncio.sleep(0)
    try:
        yield task
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


async def test_a_round_asks_who_was_silent_and_leaves_the_others_alone(worker):
    silent, lively = Peer(silent_for=40), Peer()
    watched(worker, silent, lively)
    await worker.beat()
    assert (silent.pinged, lively.pinged) == (["auto"], [])
    assert len(worker) == 2
    assert silent.heartbeat is not None
    await worker.beat()
    assert silent.pinged == ["auto"]


@pytest.mark.setting("REALTIME_HEARTBEAT_TYPE")
@pytest.mark.parametrize("how", ["auto", "ping", "message"])
async def test_a_socket_is_asked_the_way_the_setting_says(worker, how):
    peer = Peer(silent_for=40)
    with override_settings(REALTIME_HEARTBEAT_TYPE=how):
        watched(worker, peer)
        await worker.beat()
    assert peer.pinged == [how]


async def test_a_socket_that_is_held_is_left_alone_until_it_is_read_again(worker, monkeypatch):
    """Its peer has sent more than its handler can take, so its silence is ours."""
    monkeypatch.setattr(heartbeat, "HELD_LOOK", 0.01)
    peer = Peer(silent_for=1000)
    peer.transport.is_held = True
    watched(worker, peer)
    async with running(worker):
        await asyncio.sleep(0.05)
        assert (peer.pinged, peer.closed, len(worker)) == ([], False, 1)
        peer.transport.is_held = False
        await until(lambda: peer.pinged)
    assert not peer.closed


async def test_who_was_heard_in_the_meantime_is_not_asked(worker):
    peer = Peer(silent_for=40)
    watched(worker, peer)
    peer.heard()
    await worker.beat()
    assert peer.pinged == []
    assert len(worker) == 1


async def test_silence_is_closed_and_counted(worker):
    peer = Peer(silent_for=100)
    peer.asked_at = peer.pinged_at = peer.last_heard + 15
    watched(worker, peer)
    await worker.beat()
    assert peer.reasons == [HEARTBEAT_TIMEOUT]
    assert worker._counters.heartbeat_timeouts == 1
    assert (len(worker), peer.heartbeat) == (0, None)


async def test_who_was_silent_while_nobody_looked_is_asked_first(worker):
    """The process stood still for longer than the timeout: no storm of disconnects."""
    peer = Peer(silent_for=10_000)
    watched(worker, peer)
    await worker.beat()
    assert (peer.pinged, peer.reasons) == (["auto"], [])


@pytest.mark.setting("REALTIME_IDLE_TIMEOUT")
async def test_idleness_is_closed_and_not_counted_as_a_heartbeat_timeout(worker):
    peer = Peer(silent_for=20)
    with override_settings(REALTIME_IDLE_TIMEOUT=15):
        watched(worker, peer)
        await worker.beat()
    assert peer.reasons == [HEARTBEAT_TIMEOUT]
    assert worker._counters.heartbeat_timeouts == 0


@pytest.mark.setting("REALTIME_MAX_CONNECTION_AGE")
async def test_age_is_closed_to_come_back(worker):
    peer = Peer(silent_for=20)
    peer.heard()
    with override_settings(REALTIME_MAX_CONNECTION_AGE=15):
        watched(worker, peer)
        await worker.beat()
    assert peer.reasons == [RESTART]
    assert worker._counters.heartbeat_timeouts == 0


async def test_a_socket_that_nothing_can_happen_to_is_not_watched(worker):
    peer = Peer(can=False)
    watched(worker, peer)
    assert (len(worker), peer.heartbeat) == (0, None)
    worker.forget(peer)  # type: ignore[arg-type]


async def test_a_forgotten_socket_is_left_alone(worker):
    peer = Peer(silent_for=40)
    watched(worker, peer)
    worker.forget(peer)  # type: ignore[arg-type]
    worker.forget(peer)  # type: ignore[arg-type]
    await worker.beat()
    assert (peer.pinged, peer.heartbeat, len(worker)) == ([], None, 0)


async def test_a_closed_socket_is_no_longer_watched(worker):
    peer = Peer(silent_for=40)
    watched(worker, peer)
    peer.closed = True
    await worker.beat()
    assert (peer.pinged, len(worker)) == ([], 0)


async def test_a_socket_that_closes_while_it_is_asked_is_no_longer_watched(worker):
    class Full(Peer):
        def ping(self, how: str) -> None:
            self.closed = True

    peer = Full(silent_for=40)
    watched(worker, peer)
    await worker.beat()
    assert (len(worker), peer.heartbeat) == (0, None)


async def test_a_socket_that_fails_does_not_keep_the_others_from_being_asked(worker):
    broken, fine = Broken(silent_for=50), Peer(silent_for=40)
    watched(worker, broken, fine)
    await worker.beat()
    assert fine.pinged == ["auto"]


async def test_a_socket_that_fails_is_closed_and_the_failure_logged(worker, caplog):
    """One failed ping must not make a socket immortal."""
    broken = Broken(silent_for=50)
    watched(worker, broken)
    await worker.beat()
    assert (broken.reasons, len(worker)) == ([SERVER_ERROR], 0)
    (record,) = [record for record in caplog.records if record.name == "realtime"]
    assert (record.client, record.exc_info[0]) == (broken.id, RuntimeError)


@pytest.mark.setting("REALTIME_MAX_CONCURRENT_CLEANUP")
async def test_a_long_round_gives_others_a_turn(worker):
    """S11"""
    peers = [Peer(silent_for=40) for _ in range(6)]
    watched(worker, *peers)
    asked: list[int] = []
    with override_settings(REALTIME_MAX_CONCURRENT_CLEANUP=2):
        beat = asyncio.ensure_future(worker.beat())
        while not beat.done():
            await asyncio.sleep(0)
            asked.append(sum(len(peer.pinged) for peer in peers))
    assert asked[:3] == [2, 4, 6]


@pytest.mark.parametrize(
    ("limits", "expected"),
    [
        pytest.param(Limits(), (30, 60, 0, 0), id="the settings"),
        pytest.param(
            Limits(heartbeat_interval=5, heartbeat_timeout=9), (5, 9, 0, 0), id="the route's heartbeat"
        ),
        pytest.param(Limits(heartbeat_timeout=0), (30, 0, 0, 0), id="0 switches off"),
        pytest.param(Limits(heartbeat_interval=0), (0, 60, 0, 0), id="0 never asks"),
        pytest.param(Limits(idle_timeout=7), (30, 60, 7, 0), id="the route's idle timeout"),
    ],
)
def test_a_route_sets_its_own_patience(limits, expected):
    """B1"""
    patience = patience_of(Peer(limits=limits))  # type: ignore[arg-type]
    interval, timeout, idle, age = expected
    assert interval / 2 <= patience.interval <= interval
    assert (patience.timeout, patience.idle, patience.age) == (timeout, idle, age)


@pytest.mark.parametrize("timeout", [1, 10, 30])
def test_a_route_less_patient_than_the_settings_asks_sooner(timeout):
    """Half of its timeout is left to answer."""
    patience = patience_of(Peer(limits=Limits(heartbeat_timeout=timeout)))  # type: ignore[arg-type]
    assert 0 < patience.interval <= timeout / 2


@pytest.mark.parametrize(
    "name", ["heartbeat_interval", "heartbeat_timeout", "idle_timeout", "handler_timeout"]
)
def test_a_routes_patience_is_a_number_of_seconds(name):
    """A negative interval is always over: the worker would never get to the end of its round."""
    for value in (-1, float("nan"), float("inf"), "10", True):
        with pytest.raises(ValueError, match=f"{name} is {value!r}"):
            Limits(**{name: value})


def test_who_cannot_be_asked_is_not_judged_by_silence():
    with override_settings(REALTIME_IDLE_TIMEOUT=7, REALTIME_MAX_CONNECTION_AGE=8):
        assert patience_of(Peer(can=False)) == Patience(0, 0, 7, 8)  # type: ignore[arg-type]


def test_sockets_that_came_together_are_not_asked_together():
    peers = [Peer() for _ in range(200)]
    intervals = [patience_of(peer).interval for peer in peers]  # type: ignore[arg-type]
    assert len(set(intervals)) > 100
    assert min(intervals) < 18
    assert max(intervals) > 27
    assert intervals == [patience_of(peer).interval for peer in peers]  # type: ignore[arg-type]


@pytest.fixture
def far_sighted(monkeypatch: pytest.MonkeyPatch) -> None:
    """The loop sleeps as long as its deadlines let it: what is seen in time was not seen by chance."""
    monkeypatch.setattr(heartbeat, "LONGEST_SLEEP", 3600)


async def test_the_loop_asks_and_closes_in_time(worker, far_sighted):
    peer = Peer()
    with override_settings(REALTIME_HEARTBEAT_INTERVAL=0.05, REALTIME_HEARTBEAT_TIMEOUT=0.12):
        watched(worker, peer)
        async with running(worker):
            await until(lambda: peer.closed)
    assert peer.reasons == [HEARTBEAT_TIMEOUT]
    assert len(peer.pinged) >= 2
    assert 0.12 <= peer.closed_at - peer.opened < 1


async def test_the_loop_is_woken_by_a_socket_that_is_due_sooner(worker, far_sighted):
    slow, quick = Peer(), Peer(limits=Limits(heartbeat_interval=0.02, heartbeat_timeout=60))
    watched(worker, slow)
    async with running(worker):
        watched(worker, quick)
        await until(lambda: bool(quick.pinged))
    assert slow.pinged == []


async def test_the_loop_wakes_for_the_first_socket_there_ever_is(worker, far_sighted):
    peer = Peer(limits=Limits(heartbeat_interval=0.02, heartbeat_timeout=60))
    async with running(worker):
        await asyncio.sleep(0.01)
        watched(worker, peer)
        await until(lambda: bool(peer.pinged))


async def test_a_socket_that_answers_lives_on(worker):
    """C6: many rounds longer than the timeout."""
    with override_settings(REALTIME_HEARTBEAT_INTERVAL=0.02, REALTIME_HEARTBEAT_TIMEOUT=0.3):
        peer = Peer(answers_after=0.001)
        watched(worker, peer)
        async with running(worker):
            await until(lambda: now() - peer.opened > 0.7)
    assert peer.reasons == []
    assert len(peer.pinged) > 10


async def test_a_socket_that_answers_lives_on_where_its_route_sets_a_timeout_below_the_interval(worker):
    """``Limits(heartbeat_timeout=10)`` beside the default interval of 30 s must not close everybody."""
    peer = Peer(silent_for=40, limits=Limits(heartbeat_timeout=10), answers_after=0)
    watched(worker, peer)
    async with running(worker):
        await until(lambda: peer.closed or peer.last_heard > peer.pinged_at > 0)
        assert peer.pinged == ["auto"]
    assert peer.reasons == []


async def test_the_loop_ends_when_it_is_cancelled(worker):
    async with running(worker) as task:
        task.cancel()
        await asyncio.wait([task], timeout=1)
        assert task.cancelled()


async def test_a_wait_without_deadlines_costs_no_rounds(worker, monkeypatch):
    rounds: list[Callable[[], Any]] = []
    beat = worker.beat

    async def counted() -> None:
        rounds.append(beat)
        await beat()

    monkeypatch.setattr(worker, "beat", counted)
    async with running(worker):
        await asyncio.sleep(0.05)
    assert rounds == []
