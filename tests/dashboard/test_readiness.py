"""A process is ready when it may be sent traffic."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
from django.db import OperationalError, connections
from django.db.migrations.recorder import MigrationRecorder

from dashboard import readiness
from realtime import nodes


@pytest.fixture(autouse=True)
def forgetful():
    readiness.forget()
    yield
    readiness.forget()


@pytest.mark.django_db
def test_migrated_process_is_ready():
    assert list(readiness.reasons()) == []


@pytest.mark.django_db
def test_draining_process_is_not(monkeypatch):
    monkeypatch.setattr(
        nodes, "live", lambda: [SimpleNamespace(draining=False), SimpleNamespace(draining=True)]
    )
    assert list(readiness.reasons()) == ["draining"]


@pytest.mark.django_db
def test_missing_migration_is_a_reason_until_it_is_applied():
    recorder = MigrationRecorder(connections["default"])
    recorder.record_unapplied("dashboard", "0002_override")
    assert list(readiness.reasons()) == ["migrations are missing: run manage.py migrate"]
    recorder.record_applied("dashboard", "0002_override")
    assert list(readiness.reasons()) == []


@pytest.mark.django_db
def test_migrations_are_read_from_disk_once(monkeypatch):
    assert readiness.is_migrated()
    monkeypatch.setattr(readiness, "MigrationExecutor", None)
    assert readiness.is_migrated()


def test_database_that_does_not_answer_is_a_reason_without_details(monkeypatch):
    class Broken:
        def cursor(self):
            raise OperationalError("could not connect to postgres://secret@db")

    monkeypatch.setattr(readiness, "connections", {"default": Broken()})
    assert list(readiness.reasons()) == ["the database cannot be reached"]
