"""The tables of the benchmarks, and their places in the documentation."""

from __future__ import annotations

import json
import re

import pytest

from benchmarks import cases, figures, report, servers

SERVER = servers.Launch("daphne", "ours")


def case(key: str) -> cases.Case:
    return cases.Case(key, cases.Contender(f"the {key}", SERVER, "echo"), "load", ("echo",))


GROUP = cases.Group(
    "small",
    "A small group",
    "messages",
    ("per_second", "p99_ms", "server_us", "server_share", "load_share"),
    (case("fast"), case("slow")),
    (
        cases.Row("fast against slow", "fast", "slow", "per_second", figures.Target(3)),
        cases.Row("cost, fast against slow", "fast", "slow", "server_us", figures.Target(0.5, "at most")),
        cases.Row("slow against fast", "slow", "fast", "per_second"),
    ),
)


def taken(per_second: float, **more: object) -> dict:
    return {
        "problems": [],
        "per_second": per_second,
        "p99_ms": 1.234,
        "server_us": 1e6 / per_second,
        "server_share": 1.0,
        "load_share": 0.5,
        **more,
    }


def result(groups: dict) -> dict:
    return {
        "taken": "2026-10-01T10-00-00Z",
        "machine": {
            "processor": "a processor",
            "cores": 2,
            "system": "a system",
            "python": "3.11.7",
            "versions": {"channels": "4.3.2"},
        },
        "groups": {name: {"turns": 3, "seconds": 3.0, "cases": turns} for name, turns in groups.items()},
    }


FINE = {"fast": [taken(20_000)] * 3, "slow": [taken(10_000)] * 3}


def test_a_row_is_met_missed_or_only_reported():
    assert [(row["ratio"], row["target"], row["verdict"]) for row in report.rows(GROUP, FINE)] == [
        (2.0, "at least 3", "missed"),
        (0.5, "at most 0.5", "met"),
        (0.5, None, "reported"),
    ]


def test_a_failed_turn_fails_its_rows_and_its_cells():
    broken = {**FINE, "slow": [taken(10_000), {"problems": ["lost"]}, taken(10_000)]}
    assert {row["verdict"] for row in report.rows(GROUP, broken)} == {"failed"}
    assert "| the slow | failed | failed | failed | failed | failed |\n" in report.group_table(GROUP, broken)
    assert report.failures(GROUP, broken) == ["small, the slow, turn 2: lost"]


def test_a_table_has_a_line_for_each_case_with_units():
    assert report.group_table(GROUP, FINE) == (
        "| messages | a second | p99 | server time of one | server's core | load's core |\n"
        "| --- | --- | --- | --- | --- | --- |\n"
        "| the fast | 20,000 | 1.23 ms | 50.0 µs | 100% | 50% |\n"
        "| the slow | 10,000 | 1.23 ms | 100.0 µs | 100% | 50% |\n"
    )


def test_what_was_not_measured_is_a_dash():
    unknown = {**FINE, "slow": [{"problems": [], "per_second": 10_000.0}]}
    assert "| the slow | 10,000 | – | – | – | – |\n" in report.group_table(GROUP, unknown)


@pytest.mark.parametrize(
    ("shares", "marked"),
    [
        pytest.param({"load_share": 0.99, "server_share": 0.7}, True, id="the load was the limit"),
        pytest.param({"load_share": 0.99, "server_share": 0.99}, False, id="both were"),
        pytest.param({"load_share": 0.7, "server_share": 0.99}, False, id="the server was"),
        pytest.param({"load_share": 0.99, "server_share": 0.7, "late_p99_ms": 0.1}, False, id="a paced load"),
    ],
)
def test_a_rate_that_the_load_limited_is_marked(shares, marked):
    text = report.group_table(GROUP, {**FINE, "fast": [taken(20_000, **shares)]})
    assert ("20,000\\*" in text) is marked
    assert ("could have done more" in text) is marked


