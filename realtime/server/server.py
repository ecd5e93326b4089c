"""daphne's server with an orderly end: the engine ``daphne``."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import signal
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

import daphne.server
from twisted.internet import defer
from twisted.internet import reactor as installed_reactor

from ratelimit import overrides
from realtime import nodes
from realtime.close_codes import CloseReason
from realtime.conf import get_settings
from realtime.drain import Socket, see_off
from realtime.server import openfiles
from realtime.server.garbage import Settled
from realtime.server.interrupts import interrupts
from realtime.server.native import NativeHalf, native_half
from realtime.server.protocol import WebSocketProtocol, message_limits
from realtime.server.requests import HTTPFactory

logger = logging.getLogger("realtime.server")

reactor: Any = installed_reactor
"""Any, because what Twisted says of its types is for a plugin of mypy that is no more."""

RELOAD_SECONDS = 3.0
"""How long a development server that reloads itself waits for its sockets."""
LAST_SECONDS = 1.0
"""How long cancelled applications, and bytes on their way out, are waited for."""


class Turns:
    """Numbers the turns of the loop in which somebody asked."""

    def __init__(self) -> None:
        self._number = 0
        self._counted = False

    def current(self) -> int:
        """Return the number of this turn."""
        if not self._counted:
            self._counted = True
            asyncio.get_running_loop().call_soon(self._next)
        return self._number

    def _next(self) -> None:
        self._number += 1
        self._counted = False


class Server(daphne.server.Server):
    """daphne's ``Server``: what it does not do, or does wrong, is done here."""

    draining: bool
    """Whether the end has begun: no handshake is accepted any more."""
    turns: Turns

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._sizes_said = (self.websocket_max_message_size, self.websocket_max_frame_size)
        sizes = message_limits(*self._sizes_said)
        self.websocket_max_message_size: int = sizes[0]
        self.websocket_max_frame_size: int = sizes[1]
        self.draining = False
        self.turns = Turns()
        self.native: NativeHalf | None = None
        self._ports: list[Any] = []
        self._finished = threading.Event()
        self._something_ended = asyncio.Event()

    # daphne makes its factories in the middle of run(); these put ours, or our protocol, in their place.

    @property
    def http_factory(self) -> HTTPFactory:
        """Makes the protocol of a new TCP connection."""
        return self._http_factory

    @http_factory.setter
    def http_factory(self, factory: Any) -> None:
        self._http_factory = HTTPFactory(self)

    @property
    def ws_factory(self) -> Any:
        """Makes the protocol of a request to upgrade."""
        return self._ws_factory

    @ws_factory.setter
    def ws_factory(self, factory: Any) -> None:
        factory.protocol = WebSocketProtocol
        self._ws_factory = factory

    def run(self) -> None:
        """Serve until told to stop, and end in order."""
        if threading.current_thread() is not threading.main_thread():
            _before_exit(self._stop_for_exit)
        with interrupts.heard() if self.signal_handlers else contextlib.nullcontext():
            self._serve()

    def _mind_interrupts(self) -> None:
        """The reactor minds signals from now on; obey the one that came before. Twisted leaves SIGINT to who has it."""
        if interrupts.give(reactor.sigInt) is not None:
            reactor.stop()

    def _serve(self) -> None:
        self.look_around()
        self.native = native_half(self)
        overrides.watch.on_change.append(self._overridden)
        reactor.callWhenRunning(self._mind_interrupts)
        try:
            with Settled().kept():
                super().run()
            _end_tasks(reactor._asyncioEventloop)
        finally:
            overrides.watch.on_change.remove(self._overridden)
            self._finished.set()

    def look_around(self) -> None:
        """Log what will keep this process from serving as it is meant to."""
        openfiles.tell()

    def listen_success(self, port: Any) -> None:
        """Remember the port, to stop listening before anything else stops; the native engine accepts on it where it can."""
        self._ports.append(port)
        if self.native is not None:
            self.native.take(port)
        super().listen_success(port)

    # The size of messages, which is refused before it is read.

    def _overridden(self, stored: dict[str, Any]) -> None:
        """Hear, in any thread, that settings are others now."""
        # A loop that is closed serves nobody.
        with contextlib.suppress(RuntimeError):
            reactor._asyncioEventloop.call_soon_threadsafe(self.limit_messages)

    def limit_messages(self) -> None:
        """Hold all sockets to the settings as they are now, unless the command line or their route says otherwise."""
        sizes = message_limits(*self._sizes_said)
        if sizes == (self.websocket_max_message_size, self.websocket_max_frame_size):
            return
        self.websocket_max_message_size, self.websocket_max_frame_size = sizes
        self.ws_factory.setProtocolOptions(maxMessagePayloadSize=sizes[0], maxFramePayloadSize=sizes[1])
        links: list[Any] = [protocol.link for protocol in self.websockets() if protocol.is_connected]
        if self.native is not None:
            engine = self.native.engine
            engine.options = replace(engine.options, max_message_bytes=sizes[0])
            links.extend(engine.sockets)
        for link in links:
            if link.listener is None or link.listener.limits.max_message_bytes is None:
                link.limit_messages(sizes[0])

    # Applications.

    def create_application(self, protocol: Any, scope: dict[str, Any]) -> asyncio.Queue[Any] | None:
        """Start the application for one socket or request. A request gets the queue it reads from."""
        details = self.connections.get(protocol)
        if details is None:
            return None
        queue: asyncio.Queue[Any] | None = None
        if scope["type"] == "websocket":
            receive, send = protocol.inbox.receive, protocol.send
        else:
            queue = asyncio.Queue()
            scope.setdefault("asgi", {"version": "3.0", "spec_version": "2.3"})
            receive, send = queue.get, self._reply_of(protocol)
        task = asyncio.get_running_loop().create_task(self._application(scope, receive, send))
        details["application_instance"] = task
        task.add_done_callback(lambda task: self._application_ended(protocol, task))
        return queue

    async def _application(self, scope: dict[str, Any], receive: Any, send: Any) -> None:
        await self.application(scope, receive, send)

    def _reply_of(self, protocol: Any) -> Callable[[dict[str, Any]], Any]:
        async def send(message: dict[str, Any]) -> None:
            await self.handle_reply(protocol, message)

        return send

    def _application_ended(self, protocol: Any, task: asyncio.Task[None]) -> None:
        details = self.connections.get(protocol)
        error = None if task.cancelled() else task.exception()
        if error is not None:
            logger.error("Exception inside application: %s", error, exc_info=error)
        if details is None:
            return
        del details["application_instance"]
        if "disconnected" not in details:
            protocol.application_ended(failed=error is not None or task.cancelled())
        self._forget_ended(protocol)

    def protocol_disconnected(self, protocol: Any) -> None:
        """A socket or request is over; its application may still be at work."""
        if protocol in self.connections:
            super().protocol_disconnected(protocol)
            self._forget_ended(protocol)

    def _forget_ended(self, protocol: Any) -> None:
        details = self.connections.get(protocol)
        if details is not None and "disconnected" in details and "application_instance" not in details:
            del self.connections[protocol]
        self._something_ended.set()

    def application_checker(self) -> None:
        """Cancel the applications that go on too long without their client. All else is done when it happens."""
        now = time.time()
        for protocol, details in list(self.connections.items()):
            task = details.get("application_instance")
            if task is not None and now - details.get("disconnected", now) > self.application_close_timeout:
                logger.warning(
                    "Application of %r took too long to end after its client had, and was cancelled.",
                    protocol,
                )
                task.cancel()
        reactor.callLater(1, self.application_checker)

    # The end.

    def kill_all_applications(self) -> defer.Deferred[Any]:
        """Twisted is about to stop: make it wait for the drain."""
        return defer.Deferred.fromFuture(asyncio.ensure_future(self._end()))

    async def _end(self) -> None:
        """Let everybody go in order, within ``REALTIME_DRAIN_TIMEOUT``; whatever fails here, the server does stop."""
        self.draining = True
        if threading.current_thread() is threading.main_thread():
            # A second signal ends the process at once, whatever the first one is waiting for.
            for number in (signal.SIGTERM, signal.SIGINT):
                signal.signal(number, signal.SIG_DFL)
        try:
            await self._stop_listening()
            self._refuse_handshakes()
            node = _node()
            if node is not None:
                node.draining = True
            await see_off(Crowd(self, node), timeout=self._drain_timeout())
            await self._cancel_the_rest()
            if node is not None:
                await node.aclose()
            await _flush()
        except Exception:
            logger.exception("The drain failed.")

    def _drain_timeout(self) -> float:
        timeout = get_settings().drain_timeout
        return timeout if self.signal_handlers else min(timeout, RELOAD_SECONDS)

    async def _stop_listening(self) -> None:
        loop = asyncio.get_running_loop()
        if self.native is not None:
            self.native.stop_listening()
        for port in self._ports:
            await defer.maybeDeferred(port.stopListening).asFuture(loop)

    def _refuse_handshakes(self) -> None:
        for protocol in self.websockets():
            protocol.refuse(503, [(b"retry-after", b"1")])

    def websockets(self) -> list[WebSocketProtocol]:
        """The protocols of all sockets, those in the handshake included."""
        return [protocol for protocol in self.connections if isinstance(protocol, WebSocketProtocol)]

    async def quiet(self) -> None:
        """Return when no application runs and no socket is open."""
        if self.native is not None:
            await self.native.engine.quiet()
        while any(
            "application_instance" in details
            or (isinstance(protocol, WebSocketProtocol) and protocol.is_connected)
            for protocol, details in self.connections.items()
        ):
            self._something_ended.clear()
            await self._something_ended.wait()

    async def _cancel_the_rest(self) -> None:
        """Cancel what the time was not enough for: by now that is HTTP requests."""
        tasks = [task for protocol in list(self.connections) if (task := self.cancel(protocol)) is not None]
        if tasks:
            logger.warning("%d applications did not end in time and were cancelled.", len(tasks))
            await asyncio.wait(tasks, timeout=LAST_SECONDS)

    def cancel(self, protocol: Any) -> asyncio.Task[None] | None:
        """Cancel the application of a socket or request, if it runs, and return it."""
        task: asyncio.Task[None] | None = self.connections.get(protocol, {}).get("application_instance")
        if task is not None:
            task.cancel()
        return task

    def _stop_for_exit(self) -> None:
        """The main thread, which is not ours, ends the process: come before it. Called there."""
        if reactor.running and not self._finished.is_set():
            reactor.callFromThread(self.stop)
            self._finished.wait(RELOAD_SECONDS + 2 * LAST_SECONDS)


