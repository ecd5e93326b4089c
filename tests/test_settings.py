"""Every setting has a test of its effect, and the documentation says what the code says."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

from docs import generate

TESTS = Path(__file__).resolve().parent

NAMES = [name for cls in generate.SETTINGS for name in cls.names()]


def marked(source: str) -> Iterator[str]:
    """Yield each NAME of ``@pytest.mark.setting("NAME")`` on a test, a class of tests or a row of a table."""
    for node in ast.walk(ast.parse(source)):
        marks: list[ast.expr] = []
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            marks = node.decorator_list if node.name.lower().startswith("test") else []
        elif isinstance(node, ast.keyword) and node.arg == "marks":
            marks = [part for part in ast.walk(node.value) if isinstance(part, ast.Call)]
        for mark in marks:
            if isinstance(mark, ast.Call) and ast.unparse(mark.func) == "pytest.mark.setting":
                yield from (argument.value for argument in mark.args if isinstance(argument, ast.Constant))


@pytest.fixture(scope="module")
def shown() -> set[str]:
    return {name for path in TESTS.rglob("test_*.py") for name in marked(path.read_text(encoding="utf-8"))}


@pytest.mark.parametrize("name", NAMES)
def test_setting_has_a_test_that_shows_its_effect(name, shown):
    assert name in shown, f'mark the test that shows what {name} does: @pytest.mark.setting("{name}")'


def test_marks_name_settings_that_exist(shown):
    assert shown - set(NAMES) == set()


def test_a_mark_is_found_wherever_it_may_stand():
    source = (
        '@pytest.mark.setting("A")\ndef test_a(): ...\n'
        '@pytest.mark.setting("B")\nclass TestB: ...\n'
        'ROWS = [pytest.param(1, marks=[pytest.mark.setting("C")]), pytest.param(2, marks=pytest.mark.setting("D"))]\n'
        '# @pytest.mark.setting("E")\n'
        '@pytest.mark.setting("F")\ndef not_collected(): ...\n'
    )
    assert sorted(marked(source)) == ["A", "B", "C", "D"]


@pytest.mark.parametrize("path", generate.DOCUMENTS, ids=lambda path: path.name)
def test_generated_tables_are_current(path):
    text = path.read_text(encoding="utf-8")
    assert generate.filled(text) == text, "run: make docs"


def test_every_table_is_in_the_documentation():
    written = {
        name for path in generate.DOCUMENTS for name in generate.names_in(path.read_text(encoding="utf-8"))
    }
    assert written == set(generate.blocks())


@pytest.mark.parametrize("cls", generate.SETTINGS, ids=lambda cls: cls.app)
def test_table_gives_name_default_unit_change_and_text_of_every_setting(cls):
    rows = generate.blocks()[f"settings {cls.app}"].splitlines()[2:]
    assert len(rows) == len(cls.names())
    for row, (name, field) in zip(rows, cls.names().items(), strict=True):
        shown_name, default, unit, change, text = (cell.strip() for cell in row.strip("|").split(" | "))
        assert (shown_name, unit) == (f"`{name}`", field.metadata["unit"])
        assert change == ("live" if field.metadata["live"] and not field.metadata["secret"] else "restart")
        assert field.metadata["doc"] in text
        assert (
            default.strip("`") == '""'
            if field.default == ""
            else ast.literal_eval(default.strip("`")) == field.default
        )


def test_a_changed_default_makes_the_tables_stale():
    text = generate.filled("<!-- generated: settings ratelimit -->\n<!-- end generated -->\n")
    assert generate.filled(text.replace("| `60` |", "| `61` |", 1)) == text
    assert text.replace("| `60` |", "| `61` |", 1) != text
