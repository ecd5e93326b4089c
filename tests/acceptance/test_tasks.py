"""Jobs in processes that serve nothing, followed through nodes over a real Redis."""

from __future__ import annotations

import asyncio
import json
import sys
from typing import Any

import pytest
from websockets.asyncio.client import connect as ws_connect

from tests.acceptance.cluster import SETTINGS, Cluster
from tests.acceptance.processes import run
from tests.redisserver import RedisServer

pytestmark = pytest.mark.redis

SYNC = """
import django; django.setup()
from realtime.tasks import Progress
with Progress("Import", total=3, id="j1") as job:
    for number in range(3):
        job.advance(note=f"row {number}")
    job.log("all read")
    job.result = {"rows": 3}
"""
ASYNC = """
import asyncio, django; django.setup()
from realtime.tasks import Progress
async def main():
    async with Progress("Import", total=3, id="j1") as job:
        job.advance()
        job.log("one read")
        raise LookupError("row 2 has no name")
asyncio.run(main())
"""


async def told(connection: Any) -> list[dict[str, Any]]:
    """Return what comes of a job until its end."""
    found: list[dict[str, Any]] = []
    async with asyncio.timeout(20):
        while not found or found[-1]["type"] not in ("task.succeeded", "task.failed"):
            message = json.loads(await connection.recv())
            if message["type"].startswith("task."):
                found.append(message)
    return found


@pytest.mark.parametrize(
    ("code", "exit_code", "last"),
    [
        pytest.param(SYNC, 0, ("task.succeeded", "result", {"rows": 3}), id="a command that ends well"),
        pytest.param(ASYNC, 1, ("task.failed", "error", "row 2 has no name"), id="a worker that fails"),
    ],
)
async def test_a_job_in_another_process_reaches_followers_on_every_node(
    redis_server: RedisServer, code: str, exit_code: int, last: tuple[str, str, Any]
) -> None:
    """F12."""
    # The application puts a client into the room that its path names.
    async with (
        Cluster([redis_server.port] * 2) as cluster,
        ws_connect(f"{cluster[0].ws}/task.j1") as one,
        ws_connect(f"{cluster[1].ws}/task.j1") as two,
    ):
        for connection in (one, two):
            while '"system.joined"' not in str(await connection.recv()):
                pass
        environment = {**SETTINGS, "REDIS_URL": redis_server.url, "REALTIME_STATE_URL": redis_server.url}
        ended = await asyncio.to_thread(run, [sys.executable, "-c", code], environment)
        assert ended.code == exit_code, ended.stderr
        for connection in (one, two):
            events = await told(connection)
            type, key, value = last
            assert (events[0]["type"], events[-1]["type"]) == ("task.started", type)
            assert events[-1]["data"][key] == value
            assert "task.log" in [event["type"] for event in events]
            assert "Traceback" not in str(events)


ENDED = """
import asyncio, django; django.setup()
from realtime.tasks import Progress
async def main():
    async with Progress("Import", total=3, id="j2", owner=None) as job:
        job.advance(2, note="row 2")
        job.log("two read")
        job.result = [2]
asyncio.run(main())
"""
LATE = """
import asyncio, django; django.setup()
from realtime.tasks import status_of
status = asyncio.run(status_of("j2"))
print(status.state, status.done, status.note, status.log, bytes(status.result).decode())
"""


async def test_who_comes_late_in_another_process_sees_the_job_as_it_is(redis_server: RedisServer) -> None:
    """F12."""
    shared = {**SETTINGS, "REDIS_URL": redis_server.url, "REALTIME_STATE_URL": redis_server.url}
    for code, told in ((ENDED, ""), (LATE, "succeeded 2.0 row 2 ['two read'] [2]\n")):
        ended = await asyncio.to_thread(run, [sys.executable, "-c", code], shared)
        assert (ended.code, ended.stdout) == (0, told), ended.stderr
