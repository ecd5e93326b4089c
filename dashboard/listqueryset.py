"""
A queryset over rows held in memory: what Django's change list asks of one, without a table.

The rows are any objects that have the model's field names as attributes; a model instance is made
of a row only when it is looked at, so that filtering and sorting ten thousand costs no model at all.

A value that is a tuple behaves as Django's many-valued relations do: a lookup is true where it is
true of one of the elements.

"""

from __future__ import annotations

import operator
from collections.abc import Callable, Iterable, Iterator
from typing import Any, Generic, TypeVar, overload

from django.core.exceptions import FieldDoesNotExist, FieldError
from django.db import DEFAULT_DB_ALIAS
from django.db.models import F, Field, Model, Q
from django.db.models.constants import LOOKUP_SEP
from django.db.models.expressions import OrderBy

M = TypeVar("M", bound=Model)
Predicate = Callable[[Any], bool]


class UnsupportedQuery(FieldError):
    """A lookup, an expression or a method that rows in memory cannot answer."""


class _Query:
    """The two attributes of ``QuerySet.query`` that the change list reads."""

    select_related = False
    order_by: tuple[str, ...] = ()


class ListQuerySet(Generic[M]):
    """
    Rows in memory that can be filtered, ordered, counted and sliced as a queryset can.

    ``build`` makes the model instance of a row. Every method that narrows or sorts returns a new
    queryset and leaves this one alone; rows are never fetched again. What is not supported raises
    :class:`UnsupportedQuery` when it is asked for, not when the rows are looked at.

    """

    ordered = True
    """The rows have an order at all times, so that paging is stable."""
    db = DEFAULT_DB_ALIAS

    def __init__(self, model: type[M], rows: Iterable[Any], build: Callable[[Any], M]) -> None:
        self.model = model
        self.query = _Query()
        self._rows = rows if isinstance(rows, list) else list(rows)
        self._build = build
        self._instances: list[M] | None = None

    def __repr__(self) -> str:
        return f"<ListQuerySet of {len(self._rows)} {self.model._meta.verbose_name_plural}>"

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        raise AttributeError(
            f"{self.model.__name__} has no table: its rows can be filtered, ordered, counted and sliced, but not {name!r}."
        )

    def __iter__(self) -> Iterator[M]:
        if self._instances is None:
            self._instances = [self._build(row) for row in self._rows]
        return iter(self._instances)

    def __len__(self) -> int:
        return len(self._rows)

    @overload
    def __getitem__(self, key: int) -> M: ...

    @overload
    def __getitem__(self, key: slice) -> ListQuerySet[M]: ...

    def __getitem__(self, key: int | slice) -> M | ListQuerySet[M]:
        if isinstance(key, slice):
            return self._with(self._rows[key])
        return self._build(self._rows[key])

    def _with(self, rows: list[Any]) -> ListQuerySet[M]:
        return ListQuerySet(self.model, rows, self._build)

    def _clone(self) -> ListQuerySet[M]:
        return self._with(self._rows)

    def all(self) -> ListQuerySet[M]:
        return self._clone()

    def none(self) -> ListQuerySet[M]:
        return self._with([])

    def using(self, alias: str | None) -> ListQuerySet[M]:
        """Memory is not in any database, so every alias gives the same rows."""
        return self._clone()

    def distinct(self) -> ListQuerySet[M]:
        """No lookup repeats a row here."""
        return self._clone()

    def select_related(self, *fields: str) -> ListQuerySet[M]:
        """Rows in memory have no relations to follow."""
        return self._clone()

    def count(self) -> int:
        return len(self._rows)

    def exists(self) -> bool:
        return bool(self._rows)

    def first(self) -> M | None:
        return self._build(self._rows[0]) if self._rows else None

    def iterator(self, chunk_size: int | None = None) -> Iterator[M]:
        """Yield the instances one by one, keeping none."""
        return map(self._build, self._rows)

    def get(self, *args: Q, **lookups: Any) -> M:
        """Return the one row that matches. Raise the model's DoesNotExist or MultipleObjectsReturned."""
        found = self.filter(*args, **lookups)._rows
        model: Any = self.model
        name = model._meta.object_name
        if not found:
            raise model.DoesNotExist(f"No {name} matches {lookups or args}.")
        if len(found) > 1:
            raise model.MultipleObjectsReturned(f"{len(found)} rows of {name} match {lookups or args}.")
        return self._build(found[0])

    def filter(self, *args: Q, **lookups: Any) -> ListQuerySet[M]:
        return self._narrowed(Q(*args, **lookups))

    def exclude(self, *args: Q, **lookups: Any) -> ListQuerySet[M]:
        return self._narrowed(~Q(*args, **lookups))

    def _narrowed(self, q: Q) -> ListQuerySet[M]:
        if not q:
            return self._clone()
        return self._with(list(filter(_predicate(self.model, q), self._rows)))

    def order_by(self, *names: str | F | OrderBy) -> ListQuerySet[M]:
        """
        Sort by field names (``-name`` is descending), F() or OrderBy expressions of one field.

        Rows without a value come last in both directions: an unknown is never the most extreme.

        """
        rows = self._rows
        for name in reversed(names):
            attribute, descending = _direction(name)
            rows = _sorted(rows, _getter(self.model, attribute), descending=descending)
        return self._with(rows)


