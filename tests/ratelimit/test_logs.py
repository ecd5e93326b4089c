"""Structured log lines through Django's own logging."""

from __future__ import annotations

import io
import json
import logging

import pytest
import structlog

from ratelimit import logs
from ratelimit.logs import LogGate, get_logger, log_limited
from wsproject import settings as project


@pytest.fixture
def name(request):
    """A logger name of this test's own, put back as it was."""
    yield request.node.name
    logger = logging.getLogger(request.node.name)
    logger.handlers.clear()
    logger.propagate = True


def written(name: str, formatter: logging.Formatter) -> io.StringIO:
    """Send what the logger says through ``formatter`` into the text returned."""
    stream = io.StringIO()
    handler = logging.StreamHandler(stream)
    handler.setFormatter(formatter)
    logger = logging.getLogger(name)
    logger.addHandler(handler)
    logger.setLevel(logging.INFO)
    logger.propagate = False
    return stream


def test_a_plain_formatter_shows_the_event(name):
    stream = written(name, logging.Formatter("%(levelname)s %(message)s"))
    get_logger(name).info("connection refused", reason="banned")
    assert stream.getvalue() == "INFO connection refused\n"


def test_the_project_s_formatter_shows_every_key(name):
    formatter = structlog.stdlib.ProcessorFormatter(
        foreign_pre_chain=project._SHARED_PROCESSORS,
        processors=[
            structlog.stdlib.ProcessorFormatter.remove_processors_meta,
            structlog.processors.JSONRenderer(),
        ],
    )
    stream = written(name, formatter)
    get_logger(name).warning("connection refused", reason="banned", suppressed=3)
    line = json.loads(stream.getvalue())
    assert (line["event"], line["reason"], line["suppressed"]) == ("connection refused", "banned", 3)
    assert (line["level"], line["logger"]) == ("warning", name)


def test_values_bound_to_the_context_are_shown(name, caplog):
    with structlog.contextvars.bound_contextvars(correlation="c1"):
        get_logger(name).warning("hello")
    assert caplog.records[0].correlation == "c1"


def test_keys_that_a_log_record_has_itself_are_renamed(name, caplog):
    """logging raises for them, and a log line must not."""
    get_logger(name).warning("hello", name="node-1", module="m", message="text", args=(1,))
    (record,) = caplog.records
    assert (record.name, record.name_, record.module_, record.message_, record.args_) == (
        name,
        "node-1",
        "m",
        "text",
        (1,),
    )


def test_an_exception_is_shown_when_asked_for(name):
    stream = written(name, logging.Formatter("%(message)s"))
    try:
        raise KeyError("lost")
    except KeyError:
        get_logger(name).exception("failed")
    assert "KeyError: 'lost'" in stream.getvalue()


def test_what_the_level_leaves_out_is_not_put_together(name):
    class Costly:
        def __repr__(self):
            pytest.fail("put together")

    written(name, logging.Formatter("%(message)s"))
    get_logger(name).debug("hello", value=Costly())


def test_values_can_be_bound(name, caplog):
    get_logger(name).bind(node="n1").warning("hello")
    assert caplog.records[0].node == "n1"


def test_structlog_s_own_configuration_is_left_alone(name):
    before, configured = structlog.get_config()["processors"], structlog.is_configured()
    get_logger(name).info("hello")
    assert structlog.get_config()["processors"] is before
    assert structlog.is_configured() is configured


class TestLogGate:
    def test_one_line_per_key_and_interval(self):
        gate = LogGate(interval=10.0)
        assert gate.admit("a", 0.0) == 0
        assert gate.admit("a", 9.9) is None
        assert gate.admit("b", 9.9) == 0

    def test_the_next_line_tells_how_many_were_held_back(self):
        gate = LogGate(interval=10.0)
        for moment in (0.0, 1.0, 2.0, 3.0):
            gate.admit("a", moment)
        assert gate.admit("a", 10.0) == 3
        assert gate.admit("a", 20.0) == 0

    def test_memory_is_bounded(self):
        gate = LogGate(max_keys=10)
        for number in range(1000):
            gate.admit(number, float(number) / 1000)
        assert len(gate._opened) == 10
        assert gate.admit(999, 1.0) is None, "the newest keys are kept"


def test_limiting_one_address_over_and_over_is_one_line(caplog, monkeypatch):
    caplog.set_level(logging.INFO, "ratelimit")
    now = 0.0
    monkeypatch.setattr(logs.time, "monotonic", lambda: now)
    for _ in range(1000):
        log_limited("connection refused", reason="address_rate", address="192.0.2.1")
    log_limited("connection refused", reason="address_rate", address="192.0.2.2")
    log_limited("connection refused", reason="banned", address="192.0.2.1")
    assert [(record.address, record.reason, record.suppressed) for record in caplog.records] == [
        ("192.0.2.1", "address_rate", 0),
        ("192.0.2.2", "address_rate", 0),
        ("192.0.2.1", "banned", 0),
    ]
    now = 10.0
    log_limited("connection refused", reason="address_rate", address="192.0.2.1")
    assert caplog.records[-1].suppressed == 999


def test_a_line_whose_level_is_off_is_not_even_put_together(name, monkeypatch):
    stream = written(name, logging.Formatter("%(message)s"))
    put_together = []
    info = structlog.stdlib.BoundLogger.info

    def counting(*arguments, **values):
        put_together.append(values)
        return info(*arguments, **values)

    monkeypatch.setattr(structlog.stdlib.BoundLogger, "info", counting)
    logging.getLogger(name).setLevel(logging.WARNING)
    get_logger(name).info("socket opened", client=1)
    assert (stream.getvalue(), put_together) == ("", [])
    logging.getLogger(name).setLevel(logging.INFO)
    get_logger(name).info("socket opened", client=2)
    assert (stream.getvalue(), put_together) == ("socket opened\n", [{"client": 2}])
