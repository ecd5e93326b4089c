"""
Measure this project beside plain Channels and its other peers, and say whether the ratios are what is wanted.

Each measurement has a fresh server on one core and the load on another. What is compared takes turns, A B C A B C, so that
a machine that gets slower does so for all. Ratios are medians of the turns' ratios. A run in which a message is lost, wrong,
twice or out of order is an error and not a number.

"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from benchmarks import cases, marks, report, results, servers


def measure(case: cases.Case, options: argparse.Namespace) -> dict[str, Any]:
    """Measure one case once. What goes wrong is in the ``problems`` of what is returned."""
    server_core, load_core = (None, None) if case.spread else servers.cores() or (None, None)
    try:
        with servers.serving(case.contender.launch, server_core) as server:
            result = _loaded(case, options, server, load_core)
            if server.process.poll() is not None:
                result["problems"].append(f"the server ended with {server.process.returncode}")
            return result
    except RuntimeError as error:
        return {"problems": [str(error)]}


def _loaded(
    case: cases.Case, options: argparse.Namespace, server: servers.Server, load_core: int | None
) -> dict[str, Any]:
    """Run the load of a case on a server; return what it counted with what the server used meanwhile."""
    seen = []
    result: dict[str, Any] = {}
    command = load_command(case, server.port, options)
    with (
        tempfile.TemporaryFile("w+") as errors,
        subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=errors,
            text=True,
            preexec_fn=servers.pin(load_core),
        ) as load,
    ):
        assert load.stdin is not None
        assert load.stdout is not None
        for line in load.stdout:
            if line in (marks.BEGIN, marks.END):
                seen.append((time.monotonic(), server.cpu_seconds(), server.resident_bytes()))
                if case.program == "holding":
                    load.stdin.write("seen\n")
                    load.stdin.flush()
            else:
                result = json.loads(line)
        if "problems" not in result:
            errors.seek(0)
            return {"problems": [f"the load ended: {errors.read()[-500:].strip()}"]}
    if len(seen) == 2 and result["answers"]:
        result |= used(case.program, result["answers"], *seen)
    return result


Seen = tuple[float, float | None, int | None]
"""A moment, with the server's processor time and its memory."""


def used(program: cases.Program, count: int, begin: Seen, end: Seen) -> dict[str, float]:
    """Return what one message, or one socket, cost the server between two moments; nothing where that is not known."""
    (begin_at, begin_cpu, begin_bytes), (end_at, end_cpu, end_bytes) = begin, end
    if program == "holding":
        if begin_bytes is None or end_bytes is None:
            return {}
        return {"kib_per_socket": round((end_bytes - begin_bytes) / 1024 / count, 2)}
    if begin_cpu is None or end_cpu is None:
        return {}
    cpu = end_cpu - begin_cpu
    return {
        "server_us": round(cpu / count * 1e6, 2),
        "server_share": round(cpu / (end_at - begin_at), 3),
    }


def load_command(case: cases.Case, port: int, options: argparse.Namespace) -> list[str]:
    """Return what starts the load of a case."""
    command = [sys.executable, "-m", f"benchmarks.{case.program}", *case.arguments]
    if case.program != "holding":
        command += ["--seconds", f"{options.seconds:g}", "--warmup", f"{options.warmup:g}"]
    if case.contender.prefix:
        command += ["--prefix", case.contender.prefix]
    return [*command, f"ws://127.0.0.1:{port}/{case.contender.path}"]


def compare(group: cases.Group, options: argparse.Namespace) -> dict[str, list[dict[str, Any]]]:
    """Measure the cases of a group in turns; return all of it."""
    turns: dict[str, list[dict[str, Any]]] = {case.key: [] for case in group.cases}
    for turn in range(1, options.turns + 1):
        for case in group.cases:
            taken = measure(case, options)
            turns[case.key].append(taken)
            print(f"  {turn}. {case.name:<70} {told(group, taken)}", flush=True)
    return turns


def told(group: cases.Group, taken: dict[str, Any]) -> str:
    """Return one measurement as a line of progress."""
    if taken["problems"]:
        return f"FAILED: {'; '.join(taken['problems'])}"
    parts = [
        f"{report.HEADINGS[column]} {report.cell(column, [taken])}"
        for column in group.columns
        if column in taken
    ]
    if report.is_disturbed(taken):
        parts.append("DISTURBED: something else used these cores")
    return "   ".join(parts)


def chosen(only: Sequence[str]) -> list[cases.Group]:
    """Return the groups of these names, or of a name and a hyphen; all if none is named. Raise ValueError else."""
    names = [name for text in only for name in text.split(",") if name]
    picked = [group for name in names for group in cases.GROUPS if f"{group.name}-".startswith(f"{name}-")]
    for name in names:
        if not any(f"{group.name}-".startswith(f"{name}-") for group in picked):
            known = ", ".join(group.name for group in cases.GROUPS)
            raise ValueError(f"{name!r} is not a group; there are {known}")
    return [group for group in cases.GROUPS if not names or group in picked]


def parsed(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    """Return the options of the command line, with the groups that are chosen."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    names = ", ".join(group.name for group in cases.GROUPS)
    parser.add_argument(
        "--only", action="append", default=[], metavar="NAME,...", help=f"which of {names} (all)"
    )
    parser.add_argument("--turns", type=int, default=3, help="measurements of each case (3)")
    parser.add_argument("--seconds", type=float, default=2.5, help="length of a measurement (2.5)")
    parser.add_argument("--warmup", type=float, default=0.5, help="seconds before it that do not count (0.5)")
    parser.add_argument("--out", type=Path, help="file for the JSON (benchmarks/results/...)")
    parser.add_argument(
        "--docs", action="store_true", help="write the tables into docs/performance.md as well"
    )
    options = parser.parse_args(arguments)
    try:
        options.groups = chosen(options.only)
    except ValueError as error:
        parser.error(str(error))
    if options.turns < 1:
        parser.error("--turns must be at least 1")
    return options


def main() -> int:
    """Run the groups; 1 if a ratio is not as wanted or a measurement failed."""
    options = parsed()
    began = time.monotonic()
    servers.raise_file_limit()
    if servers.cores() is None:
        print("Server and load share their cores here: two that can be pinned would be needed.")
    if os.getloadavg()[0] > 0.5:
        print(f"This machine is not idle (load average {os.getloadavg()[0]:.1f}): expect scatter.")
    done = {}
    for group in options.groups:
        print(f"{group.name}: {group.title}", flush=True)
        done[group.name] = {
            "turns": options.turns,
            "seconds": options.seconds,
            "warmup": options.warmup,
            "cases": compare(group, options),
        }
    found = [row for group in options.groups for row in report.rows(group, done[group.name]["cases"])]
    path = results.write("bench", {"rows": found, "groups": done}, options.out)
    for group in options.groups:
        print(f"\n{group.title}\n\n{report.group_table(group, done[group.name]['cases'])}")
    print(report.ratio_table(found))
    problems = [
        line for group in options.groups for line in report.failures(group, done[group.name]["cases"])
    ]
    print("\n".join(problems))
    disturbed, count = report.disturbances(done)
    print(f"{disturbed} of {count} measurements were disturbed by something else on this machine.")
    print(f"{path}\n{time.monotonic() - began:.0f} s")
    if options.docs:
        report.write(json.loads(path.read_text()))
        print(f"Written into {report.DOCUMENT}.")
    return 1 if problems or any(row["verdict"] in ("missed", "failed") for row in found) else 0


if __name__ == "__main__":
    sys.exit(main())
