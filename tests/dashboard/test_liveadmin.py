"""Lists of live rows: read-only, permitted, refreshed."""

from __future__ import annotations

import pytest
from django.contrib.admin.models import LogEntry
from django.test import Client as Browser
from django.test import override_settings
from django.urls import reverse

from dashboard.liveadmin import REFRESH_HEADER

PAGES = ["client", "ratelimitentry", "setting"]

pytestmark = pytest.mark.django_db


def address(page, action="changelist", *args):
    return reverse(f"admin:dashboard_{page}_{action}", args=args)


@pytest.mark.parametrize("page", PAGES)
def test_page_needs_its_view_permission(page, operator, clients):
    assert Browser().get(address(page)).status_code == 302
    browser = operator()
    assert browser.get(address(page)).status_code == 403


@pytest.mark.parametrize("page", PAGES)
def test_view_permission_is_enough(page, operator, clients):
    assert operator(f"dashboard.view_{page}").get(address(page)).status_code == 200


@pytest.mark.parametrize("page", PAGES)
def test_nothing_can_be_added_changed_or_deleted(page, admin, clients):
    clients.add(id="a")
    assert admin.get(address(page, "add")).status_code == 403
    assert admin.post(address(page, "delete", "a")).status_code in (403, 404)
    assert b"delete_selected" not in admin.get(address(page)).content
    assert b'name="_save"' not in admin.get(address("client", "change", "a")).content
    assert admin.post(address("client", "change", "a"), {"user": "eve"}).status_code == 403


@pytest.mark.setting("DASHBOARD_REFRESH_INTERVAL")
@pytest.mark.parametrize("seconds", [0.0, 7.5])
def test_page_tells_its_script_how_often_to_refresh(seconds, admin, clients):
    with override_settings(DASHBOARD_REFRESH_INTERVAL=seconds):
        content = admin.get(address("client")).content.decode()
    assert f'data-interval="{seconds}"' in content
    assert "dashboard/live.js" in content


def test_refreshing_leaves_the_messages_of_an_action_for_the_page_itself(admin, clients):
    clients.add(id="a")
    admin.post(address("client"), {"action": "disconnect", "_selected_action": ["x"], "index": "0"})
    refreshed = admin.get(address("client"), headers={REFRESH_HEADER: "1"})
    assert b"already gone" not in refreshed.content
    assert b"already gone" in admin.get(address("client")).content


def test_looking_changes_nothing(admin, clients):
    clients.add(id="a")
    for page in PAGES:
        admin.get(address(page))
    admin.get(address("client", "change", "a"))
    assert not LogEntry.objects.exists()
    assert [info.id for info in clients.infos] == ["a"]


@pytest.mark.parametrize("action", ["change", "history"])
def test_row_that_has_gone_is_said_to_be_gone(action, admin, clients):
    answer = admin.get(address("client", action, "a"), follow=True)
    assert answer.redirect_chain == [(address("client"), 302)]
    assert "That client is not here any more." in answer.content.decode()


def test_page_that_has_gone_shows_the_last_one(admin, clients):
    for number in range(60):
        clients.add(id=f"c{number:02}", opened_at=number)
    content = admin.get(address("client"), {"p": "7"}).content.decode()
    assert "c09" in content
    assert "c10" not in content


def test_wrong_lookup_goes_back_to_the_whole_list(admin, clients):
    answer = admin.get(address("client"), {"messages_in__gt": "many"})
    assert (answer.status_code, answer["Location"]) == (302, f"{address('client')}?e=1")
