"""Request heads: which ask for a WebSocket, which may have one, and what is answered."""

from __future__ import annotations

import string

import pytest
from hypothesis import given
from hypothesis import strategies as st

from realtime.server.heads import (
    MAX_HEAD_BYTES,
    MAX_HEADERS,
    HandshakeRefused,
    Head,
    MalformedHead,
    accept_key,
    accepting_head,
    denying_head,
    handshake,
    may_want_websocket,
    read_head,
)

KEY = "dGhlIHNhbXBsZSBub25jZQ=="
GOOD = {
    "Host": "example.org",
    "Upgrade": "websocket",
    "Connection": "Upgrade",
    "Sec-WebSocket-Key": KEY,
    "Sec-WebSocket-Version": "13",
}


def request(first: str = "GET /chat?x=1 HTTP/1.1", extra: str = "", **changed: str | None) -> bytes:
    headers = GOOD | {name.replace("_", "-"): value for name, value in changed.items()}
    lines = [f"{name}: {value}" for name, value in headers.items() if value is not None]
    return ("\r\n".join([first, *lines]) + "\r\n" + extra + "\r\n").encode("latin-1")


def head(*args: str, **changed: str | None) -> Head:
    found = read_head(request(*args, **changed))
    assert found is not None
    return found


def test_head_is_what_comes_before_the_empty_line() -> None:
    data = request()
    found = read_head(data + b"\x81\x80abcd")
    assert found is not None
    assert (found.method, found.target, found.version) == (b"GET", b"/chat?x=1", b"HTTP/1.1")
    assert found.headers[0] == (b"host", b"example.org")
    assert found.size == len(data)


@given(st.integers(min_value=0, max_value=len(request()) - 1))
def test_head_that_has_not_come_whole_is_awaited(size: int) -> None:
    assert read_head(request()[:size]) is None
    assert may_want_websocket(request()[:size])


@given(st.binary(max_size=2000))
def test_any_bytes_are_a_head_or_incomplete_or_malformed(data: bytes) -> None:
    try:
        found = read_head(data)
    except MalformedHead:
        return
    assert (found is None) == (b"\r\n\r\n" not in data)


@given(
    st.dictionaries(
        st.text(string.ascii_letters + string.digits + "-_!", min_size=1, max_size=20),
        st.text(string.printable.strip(), max_size=30),
        max_size=20,
    )
)
def test_headers_are_read_as_they_were_written(headers: dict[str, str]) -> None:
    lines = "".join(f"{name}: {value} \r\n" for name, value in headers.items())
    found = read_head(f"GET / HTTP/1.1\r\n{lines}\r\n".encode())
    assert found is not None
    assert found.headers == [(name.lower().encode(), value.encode()) for name, value in headers.items()]


@pytest.mark.parametrize(
    "data",
    [
        pytest.param(b"GET /\r\n\r\n", id="no version"),
        pytest.param(b"G\xc3T / HTTP/1.1\r\n\r\n", id="method is not a token"),
        pytest.param(b"GET / HTTP/1.1\r\nno colon\r\n\r\n", id="header without a colon"),
        pytest.param(b"GET / HTTP/1.1\r\na b: c\r\n\r\n", id="blank in a header name"),
        pytest.param(b"GET / HTTP/1.1\r\na: b\r\n c\r\n\r\n", id="folded header"),
        pytest.param(b"GET / HTTP/1.1\r\na: b\0\r\n\r\n", id="NUL in a value"),
        pytest.param(b"GET / HTTP/1.1\r\na: b\rX: y\r\n\r\n", id="bare CR in a value"),
        pytest.param(
            b"GET / HTTP/1.1\r\n" + b"a: b\r\n" * (MAX_HEADERS + 1) + b"\r\n", id="too many headers"
        ),
        pytest.param(b"GET / HTTP/1.1\r\na: " + b"b" * MAX_HEAD_BYTES, id="too long, and no end in sight"),
        pytest.param(b"GET / HTTP/1.1\r\na: " + b"b" * MAX_HEAD_BYTES + b"\r\n\r\n", id="too long"),
    ],
)
def test_malformed_head_is_refused(data: bytes) -> None:
    with pytest.raises(MalformedHead):
        read_head(data)