def _sorted(rows: list[Any], value_of: Callable[[Any], Any], *, descending: bool) -> list[Any]:
    present = [row for row in rows if value_of(row) is not None]
    present.sort(key=value_of, reverse=descending)
    return present + [row for row in rows if value_of(row) is None]


def _direction(order: str | F | OrderBy) -> tuple[str, bool]:
    """Return the field name of an ordering and whether it is descending."""
    if isinstance(order, OrderBy) and isinstance(order.expression, F):
        return _name_of(order.expression), order.descending
    if isinstance(order, F):
        return _name_of(order), False
    if isinstance(order, str):
        return order.removeprefix("-"), order.startswith("-")
    raise UnsupportedQuery(f"Rows in memory cannot be ordered by {order!r}: name a field.")


def _name_of(expression: F) -> str:
    # The stubs do not know this documented attribute.
    name: str = expression.name  # type: ignore[attr-defined]
    return name


def _field(model: type[Model], name: str) -> Field[Any, Any]:
    meta = model._meta
    if name == "pk" and meta.pk is not None:
        return meta.pk
    try:
        field = meta.get_field(name)
    except FieldDoesNotExist as error:
        fields = ", ".join(field.name for field in meta.fields)
        raise UnsupportedQuery(f"{meta.object_name} has no field {name!r}. It has: {fields}.") from error
    if not isinstance(field, Field):
        raise UnsupportedQuery(f"{meta.object_name}.{name} is a relation, which rows in memory do not have.")
    return field


def _getter(model: type[Model], name: str) -> Callable[[Any], Any]:
    return operator.attrgetter(_field(model, name).attname)


def _predicate(model: type[Model], q: Q) -> Predicate:
    """Return the test that ``q`` stands for; everything that can be wrong with it is found here."""
    tests = [_child_predicate(model, child) for child in q.children]
    if q.connector not in (Q.AND, Q.OR):
        raise UnsupportedQuery(f"Rows in memory cannot combine lookups with {q.connector}.")
    test = tests[0] if len(tests) == 1 else _combined(tests, all if q.connector == Q.AND else any)
    return _negated(test) if q.negated else test


def _child_predicate(model: type[Model], child: Any) -> Predicate:
    if isinstance(child, Q):
        return _predicate(model, child) if child else lambda row: True
    if isinstance(child, tuple):
        return _lookup_predicate(model, *child)
    raise UnsupportedQuery(f"Rows in memory cannot be filtered by {child!r}: use lookups of fields.")


def _combined(tests: list[Predicate], how: Callable[[Iterable[bool]], bool]) -> Predicate:
    return lambda row: how(test(row) for test in tests)


def _negated(test: Predicate) -> Predicate:
    return lambda row: not test(row)


def _lookup_predicate(model: type[Model], path: str, wanted: Any) -> Predicate:
    name, _, lookup = path.partition(LOOKUP_SEP)
    field, lookup = _field(model, name), lookup or "exact"
    if lookup not in LOOKUPS:
        raise UnsupportedQuery(
            f"{model.__name__} cannot be filtered by {path!r}: rows in memory know {', '.join(LOOKUPS)}."
        )
    if wanted is None:
        if lookup not in ("exact", "iexact"):
            raise ValueError(f"None cannot be compared with {path!r}: use {name}{LOOKUP_SEP}isnull.")
        lookup, wanted = "isnull", True
    prepare, matches = LOOKUPS[lookup]
    return _value_predicate(operator.attrgetter(field.attname), matches, prepare(field, wanted), lookup)


def _value_predicate(
    value_of: Callable[[Any], Any], matches: Callable[[Any, Any], bool], wanted: Any, lookup: str
) -> Predicate:
    if lookup == "isnull":
        return lambda row: matches(value_of(row), wanted)

    def test(row: Any) -> bool:
        value = value_of(row)
        if value is None:
            return False
        if isinstance(value, tuple):
            return any(matches(element, wanted) for element in value)
        return matches(value, wanted)

    return test


def _python(field: Field[Any, Any], wanted: Any) -> Any:
    """Return a value as the field's own type: values from a query string arrive as text."""
    return field.to_python(wanted)


def _each_python(field: Field[Any, Any], wanted: Iterable[Any]) -> frozenset[Any]:
    return frozenset(field.to_python(one) for one in wanted)


def _text(field: Field[Any, Any], wanted: Any) -> str:
    return str(wanted)


def _folded(field: Field[Any, Any], wanted: Any) -> str:
    return str(wanted).casefold()


def _boolean(field: Field[Any, Any], wanted: Any) -> bool:
    return bool(wanted)


LOOKUPS: dict[str, tuple[Callable[[Field[Any, Any], Any], Any], Callable[[Any, Any], bool]]] = {
    "exact": (_python, operator.eq),
    "iexact": (_folded, lambda value, wanted: str(value).casefold() == wanted),
    "in": (_each_python, lambda value, wanted: value in wanted),
    "contains": (_text, lambda value, wanted: wanted in str(value)),
    "icontains": (_folded, lambda value, wanted: wanted in str(value).casefold()),
    "startswith": (_text, lambda value, wanted: str(value).startswith(wanted)),
    "istartswith": (_folded, lambda value, wanted: str(value).casefold().startswith(wanted)),
    "gt": (_python, operator.gt),
    "gte": (_python, operator.ge),
    "lt": (_python, operator.lt),
    "lte": (_python, operator.le),
    "isnull": (_boolean, lambda value, wanted: (value is None) is wanted),
}
"""Each supported lookup: what becomes of the wanted value once, and the test of one value against it."""
