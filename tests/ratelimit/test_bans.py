"""Bans in memory."""

from __future__ import annotations

import asyncio
import ipaddress
import logging
import threading
import time
from datetime import UTC, datetime, timedelta

import pytest
from channels.db import database_sync_to_async
from django.contrib.auth.models import User as DjangoUser
from django.db import DatabaseError, connection, transaction
from django.utils import timezone

from ratelimit import bans, watches
from ratelimit.bans import BanTable, BanWatch
from ratelimit.middleware import RateLimit
from ratelimit.models import Ban
from tests.ratelimit.visitors import Echo, Visitor, gone

NOW = 1_900_000_000.0
create = database_sync_to_async(Ban.objects.create)


def at(moment: float) -> datetime:
    return datetime.fromtimestamp(moment, UTC)


class TestTable:
    TABLE = BanTable(
        [
            ("192.0.2.0/24", None, None),
            ("198.51.100.7", None, None),
            ("2001:db8::/48", None, None),
            ("::ffff:203.0.113.9/128", None, None),
            ("", 7, None),
        ]
    )

    @pytest.mark.parametrize(
        ("address", "banned"),
        [
            pytest.param("192.0.2.0", True, id="first of a network"),
            pytest.param("192.0.2.255", True, id="last of a network"),
            pytest.param("192.0.3.0", False, id="just behind it"),
            pytest.param("192.0.1.255", False, id="just before it"),
            pytest.param("198.51.100.7", True, id="single address"),
            pytest.param("198.51.100.8", False, id="its neighbour"),
            pytest.param("2001:db8:0:ffff::1", True, id="IPv6 network"),
            pytest.param("2001:db9::1", False, id="IPv6 outside"),
            pytest.param("::ffff:192.0.2.1", True, id="IPv4 written as IPv6"),
            pytest.param("203.0.113.9", True, id="banned as IPv6"),
            pytest.param("::c000:201", False, id="an IPv6 address with the digits of a banned IPv4 one"),
            pytest.param("unknown", False, id="no address"),
            pytest.param("", False, id="empty"),
        ],
    )
    def test_addresses(self, address, banned):
        assert self.TABLE.bans_address(address, NOW) == banned

    def test_users(self):
        assert self.TABLE.bans_user("7", NOW)
        assert not self.TABLE.bans_user("8", NOW)

    def test_a_ban_ends_exactly_when_it_ends(self):
        table = BanTable([("192.0.2.1", 7, at(NOW))])
        for moment, banned in ((NOW - 0.000_001, True), (NOW, False)):
            assert table.bans_address("192.0.2.1", moment) == banned
            assert table.bans_user("7", moment) == banned
            assert table.count(moment) == banned

    @pytest.mark.parametrize("order", [1, -1])
    def test_of_two_bans_of_the_same_the_longer_counts(self, order):
        rows = [("192.0.2.1", 7, at(NOW)), ("192.0.2.1/32", 7, None)][::order]
        table = BanTable(rows)
        assert table.bans_address("192.0.2.1", NOW + 1)
        assert table.bans_user("7", NOW + 1)

    def test_a_ban_of_both_bans_each(self):
        table = BanTable([("192.0.2.1", 7, None)])
        assert table.bans_address("192.0.2.1", NOW)
        assert table.bans_user("7", NOW)

    def test_everybody_can_be_banned(self):
        table = BanTable([("0.0.0.0/0", None, None)])
        assert table.bans_address("198.51.100.1", NOW)
        assert not table.bans_address("2001:db8::1", NOW)

    def test_a_network_that_is_none_bans_nobody_and_spares_nobody_else(self):
        table = BanTable([("here", None, None), ("192.0.2.1", None, None)])
        assert table.unreadable == ["here"]
        assert table.bans_address("192.0.2.1", NOW)
        assert table.count(NOW) == 1

    def test_a_lookup_takes_as_long_in_a_large_table(self):
        """One look into a dict per distinct prefix length."""
        table = BanTable(
            (f"{ipaddress.IPv4Address(number << 8)}/{length}", None, None)
            for number in range(2000)
            for length in (24, 32)
        )
        assert len(table._networks) == 2
        assert table.bans_address("0.0.7.9", NOW)
        assert not table.bans_address("192.0.2.1", NOW)


