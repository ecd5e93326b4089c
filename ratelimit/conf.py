"""The settings of ``ratelimit``."""

from __future__ import annotations

import ipaddress
from collections.abc import Iterator
from dataclasses import dataclass

from ratelimit import ledger
from ratelimit.appsettings import AppSettings, Problem, cached, setting


def _bad_network(networks: tuple[str, ...]) -> str | None:
    for network in networks:
        try:
            ipaddress.ip_network(network)
        except ValueError as error:
            return f"{network!r} is not a network such as '10.0.0.0/8' or an address such as '::1': {error}."
    return None


@dataclass(frozen=True, kw_only=True)
class RateLimitSettings(AppSettings):
    """Each field is the Django setting ``RATELIMIT_<FIELD>``. A limit of 0 is off."""

    app = "ratelimit"
    prefix = "RATELIMIT"

    messages_per_window: int = setting(
        60, "Messages one connection may send in a window, sustained.", unit="messages", minimum=0, live=True
    )
    message_window: float = setting(
        60.0,
        "Length of the window for messages and bytes.",
        unit="seconds",
        above=0,
        maximum=86400,
        live=True,
    )
    bytes_per_window: int = setting(
        0, "Bytes one connection may send in a window, sustained.", unit="bytes", minimum=0, live=True
    )
    system_messages_per_window: int = setting(
        600,
        "Messages of the protocol itself (`system.*`) one connection may send in a window; the message budget"
        " does not count them.",
        unit="messages",
        minimum=0,
        live=True,
    )
    burst_multiplier: float = setting(
        2.0,
        "How many windows' worth of messages and bytes may come at once.",
        unit="times",
        minimum=1,
        maximum=1000,
        live=True,
    )
    disconnect_after: int = setting(
        3,
        "Refused messages in a row after which the socket is closed with 4429; a processed message starts the"
        " count again. 0 never closes.",
        unit="messages",
        minimum=0,
        live=True,
    )
    max_message_bytes: int = setting(
        1024 * 1024,
        "Largest message accepted, in bytes on the wire; a larger one closes with 1009.",
        unit="bytes",
        minimum=0,
        live=True,
    )
    connections_per_window: int = setting(
        10, "New connections one address may open in a window.", unit="connections", minimum=0, live=True
    )
    connection_window: float = setting(
        60.0, "Length of the window for new connections.", unit="seconds", above=0, maximum=86400, live=True
    )
    max_connections: int = setting(
        0, "Open connections in one process.", unit="connections", minimum=0, live=True
    )
    max_connections_per_ip: int = setting(
        0, "Open connections of one address.", unit="connections", minimum=0, live=True
    )
    max_connections_per_user: int = setting(
        0, "Open connections of one authenticated user.", unit="connections", minimum=0, live=True
    )
    user_limit_policy: str = setting(
        "refuse",
        "What happens at `RATELIMIT_MAX_CONNECTIONS_PER_USER`: `refuse` the new connection, or `newest` wins and"
        " the oldest is closed with 4409.",
        choices=("refuse", "newest"),
        live=True,
    )
    trusted_proxies: tuple[str, ...] = setting(
        (),
        "Addresses or networks of your own proxies. The client is the rightmost address of X-Forwarded-For that"
        " is not one of them.",
        unit="networks",
        validate=_bad_network,
        live=True,
    )
    ipv6_prefix: int = setting(
        64,
        "IPv6 addresses that share this prefix count as one client.",
        unit="bits",
        minimum=1,
        maximum=128,
        live=True,
    )
    scope: str = setting(
        "process",
        "Where connections of one address and one user are counted: in each `process` by itself, or over the whole"
        " `cluster`, which needs a Redis at `REALTIME_STATE_URL`.",
        choices=("process", "cluster"),
    )
    ban_refresh: float = setting(
        1.0,
        "How old the list of bans may be when a connection is judged by it.",
        unit="seconds",
        minimum=0,
        maximum=3600,
        live=True,
    )

    def conflicts(self) -> Iterator[Problem]:
        """A byte budget smaller than one message would refuse it for ever; counting over all nodes takes a ledger."""
        burst = self.bytes_per_window * self.burst_multiplier
        if self.bytes_per_window and not 0 < self.max_message_bytes <= burst:
            yield Problem(
                "ratelimit.E010",
                f"RATELIMIT_MAX_MESSAGE_BYTES is {self.max_message_bytes} bytes, and RATELIMIT_BYTES_PER_WINDOW times"
                f" RATELIMIT_BURST_MULTIPLIER lets through {burst:g} bytes at most.",
                "A larger message could never pass: raise the byte budget or lower the message size.",
                ("RATELIMIT_MAX_MESSAGE_BYTES", "RATELIMIT_BYTES_PER_WINDOW", "RATELIMIT_BURST_MULTIPLIER"),
            )
        if self.scope == "cluster" and (problem := ledger.problem()) is not None:
            why, hint = problem
            yield Problem("ratelimit.E011", f"RATELIMIT_SCOPE is 'cluster', and {why}.", hint)


get_settings = cached(RateLimitSettings)
