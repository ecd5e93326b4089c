"""Overridden settings: in the database, in memory, and in the sockets that are open."""

from __future__ import annotations

import asyncio
import dataclasses
import threading
import time
import uuid

import pytest
from channels.db import database_sync_to_async
from django.db import transaction

from ratelimit import appsettings, overrides, turns, watches
from ratelimit.appsettings import overridden
from ratelimit.conf import RateLimitSettings, get_settings
from ratelimit.limits import Limits
from ratelimit.middleware import MessageLimitMiddleware, RateLimit
from ratelimit.models import Override
from ratelimit.overrides import Superseded, put, remove
from ratelimit.routes import limited
from tests.ratelimit.visitors import Echo, Visitor, gone

LIMIT = "RATELIMIT_MESSAGES_PER_WINDOW"
BYTES = "RATELIMIT_BYTES_PER_WINDOW"
BURST = "RATELIMIT_BURST_MULTIPLIER"


class TestOverSettings:
    """What becomes of settings with stored values: pure."""

    DEPLOYED = RateLimitSettings()

    def over(self, **stored):
        settings, unusable = overridden(self.DEPLOYED, stored)
        return settings, {name: problem.id for name, problem in unusable.items()}

    def test_nothing_stored_is_what_is_deployed(self):
        assert self.over() == (self.DEPLOYED, {})

    def test_values_go_before_what_is_deployed(self):
        settings, unusable = self.over(**{LIMIT: 7, "RATELIMIT_TRUSTED_PROXIES": ["::1"]})
        expected = dataclasses.replace(self.DEPLOYED, messages_per_window=7, trusted_proxies=("::1",))
        assert (settings, unusable) == (expected, {})

    def test_values_of_other_apps_are_not_looked_at(self):
        assert self.over(REALTIME_MAX_ROOMS="x", OTHER=1) == (self.DEPLOYED, {})

    @pytest.mark.parametrize(
        ("name", "value", "id"),
        [
            pytest.param(LIMIT, "7", "ratelimit.E001", id="type"),
            pytest.param(LIMIT, None, "ratelimit.E001", id="null"),
            pytest.param(LIMIT, True, "ratelimit.E001", id="bool is no number"),
            pytest.param(LIMIT, -1, "ratelimit.E003", id="range"),
            pytest.param("RATELIMIT_USER_LIMIT_POLICY", "any", "ratelimit.E004", id="choice"),
            pytest.param("RATELIMIT_TRUSTED_PROXIES", ["here"], "ratelimit.E005", id="rule"),
            pytest.param("RATELIMIT_FORMER", 1, "ratelimit.E002", id="no setting any more"),
            pytest.param("RATELIMIT_SCOPE", "process", "ratelimit.E006", id="read at the start"),
        ],
    )
    def test_what_cannot_be_used_is_left_out_and_the_rest_holds(self, name, value, id):
        settings, unusable = self.over(**{name: value, "RATELIMIT_DISCONNECT_AFTER": 9})
        assert settings == dataclasses.replace(self.DEPLOYED, disconnect_after=9)
        assert unusable == {name: id}

    def test_of_values_in_conflict_none_is_used_and_the_rest_holds(self):
        settings, unusable = self.over(**{BYTES: 100, BURST: 3, LIMIT: 7})
        assert settings == dataclasses.replace(self.DEPLOYED, messages_per_window=7)
        assert unusable == {BYTES: "ratelimit.E010", BURST: "ratelimit.E010"}

    def test_two_values_that_fit_each_other_are_used_though_one_would_not_fit_what_is_deployed(self):
        settings, unusable = self.over(**{BYTES: 600 * 1024, BURST: 2})
        assert unusable == {}
        assert settings.bytes_per_window == 600 * 1024

    def test_a_secret_is_never_overridden(self):
        @dataclasses.dataclass(frozen=True, kw_only=True)
        class Secretive(appsettings.AppSettings):
            app = "secretive"
            prefix = "SECRETIVE"
            token: str = appsettings.setting("kept", "A token.", secret=True, live=True)

        settings, unusable = overridden(Secretive(), {"SECRETIVE_TOKEN": "stolen"})
        assert settings.token == "kept"
        assert "stolen" not in str(unusable)


