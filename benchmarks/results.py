"""Where results are kept: one JSON file a run."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

from benchmarks import machine

FOLDER = Path(__file__).resolve().parent / "results"


def write(name: str, result: dict[str, Any], path: Path | None = None) -> Path:
    """Write ``result`` with the description of the machine, and return the file."""
    taken = time.strftime("%Y-%m-%dT%H-%M-%SZ", time.gmtime())
    path = path or FOLDER / f"{taken}-{name}.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    unfinished = path.with_suffix(".tmp")
    unfinished.write_text(
        json.dumps({"taken": taken, "machine": machine.described(), **result}, indent=1) + "\n"
    )
    return unfinished.rename(path)
