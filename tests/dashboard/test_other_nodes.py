"""What one node shows of the others: their clients, their numbers, and why it knows nothing of them."""

from __future__ import annotations

import asyncio
import dataclasses
import itertools
import time
from collections.abc import Callable
from typing import Any

import msgspec
import pytest
from django.contrib.admin.models import LogEntry
from django.test import Client

from dashboard import clientadmin
from realtime import cluster, nodes
from realtime import outside as outside_module
from realtime.courier import PROCESS
from realtime.registrar import entry_of
from realtime.registry import ConnectionInfo
from realtime.state import RedisState

from .rows import info, snapshot

pytestmark = pytest.mark.redis

PAGE = "/admin/dashboard/client/"
_prefixes = (f"other-nodes-{number}" for number in itertools.count())


@pytest.fixture
def redis(redis_server, settings, monkeypatch):
    """A state that this process shares with others, and a line to it of this test's own."""
    settings.REALTIME_STATE_URL = redis_server.url
    settings.REALTIME_STATE_PREFIX = next(_prefixes)
    settings.REALTIME_REGISTRY_SYNC_INTERVAL = 0.05
    monkeypatch.setattr(outside_module, "_outside", None)
    yield redis_server
    if outside_module._outside is not None:
        outside_module._outside.close()


@pytest.fixture
def write(redis, settings) -> Callable[..., None]:
    """Return a function that writes a node of another process down, as that does itself."""

    def write(
        name: str, *infos: ConnectionInfo, lease: float = 60, row: bytes | None = None, **known: Any
    ) -> None:
        described = row or entry_of(snapshot(name=name, connections=len(infos), **known))
        # Another process is called otherwise.
        described = described.replace(PROCESS.encode(), name.encode())

        async def do() -> None:
            state = RedisState(redis.url, prefix=settings.REALTIME_STATE_PREFIX)
            await state.renew_node(name, described, lease)
            await state.write_registry(name, {one.id: msgspec.json.encode(one) for one in infos})
            await state.aclose()

        asyncio.run(do())
        time.sleep(0.06)

    return write


def test_clients_of_all_nodes_are_one_list_the_newest_first(write, clients):
    """C7, X7."""
    now = time.time()
    own = clients.add(id="own", opened_at=now - 20)
    newer, older = (
        info(id="newer", node="web-2", opened_at=now - 10),
        info(id="older", node="web-3", opened_at=now - 30),
    )
    write("web-2", newer)
    write("web-3", older)
    assert cluster.connection_infos() == [newer, own, older]
    assert cluster.connection_infos(limit=2) == [newer, own]
    assert [cluster.is_elsewhere(one.id) for one in (newer, own, older)] == [True, False, True]


def test_a_node_that_died_is_not_listed(write, clients):
    """X3"""
    write("web-2", info(id="other"), lease=0.3)
    assert [one.id for one in cluster.connection_infos()] == ["other"]
    time.sleep(0.35)
    assert cluster.connection_infos() == []
    assert cluster.snapshots()[1:] == []


def test_the_loops_of_one_process_are_one(write):
    row = entry_of(snapshot(name="web-2", connections=2)).replace(PROCESS.encode(), b"one process")
    write("web-2.1", row=row)
    write("web-2.2", row=row)
    (other,) = cluster.other_nodes().snapshots
    assert (other.connections, other.totals.messages_in, other.pid) == (4, 26, 1)
    assert other.totals.slow_consumers == {"disconnect": 40}


def test_this_process_is_not_one_of_the_others(write, clients, monkeypatch):
    """What it has written of itself is older than what it knows."""
    monkeypatch.setattr(cluster, "PROCESS", "web-2")
    write("web-2", info(id="own"))
    assert (cluster.connection_infos(), cluster.other_nodes().snapshots) == ([], [])


def test_what_another_version_has_written_is_left_out(write, redis, settings):
    write("web-2", info(id="good"))
    write("web-3", row=b'{"process":"other","snapshot":{"name":"web-3"}}')
    assert [one.name for one in cluster.other_nodes().snapshots] == ["web-2"]
    assert [one.id for one in cluster.others().connections] == ["good"]


