"""What the Autobahn test suite has found: its report, judged and counted by section."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

SECTIONS = {
    1: "Framing",
    2: "Pings and pongs",
    3: "Reserved bits",
    4: "Opcodes",
    5: "Fragmentation",
    6: "UTF-8",
    7: "Closing",
    9: "Limits and speed",
    10: "Auto-fragmentation",
    12: "Compression, payloads",
    13: "Compression, parameters",
}
"""The sections of the suite; 8 and 11 are empty."""

_COLUMNS = ("OK", "NON-STRICT", "INFORMATIONAL", "FAILED", "UNCLEAN")
_PASSED = ("OK", "NON-STRICT", "INFORMATIONAL")
_CLOSED_WELL = ("OK", "INFORMATIONAL")


@dataclass(frozen=True, slots=True)
class Verdict:
    """What the suite says of one case."""

    case: str
    behaviour: str
    """How the server answered: OK, NON-STRICT, INFORMATIONAL, or a word for what went wrong."""
    closing: str
    """How the connection ended."""

    @property
    def section(self) -> int:
        """The number of the section the case belongs to."""
        return int(self.case.partition(".")[0])

    @property
    def failed(self) -> bool:
        """Whether the server did something wrong, or has not what the case needs."""
        return self.behaviour not in _PASSED

    @property
    def unclean(self) -> bool:
        """Whether the connection did not end as the protocol says."""
        return self.closing not in _CLOSED_WELL


def verdicts(report: Mapping[str, Mapping[str, Any]]) -> list[Verdict]:
    """Return the verdicts of one agent of ``index.json``, in the order of the cases."""
    found = (Verdict(case, result["behavior"], result["behaviorClose"]) for case, result in report.items())
    return sorted(found, key=lambda verdict: [int(part) for part in verdict.case.split(".")])


def counted(found: Iterable[Verdict]) -> Counter[str]:
    """Return how many there are of each kind; a failed case that also ended badly counts in both columns."""
    count: Counter[str] = Counter()
    for verdict in found:
        count["cases"] += 1
        count["FAILED" if verdict.failed else verdict.behaviour] += 1
        if verdict.unclean:
            count["UNCLEAN"] += 1
    return count


def table(found: Iterable[Verdict]) -> str:
    """Return the counts by section, and all together, as a Markdown table with the cases that were not passed below."""
    found = list(found)
    lines = [("Section", "Cases", *_COLUMNS), ("---",) + ("---:",) * (1 + len(_COLUMNS))]
    for section in sorted({verdict.section for verdict in found}):
        of_section = [verdict for verdict in found if verdict.section == section]
        lines.append(_row(f"{section} {SECTIONS.get(section, '')}".strip(), of_section))
    lines.append(_row("all", found))
    text = "".join(f"| {' | '.join(line)} |\n" for line in lines)
    if bad := [verdict for verdict in found if verdict.failed or verdict.unclean]:
        text += "\nNot passed (behaviour, closing): " + ", ".join(
            f"{verdict.case} ({verdict.behaviour}, {verdict.closing})" for verdict in bad
        )
        text += ".\n"
    return text


def _row(name: str, found: Iterable[Verdict]) -> tuple[str, ...]:
    count = counted(found)
    return name, str(count["cases"]), *(str(count[column]) for column in _COLUMNS)
