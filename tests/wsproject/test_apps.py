"""The admin site under the project's name."""

from __future__ import annotations


def test_admin_pages_carry_the_project_name(client, db):
    page = client.get("/admin/login/").content.decode()
    assert page.count("Channels Ops") >= 2
    assert "Django administration" not in page
