"""The program that runs the benchmarks: what it starts, and what it makes of what it sees."""

from __future__ import annotations

import argparse
import contextlib
import sys
import types

import pytest

from benchmarks import bench, cases, servers

OPTIONS = argparse.Namespace(turns=2, seconds=1.5, warmup=0.5)
CONTENDER = cases.Contender("it", servers.Launch("daphne", "ours"), "turbo/echo", "Echo: ")


def names(*only: str) -> list[str]:
    return [group.name for group in bench.chosen(only)]


def test_everything_is_run_where_nothing_is_chosen():
    assert bench.chosen([]) == list(cases.GROUPS)


def test_groups_are_chosen_by_name_or_by_what_it_begins_with():
    assert names("echo,cost") == names("cost", "echo") == ["echo", "cost"]
    assert names("broadcast") == ["broadcast-200", "broadcast-2000"]
    assert names("broadcast-200") == ["broadcast-200"]
    assert names("memory") == ["memory"]


@pytest.mark.parametrize("arguments", [["--only", "ecko"], ["--only", "broad"], ["--turns", "0"]], ids=str)
def test_a_wrong_option_is_refused(arguments, capsys):
    with pytest.raises(SystemExit):
        bench.parsed(arguments)
    assert "error:" in capsys.readouterr().err


def test_the_load_is_told_how_long_and_what_to_expect():
    case = cases.Case("it", CONTENDER, "load", ("echo", "--connections", "50"))
    assert bench.load_command(case, 8000, OPTIONS) == [
        *(sys.executable, "-m", "benchmarks.load", "echo", "--connections", "50"),
        *("--seconds", "1.5", "--warmup", "0.5", "--prefix", "Echo: ", "ws://127.0.0.1:8000/turbo/echo"),
    ]


def test_holding_has_no_length():
    assert "--seconds" not in bench.load_command(cases.Case("it", CONTENDER, "holding", ()), 8000, OPTIONS)


def test_processor_time_is_counted_for_a_message():
    used = bench.used("load", 20_000, (10.0, 3.0, 0), (12.0, 4.0, 0))
    assert used == {"server_us": 50.0, "server_share": 0.5}


def test_memory_is_counted_for_a_socket():
    assert bench.used("holding", 100, (0.0, 0.0, 1024), (1.0, 9.0, 1024 + 150 * 1024)) == {
        "kib_per_socket": 1.5
    }


@pytest.mark.parametrize("program", ["load", "holding"])
def test_what_the_system_does_not_tell_is_not_counted(program):
    assert bench.used(program, 100, (0.0, None, None), (1.0, None, None)) == {}


class TestAMeasurement:
    """With a stand-in for the server, and a small program for the load."""

    @pytest.fixture
    def measured(self, monkeypatch, tmp_path):
        def measure(program: str, *, ended: int | None = None) -> dict:
            server = types.SimpleNamespace(
                port=1,
                cpu_seconds=iter([1.0, 1.5]).__next__,
                resident_bytes=lambda: 0,
                process=types.SimpleNamespace(poll=lambda: ended, returncode=ended),
            )
            monkeypatch.setattr(servers, "serving", lambda *_: contextlib.nullcontext(server))
            monkeypatch.setattr(bench, "load_command", lambda *_: [sys.executable, "-c", program])
            return bench.measure(cases.Case("it", CONTENDER, "load", ()), OPTIONS)

        return measure

    GOOD = 'print(\'begin\\nend\\n{"answers": 1000, "problems": []}\')'

    def test_has_what_the_load_counted_and_what_the_server_used(self, measured):
        taken = measured(self.GOOD)
        assert taken["problems"] == []
        assert taken["server_us"] == 500.0

    def test_fails_with_the_loads_problems(self, measured):
        taken = measured(
            'print(\'begin\\nend\\n{"answers": 1000, "problems": ["lost"]}\'); raise SystemExit(1)'
        )
        assert taken["problems"] == ["lost"]

    def test_fails_with_the_last_words_of_a_load_that_crashes(self, measured):
        (problem,) = measured("print('begin'); raise SystemError('oh no')")["problems"]
        assert "oh no" in problem

    def test_fails_if_the_server_ended_meanwhile(self, measured):
        assert measured(self.GOOD, ended=-9)["problems"] == ["the server ended with -9"]

    def test_fails_if_the_server_does_not_start(self, monkeypatch):
        def serving(*_):
            raise RuntimeError("did not listen")

        monkeypatch.setattr(servers, "serving", serving)
        case = cases.Case("it", CONTENDER, "load", ())
        assert bench.measure(case, OPTIONS) == {"problems": ["did not listen"]}


def test_cases_take_turns(monkeypatch, capsys):
    order = []

    def measure(case, options):
        order.append(case.key)
        return {"problems": [], "kib_per_socket": 1.0}

    monkeypatch.setattr(bench, "measure", measure)
    turns = bench.compare(cases.MEMORY, OPTIONS)
    keys = [case.key for case in cases.MEMORY.cases]
    assert order == keys * 2
    assert {key: len(taken) for key, taken in turns.items()} == dict.fromkeys(keys, 2)
    assert capsys.readouterr().out.count("KiB a socket 1.0") == len(order)


def test_progress_tells_a_failure_and_a_disturbance():
    assert bench.told(cases.ECHO, {"problems": ["lost"]}) == "FAILED: lost"
    disturbed = {"problems": [], "per_second": 10.0, "server_share": 0.1, "load_share": 0.2}
    assert "DISTURBED" in bench.told(cases.ECHO, disturbed)
