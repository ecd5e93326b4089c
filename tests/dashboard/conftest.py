"""What the tests of the dashboard share: operators who may do this or that, and clients to look at."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from django.contrib.auth.models import Permission, User
from django.test import Client

from ratelimit import counters
from ratelimit.counters import Counters
from realtime import nodes
from realtime.registry import ConnectionInfo

from .rows import info


@pytest.fixture
def operator(db: None) -> Callable[..., Client]:
    """Return a function that signs in a staff user who has just the named permissions."""

    def signed_in(*permissions: str, is_staff: bool = True, is_superuser: bool = False) -> Client:
        user = User.objects.create_user("ops", password="pw", is_staff=is_staff, is_superuser=is_superuser)
        for permission in permissions:
            app, codename = permission.split(".")
            user.user_permissions.add(Permission.objects.get(content_type__app_label=app, codename=codename))
        client = Client()
        client.force_login(user)
        return client

    return signed_in


@pytest.fixture
def admin(operator: Callable[..., Client]) -> Client:
    """A browser of an operator who may do everything."""
    return operator(is_superuser=True)


class Clients:
    """The open connections that the process seems to have."""

    def __init__(self) -> None:
        self.infos: list[ConnectionInfo] = []
        self.asked = 0
        """How often they were read."""

    def add(self, **known: Any) -> ConnectionInfo:
        made = info(**known)
        self.infos.append(made)
        return made

    def read(self, limit: int | None = None) -> list[ConnectionInfo]:
        self.asked += 1
        return self.infos[:limit]


@pytest.fixture
def clients(monkeypatch: pytest.MonkeyPatch) -> Clients:
    """Put made-up connections where the real ones are read."""
    made = Clients()
    monkeypatch.setattr(nodes, "connection_infos", made.read)
    return made


@pytest.fixture
def limits(monkeypatch: pytest.MonkeyPatch) -> Counters:
    """Counters of the rate limit that start at zero and are this test's own."""
    fresh = Counters()
    monkeypatch.setattr(counters, "process", fresh)
    return fresh
