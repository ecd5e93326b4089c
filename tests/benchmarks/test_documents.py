"""Documents with parts that programs write."""

from __future__ import annotations

from pathlib import Path

import pytest

from benchmarks.documents import fill, filled

DOCUMENT = """before
<!-- measured: a-1 -->
old
<!-- end measured -->
between
<!-- measured: b -->
kept
<!-- end measured -->
"""


def test_only_the_part_that_is_named_changes() -> None:
    assert filled(DOCUMENT, {"a-1": "new \\1\n"}) == DOCUMENT.replace("old", "new \\1")


def test_several_parts_are_filled_at_once() -> None:
    assert filled(DOCUMENT, {"a-1": "new\n", "b": ""}) == DOCUMENT.replace("old", "new").replace("kept\n", "")


@pytest.mark.parametrize("document", ["", DOCUMENT * 2])
def test_a_part_that_has_not_one_place_is_an_error(document: str) -> None:
    with pytest.raises(ValueError, match="places for 'b', not one"):
        filled(document, {"b": "new\n"})


def test_a_file_is_filled_in_its_place_or_left_as_it_is(tmp_path: Path) -> None:
    path = tmp_path / "page.md"
    path.write_text(DOCUMENT, encoding="utf-8")
    with pytest.raises(ValueError, match="'c'"):
        fill(path, {"b": "–\n", "c": ""})
    assert path.read_text(encoding="utf-8") == DOCUMENT
    fill(path, {"b": "–\n"})
    assert path.read_text(encoding="utf-8") == DOCUMENT.replace("kept", "–")
