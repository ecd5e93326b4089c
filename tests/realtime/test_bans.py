"""News of bans between processes."""

from __future__ import annotations

import asyncio
import threading

import pytest
from channels.db import database_sync_to_async
from channels.layers import InMemoryChannelLayer

from ratelimit import bans as table
from ratelimit.models import Ban
from realtime import bans, hub, nodes
from realtime.testing import stop_node, until


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
    monkeypatch.setattr(bans, "get_channel_layer", lambda: layer)
    return layer


@pytest.fixture(autouse=True)
def nobody_is_banned(monkeypatch):
    monkeypatch.setattr(table, "watch", table.BanWatch())


@pytest.mark.django_db(transaction=True)
def test_a_ban_is_told_to_the_others_once_it_is_committed(layer):
    Ban.objects.create(network="192.0.2.0/24")
    ((group, message),) = layer.sent
    assert (group, message["op"], message["from"]) == (hub.EVERYONE, "bans", hub.PROCESS)
    Ban.objects.all().delete()
    assert len(layer.sent) == 2


@pytest.mark.django_db(transaction=True)
async def test_a_process_that_serves_tells_through_its_node(layer, monkeypatch):
    sent = []
    monkeypatch.setattr(nodes.current().hub, "send_remote", sent.append)
    await Ban.objects.acreate(network="192.0.2.0/24")
    await until(lambda: sent)
    assert sent == [{"group": hub.EVERYONE, "op": "bans"}]
    assert layer.sent == []
    await database_sync_to_async(Ban.objects.all().delete)()
    await stop_node()


@pytest.mark.django_db(transaction=True)
def test_a_layer_that_is_away_does_not_keep_a_ban_from_being_made(layer, caplog):
    layer.fails = True
    Ban.objects.create(network="192.0.2.0/24")
    assert "other nodes were not told of a ban" in [record.message for record in caplog.records]


def test_a_layer_that_stays_in_the_process_is_told_nothing(monkeypatch):
    alone = InMemoryChannelLayer()
    monkeypatch.setattr(bans, "get_channel_layer", lambda: alone)
    bans.tell()
    assert alone.groups == {}


async def test_who_hears_of_a_ban_reads_them_again_without_holding_up_the_messages(monkeypatch):
    """The read that is joined may have begun before the ban was made, so there is one more."""
    reads, go_on = [], threading.Event()

    def read():
        reads.append(1)
        assert go_on.wait(5)

    monkeypatch.setattr(table.watch, "read", read)
    node = nodes.current()
    await asyncio.wait_for(node.hub._received({"op": "bans", "from": "elsewhere"}), 0.5)
    await until(lambda: reads)
    go_on.set()
    await until(lambda: len(reads) == 2 and not bans._reading)
    await stop_node()


def test_sharing_twice_tells_once(monkeypatch):
    monkeypatch.setattr(table, "on_commit", [])
    bans.share()
    bans.share()
    assert table.on_commit == [bans.tell]
