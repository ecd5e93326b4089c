"""A cluster for the fault tests: real nodes, a real Redis that may fail, and clients that come back."""

from __future__ import annotations

import asyncio
import itertools
import json
import os
import random
import shutil
import signal
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, suppress
from pathlib import Path
from types import TracebackType
from typing import Any, Literal, Self

from websockets.asyncio.client import ClientConnection
from websockets.asyncio.client import connect as ws_connect
from websockets.exceptions import ConnectionClosed, InvalidHandshake

from realtime.close_codes import REASONS
from tests import redisserver
from tests.acceptance.checker import Entry, Heard, Joined, Lost, Recovered, Welcomed
from tests.acceptance.processes import Ended, ServerProcess, daphne, free_port, manage

APPLICATION = "tests.acceptance.apps.cluster:application"
SETTINGS = {
    "DJANGO_SETTINGS_MODULE": "tests.acceptance.apps.redis_settings",
    "ASGI_APPLICATION": APPLICATION.replace(":", "."),
    "RATELIMIT_MESSAGES_PER_WINDOW": "0",
    "RATELIMIT_CONNECTIONS_PER_WINDOW": "0",
    "REALTIME_RECONNECT_SPREAD": "1",
}
RESUME_ID = "resume"
"""Marks the resume among what can be refused."""
FINAL = {reason.code for reason in REASONS if not reason.retry}
"""Close codes after which a client does not come back."""

Command = Literal["serve", "daphne"]


class Redis:
    """A Redis on one port: it can be stopped, frozen, and started again with its data or without."""

    def __init__(self, binary: Path) -> None:
        self._binary = binary
        self._folder = Path(tempfile.mkdtemp(prefix="channels-ops-cluster-"))
        self._stack = ExitStack()
        self.port = redisserver.free_port("127.0.0.1")
        self.server: redisserver.RedisServer

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()
        shutil.rmtree(self._folder)

    def start(self) -> None:
        """Start, with the data that was left."""
        # Every write is on the disk before it is answered, so that "with its data" means all of it.
        keeping = ("--dir", str(self._folder), "--appendonly", "yes", "--appendfsync", "always")
        self.server = self._stack.enter_context(redisserver.running(self._binary, *keeping, port=self.port))

    def stop(self) -> None:
        """Stop; the port refuses connections until the next start."""
        self._stack.close()

    def forget(self) -> None:
        """Lose all data. Only while it is stopped."""
        shutil.rmtree(self._folder)
        self._folder.mkdir()

    def freeze(self) -> None:
        """Stop answering, with all connections open."""
        os.kill(self.server.pid, signal.SIGSTOP)

    def thaw(self) -> None:
        """Answer again, first what has come meanwhile."""
        os.kill(self.server.pid, signal.SIGCONT)


class Cluster:
    """
    Some nodes of one project, each a process on a port of its own that it keeps when it is started again.

    ``redis_ports`` says where each node finds Redis: directly, or a fault proxy. ``environment`` is for
    all of them. Starting and stopping runs in threads, so that a proxy in the test's loop goes on.

    """

    def __init__(
        self,
        redis_ports: Sequence[int],
        *,
        command: Command = "serve",
        environment: Mapping[str, str] | None = None,
    ) -> None:
        self.ports = [free_port() for _ in redis_ports]
        self._redis_ports = list(redis_ports)
        self._command = command
        self._environment = dict(environment or {})
        self._running: dict[int, ServerProcess] = {}

    async def __aenter__(self) -> Self:
        try:
            await asyncio.gather(*(self.start(number) for number in range(len(self.ports))))
        except BaseException:
            self._kill_all()
            raise
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for process in self._running.values():
            process.__exit__(kind, error, trace)

    def __getitem__(self, number: int) -> ServerProcess:
        """Return a node that runs."""
        return self._running[number]

    def __iter__(self) -> Iterator[ServerProcess]:
        """Return the nodes that run."""
        return iter(list(self._running.values()))

    async def start(self, number: int, **environment: str) -> None:
        """Start a node, with these variables besides; return when it listens."""
        url = f"redis://127.0.0.1:{self._redis_ports[number]}/0"
        own = {"REDIS_URL": url, "REALTIME_STATE_URL": url, "REALTIME_NODE_NAME": f"node-{number}"}
        port = self.ports[number]
        words = (
            manage("serve", "--port", str(port)) if self._command == "serve" else daphne(APPLICATION, port)
        )
        process = ServerProcess(words, port, {**SETTINGS, **own, **self._environment, **environment})
        self._running[number] = await asyncio.to_thread(process.__enter__)

    async def kill(self, number: int) -> None:
        """End a node with SIGKILL: it says goodbye to nobody."""
        await self.stop(number, signal.SIGKILL)

    async def stop(self, number: int, how: int = signal.SIGTERM, seconds: float = 60.0) -> Ended:
        """End a node, and return how it ended."""
        process = self._running.pop(number)
        ended = await asyncio.to_thread(process.stop, how, seconds)
        process.__exit__(None, None, None)
        return ended

    async def restart(self, number: int, how: int = signal.SIGTERM, **environment: str) -> Ended:
        """End a node and start it again on its port."""
        ended = await self.stop(number, how)
        await self.start(number, **environment)
        return ended

    async def rolling_restart(self) -> list[Ended]:
        """Restart one node after the other, each when the one before it listens again."""
        return [await self.restart(number) for number in sorted(self._running)]

    def freeze(self, number: int) -> None:
        """Stop a node in its tracks, with all its connections open."""
        self[number].send_signal(signal.SIGSTOP)

    def thaw(self, number: int) -> None:
        """Let it go on."""
        self[number].send_signal(signal.SIGCONT)

    def _kill_all(self) -> None:
        for process in self._running.values():
            process.__exit__(None, None, None)


