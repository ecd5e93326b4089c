"""Background jobs that are followed live: what a job tells, and who may hear it."""

from __future__ import annotations

import asyncio
import functools
import secrets
import threading
import time
from collections import deque
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from types import TracebackType
from typing import TYPE_CHECKING, Annotated, Any, Literal, Self

import msgspec

from ratelimit.logs import get_logger
from realtime.errors import ClientError, MissingTarget, PublishError, TaskError
from realtime.frames import Frame
from realtime.handlers import on
from realtime.publish import in_state, publish

if TYPE_CHECKING:
    from realtime.consumers import RealtimeConsumer as _Consumer
else:
    _Consumer = object

logger = get_logger("realtime")

Stage = Literal["running", "succeeded", "failed"]
Message = tuple[str, dict[str, Any]]
"""The type of an event, and its data."""

INTERVAL = 0.2
"""Seconds between two tellings of one job, however fast it works."""
LOG_LINES = 100
"""Lines that a follower who comes late sees, and that wait for the next telling."""
MAX_LINE = 500
"""Characters of a log line, a note or an error; what is longer is cut."""
MAX_RESULT_BYTES = 64 * 1024
LEASE = 60.0
"""Seconds after which a job whose process has died is forgotten; while it lives the lease is renewed."""
PATIENCE = 5.0
"""Seconds that one telling may take, and that the last ones are tried again after the job has ended."""
RETRY = 0.5


class TaskStatus(msgspec.Struct):
    """A job at one moment. Times are seconds since the epoch."""

    id: str
    name: str
    owner: str | None
    """Primary key of the user whose job it is; not told to clients."""
    started_at: float
    total: float | None
    """What ``done`` comes to in the end; ``None`` where nobody knows."""
    done: float = 0
    note: str = ""
    """What the job is at."""
    state: Stage = "running"
    log: list[str] = []
    """The newest lines."""
    result: msgspec.Raw = msgspec.Raw(b"null")
    error: str = ""
    seq: int = 0
    """Number of the last event of this job; an event with a lower or equal one is in here already."""

    def told(self) -> dict[str, Any]:
        """Return what a client that may follow the job is told."""
        return {name: getattr(self, name) for name in self.__struct_fields__ if name != "owner"}


@dataclass(frozen=True, slots=True)
class Telling:
    """What is to be told at once: the state to keep, then the events that led to it."""

    status: bytes
    messages: list[Message]
    last: bool


class Journal:
    """What happened to one job, and what of it has not been told. Knows no clock and no network."""

    def __init__(self, status: TaskStatus) -> None:
        self.status = status
        self._lines: deque[str] = deque(maxlen=LOG_LINES)
        self._skipped = 0
        self._is_new = True
        self._moved = False

    def move(self, done: float, total: float | None, note: str | None) -> None:
        """The job has come this far; a note of ``None`` leaves the one there is."""
        self.status.done, self.status.total = done, total
        if note is not None:
            self.status.note = _cut(note)
        self._moved = True

    def log(self, line: str) -> None:
        """Add a line. Of more than ``LOG_LINES`` between two tellings the newest are told, and how many are not."""
        line = _cut(line)
        if len(self._lines) == LOG_LINES:
            self._skipped += 1
        self._lines.append(line)
        self.status.log = [*self.status.log[-LOG_LINES + 1 :], line]

    def end(self, error: str | None) -> None:
        """The job is over, well unless there is an error."""
        self.status.state = "succeeded" if error is None else "failed"
        self.status.error = _cut(error or "")

    def take(self) -> Telling:
        """Return what has not been told, which counts as told from now on."""
        messages = self._untold()
        return Telling(msgspec.json.encode(self.status), messages, self.status.state != "running")

    def _untold(self) -> list[Message]:
        status = self.status
        messages: list[Message] = []
        if self._is_new:
            messages.append(self._event("started", name=status.name, total=status.total))
        if self._lines:
            messages.append(self._event("log", lines=list(self._lines), skipped=self._skipped))
        if self._moved:
            messages.append(self._event("progress", done=status.done, total=status.total, note=status.note))
        if status.state == "succeeded":
            messages.append(self._event("succeeded", result=status.result))
        elif status.state == "failed":
            messages.append(self._event("failed", error=status.error))
        self._lines.clear()
        self._skipped = 0
        self._is_new = self._moved = False
        return messages

    def _event(self, what: str, **data: Any) -> Message:
        self.status.seq += 1
        return f"task.{what}", {"id": self.status.id, "seq": self.status.seq, **data}


