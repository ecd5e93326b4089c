"""A mapping whose entries go away by themselves."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from realtime.state.expiring import Expiring


def test_an_entry_lasts_for_its_time():
    things: Expiring[str, int] = Expiring()
    things.put("a", 1, 100.0, 10.0)
    assert things.get("a", 109.9) == 1
    assert things.get("a", 110.0) is None
    assert things.get("b", 100.0) is None


def test_putting_again_renews_it():
    things: Expiring[str, int] = Expiring()
    things.put("a", 1, 0.0, 10.0)
    things.put("a", 2, 5.0, 10.0)
    things.expire(12.0)
    assert things.get("a", 12.0) == 2
    things.expire(15.0)
    assert len(things) == 0


def test_keeping_only_lengthens():
    things: Expiring[str, int] = Expiring()
    things.put("a", 1, 0.0, 10.0)
    things.keep("a", 1.0, 2.0)
    assert things.get("a", 9.0) == 1
    things.keep("a", 5.0, 10.0)
    things.expire(14.0)
    assert things.get("a", 14.0) == 1
    assert things.get("a", 15.0) is None


def test_what_was_dropped_is_gone_and_may_come_back():
    things: Expiring[str, int] = Expiring()
    things.put("a", 1, 0.0, 10.0)
    things.drop("a")
    things.drop("unknown")
    assert things.get("a", 1.0) is None
    things.put("a", 2, 1.0, 10.0)
    things.expire(10.5)
    assert things.get("a", 10.5) == 2


def test_what_expired_cannot_pile_up():
    """Nobody sweeps: new entries make room for themselves."""
    things: Expiring[int, int] = Expiring()
    for number in range(10_000):
        things.put(number, number, float(number), 100.0)
    assert len(things) < 150


def test_renewing_does_not_make_it_grow():
    things: Expiring[str, int] = Expiring()
    for number in range(1000):
        things.put("a", number, float(number), 100.0)
    assert len(things._due) == 1


operations = st.tuples(
    st.sampled_from(["put", "drop", "expire", "get"]), st.integers(0, 4), st.integers(1, 9), st.integers(0, 3)
)


@given(st.lists(operations, max_size=80))
def test_it_is_a_mapping_with_times(steps):
    things: Expiring[int, int] = Expiring()
    model: dict[int, tuple[float, int]] = {}
    now = 0.0
    for number, (operation, key, ttl, passed) in enumerate(steps):
        now += passed
        if operation == "put":
            things.put(key, number, now, ttl)
            model[key] = (now + ttl, number)
        elif operation == "drop":
            things.drop(key)
            model.pop(key, None)
        elif operation == "expire":
            things.expire(now)
        expected = {key: value for key, (expires, value) in model.items() if expires > now}
        assert {key: things.get(key, now) for key in range(5) if things.get(key, now) is not None} == expected
    things.expire(now + 100)
    assert len(things) == 0
