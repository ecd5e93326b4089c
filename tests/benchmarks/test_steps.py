"""Where the time of an echo goes."""

from __future__ import annotations

import json
import subprocess
import sys

from benchmarks import steps


def taken(*pairs):
    return [{"step": name, "calls_us": 9.0, "echo_us": 9.0 + ours} for name, ours in pairs]


def test_each_step_is_what_it_adds_to_the_one_before():
    assert steps.block(taken(("reading", 1.0), ("counting", 1.25))) == (
        "| step | takes | ours so far |\n"
        "| --- | --- | --- |\n"
        "| the four system calls | 9.0 µs |  |\n"
        "| reading | 1.00 µs | 1.00 µs |\n"
        "| counting | 0.25 µs | 1.25 µs |\n"
    )


def test_the_table_has_a_place_in_the_documentation(tmp_path):
    document = tmp_path / "page.md"
    document.write_text("before\n<!-- measured: steps -->\nold\n<!-- end measured -->\nafter\n")
    steps.write(taken(("reading", 1.0)), document)
    text = document.read_text()
    assert text.startswith("before\n<!-- measured: steps -->\n| step |")
    assert text.endswith("| 1.00 µs |\n<!-- end measured -->\nafter\n")


def test_every_step_echoes_on_real_sockets(tmp_path):
    path = tmp_path / "steps.json"
    subprocess.run(
        [sys.executable, "-m", "benchmarks.steps", "--turns", "1", "--rounds", "2", "--json", str(path)],
        check=True,
        timeout=60,
        capture_output=True,
    )
    found = json.loads(path.read_text())["steps"]
    assert [step["step"] for step in found] == [name for name, _, _ in steps.STEPS]
    assert all(step["calls_us"] > 0 for step in found)


def test_what_is_not_the_echo_is_an_error(tmp_path, monkeypatch):
    """In a process of its own: it sets Django up for itself."""
    code = (
        "import os; os.environ['BENCH_APPS'] = 'ours'\n"
        "from benchmarks import steps\n"
        "steps.STEPS = [('wrong', '/turbo/echo', lambda ws: lambda text, size: ws._stream.write(b'\\x81\\x01?'))]\n"
        "steps.taken(1, 1)\n"
    )
    ended = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert ended.returncode == 1
    assert "is not the echo" in ended.stderr
