"""Which address is the client of a connection, seen through the operator's own proxies."""

from __future__ import annotations

import functools
import ipaddress
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, Final, NamedTuple

Address = ipaddress.IPv4Address | ipaddress.IPv6Address
Network = ipaddress.IPv4Network | ipaddress.IPv6Network

UNKNOWN: Final = "unknown"
"""The address of a client that has none, as on a Unix socket. All of these count as one client."""

_LONGEST: Final = 64
"""Characters of the longest text that can name an address, with room for brackets, zone and port."""
_MOST_HOPS: Final = 32
_CACHED: Final = 8192
_MAPPED: Final = ipaddress.IPv6Network("::ffff:0:0/96")


class Client(NamedTuple):
    """Who is connecting."""

    address: str
    network: str
    """What counts as one client: the address, or for IPv6 the prefix it is in."""
    port: int | None
    """Port of the client, where the server saw the client itself."""

    @property
    def label(self) -> str:
        """The client as people read it: address, with port if known."""
        if not self.port:
            return self.address
        return f"[{self.address}]:{self.port}" if ":" in self.address else f"{self.address}:{self.port}"


def client_of(scope: Mapping[str, Any], trusted_proxies: tuple[str, ...], ipv6_prefix: int) -> Client:
    """
    Return the client of an ASGI scope.

    Walk from the peer through X-Forwarded-For from the right for as long as the hop is one of
    ``trusted_proxies``. The first other hop is the client; a hop that is no address ends the walk, and
    the one before it, whom a trusted proxy saw itself, is the client.

    """
    host, port = _peer(scope)
    address, text = parse_hop(host), host
    if trusted_proxies and _trusts_peer(host, address, trusted_proxies):
        for hop in _forwarded_for(scope.get("headers") or ()):
            found = parse_hop(hop)
            if found is None:
                break
            address, port = found, None
            if not _is_trusted(found, trusted_proxies):
                break
    if address is None:
        text = text[:_LONGEST] or UNKNOWN
        return Client(text, text, port)
    network = network_of(address, ipv6_prefix)
    # The network of an IPv4 address is its text, and remembered.
    return Client(network if address.version == 4 else str(address), network, port)


def _peer(scope: Mapping[str, Any]) -> tuple[str, int | None]:
    client = scope.get("client")
    if not client or not client[0]:
        return "", None
    port = client[1] if len(client) > 1 else None
    return str(client[0]), port if isinstance(port, int) and port > 0 else None


def _trusts_peer(host: str, address: Address | None, proxies: tuple[str, ...]) -> bool:
    # A peer without an address came over a Unix socket, so it runs on this machine and was let in by
    # file permissions: with proxies configured it is one of them.
    return not host or (address is not None and _is_trusted(address, proxies))


def _forwarded_for(headers: Iterable[tuple[bytes, bytes]]) -> Iterator[str]:
    """Return the last hops of all X-Forwarded-For headers, the nearest first."""
    values = [value for name, value in headers if name.lower() == b"x-forwarded-for"]
    if not values:
        return iter(())
    # Hops beyond the most stay in one piece, which is no address and ends the walk.
    return reversed(b",".join(values).decode("latin-1").rsplit(",", _MOST_HOPS))


@functools.lru_cache(maxsize=_CACHED)
def _parse(text: str) -> Address | None:
    text = text.strip()
    if text.startswith("["):
        inside, bracket, port = text[1:].partition("]")
        text = inside if bracket and ":" in inside and _is_port(port) else ""
    elif text.count(":") == 1:
        text, _, port = text.partition(":")
        text = text if _is_port(f":{port}") else ""
    try:
        address = ipaddress.ip_address(text)
    except ValueError:
        return None
    if isinstance(address, ipaddress.IPv6Address):
        # The zone (fe80::1%eth0) says which of our interfaces, not who.
        address = ipaddress.IPv6Address(int(address))
        return address.ipv4_mapped or address
    return address


def parse_hop(text: str) -> Address | None:
    """Return the address that ``text`` names, with or without brackets and port; ``None`` if it names none."""
    return _parse(text) if len(text) <= _LONGEST else None


def _is_port(text: str) -> bool:
    return not text or (
        text[0] == ":" and text[1:].isascii() and text[1:].isdigit() and int(text[1:]) < 65536
    )


@functools.lru_cache(maxsize=_CACHED)
def _is_trusted(address: Address, proxies: tuple[str, ...]) -> bool:
    return any(address in network for network in _networks(proxies))


@functools.lru_cache(maxsize=16)
def _networks(texts: tuple[str, ...]) -> tuple[Network, ...]:
    return tuple(parse_network(text) for text in texts)


def parse_network(text: str) -> Network:
    """
    Return the network or single address that ``text`` names; host bits are dropped.

    Raise ValueError if it names none. IPv4 written as IPv6 becomes IPv4, as addresses do.

    """
    network = ipaddress.ip_network(text.strip(), strict=False)
    if isinstance(network, ipaddress.IPv6Network) and network.subnet_of(_MAPPED):
        packed = int(network.network_address) & 0xFFFFFFFF
        return ipaddress.IPv4Network((packed, network.prefixlen - 96))
    return network


@functools.lru_cache(maxsize=_CACHED)
def network_of(address: Address, ipv6_prefix: int) -> str:
    """Return what counts as one client: an IPv4 address, or the network of ``ipv6_prefix`` bits around an IPv6 one."""
    if address.version == 4 or ipv6_prefix == 128:
        return str(address)
    return str(ipaddress.IPv6Network((int(address), ipv6_prefix), strict=False))
