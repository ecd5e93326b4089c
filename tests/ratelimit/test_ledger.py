"""What counts over all nodes, as the guards use it."""

from __future__ import annotations

import asyncio

import pytest
from django.core.exceptions import ImproperlyConfigured
from django.test import override_settings

from ratelimit import guards, ledger
from ratelimit.checks import check_settings
from ratelimit.clients import Client
from ratelimit.conf import get_settings
from ratelimit.guards import Guard
from ratelimit.middleware import RateLimit
from ratelimit.refusals import TOO_MANY_OF_ADDRESS, TOO_MANY_OF_USER, too_fast
from tests.ratelimit.visitors import ADDRESS, Echo, User, Visitor, gone


class Notebook:
    """A ledger that writes down what it is told, and refuses when told to."""

    def __init__(self):
        self.told = []
        self.refusal = None
        self.why = None
        self.answers = asyncio.Event()
        self.answers.set()

    def problem(self):
        return self.why

    async def enter(self, network, settings):
        self.told.append(("enter", network))
        await self.answers.wait()
        return self.refusal

    def leave(self, network, settings):
        self.told.append(("leave", network))

    async def enter_user(self, user, seat, settings):
        self.told.append(("enter user", user))
        await self.answers.wait()
        return self.refusal

    def leave_user(self, user, seat, settings):
        self.told.append(("leave user", user))


@pytest.fixture
def notebook(monkeypatch, settings):
    notebook = Notebook()
    monkeypatch.setattr(ledger, "_ledger", None)
    ledger.use(notebook)
    settings.RATELIMIT_SCOPE = "cluster"
    return notebook


def guard():
    return Guard(Client("192.0.2.1", "192.0.2.1", 50000), lambda reason: None)


async def test_it_is_told_of_everybody_who_comes_and_goes(notebook):
    app = RateLimit(Echo.as_asgi())
    visitor = Visitor(app, user=User(7))
    assert await visitor.is_let_in()
    assert notebook.told == [("enter", ADDRESS), ("enter user", "7")]
    notebook.told.clear()
    await gone(visitor)
    assert notebook.told == [("leave", ADDRESS), ("leave user", "7")]


@pytest.mark.setting("RATELIMIT_SCOPE")
async def test_where_each_process_counts_for_itself_it_is_not_asked(notebook, settings):
    settings.RATELIMIT_SCOPE = "process"
    visitor = Visitor(RateLimit(Echo.as_asgi()), user=User(7))
    assert await visitor.is_let_in()
    await gone(visitor)
    assert notebook.told == []


async def test_whom_it_refuses_gets_its_answer_before_accept(notebook):
    notebook.refusal = too_fast(4.2)
    status, headers, body = await Visitor(RateLimit(Echo.as_asgi()), denial=True).denied()
    assert (status, headers[b"retry-after"], body["retry_after"]) == (429, b"5", 4.2)
    assert notebook.told == [("enter", ADDRESS)], "who is not in does not leave"


async def test_the_door_of_the_process_is_asked_first(notebook, settings):
    """The cheapest refusal comes first."""
    settings.RATELIMIT_CONNECTIONS_PER_WINDOW = 1
    first, second = guard(), guard()
    assert await first.enter(get_settings(), 0.0) is None
    notebook.told.clear()
    assert (await second.enter(get_settings(), 0.0)).name == "address_rate"
    assert notebook.told == []
    first.release()


async def test_whom_it_refuses_has_spent_nothing_at_the_door_either(notebook, settings):
    settings.RATELIMIT_CONNECTIONS_PER_WINDOW = 1
    notebook.refusal = TOO_MANY_OF_ADDRESS
    one = guard()
    for _ in range(3):
        assert await one.enter(get_settings(), 0.0) is TOO_MANY_OF_ADDRESS
    assert guards.door.total == 0
    notebook.refusal = None
    assert await one.enter(get_settings(), 0.0) is None
    one.release()


async def test_a_user_whom_it_refuses_is_not_counted_at_the_door(notebook, settings):
    settings.RATELIMIT_MAX_CONNECTIONS_PER_USER = 1
    notebook.refusal = TOO_MANY_OF_USER
    one, other = guard(), guard()
    assert await one.enter_user("7") is TOO_MANY_OF_USER
    notebook.refusal = None
    assert await other.enter_user("7") is None
    one.release()
    other.release()
    assert notebook.told == [("enter user", "7"), ("enter user", "7"), ("leave user", "7")]


async def test_a_socket_whose_user_is_asked_for_twice_is_counted_once(notebook):
    one = guard()
    assert await one.enter_user("7") is None
    assert await one.enter_user("7") is None
    assert notebook.told == [("enter user", "7")]
    one.release()


@pytest.mark.parametrize("asked", ["address", "user"])
async def test_who_gives_up_while_it_thinks_gives_everything_back(notebook, settings, asked):
    settings.RATELIMIT_MAX_CONNECTIONS_PER_USER = 1
    notebook.answers.clear()
    one = guard()
    entering = asyncio.create_task(
        one.enter(get_settings(), 0.0) if asked == "address" else one.enter_user("7")
    )
    await asyncio.sleep(0)
    entering.cancel()
    await asyncio.gather(entering, return_exceptions=True)
    one.release()
    assert guards.door.total == 0
    notebook.answers.set()
    other = guard()
    assert await other.enter_user("7") is None
    other.release()
    assert notebook.told[1] == (("leave", ADDRESS) if asked == "address" else ("leave user", "7"))


def test_without_an_app_that_counts_over_all_nodes_the_scope_is_an_error(monkeypatch):
    monkeypatch.setattr(ledger, "_ledger", None)
    with override_settings(RATELIMIT_SCOPE="cluster"):
        (error,) = check_settings()
        assert error.id == "ratelimit.E011"
        assert error.msg == "RATELIMIT_SCOPE is 'cluster', and no installed app can count over all nodes."
        assert "Add 'realtime' to INSTALLED_APPS" in error.hint
        with pytest.raises(ImproperlyConfigured, match=r"ratelimit\.E011.*RATELIMIT_SCOPE is 'cluster'"):
            RateLimit(Echo.as_asgi())
    assert check_settings() == []


def test_a_ledger_that_cannot_count_here_says_why(notebook):
    notebook.why = ("the moon is full", "Wait.")
    (error,) = check_settings()
    assert (error.id, error.msg, error.hint) == (
        "ratelimit.E011",
        "RATELIMIT_SCOPE is 'cluster', and the moon is full.",
        "Wait.",
    )
    notebook.why = None
    assert check_settings() == []
