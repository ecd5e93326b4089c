"""The tables of a result, and their places in docs/performance.md. As a program, it writes them from a file."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from benchmarks import cases, documents, figures

DOCUMENT = Path(__file__).resolve().parent.parent / "docs" / "performance.md"

HEADINGS = {
    "per_second": "a second",
    "p50_ms": "p50",
    "p99_ms": "p99",
    "p999_ms": "p99.9",
    "server_us": "server time of one",
    "server_share": "server's core",
    "load_share": "load's core",
    "late_p99_ms": "sent late, p99",
    "kib_per_socket": "KiB a socket",
}

QUIET = 0.8
"""Share of its core that one side of a closed load has at least, if nothing else runs."""

PUNCTUAL_MS = 1.0
"""By how much a paced load sends late at most, if nothing else runs."""

Turns = Mapping[str, Sequence[dict[str, Any]]]
"""What each case of a group gave, by its key, a result for each turn."""


def rows(group: cases.Group, turns: Turns) -> list[dict[str, Any]]:
    """Return each ratio of a group with its verdict: met, missed, failed, or reported where nothing is wanted."""
    found = []
    for row in group.rows:
        value = figures.ratio(turns[row.subject], turns[row.against], row.measure)
        if value is None:
            verdict = "failed"
        elif row.target is None:
            verdict = "reported"
        else:
            verdict = "met" if row.target.is_met(value) else "missed"
        found.append(
            {
                "label": row.label,
                "measure": row.measure,
                "ratio": None if value is None else round(value, 4),
                "target": None if row.target is None else str(row.target),
                "verdict": verdict,
            }
        )
    return found


def cell(column: str, turns: Sequence[dict[str, Any]]) -> str:
    """Return the median of one measure as a table shows it."""
    value = figures.median(turns, column)
    if value is None:
        return "failed" if any(turn.get("problems") for turn in turns) else "–"
    if column == "per_second":
        return f"{value:,.0f}" + ("\\*" if _limited_by_load(turns) else "")
    if column == "server_us":
        return f"{value:.1f} µs"
    if column.endswith("_ms"):
        return f"{value:.2f} ms"
    if column.endswith("_share"):
        return f"{value:.0%}"
    return f"{value:.1f}"


def _limited_by_load(turns: Sequence[dict[str, Any]]) -> bool:
    load, server = figures.median(turns, "load_share"), figures.median(turns, "server_share")
    return (
        load is not None
        and load >= figures.SATURATED
        and (server is None or server < figures.SATURATED)
        and "late_p99_ms" not in turns[0]
    )


def is_disturbed(taken: Mapping[str, Any]) -> bool:
    """Tell whether something else had the cores: a paced load was late, or neither side of a closed one was busy."""
    if taken.get("late_p99_ms") is not None:
        # What becomes due right after a look at the clock waits for the next, and timers are a millisecond wide.
        return bool(taken["late_p99_ms"] > PUNCTUAL_MS + 2 * taken["tick_ms"])
    shares = [taken[side] for side in ("server_share", "load_share") if side in taken]
    return len(shares) == 2 and max(shares) < QUIET


def disturbances(groups: Mapping[str, Any]) -> tuple[int, int]:
    """Return how many measurements were disturbed, and how many there are."""
    every = [taken for group in groups.values() for turns in group["cases"].values() for taken in turns]
    return sum(map(is_disturbed, every)), len(every)


def group_table(group: cases.Group, turns: Turns) -> str:
    """Return the table of what a group's cases gave."""
    heads = [group.unit, *(HEADINGS[column] for column in group.columns)]
    lines = [
        [case.name, *(cell(column, turns[case.key]) for column in group.columns)] for case in group.cases
    ]
    text = table(heads, lines)
    if "\\*" in text:
        text += "\n\\* The load's core was full and the server's was not: the server could have done more.\n"
    return text


def ratio_table(found: Sequence[dict[str, Any]]) -> str:
    """Return the table of ratios with what was wanted of each."""
    heads = ("ratio", "measured", "wanted", "")
    return table(
        heads,
        [
            (row["label"], figures.shown_ratio(row["ratio"]), row["target"] or "–", row["verdict"])
            for row in found
        ],
    )


def table(heads: Sequence[str], lines: Sequence[Sequence[str]]) -> str:
    """Return a Markdown table."""
    every = [heads, ["---"] * len(heads), *lines]
    return "".join(f"| {' | '.join(cells)} |\n" for cells in every)


def failures(group: cases.Group, turns: Turns) -> list[str]:
    """Return what went wrong in which case."""
    return [
        f"{group.name}, {case.name}, turn {number}: {problem}"
        for case in group.cases
        for number, turn in enumerate(turns[case.key], 1)
        for problem in turn["problems"]
    ]


def block(group: cases.Group, result: Mapping[str, Any]) -> str:
    """Return the part of the document that is about one group."""
    options = result["groups"][group.name]
    turns = options["cases"]
    command = f"python -m benchmarks.bench --only {group.name}"
    told = f"`{command}`: median of {options['turns']}"
    if group.columns != ("kib_per_socket",):
        told += f", {options['seconds']:g} s each"
    return f"{told}.\n\n{group_table(group, turns)}\n{ratio_table(rows(group, turns))}"


def blocks(result: Mapping[str, Any]) -> dict[str, str]:
    """Return the parts of the document by the name of their markers; the list of targets only of a complete run."""
    groups = [group for group in cases.GROUPS if group.name in result["groups"]]
    parts = {group.name: block(group, result) for group in groups}
    if len(groups) == len(cases.GROUPS):
        wanted = [
            row
            for group in groups
            for row in rows(group, result["groups"][group.name]["cases"])
            if row["target"]
        ]
        parts["targets"] = ratio_table(wanted)
        parts["machine"] = machine(result)
    return parts


def machine(result: Mapping[str, Any]) -> str:
    """Return the sentences on where and when it was measured."""
    on, (disturbed, count) = result["machine"], disturbances(result["groups"])
    versions = ", ".join(f"{name} {version}" for name, version in on["versions"].items())
    quiet = f"{disturbed} of {count}" if disturbed else f"None of {count}"
    return (
        f"{result['taken'][:10]}, {on['processor']}, {on['cores']} cores, {on['system']}, Python {on['python']}."
        f" {versions}. {quiet} measurements were disturbed by something else on the machine.\n"
    )


def write(result: Mapping[str, Any]) -> None:
    """Write the tables of ``result`` into the documentation."""
    documents.fill(DOCUMENT, blocks(result))


def merged(found: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Return one result of several: each group as the last of them has it."""
    return {**found[-1], "groups": {name: group for one in found for name, group in one["groups"].items()}}


def main() -> int:
    """Write the tables of the files named."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        "results", nargs="+", type=Path, help="JSON that benchmarks.bench wrote; later ones win"
    )
    write(merged([json.loads(path.read_text()) for path in parser.parse_args().results]))
    return 0


if __name__ == "__main__":
    sys.exit(main())
