"""The Clients page (C7): see, search, filter, disconnect, ban."""

from __future__ import annotations

import re
from dataclasses import replace

import pytest
from asgiref.sync import sync_to_async
from django.contrib.admin.models import LogEntry
from django.urls import reverse
from django.utils import timezone

from dashboard import clientadmin, filters
from dashboard.models import Client
from ratelimit.middleware import RateLimit
from ratelimit.models import Ban
from realtime import nodes
from realtime.consumers import RealtimeConsumer
from realtime.errors import PublishQueueFull
from realtime.hub import BroadcastResult
from realtime.testing import connect, stop_node

LIST = "admin:dashboard_client_changelist"


def listed(answer):
    """Return the ids in a list, in order."""
    return re.findall(r'data-row="([^"]+)"', answer.content.decode())


def chosen(*ids, action="disconnect", **more):
    return {"action": action, "_selected_action": ids, "select_across": "0", "index": "0", **more}


def said(answer):
    return [str(message) for message in answer.context["messages"]]


@pytest.fixture
def page(admin):
    return lambda **query: admin.get(reverse(LIST), query)


@pytest.fixture
def people(clients):
    clients.add(id="ada-1", user="ada", user_id="1", address="192.0.2.1", opened_at=30.0, rtt=0.3, limited=4)
    clients.add(
        id="bob-1", user="bob", user_id="2", address="192.0.2.2", opened_at=20.0, rtt=None, rooms=("staff",)
    )
    clients.add(
        id="anon-1",
        address="2001:db8::7",
        opened_at=10.0,
        rtt=0.1,
        route="/ws/echo/",
        path="/ws/echo/",
        consumer="echo",
        node="web-2",
        rooms=(),
    )
    return clients


@pytest.mark.django_db
class TestList:
    def test_newest_first(self, page, people):
        assert listed(page()) == ["ada-1", "bob-1", "anon-1"]

    @pytest.mark.parametrize(
        ("text", "found"),
        [
            ("bob-1", ["bob-1"]),
            ("ADA", ["ada-1"]),
            ("2001:db8", ["anon-1"]),
            ("/ws/echo", ["anon-1"]),
            ("staff", ["bob-1"]),
            ("ada lobby", ["ada-1"]),
            ("nobody", []),
        ],
        ids=["id", "user", "address", "path", "room", "all words", "nothing"],
    )
    def test_search(self, text, found, page, people):
        assert listed(page(q=text)) == found

    @pytest.mark.parametrize(
        ("query", "found"),
        [
            ({"identity": "named"}, ["ada-1", "bob-1"]),
            ({"identity": "anonymous"}, ["anon-1"]),
            ({"was_limited": "yes"}, ["ada-1"]),
            ({"was_limited": "no"}, ["bob-1", "anon-1"]),
            ({"on_route": "/ws/echo/"}, ["anon-1"]),
            ({"with_consumer": "ChatConsumer"}, ["ada-1", "bob-1"]),
            ({"on_node": "web-2"}, ["anon-1"]),
            ({"in_room": "staff"}, ["bob-1"]),
            ({"in_room": "empty"}, []),
            ({"identity": "named", "was_limited": "no"}, ["bob-1"]),
            ({"identity": "nonsense"}, ["ada-1", "bob-1", "anon-1"]),
        ],
        ids=str,
    )
    def test_filters(self, query, found, page, people):
        assert listed(page(**query)) == found

    def test_filter_by_room_offers_the_largest_and_the_chosen_one(self, page, clients, monkeypatch):
        monkeypatch.setattr(filters, "MOST_CHOICES", 2)
        for number, rooms in enumerate([("a", "b", "c"), ("a", "b"), ("a",)]):
            clients.add(id=str(number), rooms=rooms)
        content = page(in_room="c").content.decode()
        assert all(text in content for text in ("a (3)", "b (2)", "<strong>c (1)</strong>"))
        assert "c (1)" not in page().content.decode()

    @pytest.mark.parametrize("column", range(1, 13))
    def test_every_column_orders_both_ways(self, column, page, people):
        up, down = listed(page(o=str(column))), listed(page(o=f"-{column}"))
        assert sorted(up) == sorted(down) == ["ada-1", "anon-1", "bob-1"]
        assert page().context["cl"].get_ordering_field(page().context["cl"].list_display[column])

    def test_order_by_round_trip_time_puts_unknown_last(self, page, people):
        column = page().context["cl"].list_display.index("rtt_shown")
        assert listed(page(o=str(column))) == ["anon-1", "ada-1", "bob-1"]
        assert listed(page(o=f"-{column}")) == ["ada-1", "anon-1", "bob-1"]

    def test_says_when_not_all_are_listed(self, page, people, monkeypatch):
        real = nodes.snapshot()
        monkeypatch.setattr(nodes, "snapshot", lambda: replace(real, connections=5, draining=True))
        content = page().content.decode()
        assert "2 older connections are beyond DASHBOARD_MAX_ROWS" in content
        assert "Draining." in content

    def test_hostile_text_of_a_client_is_shown_as_text(self, page, admin, clients):
        evil = "<script>alert(1)</script>"
        clients.add(
            id="x", user=evil, user_agent=evil, path=evil, route=evil, rooms=(evil,), subprotocol=evil
        )
        for answer in (page(), admin.get(reverse("admin:dashboard_client_change", args=["x"]))):
            assert answer.status_code == 200
            assert evil not in answer.content.decode()

    def test_ten_thousand_clients_are_read_once_and_only_the_page_becomes_models(
        self, page, clients, monkeypatch
    ):
        for number in range(10_000):
            clients.add(id=f"c{number:05}", opened_at=float(number), user="u" if number % 2 else "")
        made = []
        real = Client.of.__func__
        monkeypatch.setattr(Client, "of", classmethod(lambda cls, row: made.append(row) or real(cls, row)))
        answer = page(q="u", o="3", in_room="lobby")
        assert answer.context["cl"].result_count == 5000
        assert clients.asked == 1
        assert len(made) == len(listed(answer)) == 50


