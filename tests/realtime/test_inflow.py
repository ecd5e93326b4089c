"""Messages that are handled as they come: order, limits, tasks and context are what they are when a task receives them."""

from __future__ import annotations

import asyncio
import contextlib
import contextvars
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any, ClassVar

import pytest
from channels.exceptions import StopConsumer
from channels.layers import get_channel_layer
from django.test import override_settings
from websockets.exceptions import ConnectionClosed

from ratelimit.middleware import RateLimit
from realtime import nodes
from realtime.consumers import RealtimeConsumer
from realtime.handlers import on
from realtime.limits import Limits
from realtime.sockets import WebSocket, websocket
from tests.realtime.server.engines import native, until

SOON = 3.0


@asynccontextmanager
async def client(application: Any) -> AsyncIterator[Any]:
    """Serve ``application`` with the native engine and return one client of it."""
    async with native(application) as server, server.connect() as socket:
        yield socket


async def said(socket: Any, *kinds: str) -> dict[str, Any]:
    """Return the next message of one of ``kinds``, or of any but the greeting."""
    async with asyncio.timeout(SOON):
        while True:
            message: dict[str, Any] = json.loads(await socket.recv())
            if message["type"] in kinds or (not kinds and message["type"] != "system.welcome"):
                return message


async def close_code(socket: Any) -> int | None:
    """Return the code the socket is closed with; what comes before does not matter."""
    async with asyncio.timeout(SOON):
        with contextlib.suppress(ConnectionClosed):
            async for _ in socket:
                pass
    code: int | None = socket.close_code
    return code


class Worker(RealtimeConsumer):
    """Does as it is told."""

    variable: contextvars.ContextVar[str] = contextvars.ContextVar("variable", default="unset")
    release: asyncio.Event

    async def connected(self) -> None:
        self.task = asyncio.current_task()

    @on("quick")
    async def quick(self, data: dict[str, Any]) -> None:
        await self.send_event("did", {**data, "own_task": asyncio.current_task() is self.task})

    @on("slow")
    async def slow(self, data: dict[str, Any]) -> None:
        await asyncio.sleep(data.get("seconds", 0.02))
        await self.send_event("did", {**data, "own_task": asyncio.current_task() is self.task})

    @on("hang")
    async def hang(self) -> None:
        try:
            await asyncio.Event().wait()
        finally:
            self.release.set()

    @on("scoped")
    async def scoped(self) -> None:
        token = self.variable.set("inside")
        await asyncio.sleep(0.01)
        self.variable.reset(token)
        await self.send_event("did", {"variable": self.variable.get()})

    @on("impatient")
    async def impatient(self) -> None:
        try:
            async with asyncio.timeout(0.02):
                await asyncio.sleep(SOON)
        except TimeoutError:
            await self.send_event("did", {"timeout": True})

    @on("raise")
    async def fail(self) -> None:
        raise RuntimeError("failed on purpose")

    @on("stop")
    async def stop(self) -> None:
        raise StopConsumer

    @on("close")
    async def end(self) -> None:
        await self.close(4001)


async def test_a_handler_runs_as_the_task_of_its_socket_whether_it_waits_or_not() -> None:
    async with client(Worker.as_asgi()) as socket:
        for type in ("quick", "slow", "quick"):
            await socket.send(json.dumps({"type": type, "data": {"n": 1}}))
            assert (await said(socket, "did"))["data"] == {"n": 1, "own_task": True}


async def test_messages_are_handled_in_order_though_some_have_to_wait() -> None:
    async with client(Worker.as_asgi()) as socket:
        kinds = ["quick", "slow", "quick", "quick", "slow", "slow", "quick"] * 5
        for number, type in enumerate(kinds):
            await socket.send(json.dumps({"type": type, "data": {"n": number, "seconds": 0.002}}))
        assert [(await said(socket, "did"))["data"]["n"] for _ in kinds] == list(range(len(kinds)))


