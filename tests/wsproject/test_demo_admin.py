"""The command that creates the demo admin: once, and its password is told once."""

from __future__ import annotations

from io import StringIO

import pytest
from django.contrib.auth import authenticate
from django.core.management import call_command

from wsproject.management.commands.demo_admin import PASSWORD_VARIABLE

pytestmark = pytest.mark.django_db


@pytest.fixture(autouse=True)
def no_password_in_the_environment(monkeypatch):
    monkeypatch.delenv(PASSWORD_VARIABLE, raising=False)


def demo_admin() -> str:
    output = StringIO()
    call_command("demo_admin", stdout=output)
    return output.getvalue()


def test_random_password_is_printed_once_and_opens_the_admin(client):
    (line,) = demo_admin().splitlines()
    password = line.partition("password ")[2].split()[0]
    assert len(password) >= 16
    user = authenticate(username="admin", password=password)
    assert user is not None
    assert user.is_superuser
    assert password not in demo_admin()
    assert authenticate(username="admin", password=password) == user


def test_password_from_the_environment_is_taken_and_not_printed(monkeypatch):
    monkeypatch.setenv(PASSWORD_VARIABLE, "from-outside")
    assert "from-outside" not in demo_admin()
    assert authenticate(username="admin", password="from-outside")


def test_password_of_an_existing_admin_changes_only_to_one_from_the_environment(monkeypatch):
    monkeypatch.setenv(PASSWORD_VARIABLE, "first")
    demo_admin()
    monkeypatch.delenv(PASSWORD_VARIABLE)
    demo_admin()
    assert authenticate(username="admin", password="first")
    monkeypatch.setenv(PASSWORD_VARIABLE, "second")
    assert "second" not in demo_admin()
    assert authenticate(username="admin", password="second")


def test_same_password_keeps_the_admin_signed_in(monkeypatch, client):
    """A new hash, even of the same password, would end every session."""
    monkeypatch.setenv(PASSWORD_VARIABLE, "same")
    demo_admin()
    assert client.login(username="admin", password="same")
    demo_admin()
    assert client.get("/admin/").status_code == 200


def test_empty_variable_is_no_password(monkeypatch):
    monkeypatch.setenv(PASSWORD_VARIABLE, "")
    password = demo_admin().partition("password ")[2].split()[0]
    demo_admin()
    assert authenticate(username="admin", password=password)