@pytest.mark.django_db(transaction=True)
class TestPutting:
    def test_it_counts_when_it_is_committed_and_is_told_once(self, monkeypatch):
        told = []
        told_to = [lambda: told.append(get_settings().messages_per_window)]
        monkeypatch.setattr(overrides.watch, "on_commit", told_to)
        with transaction.atomic():
            put(LIMIT, 7, seen=None)
            assert get_settings().messages_per_window == 60
        assert told == [7]
        put(LIMIT, 8, seen=Override.objects.get().version)
        remove(LIMIT, seen=Override.objects.get().version)
        assert told == [7, 8, 60]

    def test_what_is_rolled_back_never_counts(self):
        with transaction.atomic():
            put(LIMIT, 7, seen=None)
            transaction.set_rollback(True)
        overrides.watch.read()
        assert get_settings().messages_per_window == 60

    def test_each_value_has_a_version_of_its_own(self):
        put(LIMIT, 7, seen=None)
        first = Override.objects.get().version
        put(LIMIT, 8, seen=first)
        assert Override.objects.get().version != first

    @pytest.mark.parametrize("seen", [None, uuid.UUID(int=0)])
    def test_another_than_was_seen_stays(self, seen):
        put(LIMIT, 7, seen=None)
        with pytest.raises(Superseded):
            put(LIMIT, 8, seen=seen)
        with pytest.raises(Superseded):
            remove(LIMIT, seen=seen)
        assert Override.objects.get().value == 7

    @pytest.mark.parametrize(
        ("name", "value", "said"),
        [
            (LIMIT, "x", "Set it to a whole number"),
            (BYTES, 100, "could never pass"),
            ("RATELIMIT_SCOPE", "cluster", "read when a process starts"),
            ("OTHER", 1, "of no installed app"),
        ],
    )
    def test_what_could_not_be_used_is_not_put(self, name, value, said):
        with pytest.raises(ValueError, match=said):
            put(name, value, seen=None)
        assert not Override.objects.exists()

    def test_what_is_gone_cannot_be_changed(self):
        with pytest.raises(Superseded):
            put(LIMIT, 8, seen=uuid.uuid4())
        assert not Override.objects.exists()


@pytest.mark.django_db(transaction=True)
class TestWatch:
    def test_the_settings_are_rebuilt_when_a_django_setting_changes_and_the_override_stays(self, settings):
        put(LIMIT, 7, seen=None)
        settings.RATELIMIT_DISCONNECT_AFTER = 9
        assert (get_settings().messages_per_window, get_settings().disconnect_after) == (7, 9)

    def test_what_cannot_be_used_is_named_once(self, caplog):
        Override.objects.create(name=LIMIT, value="lots")
        for value in (1, 2):
            put("RATELIMIT_DISCONNECT_AFTER", value, seen=_version("RATELIMIT_DISCONNECT_AFTER"))
        named = [record.problems for record in caplog.records if record.msg == "overrides left out"]
        assert named == [[f"{LIMIT} is 'lots'. Set it to a whole number of messages."]]
        assert get_settings().disconnect_after == 2

    def test_settings_made_while_overrides_change_are_not_made_of_the_old_ones(self, monkeypatch):
        """A thread that began to read before the change ends after it."""
        begun, go_on = threading.Event(), threading.Event()

        def slowly(deployed, stored):
            begun.set()
            go_on.wait(5)
            return overridden(deployed, stored)

        appsettings.use_overrides({})
        monkeypatch.setattr(appsettings, "overridden", slowly)
        reader = threading.Thread(target=get_settings)
        reader.start()
        assert begun.wait(5)
        changer = threading.Thread(target=appsettings.use_overrides, args=({LIMIT: 7},))
        changer.start()
        changer.join(0.1)
        go_on.set()
        reader.join()
        changer.join()
        assert get_settings().messages_per_window == 7
        appsettings.use_overrides({})

    async def test_what_is_made_at_the_start_reads_in_a_thread_and_once(self):
        await database_sync_to_async(Override.objects.bulk_create)([Override(name=LIMIT, value=7)])
        watch = overrides.OverrideWatch()
        watch.read_once()
        assert watch.table == {LIMIT: 7}
        await database_sync_to_async(Override.objects.all().delete)()
        watch.read_once()
        assert watch.table == {LIMIT: 7}

    async def test_the_outermost_middleware_reads_them_when_it_is_made(self, monkeypatch):
        """That is when a server starts; a loop may run by then."""
        await database_sync_to_async(Override.objects.bulk_create)([Override(name=LIMIT, value=7)])
        monkeypatch.setattr(overrides, "watch", overrides.OverrideWatch())
        RateLimit(Echo.as_asgi())
        assert overrides.watch.table == {LIMIT: 7}

    async def test_a_socket_waits_for_a_slow_database_for_a_moment_only(self, monkeypatch):
        watch, let_go = overrides.OverrideWatch(), threading.Event()
        monkeypatch.setattr(watch, "query", lambda: let_go.wait(10) and {})
        started = time.monotonic()
        await watch.current(overrides.MAX_AGE, overrides.PATIENCE)
        assert time.monotonic() - started < 1.5
        let_go.set()
        await asyncio.gather(*watch._flights.values())

    def test_a_start_waits_for_a_slow_database_for_so_long_only(self, monkeypatch):
        watch, let_go = overrides.OverrideWatch(), threading.Event()
        monkeypatch.setattr(watch, "query", lambda: let_go.wait(10) and {})
        monkeypatch.setattr(watches, "PATIENCE", 0.01)
        started = time.monotonic()
        watch.read_once()
        assert time.monotonic() - started < 5
        let_go.set()


