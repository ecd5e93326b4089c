"""
Measure two nodes over one Redis: broadcasts and their latency beside plain Channels, recovery, and what idle clients cost.

Nodes and Redis share a core and the load has another. What is compared takes turns, each with a fresh Redis and fresh nodes.

"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import os
import sys
from collections.abc import Callable, Coroutine, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import uvloop

from benchmarks import crowd, documents, figures, redisserver, report, results, servers
from benchmarks.redisserver import Redis

NODES = 2
MEMBERS = 200
MISSED = 100
HISTORY = 200


@dataclass(frozen=True, slots=True)
class Contender:
    """What carries messages from one node to the other."""

    key: str
    name: str
    launch: servers.Launch


def _plain(layer: str, name: str) -> Contender:
    return Contender(layer, name, servers.Launch("daphne", "plain", settings=(("BENCH_LAYER", layer),)))


def _ours(key: str, name: str, history: int) -> Contender:
    settings = (("REALTIME_HISTORY_SIZE", str(history)),)
    return Contender(key, name, servers.Launch("serve", "node", settings=settings))


STOCK = _plain("stock", "plain Channels, `RedisChannelLayer`")
PUBSUB = _plain("pubsub", "plain Channels, `RedisPubSubChannelLayer`")
OURS = _ours("ours", "ours", 0)
KEPT = _ours("kept", "ours, with history", HISTORY)
CONTENDERS = (STOCK, PUBSUB, OURS, KEPT)

WANTED: tuple[tuple[Contender, Contender, float], ...] = (
    (OURS, STOCK, 25),
    (OURS, PUBSUB, 15),
    (KEPT, STOCK, 25),
    (KEPT, PUBSUB, 15),
)
"""By how many times a broadcast is wanted to be faster than the other's."""

COLUMNS = {
    "broadcast": ("per_second", "p50_ms", "p99_ms", "server_us", "server_share", "load_share"),
    "latency": ("p50_ms", "p99_ms", "p999_ms", "server_share", "load_share"),
}

Turns = dict[str, list[dict[str, Any]]]


class Nodes:
    """Some nodes that listen, and their Redis."""

    def __init__(self, redis: Redis, running: Sequence[servers.Server]) -> None:
        self.redis = redis
        self.ports = [server.port for server in running]
        self._every = [redis.server, *running]

    def cpu_seconds(self) -> float | None:
        """Return the processor time that nodes and Redis have used; None where the system does not tell."""
        every = [server.cpu_seconds() for server in self._every]
        return None if None in every else sum(seconds or 0.0 for seconds in every)

    def ended(self) -> list[str]:
        """Return which of them have ended, as problems."""
        codes = [server.process.poll() for server in self._every]
        return [f"a server ended with {code}" for code in codes if code is not None]


@contextlib.contextmanager
def running(contender: Contender, core: int | None) -> Iterator[Nodes]:
    """Run a Redis and nodes on ``core``, until the block ends."""
    with contextlib.ExitStack() as stack:
        redis = stack.enter_context(redisserver.running(core))
        shared = {"DJANGO_SETTINGS_MODULE": "benchmarks.served.clustered", "BENCH_REDIS": redis.url}
        nodes = []
        for number in range(NODES):
            own = {**shared, "REALTIME_NODE_NAME": f"node-{number}"}
            nodes.append(stack.enter_context(servers.serving(contender.launch, core, own)))
        yield Nodes(redis, nodes)


Load = Callable[[Nodes], Coroutine[Any, Any, dict[str, Any]]]


def measure(contender: Contender, load: Load, core: int | None) -> dict[str, Any]:
    """Measure once with fresh servers on ``core``. What goes wrong is in the ``problems`` of what is returned."""
    try:
        with running(contender, core) as nodes, asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            taken = runner.run(load(nodes))
            taken["problems"] += nodes.ended()
            return taken
    except (RuntimeError, OSError) as error:
        return {"problems": [str(error)]}


def compare(contenders: Sequence[Contender], turns: int, load: Load, core: int | None) -> Turns:
    """Measure the contenders in turns, their servers on ``core``."""
    found: Turns = {contender.key: [] for contender in contenders}
    for turn in range(1, turns + 1):
        for contender in contenders:
            taken = measure(contender, load, core)
            found[contender.key].append(taken)
            shown = {name: taken[name] for name in taken if name not in ("commands", "answers")}
            print(f"  {turn}. {contender.name:<45} {shown}", flush=True)
    return found


# The loads.