async def test_a_timeout_of_the_handlers_own_ends_what_it_waits_for() -> None:
    async with client(Worker.as_asgi()) as socket:
        await socket.send('{"type": "impatient"}')
        assert (await said(socket, "did"))["data"] == {"timeout": True}
        await socket.send('{"type": "quick", "data": {}}')
        assert (await said(socket, "did"))["data"]["own_task"]


async def test_what_a_handler_sets_in_its_context_it_can_reset_after_waiting() -> None:
    async with client(Worker.as_asgi()) as socket:
        await socket.send('{"type": "scoped"}')
        assert (await said(socket))["data"] == {"variable": "unset"}


async def test_a_handler_that_waits_too_long_costs_an_error_and_not_the_socket() -> None:
    class Patient(Worker):
        limits = Limits(handler_timeout=0.05)
        release = asyncio.Event()

    async with client(Patient.as_asgi()) as socket:
        await socket.send('{"type": "hang", "id": "a"}')
        error = await said(socket, "system.error")
        assert (error["data"]["code"], error["data"]["id"]) == ("handler_timeout", "a")
        await socket.send('{"type": "quick", "data": {}, "id": "b"}')
        assert (await said(socket, "system.ack"))["data"] == {"id": "b"}


async def test_a_handler_that_raises_costs_an_error_and_not_the_socket(
    caplog: pytest.LogCaptureFixture,
) -> None:
    async with client(Worker.as_asgi()) as socket:
        await socket.send('{"type": "raise"}')
        assert (await said(socket))["data"]["code"] == "handler_failed"
        await socket.send('{"type": "quick", "data": {}}')
        assert (await said(socket))["type"] == "did"
    assert "failed on purpose" in caplog.text


async def test_a_handler_may_end_its_consumer() -> None:
    async with client(Worker.as_asgi()) as socket:
        await socket.send('{"type": "stop"}')
        with pytest.raises(ConnectionClosed):
            await said(socket)
        await until(lambda: not len(nodes.current().registry))


async def test_a_handler_may_close_its_socket() -> None:
    async with client(Worker.as_asgi()) as socket:
        await socket.send('{"type": "close"}')
        await socket.send('{"type": "quick", "data": {}}')
        assert await close_code(socket) == 4001


async def test_a_client_that_leaves_while_its_handler_waits_leaves_nothing_behind() -> None:
    class Hanging(Worker):
        limits = Limits(handler_timeout=0.1)
        release = asyncio.Event()

    async with client(Hanging.as_asgi()) as socket:
        await socket.send('{"type": "hang"}')
        await socket.close()
        await asyncio.wait_for(Hanging.release.wait(), SOON)
        await until(lambda: not len(nodes.current().registry))


async def test_a_consumer_that_is_cancelled_as_its_handler_begins_to_wait_lets_it_clean_up() -> None:
    class Hanging(Worker):
        release = asyncio.Event()

        @on("hang and cancel")
        async def cancelled(self) -> None:
            assert self.task is not None
            self.task.cancel()
            await self.hang()

    async with client(Hanging.as_asgi()) as socket:
        await socket.send('{"type": "hang and cancel"}')
        await asyncio.wait_for(Hanging.release.wait(), SOON)
        with pytest.raises(ConnectionClosed):
            await said(socket)


@override_settings(
    RATELIMIT_MESSAGES_PER_WINDOW=2, RATELIMIT_BURST_MULTIPLIER=1, RATELIMIT_DISCONNECT_AFTER=2
)
async def test_limits_hold_for_messages_that_are_handled_as_they_come() -> None:
    async with client(RateLimit(Worker.as_asgi())) as socket:
        for number in range(4):
            await socket.send(json.dumps({"type": "quick", "data": {"n": number}}))
        assert [(await said(socket))["data"].get("n") for _ in range(2)] == [0, 1]
        warning = await said(socket)
        assert (warning["type"], warning["data"]["violations_left"]) == ("system.rate_limited", 1)
        assert await close_code(socket) == 4429


