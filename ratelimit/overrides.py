"""The settings that operators have overridden: in the database, in force in this process, and how they are changed."""

from __future__ import annotations

import contextlib
import uuid
from typing import Any, Final

from django.apps import apps
from django.db import IntegrityError, transaction
from django.utils import timezone

from ratelimit.appsettings import AppSettings, Problem, overridden, use_overrides
from ratelimit.conf import get_settings
from ratelimit.guards import Guard, open_guards
from ratelimit.logs import get_logger
from ratelimit.turns import in_turns
from ratelimit.watches import Watch

Stored = dict[str, Any]
"""Values by setting name, as JSON has them."""

MAX_AGE: Final = 1.0
"""Seconds that what is known of the overrides may be old when a socket comes in, whether or not news reach this process."""
PATIENCE: Final = 0.25
"""Seconds that a socket waits for that: it waits for the bans after it, and what is known of the overrides will do."""

_logger = get_logger("ratelimit")


class Superseded(Exception):
    """Somebody else has changed the override since it was looked at: nothing was done."""


class OverrideWatch(Watch[Stored]):
    """
    Keeps the overrides in force in this process: values by setting name.

    What cannot be used, because the settings are others since an upgrade say, is left out and named in the
    log once.

    """

    def __init__(self) -> None:
        super().__init__("overrides", {})
        self._named: list[str] = []

    def query(self) -> Stored:
        """Return what is stored now."""
        if not apps.is_installed("ratelimit"):
            return {}
        return _stored()

    def put_in_force(self, stored: Stored) -> None:
        """Have every app's settings say so from now on."""
        use_overrides(stored)
        named = sorted({problem.explanation for problem in _unusable(stored).values()})
        if named and named != self._named:
            _logger.warning("overrides left out", problems=named)
        self._named = named


watch: Final = OverrideWatch()
"""The overrides as this process knows them."""


def unusable() -> dict[str, Problem]:
    """Return why overrides that this process knows of are not in force, by setting name."""
    return _unusable(watch.table)


def _unusable(stored: Stored) -> dict[str, Problem]:
    found: dict[str, Problem] = {}
    known: set[str] = set()
    for cls in AppSettings.__subclasses__():
        known.update(name for name in stored if name.startswith(f"{cls.prefix}_"))
        deployed, problems = cls.read()
        if deployed is not None and not problems:
            found |= overridden(deployed, stored)[1]
    for name in stored.keys() - known:
        found[name] = Problem(
            "ratelimit.E002", f"{name} is a setting of no installed app.", "Remove the override."
        )
    return found


def _stored() -> Stored:
    return dict(_rows().values_list("name", "value"))


def _rows() -> Any:
    return apps.get_model("ratelimit", "Override")._default_manager.all()


# Changing them.


def problem_of(name: str, value: Any) -> Problem | None:
    """Return what would keep a value from being used beside the overrides that are stored now."""
    return _unusable({**_stored(), name: value}).get(name)


def put(name: str, value: Any, *, seen: uuid.UUID | None, by: Any = None) -> None:
    """
    Override a setting for all processes; it counts here at once.

    ``seen`` is the version of the override in whose place it is put, ``None`` where there was none. Raise
    Superseded where there is another one by now, and ValueError for a value that could not be used.

    """
    changes = {"value": value, "version": uuid.uuid4(), "by": by, "set_at": timezone.now()}
    with transaction.atomic():
        if (problem := problem_of(name, value)) is not None:
            raise ValueError(problem.explanation)
        if seen is None:
            _add(name, changes)
        elif _rows().filter(name=name, version=seen).update(**changes):
            # An update sends no signal, so this process is told itself.
            watch.changed(using=transaction.get_connection().alias)
        else:
            raise Superseded(name)


def _add(name: str, changes: dict[str, Any]) -> None:
    try:
        with transaction.atomic():
            _rows().create(name=name, **changes)
    except IntegrityError:
        raise Superseded(name) from None


def remove(name: str, *, seen: uuid.UUID | None) -> None:
    """
    Have a setting be what is deployed again.

    Raise Superseded where the override is another one by now, and ValueError where that of another setting
    holds only together with it.

    """
    with transaction.atomic():
        stored = _stored()
        without = {one: value for one, value in stored.items() if one != name}
        before = _unusable(stored)
        for broken, problem in _unusable(without).items():
            if broken not in before:
                raise ValueError(f"{problem.explanation} Change or revert {broken} first.")
        if not _rows().filter(name=name, version=seen).delete()[0]:
            raise Superseded(name)


# Sockets that are open.


def renew_guards(stored: Stored) -> None:
    """Have every open socket limited as the settings say now. Callable from any thread."""
    by_loop: dict[Any, list[Guard]] = {}
    # list() copies at once: sockets come and go in their own threads meanwhile.
    for guard in list(open_guards):
        by_loop.setdefault(guard.loop, []).append(guard)
    for loop, guards in by_loop.items():
        # A loop that is closed has no open sockets left.
        with contextlib.suppress(RuntimeError):
            loop.call_soon_threadsafe(in_turns, loop, iter(guards), _renew)


def _renew(guard: Guard) -> None:
    guard.renew(get_settings())


watch.on_change.extend((watch.put_in_force, renew_guards))
