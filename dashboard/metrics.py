"""The Prometheus metrics: integers the other apps count anyway, read when somebody scrapes."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence

from prometheus_client.core import REGISTRY, CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from dashboard.moments import Moment
from dashboard.process import resident_bytes
from ratelimit.counters import RateLimitSnapshot
from realtime.nodes import NodeSnapshot

PREFIX = "channels_ops_"
RTT_QUANTILES = (0.5, 0.9, 0.99)


class OpsCollector(Collector):
    """
    Reads one moment of this process for each scrape; a message costs nothing here.

    Labels are bounded: close reasons, refusal reasons, budgets and policies are all small tables.

    """

    def describe(self) -> Iterable[Metric]:
        """Name nothing in advance: registering must not look at nodes that are not there yet."""
        return ()

    def collect(self) -> Iterator[Metric]:
        moment = Moment()
        yield from _node_counters(moment.node)
        yield from _limit_counters(moment.limits)
        yield from _node_gauges(moment.node)
        yield _round_trips([info.rtt for info in moment.own_connections if info.rtt is not None])
        resident = resident_bytes()
        if resident is not None:
            yield _gauge("memory_bytes", "Resident memory of the process.", resident)


_collector = OpsCollector()


def register() -> None:
    """Add the metrics to the default registry; it keeps one collector once, however often it is told."""
    REGISTRY.register(_collector)


def _node_counters(node: NodeSnapshot) -> Iterator[Metric]:
    totals = node.totals
    yield _counter("connections", "Sockets accepted.", totals.connections)
    yield _counters("disconnections", "Sockets ended, by reason.", "code", totals.disconnections_by_code)
    yield _counter("messages_received", "Messages from clients.", totals.messages_in)
    yield _counter("messages_sent", "Messages to clients.", totals.messages_out)
    yield _counter("messages_failed", "Messages a client did not get.", totals.messages_failed)
    yield _counter("bytes_received", "Bytes of messages from clients.", totals.bytes_in)
    yield _counter("bytes_sent", "Bytes of messages to clients.", totals.bytes_out)
    yield _counter("queue_overflows", "Publishes refused because too many waited.", totals.queue_overflows)
    yield _counter("heartbeat_timeouts", "Sockets closed for silence.", totals.heartbeat_timeouts)
    yield _counters("slow_consumer", "Times a slow reader met its policy.", "policy", totals.slow_consumers)
    yield _counter("handler_errors", "Handlers that raised or took too long.", totals.handler_errors)
    yield _counter("task_restarts", "Background tasks started again.", totals.task_restarts)
    yield _counter("evictions", "Sockets closed to save memory.", totals.evictions)


def _limit_counters(limits: RateLimitSnapshot) -> Iterator[Metric]:
    yield _counters("refused", "Connections refused before accept, by reason.", "reason", limits.refused)
    yield _counters("rate_limited", "Messages refused, by budget.", "scope", limits.limited_messages)
    yield _counter("rate_limited_connections", "Connections refused by a limit.", limits.limited_connections)
    yield _counter("rate_limit_disconnects", "Sockets closed by the rate limit.", limits.disconnects)
    yield _counter("oversized_messages", "Sockets closed for a message that was too big.", limits.oversized)


def _node_gauges(node: NodeSnapshot) -> Iterator[Metric]:
    yield _gauge("active_connections", "Open sockets.", node.connections)
    yield _gauge("active_named_connections", "Open sockets of authenticated users.", node.named)
    yield _gauge("active_anonymous_connections", "Open sockets of visitors.", node.anonymous)
    yield _gauge("rooms", "Rooms with a member in this process.", node.rooms)
    yield _gauge("queue_size", "Publishes that wait.", node.queue_size)
    yield _gauge("queue_utilization", "Publishes that wait, as a share of the limit.", utilization(node))
    yield _gauge("handlers_registered", "Message handlers registered.", node.handlers)
    yield _gauge(
        "received_per_sec", "Messages received per second, last minute.", node.rates.received_per_sec
    )
    yield _gauge("sent_per_sec", "Messages sent per second, last minute.", node.rates.sent_per_sec)
    yield _gauge("failed_per_sec", "Messages failed per second, last minute.", node.rates.failed_per_sec)
    yield _gauge("buffered_bytes", "Bytes that wait for slow readers.", node.buffered_bytes)
    yield _gauge("connection_memory_bytes", "What the open sockets take.", node.memory_bytes)
    yield _gauge("draining", "1 while the process sends its sockets away.", int(node.draining))


def utilization(node: NodeSnapshot) -> float:
    """Return how full the queue of publishes is, between 0 and 1."""
    return node.queue_size / node.queue_limit if node.queue_limit else 0.0


def quantile(ordered: Sequence[float], share: float) -> float:
    """Return the value below which ``share`` of the sorted values lie; 0 where there are none."""
    if not ordered:
        return 0.0
    return ordered[min(len(ordered) - 1, int(share * len(ordered)))]


def _round_trips(seconds: list[float]) -> Metric:
    family = GaugeMetricFamily(
        f"{PREFIX}ping_rtt_seconds", "Last round-trip times of the open sockets.", labels=["quantile"]
    )
    seconds.sort()
    for share in RTT_QUANTILES if seconds else ():
        family.add_metric([str(share)], quantile(seconds, share))
    return family


def _counter(name: str, doc: str, value: float) -> Metric:
    return CounterMetricFamily(f"{PREFIX}{name}", doc, value=value)


def _counters(name: str, doc: str, label: str, values: Mapping[str, int]) -> Metric:
    family = CounterMetricFamily(f"{PREFIX}{name}", doc, labels=[label])
    for key, value in values.items():
        family.add_metric([key], value)
    return family


def _gauge(name: str, doc: str, value: float) -> Metric:
    return GaugeMetricFamily(f"{PREFIX}{name}", doc, value=value)
