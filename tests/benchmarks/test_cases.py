"""What the benchmarks declare to measure."""

from __future__ import annotations

import importlib.util

import pytest

from benchmarks import cases, handshakes, holding, load

EVERY = [(group, case) for group in cases.GROUPS for case in group.cases]
PARSERS = {"load": load.parsed, "handshakes": handshakes.parsed, "holding": holding.parsed}


@pytest.mark.parametrize("group", cases.GROUPS, ids=lambda group: group.name)
def test_every_row_is_about_cases_of_its_group(group):
    assert group.problems() == []


def test_a_row_about_something_else_is_found():
    group = cases.Group("g", "G", "things", (), (), (cases.Row("a against b", "a", "b", "per_second"),))
    assert group.problems() == ["a against b"]


@pytest.mark.parametrize("group", cases.GROUPS, ids=lambda group: group.name)
def test_keys_and_names_tell_cases_apart(group):
    assert (
        len({case.key for case in group.cases})
        == len({case.name for case in group.cases})
        == len(group.cases)
    )


@pytest.mark.parametrize("group", cases.GROUPS, ids=lambda group: group.name)
def test_a_measure_with_a_target_is_shown(group):
    assert {row.measure for row in group.rows if row.target} <= set(group.columns)


@pytest.mark.parametrize(("group", "case"), EVERY, ids=lambda one: getattr(one, "name", ""))
def test_the_load_understands_its_arguments(group, case):
    options = PARSERS[case.program]([*case.arguments, "ws://127.0.0.1:1/"])
    assert options.url == "ws://127.0.0.1:1/"


@pytest.mark.parametrize("module", sorted({case.contender.launch.module for _, case in EVERY}))
def test_each_server_has_a_module(module):
    assert importlib.util.find_spec(f"benchmarks.served.{module}") is not None
