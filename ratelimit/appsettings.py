"""Read an app's flat Django settings into one frozen, typed, checked object."""

from __future__ import annotations

import dataclasses
import difflib
import functools
import json
import math
import os
import threading
import types
import typing
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Literal, Self, TypeVar

from django.conf import settings as django_settings
from django.core.exceptions import ImproperlyConfigured
from django.core.signals import setting_changed

Source = Literal["default", "env", "settings", "override"]

_TRUE = {"1", "true", "yes", "on"}
_FALSE = {"0", "false", "no", "off"}


def setting(
    default: Any,
    doc: str,
    *,
    unit: str = "",
    minimum: float | None = None,
    above: float | None = None,
    maximum: float | None = None,
    choices: tuple[str, ...] = (),
    secret: bool = False,
    live: bool = False,
    validate: Callable[[Any], str | None] | None = None,
) -> Any:
    """
    Declare one setting as a dataclass field.

    ``minimum`` and ``maximum`` are inclusive, ``above`` is exclusive. ``validate`` is given the
    value and returns what is wrong with it, or ``None``. A ``secret`` is never shown.

    ``live`` is for a setting that is read again while a process runs: an operator may override it. What is
    read once, when something is made at the start, is not live.

    """
    metadata = {
        "doc": doc,
        "unit": unit,
        "minimum": minimum,
        "above": above,
        "maximum": maximum,
        "choices": choices,
        "secret": secret,
        "live": live,
        "validate": validate,
    }
    return dataclasses.field(default=default, metadata=metadata)


@dataclass(frozen=True, slots=True)
class Problem:
    """One thing that is wrong with the settings: what the system check and the first use both report."""

    id: str
    message: str
    hint: str
    names: tuple[str, ...] = ()
    """The settings that cannot be as they are together, where it takes several."""

    @property
    def explanation(self) -> str:
        """What is wrong and what to do, for people."""
        return f"{self.message} {self.hint}"

    def __str__(self) -> str:
        return f"({self.id}) {self.explanation}"


@dataclass(frozen=True, slots=True)
class Described:
    """One setting as an operator sees it."""

    name: str
    value: Any
    default: Any
    source: Source
    unit: str
    doc: str
    secret: bool
    live: bool
    """Whether it may be overridden while processes run."""
    deployed: Any
    """The value without an override."""
    ignored: str
    """Why an override that is stored for it is not in force, as sentences; empty where none is ignored."""


@dataclass(frozen=True, kw_only=True)
class AppSettings:
    """
    Settings of one app; each field is the Django setting ``<PREFIX>_<FIELD>``, in capitals.

    Subclasses set ``app`` (used in the ids of problems) and ``prefix``, and declare their fields with
    :func:`setting`. Rules that need two settings at once go into :meth:`conflicts`.

    """

    app: ClassVar[str]
    prefix: ClassVar[str]

    @classmethod
    def names(cls) -> dict[str, dataclasses.Field[Any]]:
        """Every setting name with its field."""
        return {f"{cls.prefix}_{field.name.upper()}": field for field in dataclasses.fields(cls)}

    @classmethod
    def read(cls) -> tuple[Self | None, list[Problem]]:
        """Return the settings and what is wrong with them; no settings where a value cannot be used."""
        problems = list(_unknown_names(cls))
        values: dict[str, Any] = {}
        for name, field in cls.names().items():
            value = getattr(django_settings, name, field.default)
            converted, problem = _checked(cls, name, field, value)
            if problem is None:
                values[field.name] = converted
            else:
                problems.append(problem)
        if len(values) < len(cls.names()):
            return None, problems
        loaded = cls(**values)
        problems.extend(loaded.conflicts())
        return loaded, problems

    @classmethod
    def load(cls) -> Self:
        """Return the checked settings. Raise ImproperlyConfigured rather than run with a bad one."""
        loaded, problems = cls.read()
        if loaded is None or problems:
            raise ImproperlyConfigured("\n".join(str(problem) for problem in problems))
        return loaded

    def conflicts(self) -> Iterator[Problem]:
        """Yield problems that only show when several settings are looked at together."""
        return iter(())

    def described(self) -> Iterator[Described]:
        """Yield every setting with its value in force and where that came from."""
        deployed = self.load()
        _, unusable = overridden(deployed, _stored)
        for name, field in self.names().items():
            secret = field.metadata["secret"]
            value, without = getattr(self, field.name), getattr(deployed, field.name)
            is_overridden = name in _stored and name not in unusable
            yield Described(
                name=name,
                value=_told(value, secret),
                default="not set" if secret else field.default,
                source="override" if is_overridden else _source(type(self), name, field, without),
                unit=field.metadata["unit"],
                doc=field.metadata["doc"],
                secret=secret,
                live=is_live(field),
                deployed=_told(without, secret),
                ignored=unusable[name].explanation if name in unusable else "",
            )