class Crowd:
    """Everybody a server has to see off: the connections of its node, and the sockets that no Connection looks after."""

    def __init__(self, server: Server, node: nodes.Node | None) -> None:
        self._server = server
        self._node = node

    def __iter__(self) -> Iterator[Socket]:
        if self._node is not None:
            yield from self._node.registry
        for protocol in self._server.websockets():
            if protocol.link.listener is None:
                yield PlainSocket(protocol)
        if self._server.native is not None:
            yield from self._server.native.unwatched()

    async def empty(self) -> None:
        """Return when all of them, and the requests in flight, are gone."""
        await self._server.quiet()


class PlainSocket:
    """A socket of an application that is not ours, or its application that has not ended yet, as a drain sees it."""

    def __init__(self, protocol: WebSocketProtocol) -> None:
        self._protocol = protocol
        self.transport = protocol.link

    @property
    def closed(self) -> bool:
        """Whether it has been told to close."""
        return bool(self._protocol.state != self._protocol.STATE_OPEN)

    def close(self, reason: CloseReason, *, retry_after: float | None = None) -> None:
        """Close it; a protocol that could tell when to come back is not known."""
        self._protocol.close(reason.code, reason.text)

    def abort(self) -> None:
        """Drop it, and cancel its application."""
        self._protocol.abort()
        if self._protocol.server is not None:
            self._protocol.server.cancel(self._protocol)