@pytest.mark.parametrize(
    ("start", "may"),
    [
        (b"", True),
        (b"G", True),
        (b"GET /", True),
        (b"POST", False),
        (b"GEX", False),
        (b"\x16\x03\x01", False),
    ],
)
def test_first_bytes_tell_what_cannot_be_an_upgrade(start: bytes, may: bool) -> None:
    assert may_want_websocket(start) is may


@pytest.mark.parametrize(
    ("wants", "found"),
    [
        pytest.param(True, head(), id="canonical"),
        pytest.param(True, head(Connection="keep-alive, Upgrade"), id="Firefox"),
        pytest.param(True, head(Upgrade="WebSocket", Connection="UPGRADE"), id="upper case"),
        pytest.param(True, head(Upgrade="h2c, websocket"), id="one of several upgrades"),
        pytest.param(True, head(Sec_WebSocket_Key="bad"), id="badly asked is asked"),
        pytest.param(False, head(Connection="keep-alive"), id="connection is kept"),
        pytest.param(False, head(Upgrade="h2c"), id="another protocol"),
        pytest.param(False, head(Upgrade=None), id="plain request"),
        pytest.param(False, head("POST /chat HTTP/1.1"), id="POST"),
        pytest.param(False, head("GET /chat HTTP/1.0"), id="HTTP/1.0"),
        pytest.param(False, head(Connection="not-upgrade"), id="token is looked at as a whole"),
    ],
)
def test_request_for_a_websocket_is_told_from_others(wants: bool, found: Head) -> None:
    assert found.wants_websocket is wants


def test_handshake_says_what_the_client_asks_for() -> None:
    asked = handshake(
        head(
            "GET /chat/caf%C3%A9?x=1&y=%20 HTTP/1.1",
            "Sec-WebSocket-Protocol: chat.v2, chat.v1\r\nSec-WebSocket-Protocol: chat.v0\r\n"
            "Sec-WebSocket-Extensions: permessage-deflate\r\nX_Real_IP: 1.2.3.4\r\n",
        )
    )
    assert asked.path == "/chat/café"
    assert asked.raw_path == b"/chat/caf%C3%A9"
    assert asked.query_string == b"x=1&y=%20"
    assert asked.subprotocols == ("chat.v2", "chat.v1", "chat.v0")
    assert asked.extensions == ("permessage-deflate",)
    assert b"x_real_ip" not in dict(asked.headers), "a proxy's X-Real-IP could be imitated with it"


@pytest.mark.parametrize(
    ("target", "path"),
    [("http://example.org/chat", b"/chat"), ("ws://example.org", b"/"), ("WSS://example.org/a?b", b"/a")],
)
def test_target_may_be_a_whole_address(target: str, path: bytes) -> None:
    assert handshake(head(f"GET {target} HTTP/1.1")).raw_path == path


