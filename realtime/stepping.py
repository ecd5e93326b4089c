"""Run an awaitable in place until it first has to wait, so that what never waits costs no task."""

from __future__ import annotations

import contextlib
from collections.abc import Awaitable, Coroutine, Generator
from types import CoroutineType
from typing import Any

_NOTHING = object()
"""What nothing ever awaits."""


class Rest:
    """
    What is left of an awaitable that had to wait. Await it, exactly once, to finish it.

    The future it stopped at is handed to whichever task awaits the rest, as if that task had run the
    awaitable from the start. Awaiting gives its result; or ``marker``, where it comes to await that.

    """

    __slots__ = ("_iterator", "_marker", "_waited_for")

    def __init__(
        self,
        iterator: Generator[Any, Any, Any] | Coroutine[Any, Any, Any],
        waited_for: Any,
        marker: object = _NOTHING,
    ) -> None:
        self._iterator = iterator
        self._waited_for = waited_for
        self._marker = marker

    def __await__(self) -> Generator[Any, Any, Any]:
        iterator, waited_for = self._iterator, self._waited_for
        try:
            while waited_for is not self._marker:
                try:
                    sent = yield waited_for
                except GeneratorExit:
                    iterator.close()
                    raise
                except BaseException as error:  # noqa: BLE001 - cancellation is passed on like any other
                    waited_for = iterator.throw(error)
                else:
                    waited_for = iterator.send(sent)
        except StopIteration as stop:
            return stop.value
        return waited_for

    def close(self) -> None:
        """Give up what is left: it may clean up, but not wait."""
        with contextlib.suppress(RuntimeError):
            self._iterator.close()


def step(awaitable: Awaitable[Any]) -> Rest | None:
    """
    Run ``awaitable`` until it finishes or first waits. Return ``None`` if it finished, else its rest.

    What it raises is raised here. Its result is dropped: this is for awaitables run for their effect.

    """
    iterator: Any = awaitable
    try:
        if awaitable.__class__ is CoroutineType:
            # It needs no iterator around it.
            return Rest(iterator, iterator.send(None))
        iterator = awaitable.__await__()
        return Rest(iterator, next(iterator))
    except StopIteration:
        return None


async def finish(rest: Rest) -> None:
    """Await ``rest``: a coroutine, for those who need one to make a task of."""
    await rest
