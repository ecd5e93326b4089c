"""A pytest plugin for Channels' own tests: our server in the place of daphne's, a browser that starts anywhere."""

from __future__ import annotations

import os
from typing import Any

import pytest
from channels.testing import ChannelsLiveServerTestCase
from django.conf import settings
from selenium import webdriver

from realtime.conf import get_settings
from realtime.server import install


class ChromeOptions(webdriver.ChromeOptions):
    """Options for the browser of this machine, with which it also runs as root and in a container."""

    def __init__(self) -> None:
        super().__init__()
        self.binary_location = os.environ["CHROMIUM"]
        for argument in ("--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage"):
            self.add_argument(argument)


def pytest_configure() -> None:
    """Put the options where the tests take them from."""
    webdriver.ChromeOptions = ChromeOptions  # type: ignore[misc]


def pytest_sessionstart() -> None:
    """Install our server; Django is set up by now, and no test has run."""
    settings.REALTIME_ENGINE = os.environ["REALTIME_ENGINE"]
    install()


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Say which server the live tests had."""
    process: Any = ChannelsLiveServerTestCase.ProtocolServerProcess
    terminalreporter.write_line(
        f"{process.__module__}.{process.__qualname__}, engine {get_settings().engine}"
    )
