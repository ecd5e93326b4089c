"""Numbers with units, as people read them."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

_STEPS = ((86400, "d"), (3600, "h"), (60, "min"), (1, "s"))


def bytes_text(count: float) -> str:
    """Return bytes as ``512 B``, ``1.5 KiB``, ``20 MiB``."""
    amount = float(count)
    for unit in ("B", "KiB", "MiB", "GiB"):
        if amount < 1024:
            return _rounded(amount, unit)
        amount /= 1024
    return _rounded(amount, "TiB")


def _rounded(amount: float, unit: str) -> str:
    digits = 1 if amount < 100 and amount != int(amount) else 0
    return f"{amount:,.{digits}f} {unit}"


def duration_text(seconds: float) -> str:
    """Return seconds as their two largest units: ``45 s``, ``3 min 5 s``, ``2 d 4 h``."""
    left = max(0, int(seconds))
    parts = []
    for size, unit in _STEPS:
        if left >= size:
            parts.append(f"{left // size} {unit}")
            left %= size
        elif parts:
            break
    return " ".join(parts[:2]) or "0 s"


def milliseconds_text(seconds: float | None) -> str:
    """Return a round-trip time in milliseconds; an unknown one is a dash."""
    if seconds is None:
        return "\N{EN DASH}"
    milliseconds = seconds * 1000
    return f"{milliseconds:.1f} ms" if milliseconds < 10 else f"{milliseconds:,.0f} ms"


def counted(count: int, one: str, many: str = "") -> str:
    """Return a count with its noun: ``1 client``, ``1,200 clients``."""
    return f"{count:,} {one if count == 1 else many or one + 's'}"


def setting_text(value: Any, unit: str) -> str:
    """Return the value of a setting with its unit, empty ones in words."""
    if isinstance(value, bool):
        return "on" if value else "off"
    if isinstance(value, tuple):
        return ", ".join(map(str, value)) or "none"
    if isinstance(value, Mapping):
        # As it is typed.
        return json.dumps(value, ensure_ascii=False)
    if isinstance(value, int | float):
        number = f"{value:,g}" if isinstance(value, float) else f"{value:,}"
        exact = f"{number} {_singular(unit) if value == 1 else unit}".rstrip()
        return f"{exact} ({bytes_text(value)})" if unit == "bytes" and value >= 1024 else exact
    return str(value) or "empty"


def _singular(unit: str) -> str:
    return unit.removesuffix("es") if unit.endswith("shes") else unit.removesuffix("s")


def percent_text(share: float) -> str:
    """Return a share between 0 and 1 as a percentage; a little is not nothing."""
    return "<1%" if 0 < share < 0.01 else f"{share:.0%}"
