"""Open files and connections."""

from __future__ import annotations

import logging
import resource

import pytest
from django.test import override_settings

from realtime.server import openfiles
from realtime.server.openfiles import limit, shortage


@pytest.mark.parametrize(
    ("files", "connections", "text"),
    [
        pytest.param(None, 1_000_000, None, id="no limit"),
        pytest.param(1100, 1000, None, id="just enough"),
        pytest.param(
            1099,
            1000,
            "RATELIMIT_MAX_CONNECTIONS is 1000 connections, and this process may open 1099 files",
            id="short",
        ),
        pytest.param(4096, 0, None, id="any number, and many files"),
        pytest.param(
            1024, 0, "1024 files (ulimit -n), enough for about 924 connections", id="any number, and few"
        ),
        pytest.param(50, 0, "50 files (ulimit -n), enough for about 0 connections", id="hardly any files"),
    ],
)
def test_shortage_is_told_with_its_figures(files: int | None, connections: int, text: str | None) -> None:
    found = shortage(files, connections)
    assert (found is None) is (text is None)
    if found is not None and text is not None:
        assert text in found.text
        assert "ulimit -n" in found.hint
        assert found.certain is (connections > 0)


def test_the_hint_says_how_many_files_are_enough() -> None:
    found = shortage(1024, 10_000)
    assert found is not None
    assert "Allow it 10100 open files" in found.hint
    assert shortage(10_100, 10_000) is None


def test_limit_is_the_one_in_force() -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    try:
        resource.setrlimit(resource.RLIMIT_NOFILE, (777, hard))
        assert limit() == 777
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


@pytest.mark.parametrize(
    ("connections", "debug", "level"),
    [
        pytest.param(10_000, False, logging.WARNING, id="too much is promised"),
        pytest.param(10_000, True, logging.WARNING, id="and that while developing"),
        pytest.param(0, False, logging.INFO, id="nothing is promised"),
        pytest.param(0, True, None, id="nor while developing"),
        pytest.param(500, False, None, id="no more than there can be"),
    ],
)
def test_a_server_that_starts_says_so(
    connections: int,
    debug: bool,
    level: int | None,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    monkeypatch.setattr(openfiles, "limit", lambda: 1024)
    caplog.set_level(logging.INFO)
    with override_settings(RATELIMIT_MAX_CONNECTIONS=connections, DEBUG=debug):
        openfiles.tell()
    assert [record.levelno for record in caplog.records] == ([] if level is None else [level])