S = TypeVar("S", bound=AppSettings)


def _told(value: Any, secret: bool) -> Any:
    return ("set" if value else "not set") if secret else value


# What operators have overridden, for all processes. It is put here by whatever reads it from where it is kept.

_lock = threading.RLock()
"""Held while settings are made or forgotten, so that none is made of overrides that have gone."""
_stored: Mapping[str, Any] = {}
_forgetting: list[Callable[[], None]] = []


def use_overrides(stored: Mapping[str, Any]) -> None:
    """Have these values, by setting name, go before what is deployed, in this process and from now on."""
    global _stored
    with _lock:
        _stored = dict(stored)
        for forget in _forgetting:
            forget()


def is_live(field: dataclasses.Field[Any]) -> bool:
    """Return whether a setting may be overridden while processes run: never a secret."""
    return bool(field.metadata["live"]) and not field.metadata["secret"]


def overridden(deployed: S, stored: Mapping[str, Any]) -> tuple[S, dict[str, Problem]]:
    """
    Return settings with those stored values that can be used, and what is wrong with the others, by setting name.

    Values of other apps are left out. Of values that are in conflict with each other, or with what is
    deployed, none is used.

    """
    cls = type(deployed)
    values: dict[str, Any] = {}
    unusable: dict[str, Problem] = {}
    for name, value in stored.items():
        if name.startswith(f"{cls.prefix}_"):
            converted, problem = checked_override(cls, name, value)
            if problem is None:
                values[name] = converted
            else:
                unusable[name] = problem
    while values:
        fields = cls.names()
        settings = dataclasses.replace(deployed, **{fields[name].name: one for name, one in values.items()})
        conflict = next(settings.conflicts(), None)
        if conflict is None:
            return settings, unusable
        for name in [name for name in conflict.names if name in values] or list(values):
            unusable[name] = conflict
            del values[name]
    return deployed, unusable


def checked_override(cls: type[AppSettings], name: str, value: Any) -> tuple[Any, Problem | None]:
    """Return a value in the type of its setting, or the problem that keeps it from being an override."""
    field = cls.names().get(name)
    if field is None:
        return None, Problem(f"{cls.app}.E002", f"{name} is not a setting.", "Remove the override.")
    if not is_live(field):
        return None, Problem(
            f"{cls.app}.E006",
            f"{name} is read when a process starts.",
            "Set it in the Django settings or the environment, and start the processes again.",
        )
    return _checked(cls, name, field, value)


def parsed(cls: type[AppSettings], name: str, text: str) -> Any:
    """Return what ``text`` says in the type of a setting; as it came where it says nothing of that type."""
    return _parse(text, _type_of(cls, cls.names()[name]))


def kind_of(cls: type[AppSettings], name: str) -> Any:
    """Return the declared type of a setting."""
    return _type_of(cls, cls.names()[name])


