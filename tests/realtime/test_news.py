"""News between processes: of bans, and of overridden settings."""

from __future__ import annotations

import asyncio
import threading

import pytest
from channels.db import database_sync_to_async
from channels.layers import InMemoryChannelLayer

from ratelimit import bans, overrides
from ratelimit.models import Ban, Override
from realtime import hub, news, nodes
from realtime.testing import stop_node, until
from tests.watches import forget


class Layer:
    """A channel layer that leaves the process, or fails to."""

    def __init__(self):
        self.sent = []
        self.fails = False

    async def group_send(self, group, message):
        if self.fails:
            raise ConnectionError("gone")
        self.sent.append((group, message))


@pytest.fixture
def layer(monkeypatch):
    layer = Layer()
    monkeypatch.setattr(news, "get_channel_layer", lambda: layer)
    return layer


@pytest.fixture(autouse=True)
def nothing_is_known(monkeypatch):
    forget(bans.watch, monkeypatch)
    forget(overrides.watch, monkeypatch)


def ban():
    Ban.objects.create(network="192.0.2.0/24")


def override():
    overrides.put("REALTIME_MAX_ROOMS", 5, seen=None)


CHANGES = pytest.mark.parametrize(
    ("name", "model", "change"),
    [
        pytest.param("bans", Ban, ban, id="a ban"),
        pytest.param("overrides", Override, override, id="an override"),
    ],
)


@CHANGES
@pytest.mark.django_db(transaction=True)
def test_a_change_is_told_to_the_others_once_it_is_committed(layer, name, model, change):
    change()
    ((group, message),) = layer.sent
    assert (group, message["op"], message["from"]) == (hub.EVERYONE, name, hub.PROCESS)
    model.objects.get().delete()
    assert len(layer.sent) == 2


@CHANGES
@pytest.mark.django_db(transaction=True)
async def test_a_process_that_serves_tells_through_its_node(layer, monkeypatch, name, model, change):
    sent = []
    monkeypatch.setattr(nodes.current().hub, "send_remote", sent.append)
    await database_sync_to_async(change)()
    await until(lambda: sent)
    assert sent == [{"group": hub.EVERYONE, "op": name}]
    assert layer.sent == []
    await database_sync_to_async(model.objects.all().delete)()
    await stop_node()


@CHANGES
@pytest.mark.django_db(transaction=True)
def test_a_layer_that_is_away_does_not_keep_it_from_being_made(layer, caplog, name, model, change):
    layer.fails = True
    change()
    assert model.objects.count() == 1
    told = [record.news for record in caplog.records if record.message == "other nodes were not told"]
    assert told == [name]


@pytest.mark.parametrize("one", [news.BANS, news.OVERRIDES], ids=lambda one: one.name)
class TestOne:
    def test_a_layer_that_stays_in_the_process_is_told_nothing(self, monkeypatch, one):
        alone = InMemoryChannelLayer()
        monkeypatch.setattr(news, "get_channel_layer", lambda: alone)
        one.tell()
        assert alone.groups == {}

    async def test_who_hears_of_it_reads_again_without_holding_up_the_messages(self, monkeypatch, one):
        """The read that is joined may have begun before the change was made, so there is one more."""
        reads, go_on = [], threading.Event()

        def read():
            reads.append(1)
            assert go_on.wait(5)

        kept = bans if one is news.BANS else overrides
        monkeypatch.setattr(kept.watch, "read", read)
        node = nodes.current()
        await asyncio.wait_for(node.hub._received({"op": one.name, "from": "elsewhere"}), 0.5)
        await until(lambda: reads)
        go_on.set()
        await until(lambda: len(reads) == 2 and not one.reading)
        await stop_node()

    def test_sharing_twice_tells_once(self, monkeypatch, one):
        watch = bans.watch if one is news.BANS else overrides.watch
        monkeypatch.setattr(watch, "on_commit", [])
        one.share()
        one.share()
        assert watch.on_commit == [one.tell]
