"""A list of rows answers as a queryset does."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
from django.contrib.auth.models import User
from django.core.exceptions import ValidationError
from django.db.models import Exists, F, Q

from dashboard.listqueryset import ListQuerySet, UnsupportedQuery
from dashboard.models import Client


def row(id, **known):
    defaults = {"user": "", "user_id": None, "rtt": None, "limited": 0, "rooms": ()}
    return SimpleNamespace(id=id, **{**defaults, **known})


ROWS = [
    row("a", user="Ada", user_id="1", rtt=0.2, limited=3, rooms=("Lobby", "staff")),
    row("b", user="bob", user_id="2", rtt=None, limited=0, rooms=("lobby",)),
    row("c", rtt=0.1, limited=3),
]


def queryset(rows=None):
    return ListQuerySet(Client, ROWS if rows is None else rows, lambda one: Client(id=one.id))


def ids(found):
    return [one.pk for one in found]


@pytest.mark.parametrize(
    ("lookups", "expected"),
    [
        pytest.param({"id": "b"}, ["b"], id="exact"),
        pytest.param({"pk": "b"}, ["b"], id="pk"),
        pytest.param({"user__exact": "ada"}, [], id="exact minds case"),
        pytest.param({"user__iexact": "aDA"}, ["a"], id="iexact"),
        pytest.param({"id__in": ["a", "c", "x"]}, ["a", "c"], id="in"),
        pytest.param({"pk__in": []}, [], id="in nothing"),
        pytest.param({"user__contains": "d"}, ["a"], id="contains"),
        pytest.param({"user__contains": "D"}, [], id="contains minds case"),
        pytest.param({"user__icontains": "B"}, ["b"], id="icontains"),
        pytest.param({"user__startswith": "Ad"}, ["a"], id="startswith"),
        pytest.param({"user__istartswith": "BO"}, ["b"], id="istartswith"),
        pytest.param({"limited__gt": 0}, ["a", "c"], id="gt"),
        pytest.param({"limited__gte": "3"}, ["a", "c"], id="gte, with text from a query string"),
        pytest.param({"rtt__lt": 0.2}, ["c"], id="lt leaves unknowns out"),
        pytest.param({"rtt__lte": 0.2}, ["a", "c"], id="lte"),
        pytest.param({"user_id__isnull": True}, ["c"], id="isnull"),
        pytest.param({"user_id__isnull": False}, ["a", "b"], id="is not null"),
        pytest.param({"user_id": None}, ["c"], id="None is null"),
        pytest.param({"rooms": "lobby"}, ["b"], id="one of many values"),
        pytest.param({"rooms__icontains": "LOB"}, ["a", "b"], id="one of many values contains"),
        pytest.param({"limited": 3, "rtt__lt": 0.15}, ["c"], id="several lookups must all be true"),
        pytest.param({}, ["a", "b", "c"], id="nothing asked"),
    ],
)
def test_filter_keeps_rows_that_match(lookups, expected):
    assert ids(queryset().filter(**lookups)) == expected


@pytest.mark.parametrize(
    ("condition", "expected"),
    [
        pytest.param(Q(id="a") | Q(id="b"), ["a", "b"], id="or"),
        pytest.param(Q(limited=3) & ~Q(id="a"), ["c"], id="and not"),
        pytest.param(Q(Q(id="a") | Q(id="c"), Q(rtt__gt=0.15)), ["a"], id="nested"),
        pytest.param(~(Q(id="a") | Q(id="b")), ["c"], id="not either"),
        pytest.param(Q(), ["a", "b", "c"], id="empty"),
        pytest.param(Q(Q(), Q(id="a")), ["a"], id="empty inside"),
    ],
)
def test_conditions_combine(condition, expected):
    assert ids(queryset().filter(condition)) == expected


def test_exclude_is_the_opposite_of_filter_and_keeps_unknowns():
    assert ids(queryset().exclude(rtt__gt=0.15)) == ["b", "c"]
    assert ids(queryset().exclude(limited=3, id="a")) == ["b", "c"]


@pytest.mark.parametrize(
    ("order", "expected"),
    [
        pytest.param(["id"], "abc", id="ascending"),
        pytest.param(["-id"], "cba", id="descending"),
        pytest.param(["-pk"], "cba", id="pk"),
        pytest.param(["rtt"], "cab", id="unknown last, ascending"),
        pytest.param(["-rtt"], "acb", id="unknown last, descending"),
        pytest.param(["-limited", "-id"], "cab", id="the second decides where the first is equal"),
        pytest.param([F("id").desc()], "cba", id="expression, descending"),
        pytest.param([F("id")], "abc", id="expression"),
        pytest.param([], "abc", id="no order"),
    ],
)
def test_order_by(order, expected):
    assert "".join(ids(queryset().order_by(*order))) == expected


@pytest.mark.parametrize(
    "ask",
    [
        pytest.param(lambda q: q.filter(rtt__year=1), id="lookup"),
        pytest.param(lambda q: q.filter(user__id__gt=1), id="lookup through a relation"),
        pytest.param(lambda q: q.filter(nobody=1), id="field"),
        pytest.param(lambda q: q.filter(Q(id="a") ^ Q(id="b")), id="connector"),
        pytest.param(lambda q: q.filter(Exists(User.objects.all())), id="expression"),
        pytest.param(lambda q: q.order_by("nobody"), id="order"),
        pytest.param(lambda q: q.order_by("?"), id="random order"),
    ],
)
def test_what_rows_cannot_answer_is_refused_when_it_is_asked(ask):
    with pytest.raises(UnsupportedQuery):
        ask(queryset())


def test_refusal_names_what_would_work():
    with pytest.raises(UnsupportedQuery, match=r"Client cannot be filtered by 'rtt__year': .*icontains"):
        queryset().filter(rtt__year=2026)
    with pytest.raises(UnsupportedQuery, match=r"Client has no field 'ghost'. It has: id, user_id"):
        queryset().filter(ghost=1)


def test_method_without_meaning_here_is_named():
    with pytest.raises(AttributeError, match=r"Client has no table.*'bulk_update'"):
        queryset().bulk_update([])


def test_value_of_the_wrong_type_is_refused():
    with pytest.raises(ValidationError):
        queryset().filter(limited__gt="many")
    with pytest.raises(ValueError, match="rtt__isnull"):
        queryset().filter(rtt__gt=None)


def test_get_returns_one_row_or_says_why_not():
    assert queryset().get(pk="b").pk == "b"
    with pytest.raises(Client.DoesNotExist):
        queryset().get(pk="x")
    with pytest.raises(Client.MultipleObjectsReturned):
        queryset().get(limited=3)


def test_slices_and_elements():
    rows = queryset()
    assert ids(rows[1:3]) == ["b", "c"]
    assert rows[0].pk == "a"
    assert (len(rows), rows.count(), bool(rows), rows.exists()) == (3, 3, True, True)
    assert rows.first().pk == "a"
    assert (queryset([]).first(), bool(queryset([]))) == (None, False)
    assert ids(rows.iterator(chunk_size=1)) == ["a", "b", "c"]


def test_narrowing_leaves_the_queryset_alone():
    rows = queryset()
    rows.filter(id="a").order_by("-id")
    rows.none()
    assert ids(rows) == ["a", "b", "c"]
    assert ids(rows.all().distinct().using("default").select_related().distinct()) == ["a", "b", "c"]


def test_instances_are_made_of_the_rows_looked_at_and_once():
    made = []

    def build(one):
        made.append(one.id)
        return Client(id=one.id)

    page = ListQuerySet(Client, ROWS, build).filter(limited=3).order_by("-id")[:1]
    assert made == []
    assert ids(page) == ids(page) == ["c"]
    assert made == ["c"]
