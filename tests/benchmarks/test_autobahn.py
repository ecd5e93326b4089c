"""The Autobahn test suite: which Python it gets, and how a run of it is followed."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest

from benchmarks import autobahn


def program(folder: Path, text: str, *, python: str = sys.executable) -> Path:
    """Write an executable that stands for another."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / "program"
    path.write_text(f"#!{python}\n{text}")
    path.chmod(0o755)
    return path


def test_python_that_was_named_is_taken(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    named = program(tmp_path, "print('CPython 2.7')")
    monkeypatch.setenv("PYTHON27", str(named))
    assert autobahn.python27() == named


@pytest.mark.parametrize("said", ["CPython 3.11", "PyPy 2.7"])
def test_another_python_is_refused_by_name(
    said: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    named = program(tmp_path, f"print({said!r})")
    monkeypatch.setenv("PYTHON27", str(named))
    with pytest.raises(autobahn.Unavailable, match=f"PYTHON27={named} is not a CPython 2.7"):
        autobahn.python27()


def test_without_python_it_says_how_to_get_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("PYTHON27", raising=False)
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setenv("PYENV_ROOT", str(tmp_path))
    with pytest.raises(autobahn.Unavailable, match=r"pyenv install 2\.7\.18.*PYTHON27="):
        autobahn.python27()


def test_python_of_pyenv_is_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("PYTHON27", raising=False)
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setenv("PYENV_ROOT", str(tmp_path))
    folder = tmp_path / "versions" / "2.7.18" / "bin"
    found = program(folder, "print('CPython 2.7')").rename(folder / "python2.7")
    assert autobahn.python27() == found


def suite(folder: Path, *, planned: int, code: int = 0) -> Path:
    """Return a suite that plans ``planned`` cases, tries two of them and ends with ``code``."""
    (folder / "python").symlink_to(sys.executable)
    report = {"ours": {case: {"behavior": "OK", "behaviorClose": "OK"} for case in ("1.1.1", "1.1.2")}}
    return program(
        folder,
        f"""
import json, pathlib, sys
print("Ok, will run {planned} test cases for any servers connected")
for case in ("1.1.1", "1.1.2"):
    print("Running test case ID", case, "for agent ours from peer tcp4:127.0.0.1:1")
spec = json.load(open(sys.argv[sys.argv.index("-s") + 1]))
folder = pathlib.Path(spec["outdir"])
folder.mkdir()
(folder / "index.json").write_text({json.dumps(report)!r})
sys.exit({code})
""",
    )


def test_run_tells_of_each_case_and_returns_the_report(tmp_path: Path) -> None:
    began: list[tuple[str, str, int]] = []
    report = autobahn.run(
        suite(tmp_path, planned=2),
        {"ours": "ws://127.0.0.1:1/"},
        ["1.*"],
        tmp_path,
        began=lambda name, case, planned: began.append((name, case, planned)),
    )
    assert began == [("ours", "1.1.1", 2), ("ours", "1.1.2", 2)]
    assert list(report["ours"]) == ["1.1.1", "1.1.2"]
    assert json.loads((tmp_path / "spec.json").read_text())["cases"] == ["1.*"]


@pytest.mark.parametrize(
    ("planned", "code"), [pytest.param(3, 0, id="a case is missing"), pytest.param(2, 1, id="it failed")]
)
def test_run_that_did_not_get_through_is_no_result(planned: int, code: int, tmp_path: Path) -> None:
    with pytest.raises(autobahn.Broken, match=r"ended with \d before it was through; .* ID 1\.1\.2"):
        autobahn.run(
            suite(tmp_path, planned=planned, code=code),
            {"ours": "ws://127.0.0.1:1/"},
            ["1.*"],
            tmp_path,
            began=lambda name, case, planned: None,
        )


def test_run_that_says_nothing_any_more_is_ended(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(autobahn, "STALLED", 0.5)
    (tmp_path / "python").symlink_to(sys.executable)
    silent = program(tmp_path, "import time; time.sleep(60)")
    with pytest.raises(autobahn.Broken, match="ended with -9"):
        autobahn.run(
            silent,
            {"ours": "ws://127.0.0.1:1/"},
            ["1.*"],
            tmp_path,
            began=lambda name, case, planned: None,
        )
