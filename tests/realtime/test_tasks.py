"""Background jobs: everything is told, seldom enough, to those who may know it, and never a traceback."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Iterator
from contextlib import AsyncExitStack, suppress
from typing import Any

import msgspec
import pytest
from django.contrib.auth.models import User

from realtime import outside, tasks
from realtime.consumers import RealtimeConsumer
from realtime.errors import MissingTarget, PublishError, StateUnavailable, TaskError
from realtime.publish import publish
from realtime.tasks import (
    INTERVAL,
    LEASE,
    LOG_LINES,
    MAX_LINE,
    MAX_RESULT_BYTES,
    FollowsTasks,
    Journal,
    Progress,
    TaskStatus,
    room_of,
    status_of,
)
from realtime.testing import Socket, connect, until

ANN = User(pk=7, username="ann")


class Follower(FollowsTasks, RealtimeConsumer):
    """Lets owners follow."""


class Anybody(FollowsTasks, RealtimeConsumer):
    """Lets everybody follow."""

    async def may_follow(self, task: TaskStatus) -> bool:
        return True


OWN, OPEN = Follower.as_asgi(), Anybody.as_asgi()


@pytest.fixture(autouse=True)
def nothing_left_over(monkeypatch) -> Iterator[None]:
    """A state of the test's own also for what runs without a node."""
    monkeypatch.setattr(outside, "_outside", None)
    yield
    if outside._outside is not None:
        outside._outside.close()


async def follow(socket: Socket, id: str) -> dict[str, Any]:
    """Follow a job, and return how it is."""
    await socket.send("task.follow", {"id": id}, id="f")
    state: dict[str, Any] = (await socket.expect("task.state"))["data"]
    await socket.expect("system.ack")
    return state


async def events(socket: Socket) -> list[dict[str, Any]]:
    """Return what a follower is told until the job ends."""
    found = []
    while not found or found[-1]["type"] not in ("task.succeeded", "task.failed"):
        message = await socket.receive()
        if message["type"].startswith("task."):
            found.append(message)
    return found


# The journal.


def journal(**known: Any) -> Journal:
    return Journal(
        TaskStatus(**{"id": "x", "name": "Import", "owner": "7", "started_at": 1.0, "total": 9, **known})
    )


def types(journal: Journal) -> list[str]:
    return [type for type, _ in journal.take().messages]


def test_each_thing_is_told_once_and_in_order():
    book = journal()
    book.move(1, 9, "reading")
    book.log("one")
    book.log("two")
    book.end(None)
    telling = book.take()
    assert telling.messages == [
        ("task.started", {"id": "x", "seq": 1, "name": "Import", "total": 9}),
        ("task.log", {"id": "x", "seq": 2, "lines": ["one", "two"], "skipped": 0}),
        ("task.progress", {"id": "x", "seq": 3, "done": 1, "total": 9, "note": "reading"}),
        ("task.succeeded", {"id": "x", "seq": 4, "result": msgspec.Raw(b"null")}),
    ]
    assert telling.last
    assert not [type for type in types(book) if type != "task.succeeded"]


def test_nothing_new_is_told_as_nothing():
    book = journal()
    assert types(book) == ["task.started"]
    telling = book.take()
    assert (telling.messages, telling.last) == ([], False)
    assert telling.status


def test_only_the_newest_progress_is_told():
    book = journal()
    for done in range(100):
        book.move(done, 9, None)
    assert [data["done"] for type, data in book.take().messages if type == "task.progress"] == [99]


def test_a_note_stays_until_there_is_another():
    book = journal()
    book.move(1, 9, "reading")
    book.move(2, 9, None)
    assert book.status.note == "reading"
    book.move(3, 9, "")
    assert book.status.note == ""


def test_a_flood_of_lines_is_cut_and_that_is_said():
    book = journal()
    for number in range(LOG_LINES + 3):
        book.log(str(number))
    ((_, data),) = [message for message in book.take().messages if message[0] == "task.log"]
    assert (len(data["lines"]), data["lines"][0], data["skipped"]) == (LOG_LINES, "3", 3)
    assert book.status.log == data["lines"]
    book.log("later")
    assert book.take().messages[-1][1]["skipped"] == 0
    assert len(book.status.log) == LOG_LINES


