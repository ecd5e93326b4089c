"""Staff and programs with the token read ``/info/*``; nobody else does (F8)."""

from __future__ import annotations

import pytest
from django.test import Client, override_settings

PAGES = ["/info/health", "/info/stats", "/info/clients", "/info/config"]
TOKEN = "a-long-enough-token"

pytestmark = pytest.mark.django_db


@pytest.mark.parametrize("page", PAGES)
def test_stranger_is_asked_who_they_are(page):
    answer = Client().get(page)
    assert answer.status_code == 401
    assert answer["WWW-Authenticate"] == 'Bearer realm="channels-ops"'
    assert answer.json()["error"] == "unauthenticated"
    assert "no-store" in answer["Cache-Control"]


@pytest.mark.parametrize("page", PAGES)
def test_user_who_is_not_staff_is_refused(page, operator):
    answer = operator(is_staff=False).get(page)
    assert answer.status_code == 403
    assert answer.json()["error"] == "forbidden"


@pytest.mark.parametrize("page", PAGES)
def test_staff_is_let_in_and_nothing_is_cached(page, operator):
    answer = operator().get(page)
    assert answer.status_code == 200
    assert "no-store" in answer["Cache-Control"]


@pytest.mark.setting("DASHBOARD_TOKEN")
@pytest.mark.parametrize(
    ("header", "status"),
    [
        pytest.param(f"Bearer {TOKEN}", 200, id="the token"),
        pytest.param(f"bearer {TOKEN}", 200, id="the scheme minds no case"),
        pytest.param(f"Bearer {TOKEN}x", 401, id="another token"),
        pytest.param("Bearer ", 401, id="no token"),
        pytest.param(f"Basic {TOKEN}", 401, id="another scheme"),
        pytest.param(TOKEN, 401, id="no scheme"),
        pytest.param("Bearer \u00fc", 401, id="not ASCII"),
    ],
)
@override_settings(DASHBOARD_TOKEN=TOKEN)
def test_token_opens_the_info_pages(header, status):
    assert Client(headers={"Authorization": header}).get("/info/config").status_code == status


@pytest.mark.parametrize("header", ["Bearer ", "Bearer", "Bearer not set"])
def test_without_a_token_in_the_settings_no_token_opens_anything(header):
    assert Client(headers={"Authorization": header}).get("/info/config").status_code == 401


@override_settings(DASHBOARD_TOKEN=TOKEN)
def test_token_is_compared_in_constant_time(monkeypatch):
    compared = []
    monkeypatch.setattr(
        "dashboard.access.constant_time_compare", lambda a, b: compared.append((a, b)) or True
    )
    assert Client(headers={"Authorization": "Bearer guess"}).get("/info/config").status_code == 200
    assert compared == [("guess", TOKEN)]