@pytest.mark.parametrize(
    ("measured", "disturbed"),
    [
        pytest.param({"server_share": 0.5, "load_share": 0.6}, True, id="nobody busy"),
        pytest.param({"server_share": 0.95, "load_share": 0.6}, False, id="server busy"),
        pytest.param({"server_share": 0.5, "load_share": 0.95}, False, id="load busy"),
        pytest.param(
            {"late_p99_ms": 2.0, "tick_ms": 0.0, "server_share": 0.9, "load_share": 1.0},
            True,
            id="paced, late",
        ),
        pytest.param(
            {"late_p99_ms": 0.2, "tick_ms": 0.0, "server_share": 0.2, "load_share": 0.5},
            False,
            id="paced, punctual",
        ),
        pytest.param({"late_p99_ms": 2.0, "tick_ms": 1.0}, False, id="paced by ticks, punctual"),
        pytest.param({"late_p99_ms": 3.5, "tick_ms": 1.0}, True, id="paced by ticks, late"),
        pytest.param({"kib_per_socket": 12.0}, False, id="memory"),
        pytest.param({"problems": ["lost"]}, False, id="failed"),
    ],
)
def test_a_measurement_is_disturbed_when_something_else_had_the_cores(measured, disturbed):
    assert report.is_disturbed(measured) is disturbed
    assert report.disturbances({"a": {"cases": {"b": [measured, {"kib_per_socket": 1.0}]}}}) == (
        int(disturbed),
        2,
    )


DOCUMENT = """before
<!-- measured: {0} -->
old
<!-- end measured -->
between
<!-- measured: {1} -->
kept
<!-- end measured -->
"""


@pytest.fixture
def every() -> dict:
    one = taken(1000.0, kib_per_socket=10.0)
    return {group.name: {case.key: [one] for case in group.cases} for group in cases.GROUPS}


def test_a_complete_run_also_writes_the_list_of_targets_and_the_machine(every):
    parts = report.blocks(result(every))
    wanted = [row for group in cases.GROUPS for row in group.rows if row.target]
    assert parts["targets"].count("\n") == len(wanted) + 2
    assert "a processor, 2 cores" in parts["machine"]
    assert "None of" in parts["machine"]


def test_a_part_of_a_run_writes_its_own_tables_only(every):
    assert set(report.blocks(result({"echo": every["echo"]}))) == {"echo"}


def test_each_part_names_the_command_that_makes_it(every):
    parts = report.blocks(result(every))
    for group in cases.GROUPS:
        assert f"python -m benchmarks.bench --only {group.name}`" in parts[group.name]
        assert ("3 s each" in parts[group.name]) is ("kib_per_socket" not in group.columns)


def test_the_documentation_has_a_place_for_each_part_and_no_other(every):
    text = report.DOCUMENT.read_text(encoding="utf-8")
    places = re.findall(r"<!-- measured: (.+) -->", text)
    assert sorted(places) == sorted([*report.blocks(result(every)), "cluster", "steps"])


def test_of_several_results_the_last_of_each_group_counts(every):
    again = {"cost": {key: [taken(77_777.0)] for key in every["cost"]}}
    parts = report.blocks(report.merged([result(every), result(again)]))
    assert "77,777" in parts["cost"]
    assert "77,777" not in parts["echo"]
    assert "targets" in parts


def test_the_program_writes_from_a_file(every, tmp_path, monkeypatch):
    document, file = tmp_path / "performance.md", tmp_path / "result.json"
    document.write_text(DOCUMENT.format("echo", "cost"))
    file.write_text(json.dumps(result({"echo": every["echo"]})))
    monkeypatch.setattr("benchmarks.report.DOCUMENT", document)
    monkeypatch.setattr("sys.argv", ["report", str(file)])
    assert report.main() == 0
    assert "plain Channels on stock daphne" in document.read_text()
    assert "kept" in document.read_text()
