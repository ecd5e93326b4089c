"""Structured log lines that need no configuration beyond Django's own LOGGING."""

from __future__ import annotations

import logging
import time
from collections.abc import Hashable
from typing import Any, Final

import structlog
from structlog.typing import EventDict, WrappedLogger

_RECORD_NAMES: Final = frozenset(logging.makeLogRecord({}).__dict__) | {"message", "asctime"}


def _keep_off_record_names(logger: WrappedLogger, method: str, event: EventDict) -> EventDict:
    """Rename keys that every log record has itself: logging raises for an ``extra`` of the same name."""
    for key in _RECORD_NAMES.intersection(event):
        if key not in _FOR_LOGGING:
            event[f"{key}_"] = event.pop(key)
    return event


_FOR_LOGGING: Final = frozenset({"exc_info", "stack_info"})
_PROCESSORS: Final = (
    structlog.stdlib.filter_by_level,
    structlog.contextvars.merge_contextvars,
    _keep_off_record_names,
    # The key=value pairs become the record's ``extra``: any formatter shows the event, one that looks
    # for extras (structlog's ProcessorFormatter with ExtraAdder) shows the pairs too.
    structlog.stdlib.render_to_log_kwargs,
)


class _Logger(structlog.stdlib.BoundLogger):
    """A logger whose lines cost next to nothing where their level is off, as every socket writes some."""

    def info(self, event: str | None = None, *args: Any, **values: Any) -> Any:
        if self._logger.isEnabledFor(logging.INFO):
            return super().info(event, *args, **values)
        return None


def get_logger(name: str) -> Any:
    """
    Return a structlog logger that ends in ``logging.getLogger(name)``.

    structlog's global configuration is neither read nor changed. The type is ``Any``, as of
    ``structlog.get_logger``: wrapping makes the logger on first use.

    """
    return structlog.wrap_logger(
        logging.getLogger(name),
        processors=list(_PROCESSORS),
        wrapper_class=_Logger,
        context_class=dict,
        cache_logger_on_first_use=True,
    )


class LogGate:
    """Lets one line per key through in each ``interval`` (seconds), and counts the others."""

    def __init__(self, interval: float = 10.0, max_keys: int = 1024) -> None:
        self.interval = interval
        self.max_keys = max_keys
        self._opened: dict[Hashable, tuple[float, int]] = {}  # kept in the order of opening

    def admit(self, key: Hashable, now: float) -> int | None:
        """Return how many lines of ``key`` were held back since the last one let through; ``None`` to hold this one back."""
        opened, held = self._opened.get(key, (None, 0))
        if opened is not None and now - opened < self.interval:
            self._opened[key] = (opened, held + 1)
            return None
        self._opened.pop(key, None)
        if len(self._opened) >= self.max_keys:
            del self._opened[next(iter(self._opened))]
        self._opened[key] = (now, 0)
        return held


_logger = get_logger("ratelimit")
_gate = LogGate()


def log_limited(event: str, *, reason: str, address: str, **values: Any) -> None:
    """Log that a client was limited, at most once in ten seconds for an address and reason."""
    held = _gate.admit((event, reason, address), time.monotonic())
    if held is not None:
        _logger.info(event, reason=reason, address=address, suppressed=held, **values)
