"""What is measured: contenders under loads, in groups, and the ratios that are wanted between them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from benchmarks.figures import Target
from benchmarks.servers import Launch

Measure = Literal["per_second", "server_us", "p50_ms", "p99_ms", "p999_ms", "kib_per_socket"]

Program = Literal["load", "handshakes", "holding"]


@dataclass(frozen=True, slots=True)
class Contender:
    """A server, and what is asked of it."""

    name: str
    launch: Launch
    path: str
    prefix: str = ""
    """What it puts in front of an answer."""


@dataclass(frozen=True, slots=True)
class Case:
    """One contender under one load."""

    key: str
    """Names it within its group."""
    contender: Contender
    program: Program
    arguments: tuple[str, ...]
    told: str = ""
    """What distinguishes it from other cases of the same contender."""
    spread: bool = False
    """Whether server and load share both cores, instead of having one each."""

    @property
    def name(self) -> str:
        """What the tables call it."""
        return f"{self.contender.name}, {self.told}" if self.told else self.contender.name


@dataclass(frozen=True, slots=True)
class Row:
    """A ratio between two cases of a group, and what it is wanted to be."""

    label: str
    subject: str
    against: str
    measure: Measure
    target: Target | None = None
    """None where the ratio is only reported."""


@dataclass(frozen=True, slots=True)
class Group:
    """Cases that take turns."""

    name: str
    title: str
    unit: str
    """What is counted."""
    columns: tuple[str, ...]
    cases: tuple[Case, ...]
    rows: tuple[Row, ...]

    def problems(self) -> list[str]:
        """Return the rows that speak of a case which is not there."""
        keys = {case.key for case in self.cases}
        return [row.label for row in self.rows if not {row.subject, row.against} <= keys]


PLAIN = Launch("daphne", "plain")
SERVE = Launch("serve", "ours")
DAPHNE = Launch("daphne", "ours")
FALLBACK = Launch("daphne", "ours", settings=(("REALTIME_ENGINE", "daphne"),))
BUSTAPI = Launch("peer", "bust")
FASTAPI = Launch("peer", "fast")
WEBSOCKETS = Launch("peer", "library", ("none",))

PLAIN_NAME = "plain Channels on stock daphne"
WEBSOCKETS_NAME = "`websockets` without compression"

ECHO_PLAIN = Contender(PLAIN_NAME, PLAIN, "echo")
ECHO_OURS = Contender("consumer, `serve`", SERVE, "echo")
ECHO_TURBO = Contender("turbo, `serve`", SERVE, "turbo/echo", "Echo: ")
ECHO_BUSTAPI = Contender("BustAPI standard", BUSTAPI, "echo")
ECHO_BUSTAPI_TURBO = Contender("BustAPI turbo", BUSTAPI, "turbo", "Echo: ")
ECHO_FASTAPI = Contender("FastAPI on uvicorn", FASTAPI, "echo")
ECHO_WEBSOCKETS = Contender(WEBSOCKETS_NAME, WEBSOCKETS, "echo")
ECHO_PICOWS = Contender("raw picows on uvloop", Launch("script", "picowsraw"), "")
ECHO_TCP = Contender("raw TCP on uvloop", Launch("script", "tcpraw"), "")

RATE = 20_000
PLAIN_RATE = 4_000
"""What plain Channels can do without falling behind."""


def _echo(key: str, contender: Contender, told: str = "", load: str = "echo", spread: bool = False) -> Case:
    return Case(key, contender, "load", (load, "--connections", "50"), told, spread)


def _paced(
    key: str,
    contender: Contender,
    rate: int = RATE,
    busy: int = 50,
    idle: int = 0,
    tick: float = 0.001,
    told: str = "",
) -> Case:
    counts = ("--connections", str(busy), "--idle", str(idle))
    return Case(key, contender, "load", ("paced", *counts, "--rate", str(rate), "--tick", f"{tick:g}"), told)


def _room(key: str, name: str, launch: Launch, members: int, *more: str, told: str = "") -> Case:
    arguments = ("broadcast", "--connections", str(members), *more)
    path = "turbo/room" if key.startswith("turbo") else "room"
    return Case(key, Contender(name, launch, path), "load", arguments, told)


def _handshake(key: str, contender: Contender, told: str = "") -> Case:
    return Case(key, contender, "handshakes", ("--connections", "50"), told)


def _held(key: str, name: str, launch: Launch, *more: str, path: str = "echo") -> Case:
    return Case(key, Contender(name, launch, path), "holding", more)


RATES = ("per_second", "p50_ms", "p99_ms", "server_us", "server_share", "load_share")

ECHO = Group(
    "echo",
    "Echo, 50 sockets, 64 bytes, one message on its way on each",
    "messages",
    RATES,
    (
        _echo("plain", ECHO_PLAIN),
        _echo("fastapi", ECHO_FASTAPI),
        _echo("websockets", ECHO_WEBSOCKETS),
        _echo("bustapi", ECHO_BUSTAPI),
        _echo("ours", ECHO_OURS),
        _echo("open", Contender("consumer, `serve`", SERVE, "open/echo"), "limits off"),
        _echo("daphne", Contender("consumer, `daphne` command", DAPHNE, "echo")),
        _echo(
            "fallback", Contender("consumer, `daphne` command, `REALTIME_ENGINE=daphne`", FALLBACK, "echo")
        ),
        _echo("turbo", ECHO_TURBO),
        _echo("bustapi-turbo", ECHO_BUSTAPI_TURBO),
        _echo("picows", ECHO_PICOWS),
        _echo("tcp", ECHO_TCP, load="tcp"),
    ),
    (
        Row("echo, consumer against plain Channels", "ours", "plain", "per_second", Target(10)),
        Row("echo, consumer against BustAPI standard", "ours", "bustapi", "per_second", Target(2.5)),
        Row("echo, consumer against raw TCP", "ours", "tcp", "per_second", Target(0.6)),
        Row("echo, turbo against BustAPI turbo", "turbo", "bustapi-turbo", "per_second", Target(1.0)),
        Row("echo, `daphne` command against `serve`", "daphne", "ours", "per_second", Target(0.75)),
        Row("echo, limits on against off", "ours", "open", "per_second", Target(0.95)),
        Row("echo, consumer against FastAPI", "ours", "fastapi", "per_second"),
        Row("echo, consumer against `websockets`", "ours", "websockets", "per_second"),
        Row("echo, consumer against raw picows", "ours", "picows", "per_second"),
        Row("echo, `REALTIME_ENGINE=daphne` against plain Channels", "fallback", "plain", "per_second"),
    ),
)

COST = Group(
    "cost",
    f"Processor time of an echo at a fixed {RATE:,} messages/s, 50 sockets, 64 bytes, sent each millisecond",
    "messages",
    (
        "per_second",
        "p50_ms",
        "p99_ms",
        "p999_ms",
        "server_us",
        "server_share",
        "late_p99_ms",
    ),
    (
        _paced("plain", ECHO_PLAIN, PLAIN_RATE, told=f"{PLAIN_RATE:,}/s"),
        _paced("bustapi", ECHO_BUSTAPI),
        _paced("fastapi", ECHO_FASTAPI),
        _paced("websockets", ECHO_WEBSOCKETS),
        _paced("ours", ECHO_OURS),
        _paced("turbo", ECHO_TURBO),
        _paced("bustapi-turbo", ECHO_BUSTAPI_TURBO),
        _paced("picows", ECHO_PICOWS),
    ),
    (
        Row(
            "server time of a message, consumer against plain Channels",
            "ours",
            "plain",
            "server_us",
            Target(1 / 12, "at most"),
        ),
        Row(
            "server time of a message, turbo against BustAPI turbo",
            "turbo",
            "bustapi-turbo",
            "server_us",
            Target(1.15, "at most"),
        ),
        Row("server time of a message, consumer against BustAPI standard", "ours", "bustapi", "server_us"),
        Row("server time of a message, consumer against raw picows", "ours", "picows", "server_us"),
    ),
)

LATENCY = Group(
    "latency",
    f"Latency of an echo at a fixed {RATE:,} messages/s, 50 sockets, 64 bytes, sent one by one",
    "messages",
    (
        "per_second",
        "p50_ms",
        "p99_ms",
        "p999_ms",
        "server_us",
        "server_share",
        "late_p99_ms",
    ),
    (
        _paced("plain", ECHO_PLAIN, PLAIN_RATE, tick=0, told=f"{PLAIN_RATE:,}/s"),
        _paced("bustapi", ECHO_BUSTAPI, tick=0),
        _paced("ours", ECHO_OURS, tick=0),
        _paced("turbo", ECHO_TURBO, tick=0),
        _paced("bustapi-turbo", ECHO_BUSTAPI_TURBO, tick=0),
        _paced("picows", ECHO_PICOWS, tick=0),
    ),
    (
        Row(
            "p99 latency, consumer against BustAPI standard",
            "ours",
            "bustapi",
            "p99_ms",
            Target(1.0, "at most"),
        ),
        Row("p99 latency, turbo against BustAPI turbo", "turbo", "bustapi-turbo", "p99_ms"),
        Row(
            "server time of a message that comes alone, consumer against plain Channels",
            "ours",
            "plain",
            "server_us",
        ),
        Row(
            "server time of a message that comes alone, turbo against BustAPI turbo",
            "turbo",
            "bustapi-turbo",
            "server_us",
        ),
    ),
)


def _broadcast(members: int) -> Group:
    return Group(
        f"broadcast-{members}",
        f"Broadcast to {members:,} sockets, 64 bytes, four messages on their way",
        "deliveries",
        RATES,
        (
            _room("plain", PLAIN_NAME, PLAIN, members),
            _room("stabilizer", "fastapi-websocket-stabilizer on uvicorn", FASTAPI, members),
            _room("websockets", "`websockets.broadcast`", WEBSOCKETS, members),
            _room("ours", "consumer, `serve`", SERVE, members),
            _room("turbo", "turbo, `serve`", SERVE, members),
            _room("fallback", "consumer, `daphne` command, `REALTIME_ENGINE=daphne`", FALLBACK, members),
        ),
        (
            Row(
                f"broadcast to {members:,}, consumer against plain Channels",
                "ours",
                "plain",
                "per_second",
                Target(30),
            ),
            Row(
                f"broadcast to {members:,}, consumer against stabilizer",
                "ours",
                "stabilizer",
                "per_second",
                Target(2.5),
            ),
            Row(
                f"broadcast to {members:,}, consumer against `websockets.broadcast`",
                "ours",
                "websockets",
                "per_second",
                Target(1.1),
            ),
            Row(
                f"broadcast to {members:,}, server time, consumer against `websockets.broadcast`",
                "ours",
                "websockets",
                "server_us",
            ),
            Row(
                f"broadcast to {members:,}, turbo against `websockets.broadcast`",
                "turbo",
                "websockets",
                "per_second",
            ),
        ),
    )


_LONG = ("--size", "512")
_DEFLATE = Launch("serve", "ours", settings=(("REALTIME_COMPRESSION", "deflate"),))

DEFLATE = Group(
    "deflate",
    "Broadcast of 512 bytes to 200 sockets, with and without compression",
    "deliveries",
    RATES,
    (
        _room("none", "consumer, `serve`", SERVE, 200, *_LONG, told="not compressed"),
        _room("deflate", "consumer, `serve`", _DEFLATE, 200, *_LONG, "--compressed", told="deflate"),
        _room(
            "websockets",
            "`websockets.broadcast`",
            Launch("peer", "library", ("default",)),
            200,
            *_LONG,
            "--compressed",
            told="deflate",
        ),
    ),
    (
        Row(
            "broadcast, server time of a delivery, deflate against none",
            "deflate",
            "none",
            "server_us",
            Target(1.5, "at most"),
        ),
        Row("broadcast, deflate against none", "deflate", "none", "per_second"),
        Row(
            "broadcast with deflate, consumer against `websockets.broadcast`",
            "deflate",
            "websockets",
            "per_second",
        ),
    ),
)

HANDSHAKES = Group(
    "handshakes",
    "Handshakes, 50 at a time, each socket closed again",
    "handshakes",
    RATES,
    (
        _handshake("plain", ECHO_PLAIN, "no middleware"),
        _handshake("stack", Contender(PLAIN_NAME, Launch("daphne", "plainstack"), "echo"), "origin and user"),
        _handshake(
            "flask",
            Contender(
                "flask-sock on gunicorn with threads",
                Launch("gunicorn", "flasked", ("--threads", "100")),
                "echo",
            ),
        ),
        _handshake("websockets", ECHO_WEBSOCKETS),
        _handshake("fastapi", ECHO_FASTAPI),
        _handshake("bustapi", ECHO_BUSTAPI),
        _handshake("ours", Contender("consumer, `serve`", SERVE, "full/echo"), "limits, origin and user"),
        _handshake("limits", ECHO_OURS, "limits"),
    ),
    (
        Row(
            "handshakes, all middlewares, against plain Channels with origin and user",
            "ours",
            "stack",
            "per_second",
            Target(3),
        ),
        Row("handshakes, all middlewares, against plain Channels without any", "ours", "plain", "per_second"),
        Row("handshakes, limits alone, against plain Channels without any", "limits", "plain", "per_second"),
        Row("handshakes, limits alone, against BustAPI", "limits", "bustapi", "per_second"),
    ),
)

MEMORY = Group(
    "memory",
    "Memory of an idle socket",
    "sockets",
    ("kib_per_socket",),
    (
        _held("ours", "consumer, `serve`, limits and registry", SERVE),
        _held("websockets", WEBSOCKETS_NAME, WEBSOCKETS),
        _held("plain", PLAIN_NAME, PLAIN),
        _held("fastapi", "FastAPI on uvicorn", FASTAPI),
        _held("bustapi", "BustAPI standard", BUSTAPI),
    ),
    (
        Row(
            "memory of an idle socket, consumer against `websockets`",
            "ours",
            "websockets",
            "kib_per_socket",
            Target(1.1, "at most"),
        ),
    ),
)


def _ours_deflate(bits: int, level: int, takeover: bool) -> Case:
    settings = (
        ("REALTIME_COMPRESSION", "deflate"),
        ("REALTIME_COMPRESSION_WINDOW_BITS", str(bits)),
        ("REALTIME_COMPRESSION_MEM_LEVEL", str(level)),
        ("REALTIME_COMPRESSION_CONTEXT_TAKEOVER", str(takeover).lower()),
    )
    name = f"consumer, window {bits} bits, memory level {level}, {'with' if takeover else 'without'} takeover"
    key = f"{bits}/{level}{'+' if takeover else ''}"
    return _held(
        key, name, Launch("serve", "ours", settings=settings), "--connections", "1000", "--compressed"
    )


def _websockets_deflate(told: str, name: str) -> Case:
    launch = Launch("peer", "library", (told,))
    return _held(f"websockets {told}", name, launch, "--connections", "1000", "--compressed")


WINDOWS = Group(
    "compression-memory",
    "Memory of a socket that has sent and received one compressed message of 1 KB",
    "sockets",
    ("kib_per_socket",),
    (
        _held("none", "consumer, no compression", SERVE, "--connections", "1000"),
        _ours_deflate(12, 5, False),
        _ours_deflate(15, 9, False),
        _ours_deflate(9, 1, True),
        _ours_deflate(9, 5, True),
        _ours_deflate(12, 5, True),
        _ours_deflate(15, 8, True),
        _ours_deflate(15, 9, True),
        _held("websockets none", WEBSOCKETS_NAME, WEBSOCKETS, "--connections", "1000"),
        _websockets_deflate("default", "`websockets`, its default: window 12 bits, memory level 5, takeover"),
        _websockets_deflate("15/8", "`websockets`, window 15 bits, memory level 8, takeover"),
    ),
    (
        Row("deflate without takeover against none", "12/5", "none", "kib_per_socket"),
        Row("12/5 with takeover against `websockets`", "12/5+", "websockets default", "kib_per_socket"),
        Row("15/8 with takeover against `websockets`", "15/8+", "websockets 15/8", "kib_per_socket"),
    ),
)

OPEN = Group(
    "open-sockets",
    f"Echo at a fixed {RATE:,} messages/s with more and more sockets open",
    "messages",
    ("per_second", "p50_ms", "p99_ms", "server_us", "late_p99_ms"),
    (
        _paced("10", ECHO_OURS, busy=10, told="10 open, 10 busy"),
        _paced("10 of 1000", ECHO_OURS, busy=10, idle=990, told="1,000 open, 10 busy"),
        _paced("10 of 10000", ECHO_OURS, busy=10, idle=9990, told="10,000 open, 10 busy"),
        _paced("1000", ECHO_OURS, busy=1000, told="1,000 open, all busy"),
        _paced("10000", ECHO_OURS, busy=10000, told="10,000 open, all busy"),
        _paced("picows 10", ECHO_PICOWS, busy=10, told="10 open, 10 busy"),
        _paced("picows 10000", ECHO_PICOWS, busy=10000, told="10,000 open, all busy"),
    ),
    (
        Row(
            "server time of a message, 10 sockets busy, 10,000 open against 10",
            "10 of 10000",
            "10",
            "server_us",
            Target(1.1, "at most"),
        ),
        Row("server time of a message, 10,000 sockets busy against 10", "10000", "10", "server_us"),
        Row("the same, raw picows: what the machine's caches cost", "picows 10000", "picows 10", "server_us"),
    ),
)

WORKERS = Group(
    "workers",
    "Echo with workers, 50 sockets, server and load together on two cores",
    "messages",
    ("per_second", "p50_ms", "p99_ms", "server_us", "server_share", "load_share"),
    (
        _echo("one", ECHO_OURS, "one worker", spread=True),
        _echo(
            "two",
            Contender(
                "consumer, `serve --workers 2`",
                # An echo needs no room, so no channel layer has to span the workers.
                Launch("serve", "ours", ("--workers", "2", "--allow-split-rooms")),
                "echo",
            ),
            spread=True,
        ),
    ),
    (Row("echo, two workers against one", "two", "one", "per_second"),),
)

GROUPS = (
    ECHO,
    COST,
    LATENCY,
    _broadcast(200),
    _broadcast(2000),
    DEFLATE,
    HANDSHAKES,
    MEMORY,
    WINDOWS,
    OPEN,
    WORKERS,
)
