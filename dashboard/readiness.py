"""Whether this process should be given traffic."""

from __future__ import annotations

from collections.abc import Iterator

from django.db import DEFAULT_DB_ALIAS, DatabaseError, InterfaceError, connections
from django.db.migrations.executor import MigrationExecutor

from ratelimit.logs import get_logger
from realtime import nodes

logger = get_logger("dashboard")

_migrated = False


def reasons() -> Iterator[str]:
    """Yield why not; nothing means ready. The details of a failure go to the log: anybody may ask."""
    if any(node.draining for node in nodes.live()):
        yield "draining"
    try:
        connections[DEFAULT_DB_ALIAS].cursor().close()
        migrated = is_migrated()
    except (DatabaseError, InterfaceError):
        logger.exception("readiness: the database cannot be reached")
        yield "the database cannot be reached"
    else:
        if not migrated:
            yield "migrations are missing: run manage.py migrate"


def is_migrated() -> bool:
    """
    Return whether every migration is applied to the default database.

    Finding out reads all migrations from disk, so a yes is remembered: applied migrations stay so.

    """
    global _migrated
    if not _migrated:
        executor = MigrationExecutor(connections[DEFAULT_DB_ALIAS])
        _migrated = not executor.migration_plan(executor.loader.graph.leaf_nodes())
    return _migrated


def forget() -> None:
    """Look at the migrations again the next time."""
    global _migrated
    _migrated = False