async def test_a_handler_that_asks_for_its_channel_takes_turns_with_what_comes_from_there() -> None:
    class Late(Worker):
        release = asyncio.Event()
        steps: ClassVar[list[str]] = []

        @on("listen")
        async def listen(self) -> None:
            await self.channel_layer.group_add("turns", self.channel_name)
            await self.send_event("did")

        @on("work")
        async def work(self) -> None:
            await self.alone("socket")

        async def turns_item(self, event: dict[str, Any]) -> None:
            await self.alone("layer")

        async def alone(self, what: str) -> None:
            self.steps.append(f"{what} begins")
            await self.release.wait()
            self.steps.append(f"{what} ends")
            await self.send_event("did")

    async with client(Late.as_asgi()) as socket:
        await socket.send('{"type": "listen"}')
        await said(socket, "did")
        await get_channel_layer().group_send("turns", {"type": "turns.item"})
        await until(lambda: Late.steps == ["layer begins"])
        await socket.send('{"type": "work"}')
        (connection,) = nodes.current().registry
        await until(lambda: connection.messages_in == 2)
        assert Late.steps == ["layer begins"]
        Late.release.set()
        for _ in range(2):
            await said(socket, "did")
    assert Late.steps == ["layer begins", "layer ends", "socket begins", "socket ends"]


async def test_every_message_is_counted_once() -> None:
    async with client(Worker.as_asgi()) as socket:
        for type in ("quick", "slow"):
            await socket.send(json.dumps({"type": type, "data": {}}))
        for _ in range(2):
            await said(socket, "did")
        (connection,) = nodes.current().registry
        assert connection.messages_in == 2
        assert connection.last_message == connection.last_heard > connection.opened


# Functions


async def test_a_function_goes_on_with_each_message_as_its_own_task() -> None:
    @websocket()
    async def tells(ws: WebSocket) -> None:
        own = asyncio.current_task()
        async for message in ws:
            if message == "wait":
                await asyncio.sleep(0.01)
            await ws.send(f"{message} {asyncio.current_task() is own}")

    async with client(tells) as socket:
        for message in ("one", "wait", "two", "wait"):
            await socket.send(message)
        assert [await socket.recv() for _ in range(4)] == ["one True", "wait True", "two True", "wait True"]


async def test_a_function_reads_in_order_whatever_it_awaits_between() -> None:
    numbers = [str(number) for number in range(200)]

    @websocket()
    async def reads(ws: WebSocket) -> None:
        async for message in ws:
            if int(message) % 3 == 0:
                await asyncio.sleep(0)
            if int(message) % 7 == 0:
                await ws.send(f"and {await ws.receive()!r}")
            else:
                await ws.send(message)

    async with client(reads) as socket:
        for number in numbers:
            await socket.send(number)
        got: list[str] = []
        while len(got) < len(numbers):
            async with asyncio.timeout(SOON):
                answer = await socket.recv()
            if answer.startswith("and"):
                got.append("asked")
                answer = answer.removeprefix("and '").rstrip("'")
            got.append(answer)
        assert [g for g in got if g != "asked"] == [
            n for n, g in zip(numbers, got, strict=True) if g != "asked"
        ]


@pytest.mark.parametrize("how", ["timeout", "wait_for", "task"])
async def test_a_function_may_stop_waiting_for_a_message_and_loses_none(how: str) -> None:
    async def patient(ws: WebSocket) -> Any:
        if how == "timeout":
            async with asyncio.timeout(0.02):
                return await ws.receive()
        if how == "wait_for":
            return await asyncio.wait_for(ws.receive(), 0.02)
        task = asyncio.create_task(ws.receive())
        done, _ = await asyncio.wait({task}, timeout=0.02)
        if not done:
            task.cancel()
            raise TimeoutError
        return task.result()

    @websocket()
    async def waits(ws: WebSocket) -> None:
        while True:
            try:
                message = await patient(ws)
            except TimeoutError:
                await ws.send("tick")
            else:
                if message is None:
                    return
                await ws.send(message)

    async with client(waits) as socket:
        assert await socket.recv() == "tick"
        await socket.send("first")
        await socket.send("second")
        got: list[str] = []
        while len(got) < 2:
            async with asyncio.timeout(SOON):
                if (message := await socket.recv()) != "tick":
                    got.append(message)
        assert got == ["first", "second"]
        assert await socket.recv() == "tick"


