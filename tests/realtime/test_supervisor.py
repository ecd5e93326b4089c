"""Background tasks: started again whatever ends them, stopped only by their owner, seen by anyone."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Iterator

import pytest
from django.test import override_settings

from realtime import supervisor as module
from realtime.counters import Counters
from realtime.supervisor import Supervisor, TaskState
from realtime.testing import until


@pytest.fixture(autouse=True)
def quick() -> Iterator[None]:
    with override_settings(REALTIME_TASK_RESTART_INTERVAL=0.01):
        yield


@pytest.fixture
def counters() -> Counters:
    return Counters()


@pytest.fixture
async def supervisor(counters: Counters) -> AsyncIterator[Supervisor]:
    supervisor = Supervisor(counters)
    yield supervisor
    await supervisor.stop()


class Work:
    """Does what its plan says, run by run, and then waits for ever."""

    def __init__(self, *plan: Callable[[], None]) -> None:
        self.plan = list(plan)
        self.began: list[float] = []
        self.ended = 0

    async def __call__(self) -> None:
        self.began.append(asyncio.get_running_loop().time())
        try:
            if self.plan:
                await asyncio.sleep(0)
                self.plan.pop(0)()
            else:
                await asyncio.Event().wait()
        finally:
            self.ended += 1


def returns() -> None:
    """End as if all were done."""


def fails() -> None:
    raise LookupError("gone")


def is_cancelled() -> None:
    """What awaiting a future that somebody else cancelled looks like."""
    raise asyncio.CancelledError


def the(supervisor: Supervisor, name: str = "work") -> TaskState:
    (state,) = [state for state in supervisor.states() if state.name == name]
    return state


async def test_work_runs_under_its_name(supervisor):
    supervisor.start("work", Work())
    await until(lambda: the(supervisor).alive)
    assert the(supervisor) == TaskState("work", alive=True, restarts=0, last_error="")
    assert "realtime.work" in {task.get_name() for task in asyncio.all_tasks()}


@pytest.mark.parametrize(
    ("end", "last_error"),
    [
        pytest.param(fails, "LookupError: gone", id="fails"),
        pytest.param(returns, "it returned", id="returns"),
        pytest.param(is_cancelled, "it was cancelled from within", id="is cancelled from within"),
    ],
)
async def test_work_that_ends_is_seen_and_started_again(supervisor, counters, end, last_error):
    """F15"""
    work = Work(end)
    supervisor.start("work", work)
    await until(lambda: work.ended == 1)
    await until(lambda: not the(supervisor).alive)
    assert the(supervisor).last_error == last_error
    await until(lambda: the(supervisor).alive)
    assert len(work.began) == 2
    assert (the(supervisor).restarts, counters.task_restarts) == (1, 1)


@pytest.mark.parametrize("end", [fails, is_cancelled])
async def test_a_failure_is_logged_with_the_name(supervisor, caplog, end):
    supervisor.start("work", Work(end))
    await until(lambda: the(supervisor).restarts == 1)
    (record,) = [record for record in caplog.records if record.name == "realtime"]
    assert (record.getMessage(), record.task) == ("background task failed", "work")
    assert end is is_cancelled or record.exc_info[0] is LookupError


async def test_what_ended_it_the_last_time_stays_known(supervisor):
    supervisor.start("work", Work(fails, returns))
    await until(lambda: the(supervisor).restarts == 2 and the(supervisor).alive)
    assert the(supervisor).last_error == "it returned"


@pytest.mark.setting("REALTIME_TASK_RESTART_INTERVAL")
async def test_work_that_keeps_failing_is_started_once_an_interval(supervisor):
    with override_settings(REALTIME_TASK_RESTART_INTERVAL=0.05):
        work = Work(fails, fails, fails)
        supervisor.start("work", work)
        await until(lambda: len(work.began) == 4)
    pauses = [later - earlier for earlier, later in zip(work.began, work.began[1:], strict=False)]
    assert min(pauses) >= 0.049


async def test_a_failure_leaves_the_others_alone(supervisor, counters):
    steady = Work()
    supervisor.start("steady", steady)
    supervisor.start("work", Work(fails))
    await until(lambda: the(supervisor).restarts == 1)
    assert the(supervisor, "steady") == TaskState("steady", alive=True, restarts=0, last_error="")
    assert len(steady.began) == 1
    assert [state.name for state in supervisor.states()] == ["steady", "work"]


async def test_stop_waits_until_all_are_gone(supervisor):
    here: list[str] = []
    gone: list[str] = []

    async def slow_to_leave() -> None:
        here.append("slow")
        try:
            await asyncio.Event().wait()
        finally:
            await asyncio.sleep(0.01)
            gone.append("slow")

    work = Work()
    supervisor.start("slow", slow_to_leave)
    supervisor.start("work", work)
    await until(lambda: bool(here and work.began))
    await supervisor.stop()
    assert (gone, work.ended) == (["slow"], 1)
    assert not any(state.alive for state in supervisor.states())
    assert not [task for task in asyncio.all_tasks() if task.get_name().startswith("realtime.")]


async def test_work_that_was_just_started_is_alive_until_it_is_stopped(supervisor):
    """Health must not call it dead before it had its first turn, nor alive when it never gets one."""
    supervisor.start("work", Work())
    assert the(supervisor).alive
    await supervisor.stop()
    assert not the(supervisor).alive


async def test_what_was_stopped_is_not_started_again(supervisor, counters):
    work = Work()
    supervisor.start("work", work)
    await until(lambda: the(supervisor).alive)
    await supervisor.stop()
    with pytest.raises(TimeoutError):
        await until(lambda: len(work.began) > 1, timeout=0.05)
    assert counters.task_restarts == 0


async def test_what_waits_for_its_restart_can_be_stopped(supervisor):
    with override_settings(REALTIME_TASK_RESTART_INTERVAL=60):
        supervisor.start("work", Work(fails))
        await until(lambda: bool(the(supervisor).last_error))
        async with asyncio.timeout(1):
            await supervisor.stop()


@pytest.mark.parametrize("goes_on", [True, False], ids=["goes on", "fails"])
async def test_work_that_loses_its_cancellation_is_stopped_all_the_same(supervisor, monkeypatch, goes_on):
    """Channel layers turn a cancellation into an error of their own, now and then."""
    monkeypatch.setattr(module, "CANCEL_AGAIN", 0.01)
    began = asyncio.Event()

    async def stubborn() -> None:
        began.set()
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            if not goes_on:
                raise RuntimeError("the lock is not held") from None
        await asyncio.Event().wait()

    with override_settings(REALTIME_TASK_RESTART_INTERVAL=60):
        supervisor.start("work", stubborn)
        await began.wait()
        async with asyncio.timeout(2):
            await supervisor.stop()
    assert not the(supervisor).alive


async def test_stopping_without_tasks_is_nothing():
    await Supervisor(Counters()).stop()


async def test_states_can_be_read_from_any_thread(supervisor):
    supervisor.start("work", Work())
    await until(lambda: the(supervisor).alive)
    assert await asyncio.to_thread(supervisor.states) == supervisor.states()