def _node() -> nodes.Node | None:
    """Return the node of this loop if something has used it: the end is not the time to start one."""
    loop = asyncio.get_running_loop()
    return next((node for node in nodes.live() if node.loop is loop), None)


async def _flush() -> None:
    """Wait until the last bytes have left; the reactor is about to close every socket as it stands."""
    deadline = time.monotonic() + LAST_SECONDS
    # Twisted says nothing when the buffer of a socket is empty: it has to be asked.
    while reactor.getWriters() and time.monotonic() < deadline:  # noqa: ASYNC110
        await asyncio.sleep(0.01)


def _end_tasks(loop: asyncio.AbstractEventLoop) -> None:
    """End what still runs in a loop that has stopped, rather than leave it to the garbage collector."""
    tasks = asyncio.all_tasks(loop)
    for task in tasks:
        task.cancel()
    if tasks:
        loop.run_until_complete(asyncio.wait(tasks, timeout=LAST_SECONDS))


def _before_exit(callback: Callable[[], None]) -> None:
    """
    Call ``callback`` in the main thread when that ends, while other threads still can do their work.

    ``atexit`` is too late: by then the thread pools, which consumers need to reach the database, are shut.
    They use this very hook, and those who register later are called earlier.

    """
    register: Callable[[Callable[[], None]], None] = threading._register_atexit  # type: ignore[attr-defined]
    register(callback)