async def _put(key: str, value: bytes, ttl: float) -> None:
    """Keep how a job is, for ``ttl`` seconds, where every process finds it."""
    await asyncio.wrap_future(in_state(lambda state: state.put(key, value, ttl)))


async def _get(key: str) -> bytes | None:
    """Return what is kept of a job, if anything is."""
    return await asyncio.wrap_future(in_state(lambda state: state.get(key)))


async def status_of(id: str) -> TaskStatus | None:
    """
    Return how a job is, whichever process it runs in; ``None`` if there is none of that id, or its time is over.

    Raise StateUnavailable where what processes share cannot be reached.

    """
    kept = await _get(room_of(id))
    return None if kept is None else msgspec.json.decode(kept, type=TaskStatus)


def room_of(id: str) -> str:
    """Return the room in which a job tells of itself."""
    return f"task.{id}"


class Progress:
    """
    One job, told live to whoever may follow it: in any thread or process, sync or async.

    ``with Progress("import", total=100, owner=user) as job:`` (``async with`` in an event loop), then
    ``job.advance()``, ``job.log("...")`` and ``job.result = ...`` as the work goes on. The end of the
    block is the end of the job; an exception that leaves it makes it a failure, of which followers get
    the text and never the traceback, and goes on its way. The job can be followed from the first line of
    the block on. Telling costs it nothing: a thread does that, some times a second at most, the last state
    always. Followers who come late, until ``keep`` seconds after the end, see the job as it is.

    ``id`` names the job to its followers; by default it is one that nobody can guess. ``owner`` is a
    user or its primary key. ``total`` is what ``advance`` comes to in the end, if that is known.

    """

    def __init__(
        self,
        name: str,
        *,
        total: float | None = None,
        owner: Any = None,
        id: str | None = None,
        keep: float = 3600.0,
    ) -> None:
        self.id = id or secrets.token_urlsafe(12)
        self.room = room_of(self.id)
        self._keep = keep
        self._journal = Journal(
            TaskStatus(
                id=self.id,
                name=_cut(name),
                owner=_owner(owner),
                started_at=round(time.time(), 3),
                total=total,
            )
        )
        self._lock = threading.Lock()
        self._changed = threading.Event()
        self._followable = threading.Event()
        self._ended = threading.Event()
        self._ended_at = 0.0
        self._warned = False
        self._teller = threading.Thread(target=self._tell_all, name=f"realtime.{self.room}", daemon=True)

    # What a job does.

    def advance(self, by: float = 1, *, note: str | None = None) -> None:
        """Some more is done; ``note`` says in a few words what comes next."""
        with self._lock:
            status = self._journal.status
            self._journal.move(status.done + by, status.total, note)
        self._changed.set()

    def update(self, done: float, *, total: float | None = None, note: str | None = None) -> None:
        """So much is done, of so much if that has changed."""
        with self._lock:
            status = self._journal.status
            self._journal.move(done, status.total if total is None else total, note)
        self._changed.set()

    def log(self, line: str) -> None:
        """Tell a line of text."""
        with self._lock:
            self._journal.log(line)
        self._changed.set()

    @property
    def result(self) -> Any:
        """What the job has to show: anything JSON can hold, 64 KiB of it at most. Told when the job has ended well."""
        return msgspec.json.decode(self._journal.status.result)

    @result.setter
    def result(self, value: Any) -> None:
        frame = Frame.json(value)
        if frame.size > MAX_RESULT_BYTES:
            raise TaskError(
                f"The result of {self._journal.status.name!r} is larger than {MAX_RESULT_BYTES} bytes as JSON."
                " Keep it elsewhere, and tell where."
            )
        with self._lock:
            self._journal.status.result = msgspec.Raw(frame.payload)

    # Its beginning and its end.

    def __enter__(self) -> Self:
        try:
            asyncio.get_running_loop()
        except RuntimeError:
            self._begin()
            self._followable.wait(PATIENCE)
            return self
        raise PublishError(
            "This is an event loop: write `async with Progress(...)`, which does not block it."
        )

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._end(error)
        self._teller.join(2 * PATIENCE)

    async def __aenter__(self) -> Self:
        self._begin()
        await asyncio.to_thread(self._followable.wait, PATIENCE)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._end(error)
        await asyncio.to_thread(self._teller.join, 2 * PATIENCE)

    def _begin(self) -> None:
        if self._teller.ident is not None:
            raise TaskError(f"The job {self.id!r} has been begun before. Make a new Progress for each run.")
        self._changed.set()
        self._teller.start()

    def _end(self, error: BaseException | None) -> None:
        with self._lock:
            self._journal.end(None if error is None else _text(error))
        self._ended_at = time.monotonic()
        self._ended.set()
        self._changed.set()

    # The teller's thread.

    def _tell_all(self) -> None:
        with asyncio.Runner() as runner:
            while True:
                # Without news the state is kept all the same, before its lease is over.
                self._changed.wait(LEASE / 3)
                self._changed.clear()
                with self._lock:
                    telling = self._journal.take()
                runner.run(self._tell(telling))
                if telling.last:
                    return
                self._ended.wait(INTERVAL)

    async def _tell(self, telling: Telling) -> None:
        """Keep the state, then publish: whoever sees an event and asks for the state gets one that has it."""

        async def keep() -> None:
            await _put(self.room, telling.status, self._keep if telling.last else LEASE)

        kept = await self._try(keep())
        self._followable.set()
        for type, data in telling.messages:
            await self._insist(functools.partial(publish, self.room, type, data))
        if telling.last and not kept:
            await self._insist(keep)

    async def _insist(self, work: Callable[[], Awaitable[Any]]) -> None:
        """Do ``work``, again and again until it succeeds or the job has been over for too long."""
        while not await self._try(work()):
            if self._ended.is_set() and time.monotonic() - self._ended_at > PATIENCE:
                return
            await asyncio.sleep(RETRY)

    async def _try(self, work: Awaitable[Any]) -> bool:
        """Return whether ``work`` was done. A job does not fail because nobody could be told of it."""
        try:
            async with asyncio.timeout(PATIENCE):
                await work
        except Exception as error:  # noqa: BLE001 - any channel layer may raise anything
            if not self._warned:
                logger.warning("progress of a job could not be told", task=self.id, error=repr(error))
            self._warned = True
            return False
        return True