@pytest.mark.parametrize(
    ("status", "found"),
    [
        pytest.param(426, head(Sec_WebSocket_Version="8"), id="old version"),
        pytest.param(426, head(Sec_WebSocket_Version=None), id="no version"),
        pytest.param(400, head(Sec_WebSocket_Key=None), id="no key"),
        pytest.param(400, head(Sec_WebSocket_Key="c2hvcnQ="), id="short key"),
        pytest.param(400, head(Sec_WebSocket_Key="!" * 24), id="key is not base64"),
        pytest.param(400, head(extra=f"Sec-WebSocket-Key: {KEY}\r\n"), id="two keys"),
        pytest.param(400, head(Host=None), id="no host"),
        pytest.param(400, head(extra="Host: other\r\n"), id="two hosts"),
        pytest.param(400, head(extra="Content-Length: 5\r\n"), id="body"),
        pytest.param(400, head(extra="Transfer-Encoding: chunked\r\n"), id="chunked body"),
        pytest.param(400, head("GET /caf\xe9 HTTP/1.1"), id="path is not ASCII"),
        pytest.param(400, head("GET /chat#top HTTP/1.1"), id="fragment"),
        pytest.param(400, head("GET * HTTP/1.1"), id="not a path"),
        pytest.param(400, head("GET ftp://example.org/ HTTP/1.1"), id="another scheme"),
    ],
)
def test_handshake_that_cannot_be_granted_is_refused(status: int, found: Head) -> None:
    with pytest.raises(HandshakeRefused) as refused:
        handshake(found)
    assert refused.value.status == status
    assert str(refused.value)


def test_refused_version_names_the_one_to_use() -> None:
    with pytest.raises(HandshakeRefused) as refused:
        handshake(head(Sec_WebSocket_Version="7"))
    assert refused.value.headers == [(b"sec-websocket-version", b"13")]


def test_key_is_answered_as_in_the_example_of_the_standard() -> None:
    """RFC 6455, 1.3."""
    assert accept_key(KEY.encode()) == b"s3pPLMBiTxaQ9kYGzzhZRbK+xOo="


def test_accepting_head_carries_subprotocol_extension_and_headers() -> None:
    data = accepting_head(
        KEY.encode(), subprotocol="chat.v1", extension="permessage-deflate", headers=[(b"set-cookie", b"a=1")]
    )
    assert data.startswith(b"HTTP/1.1 101 ")
    assert data.endswith(b"\r\n\r\n")
    assert b"\r\nSec-WebSocket-Protocol: chat.v1\r\n" in data
    assert b"\r\nSec-WebSocket-Extensions: permessage-deflate\r\n" in data
    assert b"\r\nset-cookie: a=1\r\n" in data


@pytest.mark.parametrize(
    "header",
    [
        pytest.param((b"x", b"1\r\nset-cookie: a=1"), id="line break in a value"),
        pytest.param((b"x\r\ny", b"1"), id="line break in a name"),
        pytest.param((b"Upgrade", b"h2c"), id="upgrade is ours"),
        pytest.param((b"sec-websocket-accept", b"x"), id="accept is ours"),
        pytest.param((b"sec-websocket-protocol", b"x"), id="subprotocol has its own key"),
    ],
)
def test_header_that_would_break_the_answer_is_an_error(header: tuple[bytes, bytes]) -> None:
    with pytest.raises(ValueError, match="header"):
        accepting_head(KEY.encode(), headers=[header])


def test_denying_head_ends_the_connection_and_says_how_long_the_body_is() -> None:
    data = denying_head(429, [(b"retry-after", b"7")], body_bytes=5)
    assert data.startswith(b"HTTP/1.1 429 Too Many Requests\r\n")
    assert b"\r\nContent-Length: 5\r\n" in data
    assert b"\r\nConnection: close\r\n" in data
    assert b"\r\nDate: " in data


def test_denial_keeps_what_the_application_says_of_length_and_date() -> None:
    data = denying_head(
        403, [(b"Content-Length", b"3"), (b"date", b"today"), (b"connection", b"x")], body_bytes=9
    )
    assert data.lower().count(b"content-length") == 1
    assert data.lower().count(b"date:") == 1
    assert b"connection: x" not in data


@pytest.mark.parametrize("status", [101, 199, 600])
def test_denial_has_the_status_of_a_response(status: int) -> None:
    with pytest.raises(ValueError, match=str(status)):
        denying_head(status, [], body_bytes=0)


def test_status_without_a_name_is_sent_all_the_same() -> None:
    assert denying_head(499, [], body_bytes=0).startswith(b"HTTP/1.1 499 Unknown\r\n")
