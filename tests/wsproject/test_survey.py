"""The demonstration's background job: it is begun by a visitor, followed by whoever knows its id, and ends."""

from __future__ import annotations

import asyncio
import threading

import pytest
from django.contrib.auth.models import User

from realtime.tasks import Progress
from realtime.testing import Socket, connect
from wsproject import survey
from wsproject.routing import route

SURVEY = "/ws/survey/"


@pytest.fixture(autouse=True)
def quick(monkeypatch):
    """A harbour that is surveyed in no time."""
    monkeypatch.setattr(survey.start, "__kwdefaults__", {"pause": 0.0})


async def begin(socket: Socket) -> str:
    await socket.send("survey.start")
    found: str = (await socket.expect("survey.started"))["data"]["id"]
    return found


async def test_a_visitor_begins_a_survey_and_follows_it_to_its_end():
    """F12."""
    async with connect(route, SURVEY) as socket:
        await socket.send("task.follow", {"id": await begin(socket)})
        state = (await socket.expect("task.state"))["data"]
        assert (state["name"], state["total"]) == ("Harbour survey", survey.STATIONS)
        if state["state"] == "running":
            await socket.expect("task.succeeded")


async def test_whoever_comes_later_sees_how_it_went():
    async with connect(route, SURVEY) as one:
        id = await begin(one)
        await one.send("task.follow", {"id": id})
        if (await one.expect("task.state"))["data"]["state"] == "running":
            await one.expect("task.succeeded")
    async with connect(route, SURVEY) as other:
        await other.send("task.follow", {"id": id})
        state = (await other.expect("task.state"))["data"]
    depths = [survey.depth_at(station) for station in range(1, survey.STATIONS + 1)]
    assert (state["state"], state["done"]) == ("succeeded", survey.STATIONS)
    assert state["result"] == {"stations": survey.STATIONS, "least": min(depths)}
    assert len(state["log"]) == 4
    assert state["note"] == f"Station {survey.STATIONS}: {depths[-1]} m"


async def test_the_job_of_a_user_is_not_followed_by_others():
    async with Progress("Private", owner=7, id="private"):
        pass
    async with connect(route, SURVEY) as stranger:
        await stranger.send("task.follow", {"id": "private"})
        assert (await stranger.expect("system.error"))["data"]["code"] == "unknown_task"
    async with connect(route, SURVEY, user=User(pk=7, username="ann")) as owner:
        await owner.send("task.follow", {"id": "private"})
        await owner.expect("task.state")


async def test_there_are_only_so_many_boats(monkeypatch):
    boats = threading.BoundedSemaphore(1)
    monkeypatch.setattr(survey, "_boats", boats)
    boats.acquire()
    async with connect(route, SURVEY) as socket:
        await socket.send("survey.start")
        assert (await socket.expect("system.error"))["data"]["code"] == "busy"
        boats.release()
        await socket.send("task.follow", {"id": await begin(socket)})
        if (await socket.expect("task.state"))["data"]["state"] == "running":
            await socket.expect("task.succeeded")
        # The boat is back when the job has told its end to everybody.
        await asyncio.to_thread(boats.acquire)