def test_what_is_kept_has_all_that_is_told_with_it():
    """A follower drops an event whose number is not above that of the state it has."""
    book = journal()
    book.move(4, 9, "half way")
    book.log("line")
    telling = book.take()
    kept = msgspec.json.decode(telling.status, type=TaskStatus)
    assert kept.seq == max(data["seq"] for _, data in telling.messages) == 3
    assert (kept.done, kept.note, kept.log) == (4, "half way", ["line"])


def test_a_client_is_not_told_whose_job_it_is():
    told = journal().status.told()
    assert "owner" not in told
    assert told["state"] == "running"


@pytest.mark.parametrize(
    ("text", "told"),
    [
        pytest.param("x" * MAX_LINE, "x" * MAX_LINE, id="as long as it may be"),
        pytest.param("x" * (MAX_LINE + 1), "x" * (MAX_LINE - 1) + "…", id="too long"),
        pytest.param("half \udce9", "half ?", id="half a character, as in file names"),
    ],
)
def test_a_text_is_cut_and_can_be_told(text, told):
    book = journal()
    book.log(text)
    book.move(1, 2, text)
    book.end(text)
    assert (book.status.log, book.status.note, book.status.error) == ([told], told, told)
    assert book.take().status


# A job and its followers.


async def test_a_job_in_a_thread_is_followed_to_its_end():
    """F12."""
    begun, go = threading.Event(), threading.Event()

    def work() -> None:
        with Progress("Import", total=3, owner=ANN, id="j1") as job:
            begun.set()
            go.wait(5)
            job.log("first")
            for _ in range(3):
                job.advance(note="reading")
            job.result = {"rows": 3}

    async with connect(OWN, user=ANN) as socket:
        running = asyncio.create_task(asyncio.to_thread(work))
        await asyncio.to_thread(begun.wait, 5)
        state = await follow(socket, "j1")
        assert (state["name"], state["state"], state["done"], state["total"]) == ("Import", "running", 0, 3)
        go.set()
        told = await events(socket)
        assert told[-1]["data"]["result"] == {"rows": 3}
        assert {message["room"] for message in told} == {"task.j1"}
        by_type = {message["type"]: message["data"] for message in told}
        assert by_type["task.log"]["lines"] == ["first"]
        assert (by_type["task.progress"]["done"], by_type["task.progress"]["note"]) == (3, "reading")
        assert [message["data"]["seq"] for message in told] == sorted(m["data"]["seq"] for m in told)
        await running


async def test_whoever_comes_after_the_end_sees_how_it_ended():
    async with Progress("Import", total=2, owner=7, id="j2") as job:
        job.update(2, note="done")
        job.log("line")
        job.result = [1]
    async with connect(OWN, user=ANN) as socket:
        state = await follow(socket, "j2")
    assert (state["state"], state["done"], state["log"], state["result"]) == ("succeeded", 2, ["line"], [1])


async def test_a_job_that_raises_fails_with_its_text_and_no_traceback():
    async def run(socket: Socket) -> None:
        async with Progress("Import", id="j3") as job:
            await follow(socket, "j3")
            job.advance()
            raise LookupError("row 7 has no name")

    async with connect(OPEN) as socket:
        with pytest.raises(LookupError):
            await run(socket)
        last = (await events(socket))[-1]
    assert (last["type"], last["data"]["error"]) == ("task.failed", "row 7 has no name")
    status = await status_of("j3")
    assert status is not None
    assert (status.state, status.error) == ("failed", "row 7 has no name")
    assert b"Traceback" not in msgspec.json.encode(status)


