"""A scrape shows what the process counted (F9, C12)."""

from __future__ import annotations

import time

import pytest
from prometheus_client import REGISTRY, CollectorRegistry
from prometheus_client.parser import text_string_to_metric_families

from dashboard import metrics
from realtime import nodes

from .rows import snapshot


@pytest.fixture
def scraped(monkeypatch, clients, limits):
    """Return a function that collects once: ``(name, label value) -> number``."""
    monkeypatch.setattr(nodes, "snapshot", snapshot)
    now = time.time()
    limits.count_message("bytes", "192.0.2.1", "ada", now)
    limits.count_refusal("banned", "192.0.2.1", now, limited=False)
    limits.count_refusal("address_rate", "192.0.2.1", now, limited=True)
    limits.count_disconnect(now)
    limits.count_oversized()

    def collect():
        registry = CollectorRegistry()
        registry.register(metrics.OpsCollector())
        return {
            (sample.name.removeprefix(metrics.PREFIX), *sample.labels.values()): sample.value
            for family in registry.collect()
            for sample in family.samples
        }

    return collect


@pytest.mark.parametrize(
    ("sample", "value"),
    [
        (("connections_total",), 11),
        (("disconnections_total", "done"), 8),
        (("disconnections_total", "disconnected"), 4),
        (("refused_total", "banned"), 1),
        (("messages_received_total",), 13),
        (("messages_sent_total",), 14),
        (("messages_failed_total",), 15),
        (("bytes_received_total",), 16),
        (("bytes_sent_total",), 17),
        (("rate_limited_total", "bytes"), 1),
        (("rate_limited_total", "messages"), 0),
        (("rate_limited_connections_total",), 1),
        (("rate_limit_disconnects_total",), 1),
        (("oversized_messages_total",), 1),
        (("queue_overflows_total",), 18),
        (("heartbeat_timeouts_total",), 19),
        (("slow_consumer_total", "disconnect"), 20),
        (("handler_errors_total",), 21),
        (("task_restarts_total",), 22),
        (("evictions_total",), 23),
        (("active_connections",), 7),
        (("active_named_connections",), 3),
        (("active_anonymous_connections",), 4),
        (("rooms",), 2),
        (("queue_size",), 25),
        (("queue_utilization",), 0.25),
        (("handlers_registered",), 6),
        (("received_per_sec",), 1.5),
        (("sent_per_sec",), 2.5),
        (("failed_per_sec",), 0.5),
        (("buffered_bytes",), 99),
        (("connection_memory_bytes",), 98),
        (("draining",), 0),
    ],
    ids=lambda sample: "-".join(sample) if isinstance(sample, tuple) else None,
)
def test_metric(scraped, sample, value):
    assert scraped()[sample] == value


def test_draining_is_one(scraped, monkeypatch):
    monkeypatch.setattr(nodes, "snapshot", lambda: snapshot(draining=True))
    assert scraped()[("draining",)] == 1


def test_memory_is_that_of_the_process(scraped, monkeypatch):
    monkeypatch.setattr(metrics, "resident_bytes", lambda: 123)
    assert scraped()[("memory_bytes",)] == 123
    monkeypatch.setattr(metrics, "resident_bytes", lambda: None)
    assert ("memory_bytes",) not in scraped()


def test_round_trip_times_are_quantiles_of_those_known(scraped, clients):
    """X12."""
    assert ("ping_rtt_seconds", "0.5") not in scraped()
    for number in reversed(range(100)):
        clients.add(id=str(number), rtt=(number + 1) / 1000)
    clients.add(id="new", rtt=None)
    found = scraped()
    assert found["ping_rtt_seconds", "0.5"] == 0.051
    assert found["ping_rtt_seconds", "0.99"] == 0.1


@pytest.mark.parametrize(("share", "value"), [(0.0, 1), (0.5, 2), (0.99, 3), (1.0, 3)])
def test_quantile(share, value):
    assert metrics.quantile([1, 2, 3], share) == value
    assert metrics.quantile([], share) == 0


def test_a_process_without_a_queue_limit_uses_none_of_it():
    assert metrics.utilization(snapshot(queue_limit=0)) == 0


def test_labels_name_no_client_address_user_or_room(scraped, clients):
    clients.add(id="secret-id", user="ada", address="192.0.2.77", rooms=("private-room",))
    for sample in scraped():
        assert not {"secret-id", "ada", "192.0.2.77", "192.0.2.1", "private-room"} & set(sample)


def test_registered_once_in_the_default_registry():
    before = list(REGISTRY._collector_to_names)
    metrics.register()
    assert list(REGISTRY._collector_to_names) == before
    assert sum(isinstance(one, metrics.OpsCollector) for one in before) == 1


@pytest.mark.django_db
def test_metrics_page_is_prometheus_text_with_help(client, scraped):
    page = client.get("/metrics")
    assert page.status_code == 200
    families = {family.name: family for family in text_string_to_metric_families(page.content.decode())}
    ours = [family for name, family in families.items() if name.startswith(metrics.PREFIX)]
    assert len(ours) >= 30
    assert all(family.documentation for family in ours)