def test_nothing_is_asked_where_nothing_is_shared(monkeypatch):
    monkeypatch.setattr(cluster, "outside", lambda: pytest.fail("asked"))
    assert cluster.others() is cluster.other_nodes() is cluster.NOBODY


def test_what_was_read_is_shown_for_as_long_as_others_take_to_write(write, settings):
    settings.REALTIME_REGISTRY_SYNC_INTERVAL = 60
    write("web-2", info(id="one"))
    assert [one.id for one in cluster.others().connections] == ["one"]
    write("web-2", info(id="two"))
    assert [one.id for one in cluster.others().connections] == ["one"]


def test_the_page_lists_counts_and_filters_the_clients_of_all_nodes(write, clients, admin, monkeypatch):
    monkeypatch.setattr(nodes, "snapshot", lambda: snapshot(connections=1, named=0, rooms=1))
    clients.add(id="own")
    write("web-2", info(id="other", node="web-2", user_id="7", user="ann", rooms=("a", "b")))
    page = admin.get(PAGE).content.decode()
    assert 'data-row="own"' in page
    assert 'data-row="other"' in page
    assert "<dt>Open</dt><dd>2</dd>" in page
    assert '<dd class="ops-part">web-2 1</dd>' in page
    assert "<dt>Named</dt><dd>1</dd>" in page
    assert "<dt>Rooms</dt><dd>3</dd>" in page
    page = admin.get(PAGE, {"on_node": "web-2"}).content.decode()
    assert 'data-row="own"' not in page
    assert 'data-row="other"' in page
    assert admin.get(f"{PAGE}other/change/").status_code == 200


def test_a_client_of_another_node_is_disconnected_there_and_that_is_written_down(
    write, clients, admin, monkeypatch
):
    asked: list[str] = []
    disconnect = clientadmin.disconnect_client_sync
    monkeypatch.setattr(
        clientadmin, "disconnect_client_sync", lambda id, reason: asked.append(id) or disconnect(id, reason)
    )
    clients.add(id="own")
    write("web-2", info(id="other", node="web-2"))
    answer = admin.post(PAGE, {"action": "disconnect", "_selected_action": ["other"]}, follow=True)
    assert asked == ["other"]
    assert "Disconnected 1 client." in answer.content.decode()
    assert [entry.object_id for entry in LogEntry.objects.all()] == ["other"]


def test_programs_are_told_of_all_nodes(write, clients, admin, monkeypatch):
    own = snapshot(connections=1, named=0)
    monkeypatch.setattr(nodes, "snapshot", lambda: own)
    clients.add(id="own")
    write(
        "web-2", info(id="other", node="web-2", user_id="7"), draining=True, state_problem="since then: away"
    )
    page = admin.get("/info/clients").json()
    assert page["summary"] == {"open": 2, "named": 1, "anonymous": 1, "limited": 0, "problem": ""}
    assert {row["id"]: row["node"] for row in page["clients"]} == {"own": "web-1", "other": "web-2"}
    page = admin.get("/info/clients", {"node": "web-2"}).json()
    assert ([row["id"] for row in page["clients"]], page["total"]) == (["other"], 1)
    stats = admin.get("/info/stats").json()
    assert stats["cluster"]["connections"] == {"open": 2, "named": 1, "anonymous": 1}
    assert stats["cluster"]["problem"] == ""
    first, other = stats["cluster"]["nodes"]
    assert (first["name"], other["name"]) == ("web-1", "web-2")
    assert (other["draining"], other["state_problem"]) == (True, "since then: away")
    assert other["rates"] == dataclasses.asdict(own.rates)
    assert stats["connections"]["open"] == 1


def test_a_state_that_is_away_leaves_this_process_and_says_why(redis, clients, admin: Client, settings):
    settings.REALTIME_STATE_URL = "redis://127.0.0.1:1/0"
    clients.add(id="own")
    page = admin.get("/info/clients").json()
    assert [row["id"] for row in page["clients"]] == ["own"]
    assert "127.0.0.1:1" in page["summary"]["problem"]
    assert "What the other nodes do is not known: Redis at" in admin.get(PAGE).content.decode()
    assert admin.get("/health/ready").status_code == 200