@pytest.mark.django_db
class TestDetail:
    def test_shows_every_field(self, admin, clients):
        clients.add(
            id="a",
            user="ada",
            user_id="17",
            rooms=("lobby", "staff"),
            rtt=0.012,
            bytes_in=2048,
            outbound_bytes=4096,
            subprotocol="chat.v1",
            remaining=None,
            opened_at=0.0,
            limited=33,
        )
        content = admin.get(reverse("admin:dashboard_client_change", args=["a"])).content.decode()
        for text in (
            "ada",
            "17",
            "192.0.2.1",
            "/ws/chat/lobby/",
            "/ws/chat/&lt;room&gt;/",
            "ChatConsumer",
            "web-1",
            "lobby",
            "staff",
            "12 ms",
            "2 KiB",
            "4 KiB",
            "chat.v1",
            "unlimited",
            "1970-01-01 00:00:00 UTC",
            "33",
            "asgi",
        ):
            assert text in content, text

    @pytest.mark.parametrize(
        ("permission", "buttons"),
        [("dashboard.disconnect_client", ["disconnect"]), ("ratelimit.add_ban", ["ban_address"]), (None, [])],
    )
    def test_has_the_buttons_the_operator_may_use(self, permission, buttons, operator, clients):
        clients.add(id="a")
        browser = operator("dashboard.view_client", *([permission] if permission else []))
        content = browser.get(reverse("admin:dashboard_client_change", args=["a"])).content.decode()
        assert re.findall(r'name="action" value="(\w+)"', content) == buttons


@pytest.mark.django_db
class TestDisconnect:
    @pytest.fixture
    def closing(self, monkeypatch):
        """Stand in for the sockets: those named are there, the others have gone."""
        closed = []

        def close(client_id, reason):
            if client_id.startswith("full"):
                raise PublishQueueFull("too many publishes wait")
            here = not client_id.startswith("gone")
            closed.extend([(client_id, reason.code)] if here else [])
            return BroadcastResult(targets=int(here))

        monkeypatch.setattr(clientadmin, "disconnect_client_sync", close)
        return closed

    def test_permission_is_needed(self, operator, clients, closing):
        clients.add(id="a")
        browser = operator("dashboard.view_client")
        assert b'value="disconnect"' not in browser.get(reverse(LIST)).content
        browser.post(reverse(LIST), chosen("a"))
        assert closing == []
        assert not LogEntry.objects.exists()

    def test_permission_is_enough(self, operator, clients, closing):
        clients.add(id="a")
        browser = operator("dashboard.view_client", "dashboard.disconnect_client")
        assert b'value="disconnect"' in browser.get(reverse(LIST)).content
        browser.post(reverse(LIST), chosen("a"))
        assert closing == [("a", 4410)]

    def test_says_what_was_done_and_writes_down_who_did_it(self, admin, clients, closing):
        for name in ("a", "b", "gone-1"):
            clients.add(id=name)
        answer = admin.post(reverse(LIST), chosen("a", "b", "gone-1", "left-before"), follow=True)
        assert sorted(closing) == [("a", 4410), ("b", 4410)]
        assert said(answer) == ["Disconnected 2 clients.", "2 clients had already gone."]
        entries = LogEntry.objects.order_by("object_id")
        assert [(entry.object_id, entry.user.username) for entry in entries] == [("a", "ops"), ("b", "ops")]
        assert entries[0].change_message == "Disconnected with 4410."
        assert "anonymous at 192.0.2.1 (a)" in entries[0].object_repr

    def test_failure_is_told_and_does_not_keep_the_others(self, admin, clients, closing):
        for name in ("full-1", "a"):
            clients.add(id=name)
        answer = admin.post(reverse(LIST), chosen("full-1", "a"), follow=True)
        assert closing == [("a", 4410)]
        assert said(answer)[1] == "1 client could not be disconnected: too many publishes wait"

    def test_all_pages_can_be_selected_and_filters_hold(self, admin, clients, closing):
        for number in range(120):
            clients.add(id=f"c{number:03}", user="ada" if number < 70 else "bob")
        answer = admin.post(reverse(LIST) + "?q=ada", chosen("c000", select_across="1"), follow=True)
        assert len(closing) == 70
        assert said(answer) == ["Disconnected 70 clients."]