@pytest.mark.parametrize(
    ("error", "text"),
    [
        pytest.param(LookupError(), "LookupError", id="an error without words"),
        pytest.param(asyncio.CancelledError(), "The job was stopped.", id="cancelled"),
        pytest.param(KeyboardInterrupt(), "The job was stopped.", id="interrupted"),
    ],
)
async def test_an_error_has_words(error, text):
    def work() -> None:
        with suppress(type(error)), Progress("Import", id="j4"):
            raise error

    thread = threading.Thread(target=work)
    thread.start()
    await asyncio.to_thread(thread.join)
    status = await status_of("j4")
    assert status is not None
    assert status.error == text


async def test_a_fast_job_is_told_some_times_a_second_and_its_last_state_always():
    async with AsyncExitStack() as stack:
        socket = await stack.enter_async_context(connect(OPEN))
        async with Progress("Count", total=100_000, id="j5") as job:
            await follow(socket, "j5")
            started = time.monotonic()
            for number in range(100_000):
                job.advance()
                if number % 10_000 == 0:
                    job.log(str(number))
                    await asyncio.sleep(INTERVAL / 4)
            seconds = time.monotonic() - started
        told = [message["data"] for message in await events(socket) if message["type"] == "task.progress"]
    assert told[-1]["done"] == 100_000
    assert len(told) <= seconds / INTERVAL + 2


async def test_a_last_step_before_a_long_wait_is_told_without_another():
    async with AsyncExitStack() as stack:
        socket = await stack.enter_async_context(connect(OPEN))
        async with Progress("Wait", total=5, id="j6") as job:
            await follow(socket, "j6")
            job.advance()
            job.advance()
            while (await socket.expect("task.progress"))["data"]["done"] != 2:
                pass


async def test_a_job_whose_process_lives_is_not_forgotten(monkeypatch):
    """The lease is renewed though nothing happens."""
    kept: list[bytes] = []

    async def put(key: str, value: bytes, ttl: float) -> None:
        kept.append(value)

    monkeypatch.setattr(tasks, "_put", put)
    monkeypatch.setattr(tasks, "LEASE", 0.3)
    async with Progress("Sleep", id="j7"):
        await until(lambda: len(kept) == 4)
    assert kept[1] == kept[2] == kept[3]


async def test_a_job_is_kept_for_its_lease_while_it_runs_and_for_as_long_as_it_says_after(monkeypatch):
    kept: list[float] = []

    async def put(key: str, value: bytes, ttl: float) -> None:
        kept.append(ttl)

    monkeypatch.setattr(tasks, "_put", put)
    async with Progress("Import", id="j8", keep=7) as job:
        job.advance()
    assert (kept[0], kept[-1]) == (LEASE, 7)


async def test_a_blocking_job_is_refused_in_an_event_loop():
    job = Progress("Import")
    with pytest.raises(PublishError, match="async with"):
        job.__enter__()
    assert not job._teller.is_alive()


async def test_a_job_runs_once():
    job = Progress("Import", id="j9")
    async with job:
        pass
    with pytest.raises(TaskError, match="'j9'"):
        await job.__aenter__()


async def test_a_result_must_be_json_of_a_bounded_size():
    job = Progress("Import")
    with pytest.raises(TypeError):
        job.result = object()
    job.result = "x" * (MAX_RESULT_BYTES - 2)
    with pytest.raises(TaskError, match="'Import'"):
        job.result = "x" * (MAX_RESULT_BYTES - 1)
    assert job.result == "x" * (MAX_RESULT_BYTES - 2)


def test_a_job_belongs_to_a_user_that_is_saved_or_to_nobody():
    assert Progress("Import", owner=ANN)._journal.status.owner == "7"
    assert Progress("Import", owner=7)._journal.status.owner == "7"
    assert Progress("Import")._journal.status.owner is None
    with pytest.raises(MissingTarget):
        Progress("Import", owner=User(username="new"))


def test_two_jobs_are_not_mixed_up():
    assert Progress("Import").id != Progress("Import").id


# Who may follow.