class RoomClient:
    """
    One member of one room: it writes down what it sees, and comes back wherever it can.

    ``ports`` are the nodes it knows, tried in turn from ``first``. It speaks the protocol: a resume is the
    first frame of every connection but the first, and what was not acknowledged is sent again with the id
    that it had. ``log`` is for the checker.

    """

    def __init__(self, name: str, room: str, ports: Sequence[int], *, first: int = 0) -> None:
        self.name = name
        self.room = room
        self.log: list[Entry] = []
        self.acked: list[str] = []
        """Keys of the publishes that the server has acknowledged, in the order it did."""
        self.refused: dict[str, str] = {}
        """Keys of those that it refused, with the code it gave."""
        self.codes: list[int] = []
        """How its connections were closed."""
        self.node = ""
        """Which node it is, or was, connected to."""
        self.failure: BaseException | None = None
        """What ended it for good."""
        self._ports = list(ports)
        self._first = first
        self._session: str | None = None
        self._place: tuple[str, int] | None = None
        self._stranger: tuple[str, Joined | None] | None = None
        """The session of the stranger that it is until a resume is answered, and where that entered."""
        self._overheard: list[Heard] = []
        """What came to the stranger."""
        self._is_resuming = False
        self._is_behind = False
        """Whether it has said where it was, and not been told what became of it."""
        self._unacked: dict[str, str] = {}
        """Message by its id; ids and keys are the same here."""
        self._retry_after: float | None = None
        self._connection: ClientConnection | None = None
        self._changed = asyncio.Event()
        self._random = random.Random(name)
        self._task: asyncio.Task[None]

    async def __aenter__(self) -> Self:
        self._task = asyncio.create_task(self._run(), name=f"client {self.name}")
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._task.cancel()
        await asyncio.gather(self._task, return_exceptions=True)

    # What tests do.

    @property
    def heard(self) -> list[str]:
        """The keys it heard, in order, twice if twice."""
        return [entry.key for entry in self.log if isinstance(entry, Heard)]

    @property
    def is_member(self) -> bool:
        """Whether it is connected, and in its room."""
        since = next(
            (n for n, entry in enumerate(reversed(self.log)) if isinstance(entry, Lost)), len(self.log)
        )
        now = self.log[len(self.log) - since :]
        return any(isinstance(entry, Joined | Recovered) for entry in now)

    async def publish(self, key: str) -> None:
        """Send a message to the room; it is sent again on every new connection until the server has answered."""
        self._unacked[key] = json.dumps({"type": "say", "data": key, "id": key})
        if self._connection is not None:
            await self._send(self._connection, self._unacked[key])

    async def until(self, condition: Callable[[RoomClient], object], seconds: float = 20.0) -> None:
        """Return when the condition is true of this client; raise TimeoutError, or what ended it."""
        try:
            async with asyncio.timeout(seconds):
                while not condition(self):
                    if self.failure is not None:
                        raise self.failure
                    self._changed.clear()
                    await self._changed.wait()
        except TimeoutError:
            raise TimeoutError(f"{self.name} waited {seconds:g} s in vain; it saw {self.log[-10:]}") from None

    async def until_answered(self, seconds: float = 20.0) -> None:
        """Return when the server has answered every publish."""
        await self.until(lambda client: not client._unacked, seconds)

    def drop(self) -> None:
        """Lose the connection, as on a train."""
        if self._connection is not None:
            self._connection.transport.abort()

    # Its connections.

    async def _run(self) -> None:
        for number in itertools.count(self._first):
            await self._visit(self._ports[number % len(self._ports)])
            if self.codes and self.codes[-1] in FINAL:
                self.failure = ConnectionAbortedError(f"{self.name} was closed with {self.codes[-1]}")
                self._changed.set()
                return
            asked, self._retry_after = self._retry_after, None
            await asyncio.sleep(self._random.uniform(0.02, 0.2) if asked is None else asked)

    async def _visit(self, port: int) -> None:
        url = f"ws://127.0.0.1:{port}/{self.room}"
        try:
            async with ws_connect(url, ping_interval=None, compression=None, max_size=None) as connection:
                await self._talk(connection)
        except ConnectionClosed as closed:
            self.codes.append(closed.rcvd.code if closed.rcvd is not None else 1006)
        except (OSError, EOFError, TimeoutError, InvalidHandshake):
            # Nobody there, or nobody who takes us now.
            return
        finally:
            if self._connection is not None:
                self._connection = None
                self._note(Lost())

    async def _talk(self, connection: ClientConnection) -> None:
        self._stranger = None
        self._overheard = []
        self._is_resuming = self._session is not None
        self._is_behind = self._is_resuming and self._place is not None
        if self._is_resuming:
            rooms = (
                {}
                if self._place is None
                else {self.room: {"epoch": self._place[0], "offset": self._place[1]}}
            )
            resume = {"session": self._session, "rooms": rooms}
            await self._send(
                connection, json.dumps({"type": "system.resume", "data": resume, "id": RESUME_ID})
            )
        self._connection = connection
        for message in list(self._unacked.values()):
            await self._send(connection, message)
        while True:
            await self._received(connection, json.loads(await connection.recv()))

    async def _received(self, connection: ClientConnection, message: dict[str, Any]) -> None:
        kind, data = message["type"], message.get("data") or {}
        if kind == "said":
            self._heard(str(message["data"]), message.get("offset"))
        elif kind == "system.ack":
            if self._unacked.pop(data["id"], None) is not None:
                self.acked.append(data["id"])
        elif kind == "system.error" and data.get("id") == RESUME_ID:
            self._begun_afresh()
        elif kind == "system.error" and self._unacked.pop(data.get("id"), None) is not None:
            self.refused[data["id"]] = data["code"]
        elif kind == "system.ping":
            await self._say(connection, "system.pong", data)
        elif kind == "system.closing":
            self._retry_after = data.get("retry_after")
        elif kind == "system.welcome":
            self.node = data["node"]
            self._welcomed(data.get("session"), resumed=data["resumed"])
        elif kind == "system.joined" and data["room"] == self.room:
            self._joined(Joined(data.get("epoch"), data.get("offset")))
        elif kind == "system.recovered" and data["room"] == self.room:
            self._recovered(
                Recovered(data["complete"], data["from"], data["to"], data["epoch"], data["count"])
            )
        self._changed.set()

    def _welcomed(self, session: str | None, *, resumed: bool) -> None:
        if self._is_resuming and not resumed and self._stranger is None:
            self._stranger = (session or "", None)
            return
        self._is_resuming = False
        self._session = session
        self._note(Welcomed(resumed))
        if self._stranger is not None and self._stranger[1] is not None and self._place is None:
            self._joined(self._stranger[1])

    def _begun_afresh(self) -> None:
        """The session is no good any more: it is the stranger."""
        assert self._stranger is not None
        self._is_resuming = self._is_behind = False
        self._session, joined = self._stranger
        self._place = None
        self._note(Welcomed(False))
        if joined is not None:
            self._joined(joined)
        for heard in self._overheard:
            self._heard(heard.key, heard.offset)

    def _heard(self, key: str, offset: int | None) -> None:
        if offset is not None and self._is_behind:
            # For a stranger who came in later. The client gets it again, after what it missed.
            self._overheard.append(Heard(key, offset))
            return
        if offset is not None and self._place is not None:
            self._place = (self._place[0], offset)
        self._note(Heard(key, offset))

    def _joined(self, joined: Joined) -> None:
        if self._is_resuming and joined.offset is not None and self._stranger is not None:
            # Where a stranger enters says nothing about where the client was.
            self._stranger = (self._stranger[0], joined)
            return
        if joined.epoch is not None and joined.offset is not None and self._place is None:
            self._place = (joined.epoch, joined.offset)
        self._note(joined)

    def _recovered(self, recovered: Recovered) -> None:
        self._is_behind = False
        self._place = (recovered.epoch, recovered.start if recovered.complete else recovered.to)
        self._note(recovered)

    def _note(self, entry: Entry) -> None:
        self.log.append(entry)
        self._changed.set()

    async def _say(self, connection: ClientConnection, type: str, data: Any) -> None:
        await self._send(connection, json.dumps({"type": type, "data": data}))

    async def _send(self, connection: ClientConnection, text: str) -> None:
        # A connection that has just ended is noticed, and told about, where it is read.
        with suppress(ConnectionClosed):
            await connection.send(text)


async def all_of(
    clients: Sequence[RoomClient], condition: Callable[[RoomClient], object], seconds: float = 20.0
) -> None:
    """Return when the condition is true of every client."""
    await asyncio.gather(*(client.until(condition, seconds) for client in clients))
