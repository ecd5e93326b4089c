"""The most frequent names of a stream."""

from __future__ import annotations

import random
from collections import Counter

from ratelimit.toplist import Ranked, TopList


def test_names_are_ranked_by_how_often_they_were_seen():
    names = TopList()
    for name in "abacabb":
        names.add(name)
    names.add("b")
    assert names.top(2) == (Ranked("b", 4), Ranked("a", 3))


def test_equally_frequent_names_are_in_order():
    names = TopList()
    for name in "cab":
        names.add(name)
    assert [ranked.name for ranked in names.top(10)] == ["a", "b", "c"]


def test_memory_is_bounded():
    names = TopList(size=10)
    for number in range(10_000):
        names.add(str(number))
    assert len(names.top(1000)) == 10


def test_who_is_frequent_is_found_among_any_number_of_others():
    """With room for n names, whoever is more than one in n is in the list, and never counted too low."""
    chance = random.Random(7)
    stream = ["heavy"] * 500 + ["strong"] * 300 + [str(number) for number in range(5000)]
    chance.shuffle(stream)
    names = TopList(size=50)
    for name in stream:
        names.add(name)
    truth, found = Counter(stream), {ranked.name: ranked.count for ranked in names.top(50)}
    assert {"heavy", "strong"} <= set(found)
    assert all(found[name] >= truth[name] for name in found)
    assert found["heavy"] - truth["heavy"] <= len(stream) / 50