@pytest.mark.parametrize("user", [None, User(pk=8, username="eve")], ids=["a visitor", "somebody else"])
@pytest.mark.parametrize("owner", [None, ANN], ids=["nobody's job", "the job of another"])
async def test_nobody_but_the_owner_may_follow(user, owner):
    async with Progress("Secret", owner=owner, id="j10"):
        pass
    async with connect(OWN, user=user) as socket:
        await socket.expect("system.welcome")
        answers = []
        for id in ("j10", "there is none"):
            await socket.send("task.follow", {"id": id})
            answers.append((await socket.expect("system.error"))["data"])
        # One answer for what is another's and for what is not there.
        assert answers[0]["code"] == answers[1]["code"] == "unknown_task"
        assert answers[0]["message"] == answers[1]["message"]
        await publish(room_of("j10"), "task.progress", {"done": 1})
        await socket.expect_nothing()


async def test_whoever_stops_following_is_told_no_more():
    async with Progress("Import", owner=ANN, id="j11"):
        pass
    async with connect(OWN, user=ANN) as socket:
        await follow(socket, "j11")
        await socket.send("task.unfollow", {"id": "j11"})
        await socket.expect("system.left")
        await publish(room_of("j11"), "task.progress", {})
        await socket.expect_nothing()


async def test_the_state_comes_first_and_again_if_it_changed_meanwhile(monkeypatch):
    book = journal(id="j12")
    await tasks._put(room_of("j12"), book.take().status, 60)
    join = RealtimeConsumer.join

    async def slow_join(self: RealtimeConsumer, room: str, **how: Any) -> None:
        book.move(5, 9, None)
        await tasks._put(room, book.take().status, 60)
        await join(self, room, **how)

    monkeypatch.setattr(RealtimeConsumer, "join", slow_join)
    async with connect(OPEN) as socket:
        await socket.send("task.follow", {"id": "j12"})
        assert (await socket.expect("task.state"))["data"]["done"] == 0
        assert "system.joined" not in [message["type"] for message in socket.skipped]
        assert (await socket.expect("task.state"))["data"]["done"] == 5
        assert "system.joined" in [message["type"] for message in socket.skipped]


# When nobody can be told.


async def test_a_job_does_not_fail_because_it_cannot_be_told(monkeypatch, caplog):
    async def refused(*_: Any) -> None:
        raise ConnectionRefusedError("no Redis")

    monkeypatch.setattr(tasks, "publish", refused)
    monkeypatch.setattr(tasks, "PATIENCE", 0.1)
    monkeypatch.setattr(tasks, "RETRY", 0.01)
    started = time.monotonic()
    async with Progress("Import", total=10, id="j13") as job:
        for _ in range(10):
            job.advance()
        job.result = "all"
    assert time.monotonic() - started < 2
    assert caplog.text.count("could not be told") == 1
    status = await status_of("j13")
    assert status is not None
    assert (status.state, status.done) == ("succeeded", 10)


async def test_what_could_not_be_told_is_told_when_it_can(monkeypatch):
    told: list[str] = []
    refusals = 3

    async def sometimes(room: str, type: str, data: Any) -> None:
        nonlocal refusals
        refusals -= 1
        if refusals >= 0:
            raise ConnectionRefusedError
        told.append(type)

    monkeypatch.setattr(tasks, "publish", sometimes)
    monkeypatch.setattr(tasks, "RETRY", 0.01)
    async with Progress("Import", id="j14") as job:
        # Long before its end it is told what could not be told at first.
        await until(lambda: "task.started" in told)
        job.log("line")
    assert told[0] == "task.started"
    assert told[-1] == "task.succeeded"
    assert "task.log" in told


async def test_the_end_is_kept_even_if_the_state_was_away(monkeypatch):
    refusals = 3

    put = tasks._put

    async def sometimes(key: str, value: bytes, ttl: float) -> None:
        nonlocal refusals
        refusals -= 1
        if refusals >= 0:
            raise StateUnavailable("Redis is away.")
        await put(key, value, ttl)

    monkeypatch.setattr(tasks, "_put", sometimes)
    monkeypatch.setattr(tasks, "RETRY", 0.01)
    async with Progress("Import", id="j15"):
        pass
    status = await status_of("j15")
    assert status is not None
    assert status.state == "succeeded"
