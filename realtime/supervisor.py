"""Background tasks that must not die: each has a name, one owner, and is started again when it ends."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass

from ratelimit.logs import get_logger
from realtime.conf import get_settings
from realtime.counters import Counters

logger = get_logger("realtime")

CANCEL_AGAIN = 0.5
"""Seconds that a task has to end after it was cancelled, before it is cancelled again."""


@dataclass(frozen=True, slots=True)
class TaskState:
    """One background task as health and the admin show it."""

    name: str
    alive: bool
    restarts: int
    last_error: str
    """What ended it the last time; empty if nothing did."""


class _Job:
    __slots__ = ("last_error", "restarts", "running", "task")

    def __init__(self) -> None:
        self.restarts = 0
        self.last_error = ""
        self.running = False
        self.task: asyncio.Task[None] | None = None


class Supervisor:
    """Keeps the background tasks of one node alive. Belongs to the node's loop."""

    def __init__(self, counters: Counters) -> None:
        self._counters = counters
        self._jobs: dict[str, _Job] = {}

    def start(self, name: str, work: Callable[[], Awaitable[None]]) -> None:
        """Run ``work()`` until :meth:`stop`, and again ``REALTIME_TASK_RESTART_INTERVAL`` after it ends or fails."""
        job = self._jobs[name] = _Job()
        job.running = True
        job.task = asyncio.get_running_loop().create_task(
            self._keep_alive(name, job, work), name=f"realtime.{name}"
        )

    async def stop(self) -> None:
        """Cancel every task and wait until they are gone; one that loses its cancellation is cancelled again."""
        tasks = [job.task for job in self._jobs.values() if job.task is not None]
        running = set(tasks)
        while running:
            for task in running:
                task.cancel()
            # A channel layer may turn a cancellation into an error of its own, and then the work goes on.
            _, running = await asyncio.wait(running, timeout=CANCEL_AGAIN)
        await asyncio.gather(*tasks, return_exceptions=True)
        for job in self._jobs.values():
            job.running = False

    def states(self) -> tuple[TaskState, ...]:
        """Return every task's state. Safe from any thread."""
        return tuple(
            TaskState(name, job.running, job.restarts, job.last_error)
            for name, job in list(self._jobs.items())
        )

    async def _keep_alive(self, name: str, job: _Job, work: Callable[[], Awaitable[None]]) -> None:
        while True:
            job.running = True
            try:
                await work()
                job.last_error = "it returned"
            except asyncio.CancelledError:
                if _is_being_cancelled():
                    raise
                # Something inside was cancelled, not this task: work that ends that way has died too.
                job.last_error = "it was cancelled from within"
                logger.error("background task failed", task=name, error=job.last_error)
            except Exception as error:
                job.last_error = f"{type(error).__name__}: {error}"
                logger.exception("background task failed", task=name)
            finally:
                job.running = False
            await asyncio.sleep(get_settings().task_restart_interval)
            job.restarts += 1
            self._counters.task_restarts += 1


def _is_being_cancelled() -> bool:
    task = asyncio.current_task()
    return task is not None and task.cancelling() > 0
