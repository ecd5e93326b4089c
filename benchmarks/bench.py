"""
Compare this project with plain Channels, and limits on with limits off, on the stock daphne command.

Each measurement has a fresh server on one core and the load on another. What is compared takes turns,
A B A B, so that a machine that gets slower does so for both. Ratios are medians of the turns' ratios.

"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks import results, servers


@dataclass(frozen=True, slots=True)
class Contender:
    """One thing that is measured."""

    name: str
    apps: servers.Apps
    path: str


@dataclass(frozen=True, slots=True)
class Comparison:
    """Two contenders under the same load, and the ratio that is wanted of the second to the first."""

    name: str
    load: str
    connections: int
    first: Contender
    second: Contender
    target: float


ECHO_PLAIN = Contender("plain Channels", "plain", "echo")
ECHO_OURS = Contender("ours, limits on", "ours", "echo")
ECHO_OPEN = Contender("ours, limits off", "ours", "open/echo")
ROOM_PLAIN = Contender("plain Channels", "plain", "room")
ROOM_OURS = Contender("ours, limits on", "ours", "room")

COMPARISONS = (
    Comparison("echo", "echo", 50, ECHO_PLAIN, ECHO_OURS, 2.3),
    Comparison("broadcast", "broadcast", 200, ROOM_PLAIN, ROOM_OURS, 9.0),
    Comparison("limits", "echo", 50, ECHO_OPEN, ECHO_OURS, 0.95),
)


def measure(contender: Contender, comparison: Comparison, options: argparse.Namespace) -> dict[str, Any]:
    """Measure one contender once. Raise RuntimeError if a message was lost, wrong or in the wrong order."""
    pinned = servers.cores()
    server_core, load_core = pinned or (None, None)
    with servers.serving(contender.apps, server_core) as server:
        command = [sys.executable, "-m", "benchmarks.load", comparison.load]
        command += [
            f"ws://127.0.0.1:{server.port}/{contender.path}",
            "--connections",
            str(comparison.connections),
        ]
        command += ["--seconds", str(options.seconds), "--warmup", str(options.warmup)]
        with subprocess.Popen(
            command, stdout=subprocess.PIPE, text=True, preexec_fn=servers.pin(load_core)
        ) as load:
            assert load.stdout is not None
            before = after = None
            result: dict[str, Any] = {}
            for line in load.stdout:
                if line == "begin\n":
                    before = server.cpu_seconds()
                elif line == "end\n":
                    after = server.cpu_seconds()
                else:
                    result = json.loads(line)
        if load.returncode:
            raise RuntimeError(
                f"{comparison.name}, {contender.name}: {result.get('problems') or 'the load failed'}"
            )
    if before is not None and after is not None:
        result["server_us_per_message"] = round((after - before) / result["answers"] * 1e6, 2)
    return {"contender": contender.name, **result}


def compare(comparison: Comparison, options: argparse.Namespace) -> dict[str, Any]:
    """Measure both contenders in turns and return all of it, with the ratio of their rates."""
    turns = []
    for turn in range(1, options.turns + 1):
        pair = [
            measure(contender, comparison, options) for contender in (comparison.first, comparison.second)
        ]
        turns.append(pair)
        for taken in pair:
            print(f"  {turn}. {taken['contender']:<18} {_told(taken)}", flush=True)
    ratio = statistics.median(second["per_second"] / first["per_second"] for first, second in turns)
    costs = [
        first["server_us_per_message"] / second["server_us_per_message"]
        for first, second in turns
        if "server_us_per_message" in first and "server_us_per_message" in second
    ]
    return {
        "name": comparison.name,
        "connections": comparison.connections,
        "ratio": round(ratio, 3),
        "processor_ratio": round(statistics.median(costs), 3) if costs else None,
        "target": comparison.target,
        "reached": ratio >= comparison.target,
        "turns": turns,
    }


def _told(taken: dict[str, Any]) -> str:
    cost = taken.get("server_us_per_message")
    told = f"{taken['per_second']:>12,.0f}/s   p50 {taken['p50_ms']} ms   p99 {taken['p99_ms']} ms"
    return told if cost is None else f"{told}   server {cost} us each"


def main() -> int:
    """Run the comparisons; 1 if a target was missed."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    names = [comparison.name for comparison in COMPARISONS]
    parser.add_argument("comparisons", nargs="*", metavar="NAME", help=f"which of {', '.join(names)} (all)")
    parser.add_argument("--turns", type=int, default=3, help="measurements of each contender (3)")
    parser.add_argument("--seconds", type=float, default=5.0, help="length of a measurement (5)")
    parser.add_argument("--warmup", type=float, default=1.0, help="seconds before it that do not count (1)")
    parser.add_argument("--out", type=Path, help="file for the JSON (benchmarks/results/...)")
    options = parser.parse_args()
    if unknown := set(options.comparisons) - set(names):
        parser.error(f"{', '.join(sorted(unknown))}: no such comparison; there are {', '.join(names)}")
    if servers.cores() is None:
        print("Server and load share their cores here: two that can be pinned would be needed.")
    done = []
    for comparison in COMPARISONS:
        if comparison.name in (options.comparisons or names):
            print(f"{comparison.name}, {comparison.connections} sockets, 64 B")
            done.append(compare(comparison, options))
    print("\n| comparison | first | second | ratio | target | | by processor time |")
    print("| --- | --- | --- | --- | --- | --- | --- |")
    for one in done:
        rates = [statistics.median(pair[side]["per_second"] for pair in one["turns"]) for side in (0, 1)]
        names_of_pair = [one["turns"][0][side]["contender"] for side in (0, 1)]
        cells = [f"{name}: {rate:,.0f}/s" for name, rate in zip(names_of_pair, rates, strict=True)]
        verdict = "reached" if one["reached"] else "MISSED"
        cells += [
            f"{one['ratio']:.2f}",
            f"{one['target']:g}",
            verdict,
            str(one["processor_ratio"] or "not known"),
        ]
        print(f"| {' | '.join([one['name'], *cells])} |")
    print(f"\n{results.write('bench', {'comparisons': done}, options.out)}")
    return 0 if all(one["reached"] for one in done) else 1


if __name__ == "__main__":
    sys.exit(main())