def broadcasting(options: argparse.Namespace) -> Load:
    """Return the load of a room that is full on both nodes."""
    return lambda nodes: crowd.broadcast(nodes.ports, MEMBERS, options.seconds, nodes.cpu_seconds)


def pacing(options: argparse.Namespace) -> Load:
    """Return the load of a few messages a second."""
    return lambda nodes: crowd.latency(nodes.ports, MEMBERS, options.rate, options.seconds, nodes.cpu_seconds)


def recovering(options: argparse.Namespace) -> Load:
    """Return the load of clients that come back."""

    async def load(nodes: Nodes) -> dict[str, Any]:
        clients, connecting = await crowd.crowd(nodes.ports, options.clients)
        problems = list(clients[0].meter.problems)
        await crowd.leave(clients)
        problems += await crowd.publish(nodes.ports[0], MISSED)
        taken = await crowd.come_back(nodes.ports, clients, MISSED, nodes.redis.calls)
        return {
            "clients": len(clients),
            "missed": MISSED,
            "connect_seconds": round(connecting, 2),
            **taken,
            "commands_per_client": round(sum(taken["commands"].values()) / len(clients), 2),
            "problems": problems + taken["problems"],
        }

    return load


def idling(options: argparse.Namespace) -> Load:
    """Return the load of clients that do nothing."""

    async def counted(nodes: Nodes) -> tuple[int, dict[str, int]]:
        before = nodes.redis.calls()
        await asyncio.sleep(options.hold)
        return nodes.redis.memory(), redisserver.since(before, nodes.redis.calls())

    async def load(nodes: Nodes) -> dict[str, Any]:
        await asyncio.sleep(crowd.SETTLING)
        memory, commands = await counted(nodes)
        clients, connecting = await crowd.crowd(nodes.ports, options.idle)
        await asyncio.sleep(options.settle)
        held, asked = await counted(nodes)
        problems = sorted(set(clients[0].meter.problems))
        for client in clients:
            client.leave()
        return {
            "clients": len(clients),
            "connect_seconds": round(connecting, 2),
            "bytes_per_client": round((held - memory) / len(clients), 1),
            "commands_per_second_without": round(sum(commands.values()) / options.hold, 1),
            "commands_per_second": round(sum(asked.values()) / options.hold, 1),
            "commands": asked,
            "problems": problems,
        }

    return load


GROUPS: dict[str, tuple[tuple[Contender, ...], Callable[[argparse.Namespace], Load]]] = {
    "broadcast": (CONTENDERS, broadcasting),
    "latency": (CONTENDERS, pacing),
    "recovery": ((KEPT,), recovering),
    "idle": ((KEPT,), idling),
}


# What is told of it.


def ratios(turns: Mapping[str, Sequence[dict[str, Any]]]) -> list[dict[str, Any]]:
    """Return how many times faster our broadcasts were, with the verdict."""
    found = []
    for subject, against, bound in WANTED:
        target = figures.Target(bound)
        value = figures.ratio(turns[subject.key], turns[against.key], "per_second")
        verdict = "failed" if value is None else "met" if target.is_met(value) else "missed"
        label = f"broadcast across nodes, {subject.name} against {against.name}"
        found.append(
            {
                "label": label,
                "ratio": None if value is None else round(value, 2),
                "target": str(target),
                "verdict": verdict,
            }
        )
    return found


def block(result: Mapping[str, Any]) -> str:
    """Return the part of the document that this writes."""
    options, groups = result["options"], result["groups"]
    told = f"median of {options['turns']}, {options['seconds']:g} s each"
    where = f"{NODES} nodes and Redis on one core, the load on the other"
    parts = [f"`python -m benchmarks.cluster`: {told}. {where}."]
    if "broadcast" in groups:
        parts.append(f"A room of {MEMBERS} sockets on {NODES} nodes, 64 bytes, four messages on their way:")
        parts.append(_table("deliveries", COLUMNS["broadcast"], groups["broadcast"]))
        parts.append(report.ratio_table(ratios(groups["broadcast"])))
    if "latency" in groups:
        parts.append(
            f"The same room at {options['rate']:g} messages a second: from a publish on one node to each member"
            f" on the other:"
        )
        parts.append(_table("deliveries", COLUMNS["latency"], groups["latency"]))
    if "recovery" in groups:
        parts.append(_recovery(groups["recovery"][KEPT.key]))
    if "idle" in groups:
        parts.append(_idle(groups["idle"][KEPT.key]))
    return "\n\n".join(part.rstrip("\n") for part in parts) + "\n"


