"""Documents with parts that programs write, each between two markers of its name."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path


def filled(document: str, parts: Mapping[str, str]) -> str:
    """Return ``document`` with each part in its place. Raise ValueError for one that has not exactly one place."""
    for name, text in parts.items():
        opens, ends = f"<!-- measured: {name} -->\n", "<!-- end measured -->"
        place = re.compile(f"{re.escape(opens)}.*?{ends}", re.DOTALL)
        if (count := len(place.findall(document))) != 1:
            raise ValueError(f"The document has {count} places for {name!r}, not one.")
        before, after = place.split(document)
        document = f"{before}{opens}{text}{ends}{after}"
    return document


def fill(path: Path, parts: Mapping[str, str]) -> None:
    """Write each part into its place in the document at ``path``. Raise ValueError as ``filled`` does."""
    path.write_text(filled(path.read_text(encoding="utf-8"), parts), encoding="utf-8")
