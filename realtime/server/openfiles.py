"""How many files this process may open, held against the connections it is meant to serve."""

from __future__ import annotations

import logging
import sys
from dataclasses import dataclass

from django.conf import settings

from ratelimit.conf import get_settings

if sys.platform != "win32":
    import resource

logger = logging.getLogger("realtime.server")

RESERVE = 100
"""Files a server needs beside its sockets: the database, Redis, logs, libraries, HTTP."""
FEW = 4096
"""A limit below this is the one a shell or a service manager starts with, not one that somebody chose."""

_HOW = "`ulimit -n` in a shell, LimitNOFILE= in a systemd unit"


@dataclass(frozen=True, slots=True)
class Shortage:
    """Too few files, and what to do."""

    text: str
    hint: str
    certain: bool
    """Whether the settings promise more connections than there can be; otherwise they promise nothing."""

    def __str__(self) -> str:
        return f"{self.text} {self.hint}"


def limit() -> int | None:
    """Return the most files this process may open (``ulimit -n``); ``None`` where there is no such limit."""
    if sys.platform == "win32":
        return None
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    return None if soft == resource.RLIM_INFINITY else soft


def shortage(files: int | None, max_connections: int) -> Shortage | None:
    """Return what is wrong if ``files`` are too few for ``max_connections``; 0 of these is any number."""
    if files is None or files >= (max_connections + RESERVE if max_connections else FEW):
        return None
    if max_connections:
        return Shortage(
            f"RATELIMIT_MAX_CONNECTIONS is {max_connections} connections, and this process may open {files} files"
            " (ulimit -n).",
            f"Allow it {max_connections + RESERVE} open files ({_HOW}), or lower RATELIMIT_MAX_CONNECTIONS.",
            certain=True,
        )
    return Shortage(
        f"This process may open {files} files (ulimit -n), enough for about {max(0, files - RESERVE)} connections.",
        f"Allow it more open files ({_HOW}), or set RATELIMIT_MAX_CONNECTIONS to what it can serve.",
        certain=False,
    )


def tell() -> None:
    """Log a shortage as a server starts: a warning if the settings promise too much, else a note, and none with DEBUG."""
    found = shortage(limit(), get_settings().max_connections)
    if found is not None and (found.certain or not settings.DEBUG):
        logger.log(logging.WARNING if found.certain else logging.INFO, "%s", found)
