"""What every test shares: what the machine must have, a real Redis, and the promise that CI skips nothing."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from ratelimit import overrides
from ratelimit.appsettings import use_overrides
from tests import machine, redisserver

_LEFT_OUT = pytest.StashKey[list[str]]()


def pytest_configure() -> None:
    """Let the servers that tests start hear Ctrl-C: what a shell starts in the background ignores it, and so would they."""
    signal.signal(signal.SIGINT, signal.default_int_handler)


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Leave out the tests whose need this machine does not meet; under CI leave them in, to fail."""
    left_out: list[str] = []
    for need in machine.needs():
        if need.path is not None or machine.CI:
            continue
        without = [item for item in items if item.get_closest_marker(need.marker)]
        if without:
            config.hook.pytest_deselected(items=without)
            items[:] = [item for item in items if not item.get_closest_marker(need.marker)]
            left_out.append(f"{len(without)} {need.marker} tests left out: {need.missing}")
    config.stash[_LEFT_OUT] = left_out


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    """Say in one line each what was left out and how to get it."""
    for line in config.stash.get(_LEFT_OUT, []):
        terminalreporter.write_line(line, yellow=True)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Iterator[None]:
    """Turn a skipped test into a failed one where nothing may be skipped."""
    report: pytest.TestReport = yield
    if machine.CI and report.skipped and not hasattr(report, "wasxfail"):
        report.outcome = "failed"
        report.longrepr = f"{item.nodeid} was skipped, and CI skips nothing: {report.longrepr}"
    return report


def _found(marker: str) -> Path:
    (need,) = (need for need in machine.needs() if need.marker == marker)
    if need.path is None:
        pytest.fail(f"This machine has {need.missing}.", pytrace=False)
    return need.path


@pytest.fixture(autouse=True)
def nothing_is_overridden() -> Iterator[None]:
    """What a test has overridden is gone with its database, and has to be forgotten too."""
    yield
    if overrides.watch.table:
        overrides.watch.table = {}
        use_overrides({})


@pytest.fixture(scope="session")
def chromium_path() -> Path:
    """The browser of this machine. Mark the test ``browser``."""
    return _found("browser")


@pytest.fixture(scope="session")
def nginx_path() -> Path:
    """The nginx of this machine. Mark the test ``nginx``."""
    return _found("nginx")


@pytest.fixture(scope="session")
def redis_server() -> Iterator[redisserver.RedisServer]:
    """A real Redis, the same one for the whole run. Mark the test ``redis``."""
    with redisserver.running(_found("redis")) as server:
        yield server
