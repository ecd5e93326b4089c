"""A table of the database, in memory: as fresh as is asked for, and as it was last known while the database fails."""

from __future__ import annotations

import asyncio
import contextvars
import math
import threading
import time
import weakref
from collections.abc import Callable
from typing import Any, Final, Generic, TypeVar

from channels.db import database_sync_to_async
from django.db import connections, transaction

from ratelimit.logs import get_logger

T = TypeVar("T")

PATIENCE: Final = 2.0
"""Seconds that anybody waits for the database before what is known so far has to do."""

_logger = get_logger("ratelimit")


class Watch(Generic[T]):
    """
    Keeps ``table`` fresh. Subclasses answer :meth:`query`: what the table is now.

    A database that fails, or has no such table yet, changes nothing: what was known last stays, and one line
    says so until it works again. ``name`` is what the rows are called in that line.

    """

    def __init__(self, name: str, table: T) -> None:
        self.table = table
        self.on_change: list[Callable[[T], None]] = []
        """Called with the new table, in any thread, each time it changes."""
        self.on_commit: list[Callable[[], None]] = []
        """Called, in the thread that did it, when this process has changed the rows for all."""
        self._name = name
        self._reading = threading.Lock()
        self._read_at = -math.inf
        self._invalidations = 0
        self._failing = False
        self._flights: weakref.WeakKeyDictionary[asyncio.AbstractEventLoop, asyncio.Task[None]] = (
            weakref.WeakKeyDictionary()
        )

    @property
    def failing(self) -> bool:
        """Whether the table could not be read the last time: what is known may be old."""
        return self._failing

    def query(self) -> T:
        """Return what the table is now, from the database. May raise anything."""
        raise NotImplementedError(f"{type(self).__name__} must override query() to say what it keeps.")

    async def current(self, max_age: float, patience: float | None = None) -> T:
        """
        Return the table, read at most ``max_age`` seconds ago unless the database does not answer.

        That is waited for ``patience`` seconds, or two.

        """
        if time.monotonic() - self._read_at >= max_age:
            await self.refresh(patience)
        return self.table

    async def refresh(self, patience: float | None = None) -> None:
        """Read the table now, together with whoever else in this loop is waiting for that."""
        loop = asyncio.get_running_loop()
        flight = self._flights.get(loop)
        if flight is None or flight.done():
            # A context of its own: the read outlives the connection that happened to ask first.
            flight = self._flights[loop] = loop.create_task(
                database_sync_to_async(self.read)(), context=contextvars.Context()
            )
        await asyncio.wait({flight}, timeout=PATIENCE if patience is None else patience)

    def read_once(self) -> None:
        """
        Read the table if that has not been tried yet; for whatever is made when a process starts.

        Callable from any thread, also from one whose loop runs; waits two seconds at most.

        """
        if self._read_at > -math.inf:
            return
        # In a thread of its own: the caller's may have a loop, and its connection to the database stays as it is.
        thread = threading.Thread(target=self._read_and_hang_up, name=f"ratelimit.{self._name}", daemon=True)
        thread.start()
        thread.join(PATIENCE)

    def read(self) -> None:
        """Read the table from the database, in this thread."""
        with self._reading:
            asked_at, invalidations = time.monotonic(), self._invalidations
            table = self._rows()
            if invalidations == self._invalidations:
                self._read_at = asked_at
            if table is None or table == self.table:
                return
            self.table = table
            for tell in self.on_change:
                tell(table)

    def invalidate(self) -> None:
        """Have whoever asks next read the table, however fresh it is."""
        self._invalidations += 1
        self._read_at = -math.inf

    def changed(self, *, using: str, **kwargs: Any) -> None:
        """
        Have what this process changes count in it, and be told to the others, as soon as it is committed.

        A receiver of ``post_save`` and ``post_delete``; what sends no signal calls it. ``using`` is the alias of the
        database.

        """
        self.invalidate()
        transaction.on_commit(self._committed, using=using)

    def _committed(self) -> None:
        # Once more: a connection may have read the rows between the change and its commit.
        self.invalidate()
        self.read()
        for tell in self.on_commit:
            tell()

    def _read_and_hang_up(self) -> None:
        try:
            self.read()
        finally:
            connections.close_all()

    def _rows(self) -> T | None:
        try:
            table = self.query()
        except Exception as error:  # noqa: BLE001 - whatever the database does, people are served as before
            if not self._failing:
                self._failing = True
                _logger.warning(f"{self._name} not read", error=f"{type(error).__name__}: {error}")
            return None
        if self._failing:
            self._failing = False
            _logger.info(f"{self._name} read again")
        return table
