"""Write the tables of the documentation that repeat what the code says: settings and close codes."""

from __future__ import annotations

import re
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from dashboard.conf import DashboardSettings
from ratelimit.appsettings import AppSettings, is_live
from ratelimit.conf import RateLimitSettings
from realtime.close_codes import REASONS
from realtime.conf import RealtimeSettings

ROOT = Path(__file__).resolve().parent.parent
DOCUMENTS = (ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md")))

SETTINGS: tuple[type[AppSettings], ...] = (RateLimitSettings, RealtimeSettings, DashboardSettings)

MOST_USED = (
    "RATELIMIT_MESSAGES_PER_WINDOW",
    "RATELIMIT_MESSAGE_WINDOW",
    "RATELIMIT_BURST_MULTIPLIER",
    "RATELIMIT_DISCONNECT_AFTER",
    "RATELIMIT_MAX_MESSAGE_BYTES",
    "RATELIMIT_CONNECTIONS_PER_WINDOW",
    "RATELIMIT_MAX_CONNECTIONS_PER_IP",
    "RATELIMIT_TRUSTED_PROXIES",
    "REALTIME_HEARTBEAT_INTERVAL",
    "REALTIME_HEARTBEAT_TIMEOUT",
    "REALTIME_HANDLER_TIMEOUT",
    "REALTIME_SLOW_CONSUMER",
    "REALTIME_DRAIN_TIMEOUT",
    "DASHBOARD_TOKEN",
)
"""The settings the README shows; docs/settings.md has them all."""

_BLOCK = re.compile(r"(<!-- generated: (?P<name>[a-z -]+) -->\n).*?(<!-- end generated -->)", re.DOTALL)


def blocks() -> dict[str, str]:
    """Return every generated block by the name its marker gives it."""
    everything = {name: field for cls in SETTINGS for name, field in cls.names().items()}
    tables = {f"settings {cls.app}": _settings_table(cls.names()) for cls in SETTINGS}
    tables["settings most used"] = _settings_table({name: everything[name] for name in MOST_USED})
    tables["close codes"] = _close_codes_table()
    return tables


def filled(text: str) -> str:
    """Return the document with each generated block as the code has it now. Raise KeyError for an unknown name."""
    known = blocks()
    return _BLOCK.sub(lambda match: f"{match[1]}{known[match['name']]}{match[3]}", text)


def names_in(text: str) -> list[str]:
    """Return the names of the generated blocks of a document."""
    return [match["name"] for match in _BLOCK.finditer(text)]


def _settings_table(fields: dict[str, Any]) -> str:
    rows = (
        (
            f"`{name}`",
            f"`{_shown(field.default)}`",
            field.metadata["unit"],
            "live" if is_live(field) else "restart",
            _meaning(field.metadata),
        )
        for name, field in fields.items()
    )
    return _table(("Setting", "Default", "Unit", "Change", "What it does"), rows)


def _meaning(metadata: Any) -> str:
    choices = metadata["choices"]
    unsaid = [choice for choice in choices if f"`{choice}`" not in metadata["doc"]]
    return str(metadata["doc"]) + (
        f" One of {', '.join(f'`{choice}`' for choice in choices)}." if unsaid else ""
    )


def _shown(default: Any) -> str:
    if isinstance(default, float):
        return f"{default:g}"
    return '""' if default == "" else repr(default).replace("'", '"')


def _close_codes_table() -> str:
    rows = (
        (str(reason.code), f"`{reason.name}`", reason.text, "reconnect" if reason.retry else "stop")
        for reason in sorted(REASONS, key=lambda reason: reason.code)
    )
    return _table(("Code", "Name", "Reason the client is given", "The client should"), rows)


def _table(head: tuple[str, ...], rows: Iterable[tuple[str, ...]]) -> str:
    lines = [head, ("---",) * len(head), *rows]
    return "".join(f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in line)} |\n" for line in lines)


def main() -> int:
    """Fill the blocks of every document."""
    for path in DOCUMENTS:
        text = path.read_text(encoding="utf-8")
        fresh = filled(text)
        if fresh != text:
            path.write_text(fresh, encoding="utf-8")
            sys.stdout.write(f"{path.relative_to(ROOT)} written\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
