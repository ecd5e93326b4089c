"""The machine that a result was measured on, for whoever reads the result later."""

from __future__ import annotations

import importlib.metadata
import os
import platform
from pathlib import Path
from typing import Any

from benchmarks import peers

PACKAGES = ("channels", "daphne", "autobahn", "Twisted", "Django", "msgspec", "picows", "uvloop")


def described() -> dict[str, Any]:
    """Return the processor, the system, the load and the versions."""
    return {
        "processor": _processor(),
        "cores": os.cpu_count(),
        "system": platform.platform(),
        "python": platform.python_version(),
        "load_average": [round(value, 2) for value in os.getloadavg()],
        "versions": {name: importlib.metadata.version(name) for name in PACKAGES} | peers.versions(),
    }


def _processor() -> str:
    information = Path("/proc/cpuinfo")
    if information.exists():
        for line in information.read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()
