"""The stock ``daphne`` command with our server in it: what ASGI and RFC 6455 promise, seen from the client."""

from __future__ import annotations

import asyncio
import json
import ssl
import time
from collections.abc import Iterator
from contextlib import AsyncExitStack
from functools import partial
from pathlib import Path

import pytest
from websockets.asyncio.client import connect, unix_connect
from websockets.exceptions import ConnectionClosed
from websockets.frames import Opcode

from tests.acceptance import rawclient
from tests.acceptance.processes import SCRIPTS, ServerProcess, daphne, free_port, wait_for_lines
from tests.acceptance.rawclient import RawClient
from tests.certificates import self_signed

LIMIT = 64 * 1024
AT_ONCE = 0.8
"""Seconds within which something has to happen that stock daphne does at its next look around, or never."""


class Noted(ServerProcess):
    """A server whose application writes notes."""

    notes: Path


def serving(folder: Path, *options: str, **environment: str) -> Noted:
    port = free_port()
    notes = folder / "notes"
    server = Noted(
        daphne("tests.acceptance.apps.plain:application", port, *options),
        port,
        {"NOTES": str(notes), **environment},
    )
    server.notes = notes
    return server


@pytest.fixture(scope="module", params=["native", "daphne"], autouse=True)
def engine(request: pytest.FixtureRequest) -> Iterator[str]:
    """What serves WebSockets in a test: each runs with both engines."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("REALTIME_ENGINE", request.param)
        yield request.param


@pytest.fixture(scope="module")
def shared(engine: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Noted]:
    """One server for all the tests that leave it as it was."""
    with serving(
        tmp_path_factory.mktemp("shared"),
        "--application-close-timeout",
        "1",
        RATELIMIT_MAX_MESSAGE_BYTES=str(LIMIT),
        REALTIME_MAX_INBOUND_MESSAGES="4",
    ) as server:
        yield server
        assert server.stop().code == 0


@pytest.fixture
def server(shared: Noted) -> Noted:
    shared.notes.unlink(missing_ok=True)
    return shared


def closed_by(client: RawClient) -> tuple[tuple[int, str], float]:
    """Wait for the close frame; return it and how long it took to come, in seconds."""
    started = time.monotonic()
    return client.close_frame(), time.monotonic() - started


# Messages.


@pytest.mark.parametrize(
    "message",
    [
        pytest.param("hello", id="text"),
        pytest.param("grüße 🎈", id="text beyond ASCII"),
        pytest.param(b"\x00\xff", id="binary"),
        pytest.param("", id="empty text"),
        pytest.param(b"", id="empty binary"),
        pytest.param("x" * 126, id="16-bit length"),
        pytest.param("x" * LIMIT, id="64-bit length, at the limit"),
    ],
)
async def test_a_message_comes_back_as_it_was(server: Noted, message: str | bytes) -> None:
    async with connect(f"{server.ws}/echo") as socket:
        await socket.send(message)
        assert await socket.recv() == message


async def test_a_message_in_fragments_with_a_ping_between_them_is_one_message(server: Noted) -> None:
    with RawClient(server.port) as client:
        client.open("/echo")
        client.send(
            rawclient.frame(Opcode.TEXT, b"one ", fin=False)
            + rawclient.frame(Opcode.PING, b"?")
            + rawclient.frame(Opcode.CONT, b"two ", fin=False)
            + rawclient.frame(Opcode.CONT, b"three")
            + rawclient.text("four")
        )
        pong, message, after = client.frame(), client.frame(), client.frame()
    assert (pong.opcode, pong.data) == (Opcode.PONG, b"?")
    assert message.data == b"one two three"
    assert after.data == b"four"


async def test_a_frame_may_come_in_single_bytes(server: Noted) -> None:
    with RawClient(server.port) as client:
        client.open("/echo")
        for byte in rawclient.text("slow") + rawclient.text("and steady"):
            client.send(bytes([byte]))
        assert [client.frame().data, client.frame().data] == [b"slow", b"and steady"]


async def test_messages_sent_together_are_answered_in_order(server: Noted) -> None:
    with RawClient(server.port) as client:
        client.open("/echo")
        client.send(b"".join(rawclient.text(str(number)) for number in range(200)))
        assert [client.frame().data.decode() for _ in range(200)] == [str(number) for number in range(200)]


async def test_what_the_server_sends_is_not_limited_by_what_it_accepts(server: Noted) -> None:
    async with connect(f"{server.ws}/big?size=3000000", max_size=None) as socket:
        assert len(await socket.recv()) == 3_000_000


# Violations.


@pytest.mark.parametrize(
    ("data", "code"),
    [
        pytest.param(
            b"\x82\xff" + (512 << 20).to_bytes(8, "big") + b"abcd" + b"0123456789",
            1009,
            id="512 MiB declared",
        ),
        pytest.param(
            rawclient.frame(Opcode.TEXT, b"x" * LIMIT, fin=False) + rawclient.frame(Opcode.CONT, b"x"),
            1009,
            id="too big in fragments",
        ),
        pytest.param(rawclient.frame(Opcode.TEXT, b"\xff"), 1007, id="not UTF-8"),
        pytest.param(
            rawclient.frame(Opcode.TEXT, b"\xe2\x82", fin=False) + rawclient.frame(Opcode.CONT, b"x"),
            1007,
            id="not UTF-8, in fragments",
        ),
        pytest.param(
            rawclient.frame(Opcode.TEXT, "\ud800".encode("utf-8", "surrogatepass")), 1007, id="lone surrogate"
        ),
        pytest.param(b"\x81\x01x", 1002, id="not masked"),
        pytest.param(b"\xc1\x81abcd\x00", 1002, id="reserved bit"),
        pytest.param(b"\x83\x80abcd", 1002, id="reserved opcode"),
        pytest.param(rawclient.frame(Opcode.CONT, b"x"), 1002, id="continues nothing"),
        pytest.param(rawclient.close(1005), 1002, id="close code that must not be sent"),
    ],
)
async def test_a_client_that_breaks_the_rules_is_told_which_and_gets_an_orderly_end(
    server: Noted, data: bytes, code: int
) -> None:
    with RawClient(server.port) as client:
        client.open("/note")
        client.send(data)
        (found, reason), seconds = closed_by(client)
        assert found == code
        assert reason
        assert client.rest() == b""
    assert seconds < AT_ONCE
    (note,) = wait_for_lines(server.notes, 1)
    assert note.startswith(str(code))


async def test_a_refused_message_is_never_held_in_memory(server: Noted) -> None:
    with RawClient(server.port) as client:
        client.open("/note")
        before = server.memory()
        client.send(b"\x82\xff" + (64 << 20).to_bytes(8, "big") + b"abcd")
        assert client.close_frame()[0] == 1009
        try:
            for _ in range(32):
                client.send(b"x" * 1_000_000)
        except OSError:
            pass
        assert server.memory() - before < 8_000_000


# Opening.


async def test_the_scope_says_what_asgi_wants_to_know(server: Noted, engine: str) -> None:
    async with connect(
        f"{server.ws}/scope?a=1", subprotocols=["one", "two"], origin="http://127.0.0.1"
    ) as socket:
        scope = json.loads(await socket.recv())
    assert scope["asgi"] == {"version": "3.0", "spec_version": "2.5" if engine == "native" else "2.3"}
    assert (scope["scheme"], scope["http_version"]) == ("ws", "1.1")
    assert (scope["path"], scope["query_string"], scope["root_path"]) == ("/scope", "a=1", "")
    assert scope["subprotocols"] == ["one", "two"]
    assert scope["extensions"] == ["realtime", "websocket.http.response"]
    assert scope["client"][0] == "127.0.0.1"
    assert scope["server"] == ["127.0.0.1", server.port]
    assert ["origin", "http://127.0.0.1"] in scope["headers"]


async def test_a_client_cannot_choose_the_root_path(server: Noted) -> None:
    async with connect(f"{server.ws}/scope", additional_headers={"Daphne-Root-Path": "/elsewhere"}) as socket:
        assert json.loads(await socket.recv())["root_path"] == ""
    assert rawclient.get(server.port, "/", "Daphne-Root-Path: /elsewhere").body == b"home"


async def test_accept_takes_headers_and_a_subprotocol(server: Noted) -> None:
    async with connect(f"{server.ws}/headers", subprotocols=["first", "second"]) as socket:
        assert socket.subprotocol == "first"
        headers = socket.response.headers
    assert headers["x-one"] == "1"
    assert headers.get_all("set-cookie") == ["a=1", "b=2"]


@pytest.mark.parametrize(
    "path",
    [
        pytest.param("/unoffered", id="a subprotocol that the client did not offer"),
        pytest.param("/split-header", id="a header with a line break"),
        pytest.param("/raise-early", id="an application that fails"),
        pytest.param("/return-early", id="an application that goes without an answer"),
    ],
)
async def test_what_goes_wrong_before_the_answer_is_answered_with_500_at_once(
    server: Noted, path: str
) -> None:
    started = time.monotonic()
    with RawClient(server.port) as client:
        response = client.open(path)
    assert response.status == 500
    assert "x-two" not in response.headers
    assert time.monotonic() - started < AT_ONCE


async def test_closing_before_accept_is_403(server: Noted) -> None:
    with RawClient(server.port) as client:
        response = client.open("/reject")
        assert (response.status, response.body) == (403, b"")
        assert client.rest() == b""
    assert wait_for_lines(server.notes, 1) == ["rejected: websocket.disconnect"]


async def test_an_application_can_refuse_with_a_response_of_its_own(server: Noted) -> None:
    with RawClient(server.port) as client:
        response = client.open("/deny")
        assert client.rest() == b""
    assert response.status == 429
    assert response.headers["retry-after"] == "7"
    assert response.headers["connection"] == "close"
    assert json.loads(response.body) == {"slow": "down"}
    assert wait_for_lines(server.notes, 1) == ["denied: websocket.disconnect"]


async def test_such_a_response_may_come_in_parts(server: Noted) -> None:
    with RawClient(server.port) as client:
        response = client.open("/deny-in-parts")
    assert (response.status, response.body) == (503, b"one two")


@pytest.mark.parametrize(
    "lines",
    [
        pytest.param(["Sec-WebSocket-Protocol: caf\u00e9"], id="a subprotocol that is not ASCII"),
        pytest.param(["Origin: nonsense"], id="an origin that is none"),
        pytest.param(["Sec-WebSocket-Protocol: a, a"], id="a subprotocol twice"),
    ],
)
async def test_an_odd_handshake_is_answered_and_makes_no_noise(server: Noted, lines: list[str]) -> None:
    before = server.stderr
    with RawClient(server.port) as client:
        client.send(rawclient.handshake("/echo", *lines).decode().encode("latin-1"))
        assert client.response().status in (101, 400)
    assert server.stderr == before


async def test_frames_sent_with_the_handshake_are_not_lost(server: Noted) -> None:
    with RawClient(server.port) as client:
        client.send(rawclient.handshake("/echo") + rawclient.text("early") + rawclient.text("bird"))
        assert client.response().status == 101
        assert [client.frame().data, client.frame().data] == [b"early", b"bird"]


# Closing.


@pytest.mark.parametrize("code", [1000, 1001, 1008, 1011, 1012, 1013, 1014, 3000, 4001])
async def test_the_application_closes_with_any_code_there_is_and_a_reason(server: Noted, code: int) -> None:
    with RawClient(server.port) as client:
        client.open(f"/close?code={code}&reason=so%20it%20is")
        assert client.close_frame() == (code, "so it is")
        client.send(rawclient.close(1000))
        assert client.rest() == b""
    assert wait_for_lines(server.notes, 1) == [f"{code} so it is"]


async def test_our_consumer_refuses_before_accept(tmp_path: Path) -> None:
    port = free_port()
    with ServerProcess(daphne("tests.acceptance.apps.consumers:application", port), port) as server:
        with RawClient(server.port) as client:
            assert client.open("/refusing").status == 403
        assert "Traceback" not in server.stop().stderr


async def test_a_long_reason_is_cut_between_characters(server: Noted) -> None:
    with RawClient(server.port) as client:
        client.open("/close?code=4001&reason=" + "%C3%BC" * 100)
        assert client.close_frame() == (4001, "ü" * 61)


async def test_a_code_that_must_not_be_sent_is_an_error_of_the_application(server: Noted) -> None:
    with RawClient(server.port) as client:
        client.open("/close?code=1006&reason=lost")
        assert client.close_frame()[0] == 1011
    assert "Close code 1006 cannot be sent" in server.stderr


async def test_no_code_is_1000(server: Noted) -> None:
    with RawClient(server.port) as client:
        client.open("/close-plain")
        assert client.close_frame()[0] == 1000


@pytest.mark.parametrize(
    ("data", "note"),
    [
        pytest.param(rawclient.close(None), "1005", id="a close frame without a code"),
        pytest.param(rawclient.close(4321, "bye"), "4321 bye", id="a code and a reason"),
        pytest.param(b"", "1006", id="nothing"),
    ],
)
async def test_the_application_is_told_how_the_client_went(server: Noted, data: bytes, note: str) -> None:
    with RawClient(server.port) as client:
        client.open("/note")
        client.send(data)
    assert wait_for_lines(server.notes, 1) == [note]


async def test_an_application_that_fails_closes_with_1011_at_once_and_is_logged_once(server: Noted) -> None:
    logged = server.stderr.count("RuntimeError: failed on purpose\n")
    with RawClient(server.port) as client:
        client.open("/raise")
        client.send(rawclient.text("go") + rawclient.text("on"))
        (code, _), seconds = closed_by(client)
    assert code == 1011
    assert seconds < AT_ONCE
    assert server.stderr.count("RuntimeError: failed on purpose\n") == logged + 1


async def test_an_application_that_goes_leaves_no_open_socket(server: Noted) -> None:
    with RawClient(server.port) as client:
        client.open("/return")
        (code, _), seconds = closed_by(client)
    assert code == 1000
    assert seconds < AT_ONCE


async def test_an_application_that_sends_for_ever_to_nobody_is_ended_and_holds_up_nobody(
    server: Noted,
) -> None:
    with RawClient(server.port) as client:
        client.open("/send-after-close")
        client.frame()
    async with connect(f"{server.ws}/echo") as socket:
        await socket.send("still alive?")
        assert await socket.recv() == "still alive?"
    assert wait_for_lines(server.notes, 2) == ["sending", "ended"]


# Back-pressure.


async def test_an_application_waits_for_a_client_that_does_not_read(server: Noted) -> None:
    with RawClient(server.port) as client:
        client.open("/pour")
        wait_for_lines(server.notes, 1)
        async with connect(f"{server.ws}/echo") as other:
            for _ in range(20):
                await other.send("x")
                await other.recv()
        held_back = len(server.notes.read_text().splitlines())
        assert held_back < 20
    # The client is gone, and with it the reason to wait.
    assert len(wait_for_lines(server.notes, 100)) == 100


@pytest.mark.setting("REALTIME_MAX_INBOUND_MESSAGES")
async def test_a_client_that_sends_more_than_is_handled_is_made_to_wait_and_loses_nothing(
    shared: Noted, tmp_path: Path
) -> None:
    with (
        serving(tmp_path, REALTIME_MAX_INBOUND_MESSAGES="4") as server,
        RawClient(server.port, timeout=0.5) as client,
    ):
        client.open("/busy")
        before = server.memory()
        sent = _send_until_blocked(client, rawclient.text("x" * 60_000), most=500)
        assert sent < 400
        assert server.memory() - before < 8_000_000
        assert rawclient.get(server.port, "/open").status == 200
        client.socket.settimeout(10)
        client.send(client.unsent + rawclient.text("end"))
        assert int(client.frame().data) == sent + 1


async def test_the_answer_to_a_close_is_found_behind_what_was_not_handled(tmp_path: Path) -> None:
    with serving(tmp_path, REALTIME_MAX_INBOUND_MESSAGES="4") as server, RawClient(server.port) as client:
        client.open("/close-at-the-gate")
        client.send(b"".join(rawclient.text("x" * 60_000) for _ in range(20)))
        assert rawclient.get(server.port, "/open").status == 200
        assert client.close_frame()[0] == 4000
        started = time.monotonic()
        client.send(rawclient.close(4000))
        assert client.rest() == b""
        assert time.monotonic() - started < 3


async def test_nothing_is_read_before_the_application_accepts(tmp_path: Path) -> None:
    with (
        serving(tmp_path, "--websocket_connect_timeout", "20") as server,
        RawClient(server.port, timeout=0.5) as client,
    ):
        client.send(rawclient.handshake("/late"))
        wait_for_lines(server.notes, 1)
        before = server.memory()
        sent = _send_until_blocked(client, rawclient.text("x" * 60_000), most=500)
        assert sent < 400
        assert server.memory() - before < 4_000_000
        assert rawclient.get(server.port, "/open").status == 200
        assert client.response().status == 101
        client.socket.settimeout(10)
        assert client.frame().data == b"x" * 60_000


def _send_until_blocked(client: RawClient, message: bytes, most: int) -> int:
    """Send a message until nobody takes it; return how many went. The rest of the last is in ``client.unsent``."""
    for number in range(most):
        left = memoryview(message)
        try:
            while left:
                left = left[client.socket.send(left) :]
        except TimeoutError:
            client.unsent = bytes(left)
            return number
    return most


# The transport beside ASGI.


async def test_what_is_sent_and_what_is_written_keep_their_order(server: Noted) -> None:
    async with connect(f"{server.ws}/order") as socket:
        numbers = [int(str(await socket.recv()).split()[0]) for _ in range(200)]
    assert numbers == list(range(200))


async def test_a_ping_reports_how_long_its_answer_took_and_any_frame_is_a_sign_of_life(server: Noted) -> None:
    with RawClient(server.port) as client:
        client.open("/ping")
        ping = client.frame()
        assert ping.opcode == Opcode.PING
        client.send(rawclient.frame(Opcode.PONG, b"unasked"))
        assert client.frame().data == b"heard 0.0"
        client.send(rawclient.frame(Opcode.PONG, bytes(ping.data)))
        assert client.frame().data == b"heard 0.0"
        kind, rtt = bytes(client.frame().data).decode().split()
    assert kind == "ponged"
    assert 0 < float(rtt) < 5


async def test_a_slow_reader_is_reported_and_so_is_its_catching_up(server: Noted) -> None:
    with RawClient(server.port) as client:
        client.open("/slow-reader")
        assert wait_for_lines(server.notes, 1)[0] == "full True"
        count = 0
        while (frame := client.frame()).opcode == Opcode.BINARY:
            count += 1
        assert int(frame.data) == count
    assert server.notes.read_text().splitlines() == ["full True", "empty True"]


# Other ways in.


async def test_tls_and_unix_sockets_serve_the_same(tmp_path: Path) -> None:
    certificate, key = self_signed(tmp_path, "localhost")
    port, path = free_port(), tmp_path / "socket"
    tls = f"ssl:{port}:privateKey={key}:certKey={certificate}:interface=127.0.0.1"
    command = [str(SCRIPTS / "daphne"), "-e", tls, "-u", str(path), "tests.acceptance.apps.plain:application"]
    environment = {"NOTES": str(tmp_path / "notes"), "RATELIMIT_MAX_MESSAGE_BYTES": str(LIMIT)}
    trusting = ssl.create_default_context(cafile=str(certificate))
    with ServerProcess(command, port, environment) as server:
        for scheme, opened in (
            ("wss", partial(connect, ssl=trusting, max_size=None)),
            ("ws", partial(unix_connect, str(path), max_size=None)),
        ):
            at = f"{scheme}://localhost:{port}"
            async with opened(uri=f"{at}/scope") as socket:
                assert json.loads(await socket.recv())["scheme"] == scheme
            async with opened(uri=f"{at}/big?size=3000000") as socket:
                assert len(await socket.recv()) == 3_000_000
            async with opened(uri=f"{at}/order") as socket:
                assert [int((await socket.recv()).split()[0]) for _ in range(200)] == list(range(200))
            async with opened(uri=f"{at}/echo") as socket:
                await socket.send("x" * LIMIT)
                assert await socket.recv() == "x" * LIMIT
                await socket.send("x" * (LIMIT + 1))
                with pytest.raises(ConnectionClosed) as closed:
                    await socket.recv()
                assert closed.value.rcvd is not None
                assert closed.value.rcvd.code == 1009
        ended = await asyncio.to_thread(server.stop)
    assert ended.code == 0
    assert "Traceback" not in ended.stderr


# Timeouts.


async def test_an_application_that_does_not_answer_the_handshake_is_not_waited_for(tmp_path: Path) -> None:
    with serving(tmp_path, "--websocket_connect_timeout", "1") as server:
        with RawClient(server.port) as client:
            response = client.open("/never-accepts")
        assert response.status == 503
        assert wait_for_lines(server.notes, 2) == ["waiting", "websocket.disconnect"]


# HTTP.


@pytest.mark.parametrize("path", ["/raise", "/return"])
async def test_a_request_that_goes_wrong_is_answered_with_500_at_once(server: Noted, path: str) -> None:
    started = time.monotonic()
    assert rawclient.get(server.port, path).status == 500
    assert time.monotonic() - started < AT_ONCE


async def test_half_a_response_ends_early_and_the_server_goes_on(server: Noted) -> None:
    with pytest.raises(EOFError):
        rawclient.get(server.port, "/raise-late")
    assert rawclient.get(server.port, "/").status == 200
    async with connect(f"{server.ws}/return") as socket:
        with pytest.raises(ConnectionClosed):
            await socket.recv()


# The process.


async def test_the_garbage_collector_does_not_look_through_all_sockets_again_and_again(server: Noted) -> None:
    async with AsyncExitStack() as stack:
        for _ in range(100):
            await stack.enter_async_context(connect(f"{server.ws}/echo"))
        assert int(rawclient.get(server.port, "/collect").body) < 1000