def cached(cls: type[S]) -> Callable[[], S]:
    """
    Return the ``get_settings`` of an app: what is deployed, with the overrides of it that can be used.

    It reads once, and again when one of its Django settings or an override changes.

    """
    kept: list[S | None] = [None]

    def read() -> S:
        with _lock:
            settings, _ = overridden(cls.load(), _stored)
            kept[0] = settings
            return settings

    def get_settings() -> S:
        return kept[0] or read()

    def forget() -> None:
        kept[0] = None

    def changed(*, setting: str, **kwargs: Any) -> None:
        if setting.startswith(f"{cls.prefix}_"):
            with _lock:
                forget()

    _forgetting.append(forget)
    setting_changed.connect(changed, weak=False)
    return get_settings


def check_all() -> None:
    """
    Raise ImproperlyConfigured, with every problem, if the settings of any app that was imported are wrong.

    ASGI servers do not run Django's system checks, so whatever is made when a server starts calls this.

    """
    problems = [str(problem) for cls in AppSettings.__subclasses__() for problem in cls.read()[1]]
    if problems:
        raise ImproperlyConfigured("\n".join(problems))


def from_environment(
    classes: Iterable[type[AppSettings]], environ: Mapping[str, str] = os.environ
) -> dict[str, Any]:
    """
    Return the settings that environment variables of the same name give, converted to their types.

    A value that cannot be converted is returned as it came, so that the start-up error can name it.

    """
    found: dict[str, Any] = {}
    for cls in classes:
        for name, field in cls.names().items():
            if name in environ:
                found[name] = _parse(environ[name], _type_of(cls, field))
    return found


def _type_of(cls: type[AppSettings], field: dataclasses.Field[Any]) -> Any:
    # The type checker takes the class for one of its instances, which need not be hashable.
    return _types(typing.cast("Any", cls))[field.name]


@functools.cache
def _types(cls: type[Any]) -> dict[str, Any]:
    return typing.get_type_hints(cls)


def _parse(text: str, kind: Any) -> Any:
    lowered = text.strip().lower()
    if isinstance(kind, types.UnionType) and int in _alternatives(kind) and not lowered.startswith("{"):
        return _parse(text, int)
    if kind is bool:
        return True if lowered in _TRUE else False if lowered in _FALSE else text
    if typing.get_origin(kind) is tuple:
        return tuple(part.strip() for part in text.split(",") if part.strip())
    if kind in (int, float):
        try:
            return kind(text)
        except ValueError:
            return text
    if lowered.startswith("{") and any(typing.get_origin(one) is Mapping for one in _alternatives(kind)):
        try:
            return json.loads(text)
        except ValueError:
            return text
    return text


def _checked(
    cls: type[AppSettings], name: str, field: dataclasses.Field[Any], value: Any
) -> tuple[Any, Problem | None]:
    """Return the value in its declared type, or the problem that keeps it from being used."""
    kind = _type_of(cls, field)
    shown = "a secret" if field.metadata["secret"] else repr(value)
    unit = f" {field.metadata['unit']}" if field.metadata["unit"] else ""
    converted = _converted(value, kind)
    if converted is None:
        wanted = _wanted(kind, field.metadata["unit"])
        return None, Problem(f"{cls.app}.E001", f"{name} is {shown}.", f"Set it to {wanted}.")
    for place, number in _numbers(converted):
        if problem := _range_problem(field.metadata, number):
            told = shown if not place else repr(number)
            return None, Problem(
                f"{cls.app}.E003", f"{name}{place} is {told}{unit}.", f"It must be {problem}{unit}."
            )
    choices = field.metadata["choices"]
    for place, chosen in _chosen(converted) if choices else ():
        if chosen not in choices:
            near = difflib.get_close_matches(str(chosen), choices, n=1)
            hint = f"Did you mean {near[0]!r}?" if near else f"Choose one of: {', '.join(choices)}."
            return None, Problem(f"{cls.app}.E004", f"{name}{place} is {chosen!r}.", hint)
    if field.metadata["validate"] and (wrong := field.metadata["validate"](converted)):
        return None, Problem(f"{cls.app}.E005", f"{name} is {shown}.", wrong)
    return converted, None


def _chosen(value: Any) -> Iterator[tuple[str, Any]]:
    """Yield the words to choose in a value, each with its place in it."""
    if isinstance(value, dict):
        yield from ((f"[{key!r}]", word) for key, word in value.items())
    else:
        yield "", value


