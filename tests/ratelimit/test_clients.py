"""Which address is the client."""

from __future__ import annotations

import ipaddress

import pytest

from ratelimit import clients
from ratelimit.clients import Client, client_of, network_of, parse_hop, parse_network

PROXIES = ("10.0.0.0/8", "fd00::/8")


def found(client, *forwarded_for: str, proxies: tuple[str, ...] = PROXIES, prefix: int = 64) -> Client:
    headers = [(b"x-forwarded-for", value.encode("latin-1")) for value in forwarded_for]
    return client_of({"type": "websocket", "client": client, "headers": headers}, proxies, prefix)


@pytest.mark.parametrize(
    ("client", "forwarded_for", "address"),
    [
        pytest.param(("192.0.2.1", 5), [], "192.0.2.1", id="no proxy"),
        pytest.param(["192.0.2.1", 5], [], "192.0.2.1", id="daphne gives a list"),
        pytest.param(
            ("192.0.2.1", 5), ["198.51.100.1"], "192.0.2.1", id="whoever is no proxy may not speak for others"
        ),
        pytest.param(("10.0.0.1", 5), ["198.51.100.1"], "198.51.100.1", id="behind one proxy"),
        pytest.param(("10.0.0.1", 5), ["198.51.100.1, 10.0.0.2"], "198.51.100.1", id="behind two proxies"),
        pytest.param(
            ("10.0.0.1", 5), ["1.1.1.1, 198.51.100.1"], "198.51.100.1", id="the client invented a hop"
        ),
        pytest.param(
            ("10.0.0.1", 5), ["10.9.9.9, 198.51.100.1"], "198.51.100.1", id="the client invented a proxy"
        ),
        pytest.param(
            ("10.0.0.1", 5), ["1.1.1.1", "198.51.100.1"], "198.51.100.1", id="several headers are one list"
        ),
        pytest.param(
            ("10.0.0.1", 5), ["198.51.100.1", "10.0.0.2"], "198.51.100.1", id="proxy in a header of its own"
        ),
        pytest.param(("10.0.0.1", 5), ["198.51.100.1:4711"], "198.51.100.1", id="with a port"),
        pytest.param(("10.0.0.1", 5), ["2001:db8::7"], "2001:db8::7", id="IPv6"),
        pytest.param(("10.0.0.1", 5), ["[2001:db8::7]"], "2001:db8::7", id="IPv6 in brackets"),
        pytest.param(("10.0.0.1", 5), ["[2001:db8::7]:4711"], "2001:db8::7", id="IPv6 with a port"),
        pytest.param(("10.0.0.1", 5), ["::ffff:198.51.100.1"], "198.51.100.1", id="IPv4 written as IPv6"),
        pytest.param(
            ("::ffff:10.0.0.1", 5), ["198.51.100.1"], "198.51.100.1", id="a proxy on a dual-stack socket"
        ),
        pytest.param(("fd00::1", 5), ["198.51.100.1"], "198.51.100.1", id="a proxy with an IPv6 address"),
        pytest.param(("10.0.0.1", 5), ["  198.51.100.1\t"], "198.51.100.1", id="space around it"),
        pytest.param(("10.0.0.1", 5), ["198.51.100.1, unknown"], "10.0.0.1", id="garbage ends the walk"),
        pytest.param(
            ("10.0.0.1", 5), ["198.51.100.1, junk, 10.0.0.2"], "10.0.0.2", id="garbage behind a proxy"
        ),
        pytest.param(("10.0.0.1", 5), ["198.51.100.1,"], "10.0.0.1", id="an empty hop is garbage"),
        pytest.param(("10.0.0.1", 5), [""], "10.0.0.1", id="an empty header"),
        pytest.param(("10.0.0.1", 5), ["198.51.100.1:port"], "10.0.0.1", id="a port that is none"),
        pytest.param(("10.0.0.1", 5), ["198.51.100.1:65536"], "10.0.0.1", id="a port that is too high"),
        pytest.param(("10.0.0.1", 5), ["[2001:db8::7"], "10.0.0.1", id="a bracket that never closes"),
        pytest.param(("10.0.0.1", 5), ["[198.51.100.1]"], "10.0.0.1", id="brackets around IPv4"),
        pytest.param(("10.0.0.1", 5), ["[2001:db8::7]x"], "10.0.0.1", id="something behind the bracket"),
        pytest.param(("10.0.0.1", 5), ["3325256705"], "10.0.0.1", id="a number is no address"),
        pytest.param(("10.0.0.1", 5), ["198.51.100.01"], "10.0.0.1", id="leading zero"),
        pytest.param(("10.0.0.1", 5), ["1" * 5000], "10.0.0.1", id="very long"),
        pytest.param(("10.0.0.1", 5), ["\xe9\x00"], "10.0.0.1", id="bytes that are no text"),
        pytest.param(("10.0.0.1", 5), ["10.0.0.3, 10.0.0.2"], "10.0.0.3", id="proxies only: the furthest"),
        pytest.param(("10.0.0.1", 5), [], "10.0.0.1", id="a proxy that says nothing"),
        pytest.param(None, ["198.51.100.1"], "198.51.100.1", id="a proxy on a Unix socket"),
        pytest.param(
            ("", 0), ["198.51.100.1"], "198.51.100.1", id="a proxy on a Unix socket, said otherwise"
        ),
        pytest.param(None, ["junk"], "unknown", id="a proxy on a Unix socket that passes garbage on"),
        pytest.param(None, [], "unknown", id="Unix socket"),
        pytest.param((None, None), [], "unknown", id="no host"),
        pytest.param(("testclient", 50000), [], "testclient", id="a test client's name"),
        pytest.param(("testclient", 50000), ["198.51.100.1"], "testclient", id="a name is no proxy"),
        pytest.param(("fe80::1%eth0", 5), [], "fe80::1", id="the zone is our affair"),
        pytest.param(("192.0.2.1",), [], "192.0.2.1", id="no port"),
    ],
)
def test_address_of_the_client(client, forwarded_for, address):
    assert found(client, *forwarded_for).address == address


