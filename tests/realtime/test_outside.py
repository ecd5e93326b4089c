"""Publishing where no server runs: a loop of its own, made once, usable from any thread, and made anew after a fork."""

from __future__ import annotations

import concurrent.futures
import io
import os
from collections.abc import Iterator
from typing import Any

import pytest
from django.core.management import call_command
from django.core.management.base import CommandError

from realtime import outside as module
from realtime.outside import Outside, outside


class Layer:
    """Takes messages, or fails."""

    def __init__(self) -> None:
        self.taken: list[dict[str, Any]] = []
        self.failure: Exception | None = None

    async def group_send(self, group: str, message: dict[str, Any]) -> None:
        if self.failure is not None:
            raise self.failure
        self.taken.append(message)


@pytest.fixture
def layer(monkeypatch: pytest.MonkeyPatch) -> Layer:
    layer = Layer()
    monkeypatch.setattr(module, "crossing_layer", lambda state=None: layer)
    return layer


@pytest.fixture
def own(layer: Layer) -> Iterator[Outside]:
    own = Outside()
    yield own
    own.close()


def message(n: int) -> dict[str, Any]:
    return {"group": "g", "op": "room", "n": n}


def test_it_works_from_its_first_moment_on_and_from_any_thread(own: Outside, layer: Layer) -> None:
    with concurrent.futures.ThreadPoolExecutor(8) as threads:
        list(threads.map(lambda n: own.run(lambda it: it.send(message(n))).result(5), range(50)))
    numbers = [one["n"] for sent in layer.taken for one in sent.get("ops", [sent])]
    assert sorted(numbers) == list(range(50))


def test_who_publishes_is_told_what_the_layer_says(own: Outside, layer: Layer) -> None:
    layer.failure = ConnectionError("no Redis here")
    with pytest.raises(ConnectionError, match="no Redis here"):
        own.run(lambda it: it.send(message(1))).result(5)
    layer.failure = None
    own.run(lambda it: it.send(message(2))).result(5)
    assert [sent["n"] for sent in layer.taken] == [2]


def test_there_is_one_and_another_after_a_fork(layer: Layer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_outside", None)
    first = outside()
    assert outside() is first
    pid = os.getpid()
    monkeypatch.setattr(os, "getpid", lambda: pid + 1)
    second = outside()
    assert second is not first
    second.close()
    monkeypatch.setattr(os, "getpid", lambda: pid)
    first.close()
    assert not first._thread.is_alive()


# ``manage.py realtime_publish``; tests/acceptance/test_history.py has it with servers.


def test_the_command_says_what_is_no_json() -> None:
    with pytest.raises(CommandError, match=r"'hello' is not JSON.*needs quotes"):
        call_command("realtime_publish", "lobby", "said", "hello")


def test_the_command_says_that_no_server_would_hear_it() -> None:
    with pytest.raises(CommandError, match="Configure CHANNEL_LAYERS with channels_redis"):
        call_command("realtime_publish", "lobby", "said", stdout=io.StringIO())
