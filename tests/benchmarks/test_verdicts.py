"""The report of the Autobahn test suite, judged and counted."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from benchmarks.conformance import DOCUMENT, ENGINES
from benchmarks.documents import filled
from benchmarks.verdicts import Verdict, counted, table, verdicts

REPORT = json.loads((Path(__file__).parent / "report.json").read_text())["testee"]


def test_cases_are_in_the_order_of_their_numbers() -> None:
    assert [verdict.case for verdict in verdicts(REPORT)] == [
        "6.1.1",
        "6.4.2",
        "6.4.10",
        "7.1.6",
        "7.9.1",
        "10.1.1",
        "12.1.1",
    ]


@pytest.mark.parametrize(
    ("behaviour", "closing", "failed", "unclean"),
    [
        ("OK", "OK", False, False),
        ("NON-STRICT", "OK", False, False),
        ("INFORMATIONAL", "INFORMATIONAL", False, False),
        ("FAILED", "OK", True, False),
        ("WRONG CODE", "OK", True, False),
        ("UNIMPLEMENTED", "OK", True, False),
        ("a word of the future", "OK", True, False),
        ("OK", "UNCLEAN", False, True),
        ("OK", "WRONG CODE", False, True),
        ("OK", "FAILED BY CLIENT", False, True),
    ],
)
def test_what_passes_and_what_does_not(behaviour: str, closing: str, failed: bool, unclean: bool) -> None:
    verdict = Verdict("1.1.1", behaviour, closing)
    assert (verdict.failed, verdict.unclean) == (failed, unclean)


def test_every_case_is_counted_once_by_behaviour() -> None:
    count = counted(verdicts(REPORT))
    assert count == {"cases": 7, "OK": 3, "NON-STRICT": 1, "INFORMATIONAL": 1, "FAILED": 2, "UNCLEAN": 2}


def test_table_has_a_line_for_each_section_and_names_what_did_not_pass() -> None:
    assert table(verdicts(REPORT)) == (
        "| Section | Cases | OK | NON-STRICT | INFORMATIONAL | FAILED | UNCLEAN |\n"
        "| --- | ---: | ---: | ---: | ---: | ---: | ---: |\n"
        "| 6 UTF-8 | 3 | 1 | 1 | 0 | 1 | 1 |\n"
        "| 7 Closing | 2 | 1 | 0 | 1 | 0 | 1 |\n"
        "| 10 Auto-fragmentation | 1 | 1 | 0 | 0 | 0 | 0 |\n"
        "| 12 Compression, payloads | 1 | 0 | 0 | 0 | 1 | 0 |\n"
        "| all | 7 | 3 | 1 | 1 | 2 | 2 |\n"
        "\n"
        "Not passed (behaviour, closing): 6.4.10 (FAILED, UNCLEAN), 7.9.1 (OK, WRONG CODE),"
        " 12.1.1 (UNIMPLEMENTED, OK).\n"
    )


def test_table_says_nothing_more_where_all_passed() -> None:
    assert table([Verdict("1.1.1", "OK", "OK")]).endswith("| all | 1 | 1 | 0 | 0 | 0 | 0 |\n")


@pytest.mark.parametrize("engine", ENGINES)
def test_our_document_has_a_place_for_each_engine(engine: str) -> None:
    assert "found now" in filled(DOCUMENT.read_text(encoding="utf-8"), {engine: "found now\n"})