class _Task(msgspec.Struct):
    id: Annotated[str, msgspec.Meta(min_length=1, max_length=128)]


class FollowsTasks(_Consumer):
    """
    What a consumer needs for its clients to follow jobs: ``class Mine(FollowsTasks, RealtimeConsumer)``.

    ``task.follow {id}`` is answered with ``task.state``, the job as it is; then come its events. Override
    :meth:`may_follow` to say who may.

    """

    async def may_follow(self, task: TaskStatus) -> bool:
        """Whether this client may follow a job: nobody but its owner, unless this is overridden."""
        return task.owner is not None and task.owner == self.connection.user_id

    @on("task.follow")
    async def follow_task(self, wanted: _Task) -> None:
        """Tell the client how a job is, and from now on what becomes of it."""
        status = await status_of(wanted.id)
        # One answer for both: what is not yours is not even there.
        if status is None or not await self.may_follow(status):
            raise ClientError(
                "unknown_task", "There is no such job, it is over for long, or it is not yours."
            )
        await self.send_event("task.state", status.told())
        await self.join(room_of(wanted.id))
        now = await status_of(wanted.id)
        if now is not None and now.seq > status.seq:
            await self.send_event("task.state", now.told())

    @on("task.unfollow")
    async def unfollow_task(self, wanted: _Task) -> None:
        """Tell the client no more of a job."""
        await self.leave(room_of(wanted.id))


def _owner(owner: Any) -> str | None:
    if owner is None:
        return None
    key = getattr(owner, "pk", owner)
    if key is None or key == "":
        raise MissingTarget(f"{owner!r} is not a saved user, so it can own no job.")
    return str(key)


def _text(error: BaseException) -> str:
    if isinstance(error, asyncio.CancelledError | KeyboardInterrupt | SystemExit):
        return "The job was stopped."
    return str(error) or type(error).__name__


def _cut(text: str) -> str:
    # What comes from file names may hold halves of characters, which JSON cannot.
    text = str(text).encode("utf-8", "replace").decode()
    return text if len(text) <= MAX_LINE else f"{text[: MAX_LINE - 1]}…"