def _numbers(value: Any) -> Iterator[tuple[str, Any]]:
    """Yield the numbers in a value, each with its place in it."""
    return ((place, one) for place, one in _chosen(value) if isinstance(one, int | float))


_KINDS: dict[Any, str] = {
    bool: "True or False",
    int: "a whole number",
    float: "a number",
    str: "a string",
    tuple: "a list of strings",
}


_PLURALS: dict[Any, str] = {str: "strings", int: "whole numbers", float: "numbers"}


def _wanted(kind: Any, unit: str) -> str:
    words = " or ".join(map(_named_kind, _alternatives(kind)))
    if not unit:
        return words
    return f"{words} of {unit}" if kind in (int, float) else f"{words} ({unit})"


def _named_kind(kind: Any) -> str:
    if typing.get_origin(kind) is Mapping:
        return f"a mapping of strings to {_PLURALS[typing.get_args(kind)[1]]}"
    return _KINDS[typing.get_origin(kind) or kind]


def _alternatives(kind: Any) -> tuple[Any, ...]:
    """Return the types that ``kind`` stands for: itself, or those of a union."""
    return typing.get_args(kind) if isinstance(kind, types.UnionType) else (kind,)


def _converted(value: Any, kind: Any) -> Any:
    """Return the value as ``kind``; ``None`` where that would be a guess (bool is not a number here)."""
    if isinstance(kind, types.UnionType):
        return next(
            (found for one in _alternatives(kind) if (found := _converted(value, one)) is not None), None
        )
    if typing.get_origin(kind) is Mapping:
        return _converted_mapping(value, typing.get_args(kind)[1]) if isinstance(value, Mapping) else None
    if typing.get_origin(kind) is tuple:
        if isinstance(value, list | tuple | set | frozenset) and all(isinstance(part, str) for part in value):
            return tuple(value)
        return None
    if isinstance(value, bool) or kind is bool:
        return value if kind is bool and isinstance(value, bool) else None
    if kind is float and isinstance(value, int | float):
        try:
            return float(value) if math.isfinite(value) else None
        except OverflowError:  # a whole number with hundreds of digits
            return None
    return value if isinstance(value, kind) else None


def _converted_mapping(mapping: Mapping[Any, Any], kind: Any) -> dict[str, Any] | None:
    converted = {key: _converted(value, kind) for key, value in mapping.items() if isinstance(key, str)}
    return None if len(converted) < len(mapping) or None in converted.values() else converted


def _range_problem(metadata: Mapping[str, Any], value: Any) -> str | None:
    if metadata["above"] is not None and value <= metadata["above"]:
        return f"more than {metadata['above']:g}"
    if metadata["minimum"] is not None and value < metadata["minimum"]:
        return f"at least {metadata['minimum']:g}"
    if metadata["maximum"] is not None and value > metadata["maximum"]:
        return f"at most {metadata['maximum']:g}"
    return None


def _unknown_names(cls: type[AppSettings]) -> Iterator[Problem]:
    known = cls.names()
    for name in dir(django_settings):
        if name.startswith(f"{cls.prefix}_") and name not in known:
            # Without the prefix: what all of them begin with makes no two of them alike.
            own = {known_name.removeprefix(cls.prefix): known_name for known_name in known}
            near = [
                own[match]
                for match in difflib.get_close_matches(name.removeprefix(cls.prefix), own, n=1, cutoff=0.6)
            ]
            hint = f"Did you mean {near[0]}?" if near else f"Remove it; the settings are: {', '.join(known)}."
            yield Problem(f"{cls.app}.E002", f"{name} is not a setting.", hint)


def _source(cls: type[AppSettings], name: str, field: dataclasses.Field[Any], value: Any) -> Source:
    if not hasattr(django_settings, name):
        return "default"
    if (
        name in os.environ
        and _converted(_parse(os.environ[name], _type_of(cls, field)), _type_of(cls, field)) == value
    ):
        return "env"
    return "settings"
