"""The demo page: which room, what it may load, and how fast it may measure."""

from __future__ import annotations

import re

import pytest
from django.test import override_settings

from ratelimit.conf import RateLimitSettings
from wsproject.consumers import MAX_ROOM_NAME
from wsproject.views import QUICKEST_SOUNDING, sounding_interval


def test_room_is_the_lobby_unless_the_address_names_another(client):
    assert 'data-room="lobby"' in client.get("/").content.decode()
    assert 'data-room="lobby"' in client.get("/", {"room": "  "}).content.decode()
    assert 'data-room="a &amp; &quot;b&quot;"' in client.get("/", {"room": 'a & "b"'}).content.decode()


def test_room_with_too_long_a_name_is_refused_with_the_limit(client):
    assert client.get("/", {"room": "x" * MAX_ROOM_NAME}).status_code == 200
    response = client.get("/", {"room": "x" * (MAX_ROOM_NAME + 1)})
    assert response.status_code == 400
    assert str(MAX_ROOM_NAME) in response.content.decode()


def test_page_only_answers_reads(client):
    assert client.post("/").status_code == 405


def test_page_may_load_only_from_its_own_host(client):
    response = client.get("/", headers={"host": "localhost:8123"})
    policy = dict(part.strip().split(" ", 1) for part in response["Content-Security-Policy"].split(";"))
    assert policy["default-src"] == "'none'"
    assert policy["script-src"] == policy["style-src"] == "'self'"
    assert policy["connect-src"].split() == ["'self'", "ws://localhost:8123", "wss://localhost:8123"]
    assert policy["frame-ancestors"] == "'none'"


def test_page_has_nothing_that_its_policy_forbids(client):
    page = client.get("/").content.decode()
    assert not re.search(r"<style|\sstyle=|\son\w+=|<script(?![^>]*\ssrc=)", page)
    assert not re.search(r"""(?:src|href)=["']?(?:https?:)?//""", page)


def test_page_links_to_the_operator_pages_and_the_numbers(client):
    page = client.get("/").content.decode()
    for address in (
        "/admin/dashboard/client/",
        "/admin/dashboard/ratelimitentry/",
        "/admin/dashboard/setting/",
        "/metrics",
        "/info/health",
    ):
        assert f'href="{address}"' in page


@override_settings(RATELIMIT_MESSAGES_PER_WINDOW=30, RATELIMIT_BURST_MULTIPLIER=1.5)
def test_page_knows_how_much_the_server_takes_at_once(client):
    page = client.get("/").content.decode()
    assert 'data-burst="45"' in page
    assert 'data-rate="0.5"' in page


@pytest.mark.parametrize(
    ("messages", "window", "milliseconds"),
    [
        pytest.param(60, 60.0, 1100, id="a tenth slower than the limit"),
        pytest.param(0, 60.0, QUICKEST_SOUNDING, id="no limit"),
        pytest.param(1000, 1.0, QUICKEST_SOUNDING, id="generous limit"),
    ],
)
def test_soundings_never_meet_the_limit(messages, window, milliseconds):
    settings = RateLimitSettings(messages_per_window=messages, message_window=window)
    assert sounding_interval(settings) == milliseconds
