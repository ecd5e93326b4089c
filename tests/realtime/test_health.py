"""Is this process well? Every reason it gives, and that it gets well again when its cause is over."""

from __future__ import annotations

import asyncio
import dataclasses
from typing import Any

import pytest

from ratelimit.counters import RateLimitSnapshot
from realtime import health as module
from realtime.counters import Rates
from realtime.health import Health, health, judge
from realtime.nodes import NodeSnapshot, Totals
from realtime.supervisor import TaskState

GOOD_NODE = NodeSnapshot(
    name="blue", pid=1, version="0", started_at=0, taken_at=100, draining=False, connections=5, named=2, anonymous=3,
    rooms=1, buffered_bytes=0, memory_bytes=0, queue_size=0, queue_limit=100, handlers=3,
    totals=Totals(**{field.name: {} if "dict" in str(field.type) else 0 for field in dataclasses.fields(Totals)}),  # type: ignore[arg-type]
    rates=Rates(0, 0, 0),
    tasks=(TaskState("heartbeat", alive=True, restarts=0, last_error=""),),
)  # fmt: skip
GOOD_LIMITS = RateLimitSnapshot(
    taken_at=100, limited_messages={}, limited_connections=0, disconnects=0, oversized=0, refused={}, bans=0,
    top_addresses=(), top_clients=(), minutes=(), seconds_since_limiting=None, seconds_since_disconnecting=None,
)  # fmt: skip

DOWN = TaskState("sender", alive=False, restarts=2, last_error="OSError: gone")
RESTARTED = TaskState("sender", alive=True, restarts=3, last_error="OSError: gone")


def judged(**seen: Any) -> Health:
    """The verdict on a process in which all is well but what is given."""
    limits = {name: value for name, value in seen.items() if name.startswith("seconds_")}
    node = {name: value for name, value in seen.items() if name not in limits}
    return judge(dataclasses.replace(GOOD_NODE, **node), dataclasses.replace(GOOD_LIMITS, **limits))


@pytest.mark.parametrize(
    ("seen", "status", "reasons"),
    [
        pytest.param({}, "healthy", (), id="all is well"),
        pytest.param({"draining": True}, "warning", ("the server is draining",), id="draining"),
        pytest.param({"state_problem": "since 12:00: Redis at h:1 refuses."}, "warning",
                     ("what nodes share cannot be reached since 12:00: Redis at h:1 refuses.",), id="the state is away"),
        pytest.param({"queue_size": 79}, "healthy", (), id="queue below four fifths"),
        pytest.param({"queue_size": 80}, "warning", ("the publish queue is 80 % full",), id="queue four fifths full"),
        pytest.param({"queue_size": 99}, "warning", ("the publish queue is 99 % full",), id="queue almost full"),
        pytest.param({"queue_size": 100}, "critical", ("the publish queue is full (100)",), id="queue full"),
        pytest.param({"queue_size": 7, "queue_limit": 3}, "critical", ("the publish queue is full (7)",),
                     id="limit lowered below what waits"),
        pytest.param({"queue_size": 0, "queue_limit": 1}, "healthy", (), id="the smallest queue, empty"),
        pytest.param({"tasks": (DOWN,)}, "critical", ("background task sender is down: OSError: gone",), id="task down"),
        pytest.param({"tasks": (RESTARTED,)}, "healthy", (), id="task up again"),
        pytest.param({"tasks": ()}, "healthy", (), id="no tasks yet"),
        pytest.param({"rooms_behind": 2}, "warning", ("2 rooms wait for messages that were lost on the way",),
                     id="rooms behind"),
        pytest.param({"seconds_since_limiting": 0.0}, "warning", ("clients were rate limited in the last minute",),
                     id="just limited"),
        pytest.param({"seconds_since_limiting": 59.9}, "warning",
                     ("clients were rate limited in the last minute",), id="limited within the minute"),
        pytest.param({"seconds_since_limiting": 60.0}, "healthy", (), id="limited a minute ago"),
        pytest.param({"seconds_since_disconnecting": 0.0}, "critical",
                     ("clients were disconnected for sending too much in the last minute",), id="just disconnected"),
        pytest.param({"seconds_since_disconnecting": 60.0}, "healthy", (), id="disconnected a minute ago"),
        pytest.param({"seconds_since_limiting": 1.0, "seconds_since_disconnecting": 2.0}, "critical",
                     ("clients were disconnected for sending too much in the last minute",), id="disconnecting too"),
        pytest.param({"seconds_since_limiting": 1.0, "seconds_since_disconnecting": 60.0}, "warning",
                     ("clients were rate limited in the last minute",), id="disconnecting is over, limiting is not"),
    ],
)  # fmt: skip
def test_the_verdict(seen, status, reasons):
    """F7"""
    assert judged(**seen) == Health(status, reasons)


def test_all_reasons_are_given_the_worst_first():
    verdict = judged(draining=True, queue_size=100, tasks=(DOWN, RESTARTED), seconds_since_limiting=1.0)
    assert verdict.status == "critical"
    assert verdict.reasons == (
        "the publish queue is full (100)",
        "background task sender is down: OSError: gone",
        "the server is draining",
        "clients were rate limited in the last minute",
    )


def test_every_task_that_is_down_is_named():
    also = dataclasses.replace(DOWN, name="receiver")
    assert len(judged(tasks=(DOWN, also)).reasons) == 2


@pytest.mark.parametrize(
    "ill",
    [
        {"draining": True},
        {"queue_size": 100},
        {"tasks": (DOWN,)},
        {"seconds_since_limiting": 1.0},
        {"seconds_since_disconnecting": 1.0},
    ],
    ids=str,
)
def test_it_is_well_again_when_the_cause_is_over(ill):
    """A verdict is of this moment: nothing of the one before is kept."""
    assert judged(**ill).status != "healthy"
    assert judged() == Health("healthy", ())


async def test_the_verdict_on_this_process_is_on_what_it_is_now(monkeypatch):
    monkeypatch.setattr(module, "snapshot", lambda: dataclasses.replace(GOOD_NODE, draining=True))
    monkeypatch.setattr(module, "ratelimit_snapshot", lambda: GOOD_LIMITS)
    assert health() == Health("warning", ("the server is draining",))


async def test_any_thread_may_ask():
    verdict = await asyncio.to_thread(health)
    assert verdict.status in ("healthy", "warning", "critical")


def test_limits_that_count_alone_are_a_warning():
    """X3"""
    verdict = judge(GOOD_NODE, dataclasses.replace(GOOD_LIMITS, alone="Redis is away."))
    assert verdict == Health("warning", ("limits count in this process only: Redis is away.",))