async def test_a_function_may_wait_for_a_message_in_a_task_of_its_own() -> None:
    @websocket()
    async def selects(ws: WebSocket) -> None:
        async for message in ws:
            reading = asyncio.create_task(ws.receive())
            await asyncio.wait({reading})
            await ws.send(f"{message} {reading.result()}")

    async with client(selects) as socket:
        for first, second in (("one", "two"), ("three", "four")):
            await socket.send(first)
            await socket.send(second)
            async with asyncio.timeout(SOON):
                assert await socket.recv() == f"{first} {second}"


@pytest.mark.parametrize("waits_first", [False, True])
async def test_a_function_that_returns_closes_the_socket(waits_first: bool) -> None:
    @websocket()
    async def once(ws: WebSocket) -> None:
        message = await ws.receive()
        if waits_first:
            await asyncio.sleep(0.01)
        await ws.send(message or "")

    async with client(once) as socket:
        await socket.send("only this")
        await socket.send("nobody reads this")
        assert await socket.recv() == "only this"
        assert await close_code(socket) == 1000


@pytest.mark.parametrize("waits_first", [False, True])
async def test_a_function_that_raises_closes_with_1011_and_is_logged(
    waits_first: bool, caplog: pytest.LogCaptureFixture
) -> None:
    @websocket()
    async def fails(ws: WebSocket) -> None:
        async for _ in ws:
            if waits_first:
                await asyncio.sleep(0.01)
            raise LookupError("failed on purpose")

    async with client(fails) as socket:
        await socket.send("now")
        assert await close_code(socket) == 1011
    assert "failed on purpose" in caplog.text
    await until(lambda: not len(nodes.current().registry))


async def test_a_function_cleans_up_when_its_task_is_cancelled_as_it_begins_to_wait() -> None:
    cleaned: list[str] = []

    @websocket()
    async def cancelled(ws: WebSocket) -> None:
        async for _ in ws:
            task = asyncio.current_task()
            assert task is not None
            try:
                task.cancel()
                await asyncio.sleep(SOON)
            except asyncio.CancelledError:
                await asyncio.sleep(0)
                cleaned.append("waited")
                raise

    async with client(cancelled) as socket:
        await socket.send("now")
        with pytest.raises(ConnectionClosed):
            await socket.recv()
    assert cleaned == ["waited"]


async def test_a_function_sees_the_end_of_its_socket() -> None:
    ended = asyncio.Event()

    @websocket()
    async def waits(ws: WebSocket) -> None:
        async for _ in ws:
            pass
        assert await ws.receive() is None
        ended.set()

    async with client(waits) as socket:
        await socket.send("one")
        await socket.close(4000)
        await asyncio.wait_for(ended.wait(), SOON)


@override_settings(
    RATELIMIT_MAX_MESSAGE_BYTES=100, RATELIMIT_MESSAGES_PER_WINDOW=3, RATELIMIT_BURST_MULTIPLIER=1
)
async def test_limits_hold_for_functions() -> None:
    @websocket()
    async def echoes(ws: WebSocket) -> None:
        async for message in ws:
            await ws.send(message)

    async with client(RateLimit(echoes)) as socket:
        for number in range(5):
            await socket.send(str(number))
        assert [await socket.recv() for _ in range(3)] == ["0", "1", "2"]
        assert (await said(socket))["type"] == "system.rate_limited"
