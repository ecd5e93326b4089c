"""A chart is the geometry of its series."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

from dashboard.charts import HEIGHT, chart

START = datetime(2026, 1, 1, 9, 0, tzinfo=UTC)


def of(*values):
    return chart("key", "Title", [(START + timedelta(minutes=i), value) for i, value in enumerate(values)])


def test_bars_share_one_scale_and_stand_on_the_ground():
    made = of(0, 5, 10)
    assert [bar.height for bar in made.bars] == [0, HEIGHT / 2, HEIGHT]
    assert all(bar.y + bar.height == HEIGHT for bar in made.bars)
    assert [bar.x for bar in made.bars] == [0, 1, 2]
    assert (made.width, made.height) == (3, HEIGHT)


def test_little_beside_much_can_still_be_seen():
    assert of(1, 100_000).bars[0].height >= 1


def test_description_says_how_many_and_when_most():
    made = of(0, 5, 1200, 5)
    assert (made.total, made.peak) == (1210, 1200)
    assert made.description == "1,210 in the last 4 minutes; most at 09:02: 1,200."


def test_nothing_happened():
    made = of(0, 0)
    assert made.description == "None in the last 2 minutes."
    assert [bar.height for bar in made.bars] == [0, 0]
