"""Closing a socket, whichever codes the server takes."""

from __future__ import annotations

import logging

import pytest

from ratelimit.close_codes import AT_CAPACITY, POLICY, RATE_LIMITED, REPLACED, TOO_BIG, CloseReason
from ratelimit.closing import send_close

EVERY = (POLICY, TOO_BIG, AT_CAPACITY, REPLACED, RATE_LIMITED)


class Server:
    """Takes the codes it is told to, and raises for others as daphne does."""

    def __init__(self, takes=lambda code: True, error=None):
        self.takes, self.error, self.closed = takes, error or Exception("invalid close code"), []

    async def send(self, message):
        assert message["type"] == "websocket.close"
        if not self.takes(message["code"]):
            raise self.error
        self.closed.append((message["code"], message["reason"]))


@pytest.mark.parametrize("reason", EVERY, ids=lambda reason: reason.name)
async def test_code_and_text_go_out_as_they_are(reason):
    server = Server()
    await send_close(server.send, reason)
    assert server.closed == [(reason.code, reason.text)]


@pytest.mark.parametrize(
    ("reason", "code"),
    [
        pytest.param(POLICY, 4403, id="1008"),
        pytest.param(TOO_BIG, 4400, id="1009"),
        pytest.param(AT_CAPACITY, 4503, id="1013"),
        pytest.param(CloseReason(1001, "going_away", "", retry=True), 4503, id="any to come back"),
        pytest.param(CloseReason(1007, "invalid_data", "", retry=False), 4403, id="any to stay away"),
        pytest.param(REPLACED, 4409, id="4409"),
        pytest.param(RATE_LIMITED, 4429, id="4429"),
    ],
)
async def test_a_server_that_refuses_a_code_gets_one_that_asks_the_same_of_the_client(reason, code):
    server = Server(takes=lambda code: code == 1000 or 3000 <= code <= 4999)
    await send_close(server.send, reason)
    assert server.closed == [(code, reason.text)]


async def test_a_peer_that_is_gone_needs_no_closing(caplog):
    """ASGI 2.4: send raises OSError then."""
    caplog.set_level(logging.DEBUG)
    await send_close(Server(lambda code: False, OSError("gone")).send, POLICY)
    assert caplog.records == []


async def test_a_server_that_refuses_every_code_is_no_traceback(caplog):
    """As when the application has closed already."""
    caplog.set_level(logging.DEBUG, "ratelimit")
    await send_close(Server(lambda code: False, RuntimeError("already closed")).send, POLICY)
    assert [(record.levelname, record.error, record.exc_info) for record in caplog.records] == [
        ("DEBUG", "already closed", None)
    ]
