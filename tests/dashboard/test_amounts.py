"""Numbers are written as people read them."""

from __future__ import annotations

import pytest

from dashboard.amounts import (
    bytes_text,
    counted,
    duration_text,
    milliseconds_text,
    percent_text,
    setting_text,
)


@pytest.mark.parametrize(
    ("count", "text"),
    [
        (0, "0 B"),
        (1023, "1,023 B"),
        (1024, "1 KiB"),
        (1536, "1.5 KiB"),
        (200 * 1024 + 700, "201 KiB"),
        (5 * 1024**3, "5 GiB"),
        (3 * 1024**5, "3,072 TiB"),
    ],
)
def test_bytes(count, text):
    assert bytes_text(count) == text


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        pytest.param(-3, "0 s", id="a clock that went back"),
        pytest.param(0.9, "0 s", id="less than a second"),
        pytest.param(59, "59 s", id="seconds"),
        pytest.param(185, "3 min 5 s", id="two units"),
        pytest.param(3600, "1 h", id="whole"),
        pytest.param(3605, "1 h", id="nothing in the next unit"),
        pytest.param(90061, "1 d 1 h", id="days"),
    ],
)
def test_duration(seconds, text):
    assert duration_text(seconds) == text


@pytest.mark.parametrize(
    ("seconds", "text"), [(None, "–"), (0.0004, "0.4 ms"), (0.087, "87 ms"), (2, "2,000 ms")]
)
def test_round_trip_time(seconds, text):
    assert milliseconds_text(seconds) == text


@pytest.mark.parametrize(("share", "text"), [(0, "0%"), (0.004, "<1%"), (0.25, "25%"), (1, "100%")])
def test_percent(share, text):
    assert percent_text(share) == text


def test_counted_noun_agrees_with_its_number():
    assert [counted(1, "client"), counted(1200, "client"), counted(2, "address", "addresses")] == [
        "1 client",
        "1,200 clients",
        "2 addresses",
    ]


@pytest.mark.parametrize(
    ("value", "unit", "text"),
    [
        ({"chat.*": 100}, "messages", '{"chat.*": 100}'),
        (True, "", "on"),
        (False, "", "off"),
        (1, "seconds", "1 second"),
        (1, "publishes", "1 publish"),
        (60.0, "seconds", "60 seconds"),
        (10000, "rows", "10,000 rows"),
        (1048576, "bytes", "1,048,576 bytes (1 MiB)"),
        ((), "networks", "none"),
        (("10.0.0.0/8", "::1"), "networks", "10.0.0.0/8, ::1"),
        ("", "", "empty"),
        ("auto", "", "auto"),
        (2.0, "", "2"),
    ],
)
def test_setting(value, unit, text):
    assert setting_text(value, unit) == text
