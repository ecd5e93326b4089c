"""The Rate limits page (C8, F6): totals, the last hour, the most limited."""

from __future__ import annotations

import re
import time
from urllib.parse import quote_plus

import pytest
from django.urls import reverse

from dashboard.limitadmin import charts
from ratelimit.bans import BanTable, watch
from ratelimit.counters import Minute

LIST = "admin:dashboard_ratelimitentry_changelist"

pytestmark = pytest.mark.django_db


@pytest.fixture
def history(limits, clients, monkeypatch):
    now = time.time()
    for _ in range(1200):
        limits.count_message("messages", "192.0.2.1", "client-a", now)
    limits.count_message("bytes", "2001:db8::1", "client-b", now)
    limits.count_refusal("banned", "192.0.2.3", now, limited=False)
    limits.count_refusal("address_rate", "192.0.2.1", now, limited=True)
    limits.count_refusal("made_up", "192.0.2.1", now, limited=True)
    limits.count_disconnect(now)
    limits.count_oversized()
    monkeypatch.setattr(watch, "table", BanTable([(f"192.0.2.{number}", None, None) for number in range(4)]))
    return limits


def senders(answer):
    return re.findall(r'data-row="([^"]+)"', answer.content.decode())


def test_totals(admin, history):
    tiles = {label: (amount, parts) for label, amount, parts in admin.get(reverse(LIST)).context["tiles"]}
    assert tiles == {
        "Limited messages": ("1,201", ["Messages: 1,200", "Bytes: 1", "System messages: 0"]),
        "Limited connections": ("2", []),
        "Refused connections": ("3", ["Address connects too often: 1", "Banned: 1", "made up: 1"]),
        "Disconnects (4429)": ("1", []),
        "Too large (1009)": ("1", []),
        "Bans in force": ("4", []),
    }


def test_most_limited_come_first_and_can_be_searched_and_filtered(admin, history):
    assert senders(admin.get(reverse(LIST)))[:2] == ["address:192.0.2.1", "client:client-a"]
    assert senders(admin.get(reverse(LIST), {"of_kind": "client"})) == ["client:client-a", "client:client-b"]
    assert senders(admin.get(reverse(LIST), {"q": "2001"})) == ["address:2001:db8::1"]


def test_links_lead_to_the_clients_and_to_a_ban(admin, history):
    content = admin.get(reverse(LIST)).content.decode()
    assert f"{reverse('admin:dashboard_client_changelist')}?q=client-a" in content
    assert f"{reverse('admin:ratelimit_ban_add')}?network={quote_plus('2001:db8::1')}" in content
    assert f'href="{reverse("admin:ratelimit_ban_changelist")}?state=in_force"' in content
    assert "network=client-a" not in content
    form = admin.get(reverse("admin:ratelimit_ban_add"), {"network": "2001:db8::1"}).content.decode()
    assert 'value="2001:db8::1"' in form


def test_links_need_the_permission_for_what_they_lead_to(operator, history):
    content = operator("dashboard.view_ratelimitentry").get(reverse(LIST)).content.decode()
    assert reverse("admin:dashboard_client_changelist") not in content
    assert reverse("admin:ratelimit_ban_changelist") not in content


def test_each_chart_is_described_and_has_a_table_beside_it(admin, history):
    content = admin.get(reverse(LIST)).content.decode()
    assert content.count('role="img"') == 3
    for key in ("messages", "connections", "disconnects"):
        assert f'aria-labelledby="ops-{key}-title ops-{key}-desc"' in content
        assert f'<title id="ops-{key}-title">' in content
        assert f'<desc id="ops-{key}-desc">' in content
    table = re.search(r'<tbody id="ops-minutes" data-live>(.*?)</tbody>', content, re.DOTALL).group(1)
    assert table.count("<tr>") == 60
    assert "<td>1201</td><td>2</td><td>1</td>" in table


def test_page_of_a_process_that_limited_nothing(admin, limits, clients):
    answer = admin.get(reverse(LIST))
    assert answer.status_code == 200
    assert "None in the last 60 minutes." in answer.content.decode()


def test_detail_of_a_sender(admin, history):
    content = admin.get(
        reverse("admin:dashboard_ratelimitentry_change", args=["client_3Aclient-a"])
    ).content.decode()
    assert "client-a" in content
    assert "1200" in content


def test_charts_keep_the_series_apart():
    made = charts((Minute(0, 1, 2, 3), Minute(60, 4, 5, 6)))
    assert {chart.key: [bar.value for bar in chart.bars] for chart in made} == {
        "messages": [1, 4],
        "connections": [2, 5],
        "disconnects": [3, 6],
    }
    assert [bar.at.timestamp() for bar in made[0].bars] == [0, 60]
