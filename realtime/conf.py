"""The settings of ``realtime``."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from ratelimit.appsettings import AppSettings, Problem, cached, setting


def _order_of_patterns(chosen: str | Mapping[str, str]) -> str | None:
    """Return what is wrong with policies by room: a pattern that can never match."""
    if isinstance(chosen, str):
        return None
    if "" in chosen:
        return "No room has an empty name: remove the pattern ''."
    after = list(chosen)[list(chosen).index("*") + 1 :] if "*" in chosen else []
    return f"Put '*' last: it matches every room, so {after[0]!r} is never reached." if after else None


@dataclass(frozen=True, kw_only=True)
class RealtimeSettings(AppSettings):
    """Each field is the Django setting ``REALTIME_<FIELD>``. A limit of 0 is off."""

    app = "realtime"
    prefix = "REALTIME"

    node_name: str = setting("", "Name of this node in the admin, health and logs; empty is the host name.")
    heartbeat_enabled: bool = setting(
        True,
        "Whether each server process pings its own sockets. False leaves it to `manage.py heartbeat`.",
    )
    heartbeat_interval: float = setting(
        30.0,
        "A socket that has been silent this long, or for half of the timeout, is pinged.",
        unit="seconds",
        above=0,
        maximum=3600,
    )
    heartbeat_timeout: float = setting(
        60.0,
        "A socket that has been silent this long is closed with 4408.",
        unit="seconds",
        above=0,
        maximum=86400,
    )
    heartbeat_type: str = setting(
        "auto",
        "`ping` uses protocol pings, `message` sends `system.ping`, `auto` pings where the server can and sends"
        " messages where it cannot.",
        choices=("auto", "ping", "message"),
    )
    idle_timeout: float = setting(
        0.0,
        "A socket that has sent no message of its own for this long is closed with 4408.",
        unit="seconds",
        minimum=0,
    )
    max_connection_age: float = setting(
        0.0,
        "A socket that has been open this long is closed with 1012, to come back.",
        unit="seconds",
        minimum=0,
    )
    max_client_errors: int = setting(
        10,
        "Bad messages in a row after which the socket is closed with 4400. 0 never closes.",
        unit="messages",
        minimum=0,
    )
    handler_concurrency: int = setting(
        1,
        "Handlers of one connection that may run at once; 1 keeps them in order.",
        unit="handlers",
        minimum=1,
        maximum=1000,
    )
    handler_timeout: float = setting(
        30.0, "A handler that takes longer is cancelled and the client told so.", unit="seconds", minimum=0
    )
    max_inbound_messages: int = setting(
        32,
        "Messages of one socket that may wait for its handler; above it the socket is not read.",
        unit="messages",
        minimum=1,
    )
    max_outbound_bytes: int = setting(
        1024 * 1024, "Bytes that may wait for a socket that reads too slowly.", unit="bytes", minimum=1024
    )
    slow_consumer: str | Mapping[str, str] = setting(
        "disconnect",
        "What happens above `REALTIME_MAX_OUTBOUND_BYTES`: `disconnect` with 4413, `drop_oldest` or `drop_newest`"
        " message, or `coalesce`, which keeps the newest message of each type and room. Or a policy for each of"
        ' several patterns of room names, the first match wins: `{"ticker-*": "coalesce", "*": "disconnect"}`.',
        choices=("disconnect", "drop_oldest", "drop_newest", "coalesce"),
        validate=_order_of_patterns,
    )
    max_rooms: int = setting(100, "Rooms one connection may be in.", unit="rooms", minimum=1)
    max_session_data_bytes: int = setting(
        64 * 1024, "Data one connection may keep with `set_session`, as JSON.", unit="bytes", minimum=0
    )
    max_queue_size: int = setting(
        10000,
        "Publishes that may wait in one process; beyond it publishing raises.",
        unit="publishes",
        minimum=1,
    )
    max_concurrent_broadcast: int = setting(
        1000, "Sockets a publish serves before other work gets a turn.", unit="sockets", minimum=1
    )
    max_concurrent_cleanup: int = setting(
        100, "Sockets closed at once when many have to be.", unit="sockets", minimum=1
    )
    task_restart_interval: float = setting(
        5.0,
        "A background task that dies is started again after this long.",
        unit="seconds",
        above=0,
        maximum=3600,
    )
    drain_timeout: float = setting(
        30.0,
        "How long a stopping server waits for its sockets before it drops them.",
        unit="seconds",
        minimum=0,
        maximum=3600,
    )
    drain_batch: int = setting(200, "Sockets closed together while draining.", unit="sockets", minimum=1)
    reconnect_spread: float = setting(
        10.0,
        "Sockets sent away by a drain are asked to come back spread over this long.",
        unit="seconds",
        minimum=0,
        maximum=3600,
    )

    engine: str = setting(
        "native",
        "What serves WebSockets: `native`, or `daphne`'s own protocol, which also serves where the native engine cannot.",
        choices=("native", "daphne"),
    )
    compression: str = setting(
        "none",
        "Whether the native engine agrees to compress messages (`deflate`, permessage-deflate) or never does (`none`).",
        choices=("none", "deflate"),
    )
    compression_window_bits: int = setting(
        12,
        "How far back compression looks for repetitions: 12 is 4 KiB, 15 the most.",
        unit="bits",
        minimum=9,
        maximum=15,
    )
    compression_mem_level: int = setting(
        5,
        "Memory compression works with, from 1 (least) to 9 (most).",
        unit="level",
        minimum=1,
        maximum=9,
    )
    compression_context_takeover: bool = setting(
        False,
        "Whether messages may refer to earlier ones: smaller, but every socket keeps its windows in memory"
        " and a broadcast is compressed once per socket.",
    )
    compression_min_bytes: int = setting(
        256, "Shorter messages are sent as they are.", unit="bytes", minimum=0
    )
    read_buffer_bytes: int = setting(
        4096,
        "Most that the native engine reads from a socket at once. Sockets share the buffer;"
        " one has its own while a frame is on its way.",
        unit="bytes",
        minimum=1024,
        maximum=1024 * 1024,
    )
    write_buffer_bytes: int = setting(
        64 * 1024,
        "Bytes of one socket of the native engine that may wait for the kernel before the peer counts as too slow.",
        unit="bytes",
        minimum=1024,
    )

    def conflicts(self) -> Iterator[Problem]:
        """A socket must be pinged before it can be found silent."""
        if self.heartbeat_timeout <= self.heartbeat_interval:
            yield Problem(
                "realtime.E010",
                f"REALTIME_HEARTBEAT_TIMEOUT is {self.heartbeat_timeout:g} seconds and REALTIME_HEARTBEAT_INTERVAL"
                f" {self.heartbeat_interval:g}.",
                "The timeout must be longer, or healthy sockets are closed before they are asked.",
            )


get_settings = cached(RealtimeSettings)