@pytest.mark.django_db(transaction=True)
class TestWatch:
    async def test_bans_are_read_when_they_are_older_than_allowed(self):
        watch = BanWatch()
        assert not (await watch.current(3600)).bans_address("192.0.2.1", NOW)
        # Not through this process's signals: another process has added it.
        await database_sync_to_async(Ban.objects.bulk_create)([Ban(network="192.0.2.1")])
        assert not (await watch.current(3600)).bans_address("192.0.2.1", NOW)
        assert (await watch.current(0)).bans_address("192.0.2.1", NOW)

    async def test_refresh_reads_at_once(self):
        await database_sync_to_async(Ban.objects.bulk_create)([Ban(network="192.0.2.1")])
        await bans.watch.refresh()
        assert bans.watch.table.bans_address("192.0.2.1", NOW)

    async def test_bans_that_have_ended_are_not_kept(self):
        await create(network="192.0.2.1", until=timezone.now() - timedelta(seconds=1))
        await bans.watch.refresh()
        assert bans.watch.table.count(0.0) == 0

    async def test_many_who_ask_together_read_once(self):
        watch, reads = BanWatch(), []
        read = watch.read
        watch.read = lambda: (reads.append(1), read())
        await asyncio.gather(*(watch.current(0) for _ in range(50)))
        assert len(reads) == 1
        await watch.current(0)
        assert len(reads) == 2

    async def test_who_gives_up_does_not_stop_the_read_for_others(self):
        watch = BanWatch()
        await create(network="192.0.2.1")
        first = asyncio.ensure_future(watch.current(0))
        second = asyncio.ensure_future(watch.current(0))
        await asyncio.sleep(0)
        first.cancel()
        assert (await second).bans_address("192.0.2.1", NOW)

    async def test_a_slow_database_holds_nobody_up_for_ever(self, monkeypatch):
        watch, let_go = BanWatch(), threading.Event()
        watch.read = lambda: let_go.wait(10)
        monkeypatch.setattr(watches, "PATIENCE", 0.01)
        started = time.monotonic()
        await watch.current(0)
        assert time.monotonic() - started < 5
        let_go.set()
        await asyncio.gather(*watch._flights.values())

    async def test_each_change_is_told_once(self):
        watch, told = BanWatch(), []
        watch.on_change.append(told.append)
        await watch.refresh()
        assert told == [], "no bans, as before"
        await database_sync_to_async(Ban.objects.bulk_create)([Ban(network="192.0.2.1")])
        await watch.refresh()
        await watch.refresh()
        assert told == [watch.table]

    async def test_a_database_that_fails_keeps_the_bans_and_says_so_once(self, caplog, monkeypatch):
        caplog.set_level(logging.INFO, "ratelimit")
        watch = BanWatch()
        await create(network="192.0.2.1")
        await watch.refresh()
        with monkeypatch.context() as patch:
            patch.setattr(
                type(Ban.objects.all()), "in_force", lambda self: (_ for _ in ()).throw(DatabaseError("down"))
            )
            for _ in range(5):
                assert (await watch.current(0)).bans_address("192.0.2.1", NOW)
        assert [(record.levelname, record.msg, record.error) for record in caplog.records] == [
            ("WARNING", "bans not read", "DatabaseError: down")
        ]
        assert caplog.records[0].exc_info is None
        await watch.refresh()
        assert caplog.records[-1].msg == "bans read again"
        assert len(caplog.records) == 2

    async def test_without_a_table_people_are_let_in_and_one_line_says_so(self, caplog):
        """Migrations have not been run yet."""
        await database_sync_to_async(_rename_table)("ratelimit_ban", "away")
        try:
            for _ in range(3):
                visitor = Visitor(RateLimit(Echo.as_asgi()))
                assert await visitor.is_let_in()
                await gone(visitor)
                bans.watch.invalidate()
        finally:
            await database_sync_to_async(_rename_table)("away", "ratelimit_ban")
        assert [record.msg for record in caplog.records if record.name == "ratelimit"] == ["bans not read"]

    async def test_a_failing_database_is_not_asked_again_at_once(self, monkeypatch):
        watch, asked = BanWatch(), []
        monkeypatch.setattr(watch, "_rows", lambda: asked.append(1))
        for _ in range(5):
            await watch.current(3600)
        assert len(asked) == 1

    async def test_networks_that_are_none_are_named_once(self, caplog):
        await create(network="here")
        await bans.watch.refresh()
        await create(network="192.0.2.1")
        await bans.watch.refresh()
        named = [record.networks for record in caplog.records if record.msg == "bans of no network"]
        assert named == [["here"]]

    async def test_a_change_during_a_read_is_not_missed(self, monkeypatch):
        watch = BanWatch()
        rows = watch._rows

        def rows_and_then_a_change():
            found = rows()
            Ban.objects.bulk_create([Ban(network="192.0.2.1")])
            watch.invalidate()
            return found

        monkeypatch.setattr(watch, "_rows", rows_and_then_a_change)
        await watch.current(3600)
        monkeypatch.setattr(watch, "_rows", rows)
        assert (await watch.current(3600)).bans_address("192.0.2.1", NOW)


