"""The lines by which a load tells whoever started it that the measurement begins and that it ends."""

from __future__ import annotations

import json
import sys
from typing import Any

BEGIN = "begin\n"
END = "end\n"


def tell(mark: str) -> None:
    """Say ``mark``; the server's processor time and memory are read when it is heard."""
    sys.stdout.write(mark)
    sys.stdout.flush()


def tell_and_wait(mark: str) -> None:
    """Say ``mark`` and return when it has been heard and answered with a line."""
    tell(mark)
    sys.stdin.readline()


def report(result: dict[str, Any]) -> int:
    """Print the result as the last line; return the exit code, 1 if there were problems."""
    sys.stdout.write(json.dumps(result) + "\n")
    return 1 if result["problems"] else 0