@pytest.mark.django_db
class TestBan:
    def confirmed(self, *networks, **more):
        form = {"confirmed": "1", "network": networks, "duration": "3600", "reason": "noise"}
        return chosen("-", action="ban_address", **{**form, **more})

    def test_permission_is_needed(self, operator, people):
        browser = operator("dashboard.view_client", "dashboard.disconnect_client")
        assert b'value="ban_address"' not in browser.get(reverse(LIST)).content
        browser.post(reverse(LIST), self.confirmed("192.0.2.1"))
        assert not Ban.objects.exists()

    def test_asks_first_with_the_addresses_and_how_many_sockets_they_have(self, admin, people):
        people.add(id="ada-2", address="192.0.2.1")
        answer = admin.post(reverse(LIST), chosen("ada-1", "anon-1", action="ban_address"))
        assert answer.context["networks"] == [("192.0.2.1", 2), ("2001:db8::/64", 1)]
        assert answer.context["connections"] == 3
        assert not Ban.objects.exists()

    def test_bans_each_address_once_when_confirmed(self, admin, people):
        answer = admin.post(
            reverse(LIST), self.confirmed("192.0.2.1", "192.0.2.1", "2001:db8::/64"), follow=True
        )
        assert said(answer) == ["Banned 2 addresses."]
        bans = Ban.objects.order_by("network")
        assert [ban.network for ban in bans] == ["192.0.2.1/32", "2001:db8::/64"]
        assert {(ban.reason, ban.by.username) for ban in bans} == {("noise", "ops")}
        assert 3590 < (bans[0].until - timezone.now()).total_seconds() <= 3600
        assert LogEntry.objects.count() == 2

    def test_ban_without_end(self, admin, people):
        admin.post(reverse(LIST), self.confirmed("192.0.2.1", duration=""))
        assert Ban.objects.get().until is None

    def test_wrong_duration_asks_again(self, admin, people):
        answer = admin.post(reverse(LIST), self.confirmed("192.0.2.1", duration="7"))
        assert "duration" in answer.context["form"].errors
        assert not Ban.objects.exists()

    def test_forged_network_is_refused(self, admin, people):
        answer = admin.post(reverse(LIST), self.confirmed("everybody"), follow=True)
        assert "everybody" in said(answer)[0]
        assert not Ban.objects.exists()

    def test_nothing_to_ban_is_said(self, admin, clients):
        clients.add(id="unix", address="unknown")
        answer = admin.post(reverse(LIST), chosen("unix", action="ban_address"), follow=True)
        assert said(answer) == ["No address to ban: the clients have gone, or came over a Unix socket."]

    def test_too_many_at_once_are_refused(self, admin, clients, monkeypatch):
        monkeypatch.setattr(clientadmin, "MOST_BANS_AT_ONCE", 2)
        for number in range(3):
            clients.add(id=str(number), address=f"192.0.2.{number}")
        answer = admin.post(reverse(LIST), chosen("0", "1", "2", action="ban_address"), follow=True)
        assert "3 addresses are more than the 2" in said(answer)[0]


class Chat(RealtimeConsumer):
    async def connected(self):
        await self.join("lobby")


@pytest.mark.django_db(transaction=True)
class TestRealSockets:
    """The same pages over connections that are really there."""

    @pytest.fixture(autouse=True)
    async def leave_nothing_running(self):
        yield
        await stop_node()

    async def test_client_is_listed_with_its_room_and_disconnected_with_4410(self, admin):
        async with connect(RateLimit(Chat.as_asgi()), address="203.0.113.9") as socket:
            await socket.expect("system.welcome")
            answer = await sync_to_async(admin.get)(reverse(LIST), {"q": "203.0.113.9"})
            assert listed(answer) == [socket.client_id]
            answer = await sync_to_async(admin.post)(reverse(LIST), chosen(socket.client_id), follow=True)
            assert "Disconnected 1 client." in answer.content.decode()
            assert await socket.expect_close() == 4410

    async def test_ban_closes_the_sockets_of_the_address_and_no_other(self, admin):
        application = RateLimit(Chat.as_asgi())
        async with connect(application, address="203.0.113.9") as banned, connect(application) as other:
            await banned.expect("system.joined")
            await other.expect("system.joined")
            form = TestBan().confirmed("203.0.113.9")
            await sync_to_async(admin.post)(reverse(LIST), form)
            assert await banned.expect_close() in (1008, 4403)
            await other.expect_nothing()
