"""``manage.py compression_advisor``."""

from __future__ import annotations

import io
import json
import re
import sys
from pathlib import Path
from typing import Any

import pytest
from django.core.management import call_command
from django.core.management.base import CommandError
from django.test import override_settings

from realtime.conf import RealtimeSettings
from realtime.management.commands import compression_advisor
from tests.documentation import blocks

LINES = [json.dumps({"type": "chat.line", "data": {"text": "hello " * 60, "n": n}}) for n in range(20)]


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "messages.jsonl"
    path.write_text("\n".join(LINES) + "\n\n")
    return path


def printed(name: Path | str, *words: str) -> str:
    out = io.StringIO()
    call_command("compression_advisor", str(name), "--seconds", "0.2", *words, stdout=out)
    return out.getvalue()


def found(name: Path | str, *words: str) -> dict[str, Any]:
    return json.loads(printed(name, "--json", *words))


def marked(text: str, mark: str) -> list[str]:
    return [line for line in text.splitlines() if mark in line and not line.startswith(("#", ">"))]


def test_the_table_has_a_line_for_each_window_and_level(file: Path) -> None:
    text = printed(file)
    rows = [line.split()[:2] for line in text.splitlines() if line[:8].strip().isdecimal()]
    assert rows == [[str(bits), str(level)] for bits in range(9, 16) for level in (1, 3, 5, 7, 9)]
    assert "20 messages, " in text
    assert str(file) in text


def test_the_settings_can_be_pasted(file: Path) -> None:
    settings: dict[str, Any] = {}
    exec(printed(file).partition("\n# ")[2].partition("\n")[2], settings)  # noqa: S102 - what our own command prints
    assert settings["REALTIME_COMPRESSION"] == "deflate"
    given = {name: value for name, value in settings.items() if name.startswith("REALTIME_")}
    assert len(given) == 5
    with override_settings(**given):
        assert RealtimeSettings.read()[1] == []


def test_what_is_set_and_what_is_recommended_are_marked(file: Path) -> None:
    with override_settings(REALTIME_COMPRESSION="deflate", REALTIME_COMPRESSION_MEM_LEVEL=1):
        (line,) = marked(printed(file), "*")
        assert line.split()[:2] == ["12", "1"]
    with override_settings(REALTIME_COMPRESSION="none"):
        text = printed(file)
        (line,) = marked(text, "*")
        assert line.split()[:2] == ["no", "compression"]
        assert len(marked(text, ">")) == 1


def test_a_setting_that_is_best_already_is_said_to_be(file: Path) -> None:
    file.write_text("\n".join("%x" % (n**40) for n in range(2, 40)))
    assert "# This is what is set." in printed(file)


def test_messages_below_the_least_size_are_counted(file: Path) -> None:
    file.write_text("short\n" * 3 + "\n".join(LINES))
    text = printed(file)
    assert "3 of them are shorter than 256 bytes (REALTIME_COMPRESSION_MIN_BYTES)" in text
    report = found(file, "--min-bytes", "5")
    assert (report["min_bytes"], report["messages_below_min_bytes"]) == (5, 0)
    assert report["recommended"]["REALTIME_COMPRESSION_MIN_BYTES"] == 5


def test_json_has_everything(file: Path) -> None:
    report = found(file)
    assert (report["messages"], report["bytes"]) == (20, sum(map(len, LINES)))
    assert len(report["rows"]) == 71
    (recommended,) = (row for row in report["rows"] if row["recommended"])
    assert recommended["window_bits"] == report["recommended"]["REALTIME_COMPRESSION_WINDOW_BITS"]
    assert recommended["size"] < 0.5
    assert recommended["kept_bytes"] == 0
    assert all(row["kept_bytes"] > 9000 for row in report["rows"] if row["context_takeover"])
    assert report["reason"]


def test_memory_for_each_socket_lets_takeover_be_chosen(file: Path) -> None:
    assert "See it with --memory" in printed(file)
    report = found(file, "--memory", "500")
    assert report["recommended"]["REALTIME_COMPRESSION_CONTEXT_TAKEOVER"] is True
    assert report["with_memory"] is None


@pytest.mark.parametrize("kind", ["lines", "array", "folder", "standard input"])
def test_messages_come_from_anywhere(kind: str, file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    name: Path | str = file
    if kind == "array":
        name = file.with_suffix(".json")
        name.write_text(json.dumps([*(json.loads(line) for line in LINES[1:]), LINES[0]]))
    elif kind == "folder":
        name = file.parent / "folder"
        name.mkdir()
        for number, line in enumerate(LINES):
            (name / f"{number:02}").write_text(line)
    elif kind == "standard input":
        name = "-"
        monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(file.read_bytes())))
    assert found(name)["messages"] == 20


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        pytest.param("missing.jsonl", None, "missing.jsonl cannot be read: No such file", id="missing"),
        pytest.param("empty.jsonl", "\n\n", "empty.jsonl has no messages. Put one on each line", id="empty"),
        pytest.param("lines.json", "{}\n{}", "lines.json is not JSON", id="lines called .json"),
        pytest.param("object.json", "{}", "object.json is not an array of messages", id="not an array"),
    ],
)
def test_a_file_that_cannot_be_used_is_said_in_one_line(
    name: str, content: str | None, said: str, tmp_path: Path
) -> None:
    if content is not None:
        (tmp_path / name).write_text(content)
    with pytest.raises(CommandError) as caught:
        printed(tmp_path / name)
    assert said in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "words", [["--memory", "much"], ["--min-bytes", "-1"], ["--seconds", "0"], ["--seconds", "soon"]]
)
def test_an_option_that_cannot_be_used_is_said(words: list[str], file: Path) -> None:
    with pytest.raises(CommandError, match=f"'{words[1]}' is not a"):
        printed(file, *words)


def test_more_than_there_is_time_for_is_said(file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file.write_text("\n".join(LINES * 250))
    assert found(file, "--seconds", "0.01")["messages"] < 5000
    assert "of 5,000 messages; --seconds takes more." in capsys.readouterr().err


def test_more_than_is_read_is_said(
    file: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(compression_advisor, "MOST_BYTES", 1000)
    assert found(file)["messages"] == 2
    assert "the rest is left out" in capsys.readouterr().err


def test_who_has_to_wait_is_told_how_far_it_is(
    file: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(compression_advisor, "PATIENCE", 0.0)
    report = found(file)
    assert "36 of 71 measured ..." in capsys.readouterr().err
    assert report["messages"] == 20


def without_figures(line: str) -> str:
    marks = ("*", ">", ">*")
    return " ".join(word for word in re.sub(r"[\d.,]+", "#", line).split() if word not in marks)


def test_the_example_of_the_manual_is_what_it_prints(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (example,) = (block for block in blocks() if "compression_advisor messages.jsonl" in block.code)
    head, sample, command, *shown = example.code.splitlines()
    assert head == "$ head -1 messages.jsonl"
    assert command == "$ python manage.py compression_advisor messages.jsonl"
    (tmp_path / "messages.jsonl").write_text("too short\n" + f"{sample}\n" * 50)
    monkeypatch.chdir(tmp_path)
    real = {without_figures(line) for line in printed("messages.jsonl").splitlines()}
    assert [line for line in shown if line != "..." and without_figures(line) not in real] == []