@pytest.mark.django_db(transaction=True)
class TestOpenSockets:
    @pytest.fixture(autouse=True)
    def small_bursts(self, settings):
        settings.RATELIMIT_BURST_MULTIPLIER = 1
        settings.RATELIMIT_DISCONNECT_AFTER = 0

    async def passed(self, visitor):
        for count in range(20):
            if not await visitor.echoed():
                return count
        return 20

    async def override(self, name, value):
        await database_sync_to_async(put)(name, value, seen=await database_sync_to_async(_version)(name))
        await asyncio.sleep(0)

    async def test_new_limits_hold_for_them_with_full_budgets(self, settings):
        settings.RATELIMIT_MESSAGES_PER_WINDOW = 3
        visitor = Visitor(RateLimit(Echo.as_asgi()))
        assert await visitor.is_let_in()
        assert await self.passed(visitor) == 3
        await self.override(LIMIT, 5)
        assert await self.passed(visitor) == 5
        await gone(visitor)

    async def test_budgets_that_are_as_before_are_not_filled_up(self, settings):
        settings.RATELIMIT_MESSAGES_PER_WINDOW = 3
        visitor = Visitor(RateLimit(Echo.as_asgi()))
        assert await visitor.is_let_in()
        assert await self.passed(visitor) == 3
        await self.override("RATELIMIT_MAX_CONNECTIONS", 100)
        await visitor.send_to("again")
        assert await visitor.receive_nothing()
        await gone(visitor)

    async def test_what_the_route_says_itself_stays(self, settings):
        settings.RATELIMIT_MESSAGES_PER_WINDOW = 3
        route = limited(Echo.as_asgi(), Limits(messages_per_window=4))
        visitor = Visitor(RateLimit(route))
        assert await visitor.is_let_in()
        await self.override(LIMIT, 9)
        assert await self.passed(visitor) == 4
        await gone(visitor)

    async def test_what_no_middleware_enforces_stays_off(self):
        visitor = Visitor(limited(Echo.as_asgi()))
        only_messages = Visitor(MessageLimitMiddleware(Echo.as_asgi()))
        assert await visitor.is_let_in()
        assert await only_messages.is_let_in()
        await self.override(LIMIT, 2)
        assert await self.passed(visitor) == 20
        assert await self.passed(only_messages) == 2
        await gone(visitor, only_messages)

    async def test_one_that_is_still_at_the_door_is_not_missed(self, monkeypatch):
        """The override comes while the socket is judged, when it enforces nothing yet."""
        at_door, go_on = asyncio.Event(), asyncio.Event()
        app = RateLimit(Echo.as_asgi())

        async def enter(guard, settings, now):
            at_door.set()
            await go_on.wait()

        monkeypatch.setattr("ratelimit.guards.Guard.enter", enter)
        visitor = Visitor(app)
        coming = asyncio.create_task(visitor.connect())
        await at_door.wait()
        await self.override(LIMIT, 2)
        go_on.set()
        assert (await coming)[0]
        assert await self.passed(visitor) == 2
        await gone(visitor)

    async def test_many_are_told_some_at_a_time(self, monkeypatch):
        monkeypatch.setattr(turns, "AT_ONCE", 2)
        app = RateLimit(Echo.as_asgi())
        visitors = [Visitor(app, f"192.0.2.{number}") for number in range(5)]
        for visitor in visitors:
            assert await visitor.is_let_in()
        await self.override(LIMIT, 2)
        for visitor in visitors:
            assert await self.passed(visitor) == 2
        await gone(*visitors)


def _version(name):
    found = Override.objects.filter(name=name).first()
    return found and found.version