def _table(unit: str, columns: Sequence[str], turns: Mapping[str, Sequence[dict[str, Any]]]) -> str:
    heads = [unit, *(report.HEADINGS[column] for column in columns)]
    lines = [
        [contender.name, *(report.cell(column, turns[contender.key]) for column in columns)]
        for contender in CONTENDERS
    ]
    return report.table(heads, lines)


def _recovery(turns: Sequence[dict[str, Any]]) -> str:
    values = {
        name: figures.median(turns, name) for name in ("seconds", "connect_seconds", "commands_per_client")
    }
    if None in values.values():
        return f"Recovery failed: {turns[0]['problems']}."
    return (
        f"{turns[0]['clients']:,} clients that come back to the other node, each having missed {turns[0]['missed']}"
        f" messages, had all of them, in order, after {values['seconds']:.1f} s; to connect for the first time had"
        f" taken them {values['connect_seconds']:.1f} s. Redis carried out {values['commands_per_client']:.1f}"
        f" commands for each: {_commands(turns[0])}."
    )


def _idle(turns: Sequence[dict[str, Any]]) -> str:
    names = ("bytes_per_client", "commands_per_second", "commands_per_second_without")
    values = {name: figures.median(turns, name) for name in names}
    if None in values.values():
        return f"Idle clients failed: {turns[0]['problems']}."
    return (
        f"{turns[0]['clients']:,} idle clients in one room take {values['bytes_per_client']:,.0f} bytes of Redis each, and"
        f" {values['commands_per_second']:.1f} commands a second for all of them;"
        f" nodes without clients need {values['commands_per_second_without']:.1f}: {_commands(turns[0])}."
    )


def _commands(taken: Mapping[str, Any]) -> str:
    """Return the most frequent commands, in words."""
    return ", ".join(f"{count:,} `{name}`" for name, count in list(taken["commands"].items())[:6])


def parsed(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    """Return the options of the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--only", default=",".join(GROUPS), help=f"which of {', '.join(GROUPS)} (all)")
    parser.add_argument("--turns", type=int, default=3, help="measurements of each contender (3)")
    parser.add_argument("--seconds", type=float, default=5.0, help="length of a measurement (5)")
    parser.add_argument("--rate", type=float, default=5.0, help="messages a second for the latency (5)")
    parser.add_argument("--clients", type=int, default=1000, help="clients that come back (1000)")
    parser.add_argument("--idle", type=int, default=10_000, help="idle clients (10000)")
    parser.add_argument(
        "--settle", type=float, default=20.0, help="seconds until idle clients are counted (20)"
    )
    parser.add_argument("--hold", type=float, default=30.0, help="seconds in which their commands are (30)")
    parser.add_argument("--json", type=Path, help="where to write the result (benchmarks/results/...)")
    parser.add_argument("--docs", action="store_true", help="write the tables into docs/performance.md")
    options = parser.parse_args(arguments)
    options.only = options.only.split(",")
    if unknown := set(options.only) - set(GROUPS):
        parser.error(f"there is no {', '.join(sorted(unknown))}; there are {', '.join(GROUPS)}")
    return options


def main() -> int:
    """Measure, keep the result, and say what was missed or went wrong; the exit code is 1 then."""
    options = parsed()
    servers.raise_file_limit()
    core, own = servers.cores() or (None, None)
    if own is not None:
        os.sched_setaffinity(0, {own})
    groups: dict[str, Turns] = {}
    for name in options.only:
        contenders, loading = GROUPS[name]
        print(name, flush=True)
        # What is not compared is measured once.
        turns = options.turns if len(contenders) > 1 else 1
        groups[name] = compare(contenders, turns, loading(options), core)
    told = {name: getattr(options, name) for name in ("turns", "seconds", "rate", "clients", "idle", "hold")}
    result = {"options": told, "groups": groups}
    path = results.write("cluster", result, options.json)
    print(f"\n{block(result)}\n{path}")
    if options.docs:
        write(result)
    return 1 if failed(groups) else 0


def failed(groups: Mapping[str, Turns]) -> bool:
    """Tell whether something went wrong or a target was missed."""
    wrong = any(taken["problems"] for turns in groups.values() for every in turns.values() for taken in every)
    missed = "broadcast" in groups and any(row["verdict"] != "met" for row in ratios(groups["broadcast"]))
    return wrong or missed


def write(result: Mapping[str, Any], path: Path = report.DOCUMENT) -> None:
    """Write the tables of ``result`` into the documentation."""
    documents.fill(path, {"cluster": block(result)})


if __name__ == "__main__":
    sys.exit(main())
