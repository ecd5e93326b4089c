"""Stepping: what never waits runs to its end in place, what waits goes on as if one task had run it all."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Generator
from typing import Any

import pytest

from realtime.stepping import Rest, finish, step


class Log(list[str]):
    """What happened, in order."""

    async def run(self, *waits: Awaitable[Any]) -> str:
        self.append("begun")
        try:
            for number, wait in enumerate(waits, start=1):
                self.append(f"got {await wait!r}")
                assert number
        except BaseException as error:
            self.append(type(error).__name__)
            raise
        finally:
            self.append("ended")
        return "result"


@pytest.fixture
def log() -> Log:
    return Log()


def stepped(awaitable: Awaitable[Any]) -> Rest:
    rest = step(awaitable)
    assert rest is not None
    return rest


async def no_wait(value: Any) -> Any:
    return value


async def test_what_never_waits_is_done_when_step_returns(log):
    assert step(log.run()) is None
    assert log == ["begun", "ended"]


async def test_awaiting_what_does_not_suspend_is_not_waiting(log):
    assert step(log.run(no_wait(1), no_wait(2))) is None
    assert log == ["begun", "got 1", "got 2", "ended"]


def test_no_loop_is_needed_for_what_never_waits(log):
    assert step(log.run()) is None


async def test_what_it_raises_at_once_is_raised_by_step():
    async def fails() -> None:
        raise LookupError("gone")

    with pytest.raises(LookupError, match="gone"):
        step(fails())


async def test_what_waits_has_run_up_to_there(log):
    future = asyncio.get_running_loop().create_future()
    rest = stepped(log.run(no_wait(1), future))
    assert log == ["begun", "got 1"]
    rest.close()


async def test_the_rest_is_awaited_for_the_result(log):
    future = asyncio.get_running_loop().create_future()
    rest = stepped(log.run(future))
    asyncio.get_running_loop().call_soon(future.set_result, 7)
    assert await rest == "result"
    assert log == ["begun", "got 7", "ended"]


async def test_a_future_that_is_done_before_the_rest_is_awaited_is_seen(log):
    future = asyncio.get_running_loop().create_future()
    rest = stepped(log.run(future))
    future.set_result(7)
    assert await rest == "result"


async def test_a_rest_may_wait_many_times(log):
    rest = stepped(
        log.run(asyncio.sleep(0, "a"), asyncio.sleep(0.001, "b"), no_wait("c"), asyncio.sleep(0, "d"))
    )
    assert await rest == "result"
    assert log[1:-1] == ["got 'a'", "got 'b'", "got 'c'", "got 'd'"]


async def test_a_bare_yield_to_the_loop_is_waiting(log):
    rest = stepped(log.run(asyncio.sleep(0, 1)))
    assert log == ["begun"]
    assert await rest == "result"


async def test_an_error_of_what_is_waited_for_is_raised_inside(log):
    future = asyncio.get_running_loop().create_future()
    rest = stepped(log.run(future))
    future.set_exception(LookupError("gone"))
    with pytest.raises(LookupError, match="gone"):
        await rest
    assert log == ["begun", "LookupError", "ended"]


async def test_an_error_that_is_handled_inside_does_not_come_out():
    future = asyncio.get_running_loop().create_future()

    async def careful() -> str:
        try:
            await future
        except LookupError:
            await asyncio.sleep(0)
            return "handled"
        return "not reached"

    rest = stepped(careful())
    future.set_exception(LookupError)
    assert await rest == "handled"


async def test_cancelling_the_task_cancels_what_is_waited_for_and_what_waits(log):
    future = asyncio.get_running_loop().create_future()
    task = asyncio.create_task(finish(stepped(log.run(future))))
    await asyncio.sleep(0)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert future.cancelled()
    assert log == ["begun", "CancelledError", "ended"]


async def test_cleaning_up_after_a_cancellation_may_wait():
    cleaned = False

    async def tidy() -> None:
        nonlocal cleaned
        try:
            await asyncio.Event().wait()
        finally:
            await asyncio.sleep(0.001)
            cleaned = True

    task = asyncio.create_task(finish(stepped(tidy())))
    await asyncio.sleep(0)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert cleaned


async def test_a_timeout_around_the_rest_reaches_inside(log):
    rest = stepped(log.run(asyncio.get_running_loop().create_future()))
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.001):
            await rest
    assert log == ["begun", "CancelledError", "ended"]


async def test_another_task_may_finish_it(log):
    future = asyncio.get_running_loop().create_future()
    task = asyncio.create_task(finish(stepped(log.run(future))))
    future.set_result(7)
    assert await task is None
    assert log[-1] == "ended"


async def test_a_rest_that_is_given_up_cleans_up(log):
    rest = stepped(log.run(asyncio.get_running_loop().create_future()))
    rest.close()
    assert log == ["begun", "GeneratorExit", "ended"]


async def test_a_rest_whose_awaiting_is_given_up_cleans_up(log):
    """What the loop does to a task that is still pending when everything ends."""
    rest = stepped(log.run(asyncio.get_running_loop().create_future()))
    awaiting = rest.__await__()
    next(awaiting)
    awaiting.close()
    assert log == ["begun", "GeneratorExit", "ended"]


async def test_a_rest_that_nobody_awaits_is_dropped_in_silence(log):
    """Warnings are errors here."""
    stepped(log.run(asyncio.get_running_loop().create_future()))
    assert log[-1] == "ended"


async def test_anything_awaitable_can_be_stepped():
    class Ready:
        def __await__(self) -> Generator[Any, Any, str]:
            return (yield from no_wait("ready").__await__())

    done = asyncio.get_running_loop().create_future()
    done.set_result(None)
    assert step(Ready()) is None
    assert step(done) is None
    waiting = asyncio.get_running_loop().create_future()
    rest = stepped(waiting)
    waiting.set_result("later")
    assert await rest == "later"


def test_what_the_loop_answers_is_passed_in():
    class Asks:
        def __await__(self) -> Generator[str, str, str]:
            return (yield "question")

    awaiting = stepped(Asks()).__await__()
    assert next(awaiting) == "question"
    with pytest.raises(StopIteration) as stopped:
        awaiting.send("answer")
    assert stopped.value.value == "answer"


async def test_many_rests_go_on_side_by_side():
    gate = asyncio.Event()

    async def through(number: int) -> int:
        await gate.wait()
        return number

    rests = [stepped(through(number)) for number in range(20)]
    gate.set()
    assert [await rest for rest in rests] == list(range(20))
