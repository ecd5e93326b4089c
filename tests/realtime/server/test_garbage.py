"""What the garbage collector looks at: what has come since the last time, and everything only now and then."""

from __future__ import annotations

import gc
import weakref
from collections.abc import Iterator

import pytest

from realtime.server import garbage
from realtime.server.garbage import GROWTH, Settled


class Knot:
    """Refers to itself."""

    def __init__(self) -> None:
        self.itself = self


@pytest.fixture(autouse=True)
def settled() -> Iterator[None]:
    """With the collector working only when it is told to."""
    gc.disable()
    try:
        with Settled().kept():
            yield
    finally:
        gc.unfreeze()
        gc.enable()


def looked_at() -> int:
    """Return how many objects the next full collection would look at."""
    return len(gc.get_objects())


def grown_by(share: float) -> list[list[object]]:
    """Return so many objects, as a share of those that are left alone now."""
    return [[] for _ in range(int(gc.get_freeze_count() * share))]


def test_what_was_loaded_is_left_alone() -> None:
    assert gc.get_freeze_count() > 10_000
    assert looked_at() < 1000


def test_what_has_stayed_is_left_alone_too() -> None:
    kept = grown_by(0.2)
    assert looked_at() > len(kept)
    gc.collect()
    assert looked_at() < 1000


def test_only_full_collections_settle_anything() -> None:
    kept = grown_by(0.2)
    gc.collect(1)
    assert looked_at() > len(kept)


def test_new_knots_are_undone_as_ever() -> None:
    gone = weakref.ref(Knot())
    assert gone() is not None
    gc.collect()
    assert gone() is None


def test_what_nobody_refers_to_is_freed_at_once() -> None:
    kept = {"one": Knot()}
    gone = weakref.ref(kept["one"])
    gc.collect()
    kept["one"].itself = None  # type: ignore[assignment]
    del kept["one"]
    assert gone() is None


def test_an_old_knot_is_undone_when_twice_as_much_has_settled() -> None:
    kept: list[object] = [Knot()]
    gone = weakref.ref(kept[0])
    gc.collect()
    kept.clear()
    kept.append(grown_by((GROWTH - 1) * 0.8))
    for _ in range(3):
        gc.collect()
    assert gone() is not None
    kept.append(grown_by((GROWTH - 1) * 0.8))
    for _ in range(2):
        gc.collect()
    assert gone() is None


def test_or_after_a_while(monkeypatch: pytest.MonkeyPatch) -> None:
    kept: list[object] = [Knot()]
    gone = weakref.ref(kept[0])
    gc.collect()
    kept.clear()
    monkeypatch.setattr(garbage, "PATIENCE", -1.0)
    for _ in range(2):
        gc.collect()
    assert gone() is None


def test_then_that_is_what_further_growth_is_counted_from() -> None:
    kept: list[object] = [grown_by(GROWTH - 0.9)]
    for _ in range(2):
        gc.collect()
    kept.append(grown_by((GROWTH - 1) * 0.8))
    for _ in range(3):
        gc.collect()
        assert looked_at() < 1000


def test_afterwards_nothing_more_is_left_alone() -> None:
    before = len(gc.callbacks)
    with Settled().kept():
        assert len(gc.callbacks) == before + 1
    assert len(gc.callbacks) == before
