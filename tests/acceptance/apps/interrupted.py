"""The plain application in a server that is sent ``INTERRUPT`` as it takes its port, or says that it listens."""

from __future__ import annotations

import logging
import os
import sys
from typing import Any

from tests.acceptance.apps.plain import application

__all__ = ["application"]


class _AtListening(logging.Handler):
    def emit(self, record: logging.LogRecord) -> None:
        if record.getMessage().startswith("Listening"):
            _interrupt()


def _at_bind(event: str, words: tuple[Any, ...]) -> None:
    if event == "socket.bind" and words[1][1] == int(os.environ["AT_PORT"]):
        _interrupt()


def _interrupt() -> None:
    os.kill(os.getpid(), int(os.environ["INTERRUPT"]))


if "AT_PORT" in os.environ:
    sys.addaudithook(_at_bind)
else:
    logging.getLogger("daphne.server").addHandler(_AtListening())
