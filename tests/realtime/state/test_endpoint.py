"""What a URL of a Redis says."""

from __future__ import annotations

import ssl

import pytest
from django.core.exceptions import ImproperlyConfigured
from django.test import override_settings

from realtime.conf import get_settings
from realtime.state import RedisState, open_state
from realtime.state.endpoint import Endpoint


@pytest.mark.parametrize(
    ("url", "shown", "greeting"),
    [
        pytest.param("redis://host", "host:6379", [], id="host"),
        pytest.param("redis://host:1/0", "host:1", [], id="port"),
        pytest.param("redis://[::1]:1", "::1:1", [], id="IPv6"),
        pytest.param("redis://host/3", "host:6379", [[b"SELECT", b"3"]], id="database"),
        pytest.param("redis://host?db=3", "host:6379", [[b"SELECT", b"3"]], id="database as an option"),
        pytest.param("redis://:p%40s@host", "host:6379", [[b"AUTH", b"p@s"]], id="password"),
        pytest.param("redis://u:p@host", "host:6379", [[b"AUTH", b"u", b"p"]], id="user"),
        pytest.param("rediss://host:2/1", "host:2", [[b"SELECT", b"1"]], id="TLS"),
        pytest.param(
            "unix://:p@/run/r.sock?db=1", "/run/r.sock", [[b"AUTH", b"p"], [b"SELECT", b"1"]], id="UNIX"
        ),
        pytest.param("sentinel://a/svc", "the master of 'svc'", [], id="Sentinel"),
        pytest.param(
            "sentinel://u:p@a:1,[::1]:2/svc?db=2&sentinel_password=x",
            "the master of 'svc'",
            [[b"AUTH", b"u", b"p"], [b"SELECT", b"2"]],
            id="Sentinels",
        ),
        pytest.param("sentinels://a/svc", "the master of 'svc'", [], id="Sentinels through TLS"),
    ],
)
def test_a_url_says_where_and_who(url, shown, greeting):
    endpoint = Endpoint(url)
    assert (str(endpoint), endpoint.greeting()) == (shown, greeting)


def test_sentinels_have_their_own_port_and_password():
    endpoint = Endpoint("sentinel://u:redis-secret@a,b:1,[::1]:2/svc?sentinel_username=s&sentinel_password=t")
    assert endpoint._sentinels == [("a", 26379), ("b", 1), ("::1", 2)]
    assert endpoint._sentinel_options == {"username": "s", "password": "t"}


def test_tls_checks_who_answers():
    context = Endpoint("rediss://host")._ssl
    assert context is not None
    assert context.check_hostname
    assert context.verify_mode is ssl.CERT_REQUIRED
    assert Endpoint("redis://host")._ssl is None


def test_tls_options_reach_the_sentinels():
    endpoint = Endpoint("sentinels://a/svc?ssl_check_hostname=false")
    assert endpoint._sentinel_options["ssl"] is True
    assert endpoint._sentinel_options["ssl_check_hostname"] is False


@pytest.mark.parametrize(
    "url",
    [
        "",
        "memory://other",
        "http://u:secret@host",
        "redis://u:secret@host:port",
        "redis://u:secret@host/0?db=x",
        "sentinel://u:secret@host",
        "sentinel://u:secret@/svc",
        "sentinel://u:secret@host/svc?db=x",
        "rediss://u:secret@host?ssl_ca_certs=/not/there",
        "rediss://u:secret@host?ssl_nonsense=1",
        "redis://u:secret@host?nonsense=1",
    ],
)
def test_a_url_that_says_nothing_is_refused_without_its_secrets(url):
    with pytest.raises(ImproperlyConfigured) as caught:
        Endpoint(url)
    assert str(caught.value).startswith("REALTIME_STATE_URL cannot be used: ")
    assert "secret" not in str(caught.value)
    assert caught.value.__cause__ is None


def test_passwords_are_taken_out_of_what_is_said():
    endpoint = Endpoint("sentinel://u:one%2Fsecret@a/svc?sentinel_password=another")
    said = endpoint.redacted("no: one/secret another one%2Fsecret")
    assert "one/secret" not in said
    assert "another" not in said


@pytest.mark.setting("REALTIME_STATE_URL")
async def test_the_setting_says_which_state_there_is():
    with override_settings(REALTIME_STATE_URL="redis://host:1/0"):
        state = open_state(get_settings().state_url)
        assert isinstance(state, RedisState)
        await state.aclose()


@pytest.mark.parametrize("url", ["", "memory://x", "postgres://u:secret@host", "localhost:6379"])
def test_a_wrong_setting_is_named_and_not_shown(url):
    with override_settings(REALTIME_STATE_URL=url), pytest.raises(ImproperlyConfigured) as caught:
        get_settings()
    assert "E005" in str(caught.value)
    assert "REALTIME_STATE_URL is a secret" in str(caught.value)
    assert "secret@" not in str(caught.value)
