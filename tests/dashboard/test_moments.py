"""One request sees one moment."""

from __future__ import annotations

import pytest
from django.test import RequestFactory, override_settings

from dashboard.moments import Moment, moment_of


def test_request_has_one_moment_and_another_request_another():
    first, second = RequestFactory().get("/"), RequestFactory().get("/")
    assert moment_of(first) is moment_of(first)
    assert moment_of(first) is not moment_of(second)


def test_connections_are_read_once_however_often_they_are_looked_at(clients):
    clients.add(id="a", rooms=("x", "y"), limited=1)
    clients.add(id="b", rooms=("x",), route="/other/", consumer="Echo", node="web-2")
    moment = Moment()
    assert moment.rooms == {"x": 2, "y": 1}
    assert moment.routes == {"/ws/chat/<room>/": 1, "/other/": 1}
    assert moment.consumers == {"ChatConsumer": 1, "Echo": 1}
    assert moment.nodes == {"web-1": 1, "web-2": 1}
    assert moment.limited == 1
    assert clients.asked == 1


@pytest.mark.setting("DASHBOARD_MAX_ROWS")
@override_settings(DASHBOARD_MAX_ROWS=2)
def test_no_more_rows_are_held_than_the_setting_allows(clients):
    for name in "abc":
        clients.add(id=name)
    assert [info.id for info in Moment().connections] == ["a", "b"]
