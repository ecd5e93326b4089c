"""The head of the answer to a handshake that is refused."""

from __future__ import annotations

import pytest

from realtime.server.refusal import head


def lines(data: bytes) -> list[str]:
    assert data.endswith(b"\r\n\r\n")
    return data.decode().split("\r\n")[:-2]


def test_it_has_a_status_a_length_a_server_and_a_date_and_ends_the_connection() -> None:
    first, *headers = lines(head(429, [(b"retry-after", b"7")], server="daphne", size=3))
    assert first == "HTTP/1.1 429 Too Many Requests"
    assert {"retry-after: 7", "content-length: 3", "connection: close", "server: daphne"} <= set(headers)
    assert any(header.startswith("date: ") and header.endswith(" GMT") for header in headers)


def test_a_length_that_is_not_known_is_not_told() -> None:
    assert b"content-length" not in head(503, [], server="", size=None)


def test_a_server_without_a_name_names_none() -> None:
    assert b"server" not in head(503, [], server="", size=0)


def test_what_the_application_says_goes_before_what_the_server_would_say() -> None:
    headers = lines(head(403, [(b"Content-Length", b"9"), (b"Server", b"mine")], server="daphne", size=0))
    assert "Content-Length: 9" in headers
    assert "Server: mine" in headers
    assert "content-length: 0" not in headers
    assert "server: daphne" not in headers


def test_the_connection_ends_whatever_the_application_says() -> None:
    headers = lines(head(403, [(b"Connection", b"keep-alive")], server="", size=0))
    assert [header for header in headers if header.lower().startswith("connection")] == ["connection: close"]


def test_a_status_without_a_name_gets_one() -> None:
    assert lines(head(499, [], server="", size=0))[0] == "HTTP/1.1 499 Refused"


@pytest.mark.parametrize("header", [(b"a", b"1\r\nb: 2"), (b"a\nb", b"1"), (b"a", b"1\0")])
def test_a_header_that_would_break_out_of_its_line_is_an_error(header: tuple[bytes, bytes]) -> None:
    with pytest.raises(ValueError, match="line break or NUL"):
        head(403, [header], server="", size=0)
