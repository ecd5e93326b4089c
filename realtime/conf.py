"""The settings of ``realtime``."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from ratelimit.appsettings import AppSettings, Problem, cached, setting

_STATE_SCHEMES = ("redis", "rediss", "unix", "sentinel", "sentinels")


def _bad_state_url(url: str) -> str | None:
    if url == "memory://" or url.partition("://")[0] in _STATE_SCHEMES:
        return None
    return f"It must be memory://, or begin with one of {', '.join(f'{scheme}://' for scheme in _STATE_SCHEMES)}."


def _order_of_patterns(chosen: object) -> str | None:
    """Return what is wrong with something chosen by room: a pattern that can never match."""
    if not isinstance(chosen, Mapping):
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
        live=True,
    )
    heartbeat_timeout: float = setting(
        60.0,
        "A socket that has been silent this long is closed with 4408.",
        unit="seconds",
        above=0,
        maximum=86400,
        live=True,
    )
    heartbeat_type: str = setting(
        "auto",
        "`ping` uses protocol pings, `message` sends `system.ping`, `auto` pings where the server can and sends"
        " messages where it cannot.",
        choices=("auto", "ping", "message"),
        live=True,
    )
    idle_timeout: float = setting(
        0.0,
        "A socket that has sent no message of its own for this long is closed with 4408.",
        unit="seconds",
        minimum=0,
        live=True,
    )
    max_connection_age: float = setting(
        0.0,
        "A socket that has been open this long is closed with 1012, to come back.",
        unit="seconds",
        minimum=0,
        live=True,
    )
    max_client_errors: int = setting(
        10,
        "Bad messages in a row after which the socket is closed with 4400. 0 never closes.",
        unit="messages",
        minimum=0,
        live=True,
    )
    handler_concurrency: int = setting(
        1,
        "Handlers of one connection that may run at once; 1 keeps them in order.",
        unit="handlers",
        minimum=1,
        maximum=1000,
        live=True,
    )
    handler_timeout: float = setting(
        30.0,
        "A handler that takes longer is cancelled and the client told so.",
        unit="seconds",
        minimum=0,
        live=True,
    )
    max_inbound_messages: int = setting(
        32,
        "Messages of one socket that may wait for its handler; above it the socket is not read.",
        unit="messages",
        minimum=1,
    )
    max_outbound_bytes: int = setting(
        1024 * 1024,
        "Bytes that may wait for a socket that reads too slowly.",
        unit="bytes",
        minimum=1024,
        live=True,
    )
    slow_consumer: str | Mapping[str, str] = setting(
        "disconnect",
        "What happens above `REALTIME_MAX_OUTBOUND_BYTES`: `disconnect` with 4413, `drop_oldest` or `drop_newest`"
        " message, or `coalesce`, which keeps the newest message of each type and room. Or a policy for each of"
        ' several patterns of room names, the first match wins: `{"ticker-*": "coalesce", "*": "disconnect"}`.',
        choices=("disconnect", "drop_oldest", "drop_newest", "coalesce"),
        validate=_order_of_patterns,
        live=True,
    )
    max_rooms: int = setting(100, "Rooms one connection may be in.", unit="rooms", minimum=1, live=True)
    max_session_data_bytes: int = setting(
        64 * 1024,
        "Data one connection may keep with `set_session`, as JSON.",
        unit="bytes",
        minimum=0,
        live=True,
    )
    max_memory_per_connection: int = setting(
        0,
        "What one socket may hold: messages that wait in either direction, and its session data. One that holds"
        " more is closed with 4503.",
        unit="bytes",
        minimum=0,
        live=True,
    )
    max_total_memory: int = setting(
        0,
        "What the sockets of one process may take together, about 24 KiB each and what they hold. Above it"
        " sockets are closed with 4503 until it is enough.",
        unit="bytes",
        minimum=0,
        live=True,
    )
    memory_eviction_policy: str = setting(
        "lru",
        "Which sockets are closed above `REALTIME_MAX_TOTAL_MEMORY`: `lru` those whose client has sent no message"
        " for longest, `fifo` the oldest, `largest` those that hold most.",
        choices=("lru", "fifo", "largest"),
        live=True,
    )
    memory_check_interval: float = setting(
        60.0,
        "How often the memory of the sockets is checked.",
        unit="seconds",
        above=0,
        maximum=3600,
        live=True,
    )
    max_queue_size: int = setting(
        10000,
        "Publishes that may wait in one process; beyond it publishing raises.",
        unit="publishes",
        minimum=1,
        live=True,
    )
    max_concurrent_broadcast: int = setting(
        1000, "Sockets a publish serves before other work gets a turn.", unit="sockets", minimum=1, live=True
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
        live=True,
    )
    drain_timeout: float = setting(
        30.0,
        "How long a stopping server waits for its sockets before it drops them.",
        unit="seconds",
        minimum=0,
        maximum=3600,
        live=True,
    )
    drain_batch: int = setting(
        200, "Sockets closed together while draining.", unit="sockets", minimum=1, live=True
    )
    reconnect_spread: float = setting(
        10.0,
        "Sockets sent away by a drain are asked to come back spread over this long.",
        unit="seconds",
        minimum=0,
        maximum=3600,
        live=True,
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

    state_url: str = setting(
        "memory://",
        "Where nodes keep what they share: `memory://` for one process, or a Redis: `redis://`, `rediss://`,"
        " `unix://`, `sentinel://`, `sentinels://`.",
        secret=True,
        validate=_bad_state_url,
    )
    state_prefix: str = setting(
        "channels-ops",
        "What every key in Redis begins with; another one for each project that shares a Redis.",
    )
    state_timeout: float = setting(
        2.0,
        "How long a call to Redis waits, with nothing coming in, before Redis counts as away.",
        unit="seconds",
        above=0,
        maximum=60,
    )
    state_pool_size: int = setting(
        1,
        "Connections of one event loop to Redis. One carries many calls at once; more help where single answers are"
        " large.",
        unit="connections",
        minimum=1,
        maximum=64,
    )

    node_lease: float = setting(
        15.0,
        "A node that has not been heard of for this long is taken for dead, and what it held is given back.",
        unit="seconds",
        minimum=1,
        maximum=3600,
        live=True,
    )

    registry_sync_interval: float = setting(
        2.0,
        "How often each node writes down what has changed of its connections, for the admin of the other nodes, and how"
        " long what was read of the others is shown.",
        unit="seconds",
        above=0,
        maximum=60,
        live=True,
    )

    history_size: int | Mapping[str, int] = setting(
        0,
        "Messages of a room that are kept, so that clients get what they missed; 0 keeps none. Or a number for each of"
        ' several patterns of room names, the first match wins: `{"chat.*": 100}`.',
        unit="messages",
        minimum=0,
        maximum=100_000,
        validate=_order_of_patterns,
    )
    history_ttl: int | Mapping[str, int] = setting(
        300,
        "How long after the last message of a room its history is kept; by room as `REALTIME_HISTORY_SIZE`.",
        unit="seconds",
        minimum=1,
        maximum=30 * 86400,
        validate=_order_of_patterns,
        live=True,
    )
    history_check_interval: float = setting(
        5.0,
        "How often each node compares its rooms with what Redis has, to find messages that were lost on the way.",
        unit="seconds",
        above=0,
        maximum=3600,
        live=True,
    )
    history_cache_bytes: int = setting(
        32 * 1024 * 1024,
        "Memory of one event loop for the newest messages of its rooms, from which most clients that come back are"
        " served.",
        unit="bytes",
        minimum=0,
    )
    session_ttl: float = setting(
        3600.0,
        "How long after its socket is gone a client can come back as the one it was, with its data and its rooms.",
        unit="seconds",
        minimum=1,
        maximum=30 * 86400,
    )
    session_save_interval: float = setting(
        10.0,
        "How often the session of an open socket is written while its data changes. In any case it is written when the"
        " socket opens, enters or leaves a room, and closes.",
        unit="seconds",
        minimum=0,
        maximum=3600,
    )
    dedupe_window: float = setting(
        300.0,
        "A message that a client sends again with the same id within this time is published once.",
        unit="seconds",
        minimum=0,
        maximum=86400,
        live=True,
    )

    def conflicts(self) -> Iterator[Problem]:
        """A socket must be pinged before it can be found silent."""
        if self.heartbeat_timeout <= self.heartbeat_interval:
            yield Problem(
                "realtime.E010",
                f"REALTIME_HEARTBEAT_TIMEOUT is {self.heartbeat_timeout:g} seconds and REALTIME_HEARTBEAT_INTERVAL"
                f" {self.heartbeat_interval:g}.",
                "The timeout must be longer, or healthy sockets are closed before they are asked.",
                ("REALTIME_HEARTBEAT_TIMEOUT", "REALTIME_HEARTBEAT_INTERVAL"),
            )


get_settings = cached(RealtimeSettings)