@pytest.mark.django_db(transaction=True)
class TestInThisProcess:
    """Saving or deleting a ban counts at once, however long RATELIMIT_BAN_REFRESH is."""

    @pytest.fixture(autouse=True)
    def rarely_refreshed(self, settings):
        settings.RATELIMIT_BAN_REFRESH = 3600

    async def test_a_saved_ban_keeps_people_out_and_a_deleted_one_lets_them_in(self):
        app = RateLimit(Echo.as_asgi())
        before = Visitor(app)
        assert await before.is_let_in()
        await gone(before)
        ban = await create(network="192.0.2.0/24")
        assert await Visitor(app).connect() == (False, 1008)
        await database_sync_to_async(ban.delete)()
        after = Visitor(app)
        assert await after.is_let_in()
        await gone(after)

    async def test_a_ban_closes_the_open_sockets_it_is_for(self):
        app = RateLimit(Echo.as_asgi())
        banned, other = Visitor(app), Visitor(app, "198.51.100.1")
        assert await banned.is_let_in()
        assert await other.is_let_in()
        await create(network="192.0.2.0/24")
        assert await banned.close_code() == 1008
        assert await other.echoed()
        await gone(banned, other)

    async def test_a_ban_of_a_user_closes_the_user_s_sockets(self):
        user = await database_sync_to_async(DjangoUser.objects.create)(username="ann")
        visitor = Visitor(RateLimit(Echo.as_asgi()), user=user)
        assert await visitor.is_let_in()
        await create(user=user)
        assert await visitor.close_code() == 1008
        assert not await Visitor(RateLimit(Echo.as_asgi()), "198.51.100.1", user=user).is_let_in()
        await gone(visitor)

    async def test_a_ban_counts_when_it_is_committed(self):
        app = RateLimit(Echo.as_asgi())
        visitor = Visitor(app)
        assert await visitor.is_let_in()

        def save_and_change_one_s_mind():
            with transaction.atomic():
                Ban.objects.create(network="192.0.2.0/24")
                transaction.set_rollback(True)

        await database_sync_to_async(save_and_change_one_s_mind)()
        assert await visitor.echoed()
        again = Visitor(app)
        assert await again.is_let_in()
        await gone(visitor, again)

    async def test_a_ban_that_ends_lets_people_in_without_being_read_again(self, monkeypatch):
        app = RateLimit(Echo.as_asgi())
        await create(network="192.0.2.0/24", until=timezone.now() + timedelta(minutes=5))
        assert not await Visitor(app).is_let_in()
        later = time.time() + 300
        monkeypatch.setattr("ratelimit.guards.time.time", lambda: later)
        monkeypatch.setattr(bans.watch, "_rows", lambda: pytest.fail("read again"))
        visitor = Visitor(app)
        assert await visitor.is_let_in()
        await gone(visitor)


def _rename_table(old: str, new: str) -> None:
    with connection.schema_editor() as editor:
        editor.alter_db_table(Ban, old, new)
