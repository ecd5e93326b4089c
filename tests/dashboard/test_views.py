"""The health and info pages say how the process is (F7, F8, W5)."""

from __future__ import annotations

import time
from types import SimpleNamespace

import pytest
from django.test import Client, override_settings

from dashboard import readiness
from realtime import nodes
from realtime.health import Health

from .rows import snapshot

pytestmark = pytest.mark.django_db


@pytest.fixture
def staff(operator):
    return operator()


def test_live_answers_anybody_and_needs_no_database(monkeypatch):
    monkeypatch.setattr(readiness, "connections", None)
    answer = Client().get("/health/live")
    assert (answer.status_code, answer.json()) == (200, {"status": "live"})
    assert "no-store" in answer["Cache-Control"]


def test_ready_answers_anybody():
    answer = Client().get("/health/ready")
    assert (answer.status_code, answer.json()) == (200, {"status": "ready", "reasons": []})


def test_ready_turns_503_while_draining(monkeypatch):
    monkeypatch.setattr(nodes, "live", lambda: [SimpleNamespace(draining=True)])
    answer = Client().get("/health/ready")
    assert (answer.status_code, answer.json()) == (503, {"status": "not ready", "reasons": ["draining"]})


@pytest.mark.parametrize("page", ["/health/live", "/health/ready", "/info/stats", "/info/config"])
def test_pages_only_read(page, staff):
    assert staff.post(page).status_code == 405
    assert staff.head(page).status_code == 200


@pytest.mark.parametrize(("status", "code"), [("healthy", 200), ("warning", 200), ("critical", 503)])
def test_health_has_the_status_code_of_its_status(status, code, staff, monkeypatch):
    monkeypatch.setattr("dashboard.views.health", lambda: Health(status, ("because",)))
    answer = staff.get("/info/health")
    assert (answer.status_code, answer.json()) == (code, {"status": status, "reasons": ["because"]})


def test_health_warns_while_limiting_is_critical_while_disconnecting_and_recovers(staff, limits, monkeypatch):
    monkeypatch.setattr(nodes, "snapshot", snapshot)
    now = time.time()
    assert staff.get("/info/health").json() == {"status": "healthy", "reasons": []}
    limits.count_message("messages", "192.0.2.1", "ada", now)
    assert staff.get("/info/health").json()["status"] == "warning"
    limits.count_disconnect(now)
    answer = staff.get("/info/health")
    assert (answer.status_code, answer.json()["status"]) == (503, "critical")
    assert answer.json()["reasons"]
    limits._limited_at = limits._disconnected_at = now - 3600
    assert staff.get("/info/health").json() == {"status": "healthy", "reasons": []}


def test_stats_have_everything_that_is_counted(staff, limits, clients, monkeypatch):
    monkeypatch.setattr(nodes, "snapshot", snapshot)
    limits.count_message("bytes", "192.0.2.1", "ada", time.time())
    stats = staff.get("/info/stats").json()
    assert stats["node"]["uptime"] == 60
    assert stats["connections"] == {"open": 7, "named": 3, "anonymous": 4}
    assert stats["queue"] == {"size": 25, "limit": 100, "utilization": 0.25}
    assert stats["totals"]["disconnections_by_code"] == {"done": 8, "disconnected": 4}
    assert stats["rates"] == {"received_per_sec": 1.5, "sent_per_sec": 2.5, "failed_per_sec": 0.5}
    assert stats["tasks"] == [{"name": "heartbeat", "alive": True, "restarts": 0, "last_error": ""}]
    assert stats["limits"]["limited_messages"] == {"messages": 0, "bytes": 1, "system": 0}
    assert stats["limits"]["top_clients"] == [{"name": "ada", "count": 1}]
    assert len(stats["limits"]["minutes"]) == 60
    assert stats["memory_bytes"] is None or stats["memory_bytes"] > 0
    assert (stats["rooms"], stats["handlers"], stats["buffered_bytes"]) == (2, 6, 99)
    assert stats["connection_memory_bytes"] == 98
    assert clients.asked == 0


def test_clients_are_paged(staff, clients):
    for name in "abcd":
        clients.add(id=name, limited=int(name == "a"))
    page = staff.get("/info/clients?limit=2&offset=1").json()
    assert [client["id"] for client in page["clients"]] == ["b", "c"]
    assert (page["total"], page["limit"], page["offset"]) == (4, 2, 1)
    assert page["summary"]["limited"] == 1
    assert page["clients"][0]["rooms"] == ["lobby"]
    assert staff.get("/info/clients?offset=9").json()["clients"] == []
    assert staff.get("/info/clients?limit=0").json()["clients"] == []


@override_settings(DASHBOARD_MAX_ROWS=3)
def test_clients_are_bounded(staff, clients):
    for name in "abcd":
        clients.add(id=name)
    page = staff.get("/info/clients").json()
    assert (len(page["clients"]), page["total"], page["limit"]) == (3, 3, 3)
    assert staff.get("/info/clients?limit=4").status_code == 400


@pytest.mark.parametrize(
    "query",
    [
        "limit=x",
        "limit=-1",
        "limit=1.5",
        "limit=",
        "limit=10001",
        "offset=-1",
        "offset=²",
        "offset=" + "9" * 99,
    ],
)
def test_wrong_page_is_a_400_that_says_what_is_right(query, staff, clients):
    answer = staff.get(f"/info/clients?{query}")
    assert answer.status_code == 400
    assert answer.json()["error"] == "bad_request"
    assert "whole number from 0" in answer.json()["message"]


@override_settings(DASHBOARD_TOKEN="a-token-nobody-may-see")
def test_config_shows_every_setting_and_no_secret(staff):
    answer = staff.get("/info/config")
    settings = {one["name"]: one for one in answer.json()["settings"]}
    assert settings["DASHBOARD_TOKEN"]["value"] == "set"
    assert "nobody-may-see" not in answer.content.decode()
    limit = settings["RATELIMIT_MESSAGES_PER_WINDOW"]
    assert limit == {
        "name": "RATELIMIT_MESSAGES_PER_WINDOW",
        "app": "ratelimit",
        "value": 60,
        "default": 60,
        "source": "default",
        "unit": "messages",
        "doc": limit["doc"],
        "live": True,
        "deployed": 60,
        "ignored": "",
    }
    assert "REALTIME_HEARTBEAT_INTERVAL" in settings
