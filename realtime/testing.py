"""Test your consumers: a client that speaks the protocol to an application in the same process."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager
from typing import Any

import msgspec
from channels.testing import WebsocketCommunicator

from realtime import nodes

TIMEOUT = 2.0
"""Seconds that an expected message may take."""


class Refused(AssertionError):
    """The application did not let the socket in. ``code`` is the close code, or the HTTP status of a denial."""

    def __init__(self, code: int | None) -> None:
        super().__init__(f"the socket was refused with {code}")
        self.code = code


class Socket:
    """One connected test client. Made by :func:`connect`."""

    def __init__(self, communicator: WebsocketCommunicator) -> None:
        self.communicator = communicator
        self.skipped: list[dict[str, Any]] = []
        """Messages that :meth:`expect` passed over."""
        self.client_id = ""
        """Known once ``system.welcome`` was seen."""

    async def send(self, type: str, data: Any = None, *, id: str | None = None) -> None:
        """Send one message of the protocol."""
        message = {"type": type, "data": data}
        if id is not None:
            message["id"] = id
        await self.send_raw(msgspec.json.encode(message).decode())

    async def send_raw(self, payload: str | bytes) -> None:
        """Send a text or binary frame as it is, empty ones too."""
        kind = "text" if isinstance(payload, str) else "bytes"
        await self.communicator.send_input({"type": "websocket.receive", kind: payload})

    async def receive(self, timeout: float = TIMEOUT) -> dict[str, Any]:
        """Return the next message, decoded. Fail if the socket is closed or nothing comes."""
        event = await self._output(timeout)
        if event["type"] != "websocket.send":
            raise AssertionError(
                f"the socket was closed with {event.get('code')} instead of sending a message"
            )
        message: dict[str, Any] = msgspec.json.decode(event["text"])
        if message["type"] == "system.welcome":
            self.client_id = message["data"]["client_id"]
        return message

    async def receive_raw(self, timeout: float = TIMEOUT) -> str | bytes:
        """Return the payload of the next frame."""
        event = await self._output(timeout)
        if event["type"] != "websocket.send":
            raise AssertionError(f"the socket was closed with {event.get('code')} instead of sending a frame")
        payload: str | bytes = event["text"] if event.get("text") is not None else event["bytes"]
        return payload

    async def expect(self, type: str, timeout: float = TIMEOUT) -> dict[str, Any]:
        """Return the next message of ``type``; others go to ``skipped``. Fail if none comes in time."""
        deadline = time.monotonic() + timeout
        passed_over: list[str] = []
        while (left := deadline - time.monotonic()) > 0:
            try:
                message = await self.receive(left)
            except TimeoutError:
                break
            if message["type"] == type:
                return message
            self.skipped.append(message)
            passed_over.append(message["type"])
        raise AssertionError(
            f"no {type!r} within {timeout:g} s; what came instead: {passed_over or 'nothing'}"
        )

    async def expect_nothing(self, for_seconds: float = 0.05) -> None:
        """Fail if anything is sent within ``for_seconds``."""
        if not await self.communicator.receive_nothing(timeout=for_seconds):
            raise AssertionError(f"nothing was expected, and this came: {await self._output(TIMEOUT)}")

    async def expect_close(self, timeout: float = TIMEOUT) -> int:
        """Return the code the application closes with; messages before it go to ``skipped``."""
        deadline = time.monotonic() + timeout
        while True:
            event = await self._output(max(deadline - time.monotonic(), 0.001))
            if event["type"] == "websocket.close":
                return int(event.get("code") or 1000)
            if event.get("text") is not None:
                self.skipped.append(msgspec.json.decode(event["text"]))

    async def disconnect(self, code: int = 1000) -> None:
        """Leave, and wait until the application has cleaned up."""
        await self.communicator.disconnect(code=code, timeout=TIMEOUT)

    async def _output(self, timeout: float) -> dict[str, Any]:
        event: dict[str, Any] = await self.communicator.receive_output(timeout)
        return event


@asynccontextmanager
async def connect(
    application: Any,
    path: str = "/",
    *,
    user: Any = None,
    headers: Iterable[tuple[bytes, bytes]] = (),
    address: str = "127.0.0.1",
    subprotocols: Iterable[str] = (),
    scope: dict[str, Any] | None = None,
) -> AsyncIterator[Socket]:
    """
    Connect to ``application`` and disconnect at the end.

    ``user`` goes into the scope as the authentication middleware would put it; ``address`` is the
    client's. Raise Refused if the application does not accept.

    """
    communicator = WebsocketCommunicator(application, path, list(headers), list(subprotocols))
    communicator.scope["client"] = [address, 50000]
    if user is not None:
        communicator.scope["user"] = user
    communicator.scope.update(scope or {})
    socket = Socket(communicator)
    await communicator.send_input({"type": "websocket.connect"})
    answer = await communicator.receive_output(TIMEOUT)
    if answer["type"] != "websocket.accept":
        await communicator.disconnect(timeout=TIMEOUT)
        raise Refused(answer.get("status") or answer.get("code"))
    try:
        yield socket
    finally:
        if not communicator.future.done():
            await socket.disconnect()


async def stop_node() -> None:
    """Stop the background tasks of the running loop: for the end of a test that leaves nothing behind."""
    await nodes.current().aclose()


async def until(condition: Any, timeout: float = TIMEOUT) -> None:
    """Return when ``condition()`` is true; give other tasks turns until then."""
    async with asyncio.timeout(timeout):
        # The condition is anybody's, so there is no event to wait for.
        while not condition():  # noqa: ASYNC110
            await asyncio.sleep(0.001)