def test_without_proxies_nobody_is_believed():
    assert found(("10.0.0.1", 5), "198.51.100.1", proxies=()).address == "10.0.0.1"
    assert found(None, "198.51.100.1", proxies=()).address == "unknown"


def test_a_single_address_can_be_a_proxy():
    assert found(("127.0.0.1", 5), "198.51.100.1", proxies=("127.0.0.1",)).address == "198.51.100.1"
    assert found(("127.0.0.2", 5), "198.51.100.1", proxies=("127.0.0.1",)).address == "127.0.0.2"


def test_a_scope_may_lack_client_and_headers():
    assert client_of({"type": "websocket"}, PROXIES, 64) == Client("unknown", "unknown", None)


def test_the_walk_is_bounded():
    """Hops that a client invents in the names of our proxies cost no more than a few looks."""
    invented = ",".join(["10.0.0.2"] * 10_000)
    assert found(("10.0.0.1", 5), f"198.51.100.1,{invented}").address == "10.0.0.2"
    just_within = ",".join(["10.0.0.2"] * 31)
    assert found(("10.0.0.1", 5), f"1.1.1.1,198.51.100.1,{just_within}").address == "198.51.100.1"


@pytest.mark.parametrize(
    ("address", "prefix", "network"),
    [
        pytest.param("192.0.2.1", 64, "192.0.2.1", id="IPv4 alone"),
        pytest.param("2001:db8:0:1:2:3:4:5", 64, "2001:db8:0:1::/64", id="IPv6 by 64 bits"),
        pytest.param("2001:db8:0:1:2:3:4:5", 48, "2001:db8::/48", id="IPv6 by 48 bits"),
        pytest.param("2001:db8:0:1:2:3:4:5", 128, "2001:db8:0:1:2:3:4:5", id="IPv6 alone"),
        pytest.param("2001:db8::", 1, "::/1", id="half of all"),
    ],
)
def test_what_counts_as_one_client(address, prefix, network):
    assert found((address, 5), prefix=prefix).network == network


def test_ipv4_written_as_ipv6_is_not_put_into_one_prefix():
    """Or all IPv4 clients of a dual-stack socket would be one."""
    assert found(("::ffff:192.0.2.1", 5)).network == "192.0.2.1"


@pytest.mark.parametrize(
    ("client", "forwarded_for", "label"),
    [
        pytest.param(("192.0.2.1", 5), [], "192.0.2.1:5", id="IPv4"),
        pytest.param(("2001:db8::7", 5), [], "[2001:db8::7]:5", id="IPv6"),
        pytest.param(("10.0.0.1", 5), ["198.51.100.1"], "198.51.100.1", id="the proxy's port says nothing"),
        pytest.param(("192.0.2.1", 0), [], "192.0.2.1", id="no port"),
        pytest.param(None, [], "unknown", id="Unix socket"),
    ],
)
def test_label_is_how_people_read_it(client, forwarded_for, label):
    assert found(client, *forwarded_for).label == label


@pytest.mark.parametrize(
    ("text", "network"),
    [
        pytest.param("192.0.2.7", "192.0.2.7/32", id="address"),
        pytest.param("192.0.2.7/24", "192.0.2.0/24", id="host bits are dropped"),
        pytest.param("2001:db8::7/64", "2001:db8::/64", id="IPv6"),
        pytest.param("::ffff:192.0.2.7", "192.0.2.7/32", id="IPv4 written as IPv6"),
        pytest.param("::ffff:192.0.2.0/120", "192.0.2.0/24", id="a network of them"),
        pytest.param(" 192.0.2.7 ", "192.0.2.7/32", id="space around it"),
    ],
)
def test_networks_have_one_spelling(text, network):
    assert str(parse_network(text)) == network


@pytest.mark.parametrize("text", ["", "here", "192.0.2.0/33", "192.0.2"])
def test_what_is_no_network_is_refused(text):
    with pytest.raises(ValueError, match=r"."):
        parse_network(text)


def test_memory_for_addresses_seen_is_bounded():
    for number in range(10_000):
        address = ipaddress.ip_address(number << 64 | 1 << 120)
        network_of(address, 64)
        parse_hop(str(address))
        found((str(address), 1))
    for cache in (clients._parse, clients._is_trusted, clients.network_of):
        assert cache.cache_info().currsize <= 8192
