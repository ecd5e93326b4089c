"""What operators did can be read afterwards."""

from __future__ import annotations

import pytest
from django.contrib.admin.models import CHANGE, LogEntry
from django.contrib.auth.models import User
from django.test import RequestFactory

from dashboard.audit import record
from dashboard.models import Client

from .rows import info


@pytest.mark.django_db
def test_each_object_gets_a_line_with_operator_and_deed(django_assert_max_num_queries):
    request = RequestFactory().post("/")
    request.user = User.objects.create_user("ops")
    clients = [Client.of(info(id=str(number))) for number in range(30)]
    with django_assert_max_num_queries(4):
        record(request, clients, CHANGE, "Disconnected.")
    lines = LogEntry.objects.all()
    assert {(line.user.username, line.change_message, line.action_flag) for line in lines} == {
        ("ops", "Disconnected.", CHANGE)
    }
    assert {line.object_id for line in lines} == {client.pk for client in clients}


def test_nothing_done_writes_nothing():
    record(RequestFactory().post("/"), [], CHANGE, "x")
