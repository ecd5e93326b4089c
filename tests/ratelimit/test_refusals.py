"""Turning a connection away before it is accepted."""

from __future__ import annotations

import json
import logging

import pytest

from ratelimit import counters
from ratelimit.close_codes import CloseReason
from ratelimit.refusals import BANNED, FULL, TOO_MANY_OF_ADDRESS, TOO_MANY_OF_USER, Refusal, refuse, too_fast
from ratelimit.signals import client_refused

EVERY = (BANNED, FULL, TOO_MANY_OF_ADDRESS, TOO_MANY_OF_USER, too_fast(1.5))


async def answer(refusal, scope=None):
    sent = []

    async def send(message):
        sent.append(message)

    async def receive():
        raise AssertionError("the application may have received the connect already")

    await refuse(refusal, {"type": "websocket", **(scope or {})}, receive, send)
    return sent


DENIAL = {"extensions": {"websocket.http.response": {}}}


@pytest.mark.parametrize("refusal", EVERY, ids=lambda refusal: refusal.name)
async def test_a_server_that_can_deny_answers_with_http(refusal):
    start, body = await answer(refusal, DENIAL)
    headers = dict(start["headers"])
    assert (start["type"], start["status"]) == ("websocket.http.response.start", refusal.status)
    assert body["type"] == "websocket.http.response.body"
    assert not body.get("more_body")
    assert int(headers[b"content-length"]) == len(body["body"])
    assert headers[b"content-type"] == b"application/json"
    assert json.loads(body["body"]) == {
        "error": refusal.name,
        "message": refusal.text,
        "retry_after": refusal.retry_after,
    }


@pytest.mark.parametrize("refusal", EVERY, ids=lambda refusal: refusal.name)
@pytest.mark.parametrize("extensions", [{}, {"extensions": None}, {"extensions": {"tls": {}}}])
async def test_any_other_server_is_told_to_close(refusal, extensions):
    assert await answer(refusal, extensions) == [
        {"type": "websocket.close", "code": refusal.close.code, "reason": refusal.close.text}
    ]


@pytest.mark.parametrize(
    ("seconds", "header"),
    [
        pytest.param(1.0, b"1", id="whole"),
        pytest.param(1.001, b"2", id="rounded up, so that who waits is served"),
        pytest.param(0.001, b"1", id="never 0"),
    ],
)
async def test_retry_after_is_in_whole_seconds(seconds, header):
    """C2."""
    start, _ = await answer(too_fast(seconds), DENIAL)
    assert dict(start["headers"])[b"retry-after"] == header


async def test_who_is_banned_is_not_asked_to_come_back():
    start, _ = await answer(BANNED, DENIAL)
    assert start["status"] == 403
    assert b"retry-after" not in dict(start["headers"])


async def test_a_client_that_does_not_wait_for_the_answer_is_no_error():
    async def send(message):
        raise OSError("gone")

    await refuse(BANNED, {"type": "websocket", **DENIAL}, None, send)
    assert counters.process.refused["banned"] == 1


@pytest.mark.parametrize("refusal", EVERY, ids=lambda refusal: refusal.name)
async def test_refusals_are_counted(refusal):
    await answer(refusal)
    assert counters.process.refused == {refusal.name: 1}
    assert counters.process.connections == (0 if refusal is BANNED else 1)


async def test_a_server_that_is_stopping_limits_nobody():
    stopping = Refusal(503, "stopping", "", CloseReason(1012, "restart", "", retry=True), 5.0)
    await answer(stopping)
    assert (counters.process.refused, counters.process.connections) == ({"stopping": 1}, 0)


async def test_a_refusal_is_one_line_of_log_without_traceback(caplog):
    caplog.set_level(logging.INFO, "ratelimit")
    for _ in range(100):
        await answer(BANNED)
    (record,) = caplog.records
    assert (record.levelname, record.msg, record.reason, record.status) == (
        "INFO",
        "connection refused",
        "banned",
        403,
    )
    assert record.exc_info is None


async def test_listeners_are_told_after_the_answer():
    told = []

    async def listener(sender, scope, refusal, **kwargs):
        told.append((scope["path"], refusal))

    client_refused.connect(listener)
    try:
        await answer(FULL, {"path": "/chat"})
    finally:
        client_refused.disconnect(listener)
    assert told == [("/chat", FULL)]


async def test_a_listener_may_be_synchronous_and_may_fail(caplog):
    told = []

    def broken(sender, **kwargs):
        raise KeyError("mine")

    def listener(sender, refusal, **kwargs):
        told.append(refusal)

    client_refused.connect(broken)
    client_refused.connect(listener)
    try:
        assert (await answer(FULL))[0]["code"] == 1013
    finally:
        client_refused.disconnect(broken)
        client_refused.disconnect(listener)
    assert told == [FULL]
