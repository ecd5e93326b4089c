"""Flat Django settings as one typed, checked object."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import pytest
from django.core.exceptions import ImproperlyConfigured
from django.test import override_settings

from ratelimit.appsettings import AppSettings, Problem, cached, from_environment, setting


@dataclass(frozen=True, kw_only=True)
class Bakery(AppSettings):
    """Settings of an app that bakes."""

    app = "bakery"
    prefix = "BAKERY"

    loaves: int = setting(10, "Loaves a day.", unit="loaves", minimum=0, maximum=100)
    heat: float = setting(220.0, "Heat of the oven.", unit="degrees", above=0)
    open: bool = setting(True, "Whether it is open.")
    bread: str = setting("rye", "What is baked.", choices=("rye", "wheat", "spelt"))
    towns: tuple[str, ...] = setting((), "Where it is sold.", unit="towns")
    crust: str | Mapping[str, str] = setting("thin", "Its crust, or that of each.", choices=("thin", "thick"))
    recipe: str = setting("", "The recipe.", secret=True)
    name: str = setting(
        "B", "Its name.", validate=lambda name: None if name[:1].isupper() else "Begin with a capital."
    )

    def conflicts(self) -> Iterator[Problem]:
        """No loaves from a closed bakery."""
        if not self.open and self.loaves:
            yield Problem("bakery.E010", "It is closed.", "Bake nothing.")


def problem_of(**settings) -> Problem:
    with override_settings(**settings):
        _, (problem,) = Bakery.read()
    return problem


def test_without_settings_every_field_has_its_default():
    assert Bakery.load() == Bakery()


def test_settings_are_named_after_prefix_and_field():
    assert set(Bakery.names()) == {
        f"BAKERY_{field}" for field in ("LOAVES", "HEAT", "OPEN", "BREAD", "TOWNS", "CRUST", "RECIPE", "NAME")
    }


@pytest.mark.parametrize(
    ("settings", "field", "value"),
    [
        pytest.param({"BAKERY_LOAVES": 0}, "loaves", 0, id="minimum is allowed"),
        pytest.param({"BAKERY_LOAVES": 100}, "loaves", 100, id="maximum is allowed"),
        pytest.param({"BAKERY_HEAT": 200}, "heat", 200.0, id="whole number as number"),
        pytest.param({"BAKERY_OPEN": False, "BAKERY_LOAVES": 0}, "open", False, id="bool"),
        pytest.param({"BAKERY_TOWNS": ["Ulm", "Bonn"]}, "towns", ("Ulm", "Bonn"), id="list as tuple"),
        pytest.param({"BAKERY_BREAD": "spelt"}, "bread", "spelt", id="choice"),
        pytest.param({"BAKERY_CRUST": "thick"}, "crust", "thick", id="one choice for all"),
        pytest.param({"BAKERY_CRUST": {"rye": "thick"}}, "crust", {"rye": "thick"}, id="a choice for each"),
        pytest.param({"BAKERY_CRUST": {}}, "crust", {}, id="a choice for none"),
    ],
)
def test_a_good_value_is_taken_in_its_declared_type(settings, field, value):
    with override_settings(**settings):
        got = getattr(Bakery.load(), field)
    assert (got, type(got)) == (value, type(value))


@pytest.mark.parametrize(
    ("settings", "id_", "message", "hint"),
    [
        pytest.param(
            {"BAKERY_LOAVES": "5"},
            "E001",
            "BAKERY_LOAVES is '5'.",
            "Set it to a whole number of loaves.",
            id="text for a number",
        ),
        pytest.param(
            {"BAKERY_LOAVES": 5.0},
            "E001",
            "BAKERY_LOAVES is 5.0.",
            "Set it to a whole number of loaves.",
            id="number for a whole number",
        ),
        pytest.param(
            {"BAKERY_LOAVES": True},
            "E001",
            "BAKERY_LOAVES is True.",
            "Set it to a whole number of loaves.",
            id="bool for a number",
        ),
        pytest.param(
            {"BAKERY_LOAVES": None},
            "E001",
            "BAKERY_LOAVES is None.",
            "Set it to a whole number of loaves.",
            id="nothing",
        ),
        pytest.param(
            {"BAKERY_HEAT": float("inf")},
            "E001",
            "BAKERY_HEAT is inf.",
            "Set it to a number of degrees.",
            id="endless",
        ),
        pytest.param(
            {"BAKERY_HEAT": float("nan")},
            "E001",
            "BAKERY_HEAT is nan.",
            "Set it to a number of degrees.",
            id="not a number",
        ),
        pytest.param(
            {"BAKERY_HEAT": 10**400},
            "E001",
            f"BAKERY_HEAT is {10**400}.",
            "Set it to a number of degrees.",
            id="too many digits",
        ),
        pytest.param(
            {"BAKERY_NAME": 5}, "E001", "BAKERY_NAME is 5.", "Set it to a string.", id="number for text"
        ),
        pytest.param(
            {"BAKERY_OPEN": 1},
            "E001",
            "BAKERY_OPEN is 1.",
            "Set it to True or False.",
            id="number for a bool",
        ),
        pytest.param(
            {"BAKERY_TOWNS": "Ulm"},
            "E001",
            "BAKERY_TOWNS is 'Ulm'.",
            "Set it to a list of strings (towns).",
            id="text for a list",
        ),
        pytest.param(
            {"BAKERY_TOWNS": ["Ulm", 5]},
            "E001",
            "BAKERY_TOWNS is ['Ulm', 5].",
            "Set it to a list of strings (towns).",
            id="list of anything",
        ),
        pytest.param(
            {"BAKERY_LOAFS": 5},
            "E002",
            "BAKERY_LOAFS is not a setting.",
            "Did you mean BAKERY_LOAVES?",
            id="misspelt",
        ),
        pytest.param(
            {"BAKERY_LOAVES": -1},
            "E003",
            "BAKERY_LOAVES is -1 loaves.",
            "It must be at least 0 loaves.",
            id="below",
        ),
        pytest.param(
            {"BAKERY_LOAVES": 101},
            "E003",
            "BAKERY_LOAVES is 101 loaves.",
            "It must be at most 100 loaves.",
            id="above",
        ),
        pytest.param(
            {"BAKERY_HEAT": 0},
            "E003",
            "BAKERY_HEAT is 0 degrees.",
            "It must be more than 0 degrees.",
            id="not more than",
        ),
        pytest.param(
            {"BAKERY_BREAD": "wheet"},
            "E004",
            "BAKERY_BREAD is 'wheet'.",
            "Did you mean 'wheat'?",
            id="misspelt choice",
        ),
        pytest.param(
            {"BAKERY_BREAD": "stone"},
            "E004",
            "BAKERY_BREAD is 'stone'.",
            "Choose one of: rye, wheat, spelt.",
            id="no choice",
        ),
        pytest.param(
            {"BAKERY_CRUST": {"rye": "thick", "wheat": "thicc"}},
            "E004",
            "BAKERY_CRUST['wheat'] is 'thicc'.",
            "Did you mean 'thick'?",
            id="misspelt choice for one of several",
        ),
        pytest.param(
            {"BAKERY_CRUST": {"rye": 1}},
            "E001",
            "BAKERY_CRUST is {'rye': 1}.",
            "Set it to a string or a mapping of strings to strings.",
            id="a mapping to something else",
        ),
        pytest.param(
            {"BAKERY_CRUST": ["thin"]},
            "E001",
            "BAKERY_CRUST is ['thin'].",
            "Set it to a string or a mapping of strings to strings.",
            id="neither a choice nor a mapping",
        ),
        pytest.param(
            {"BAKERY_NAME": "b"}, "E005", "BAKERY_NAME is 'b'.", "Begin with a capital.", id="own rule"
        ),
        pytest.param({"BAKERY_OPEN": False}, "E010", "It is closed.", "Bake nothing.", id="conflict"),
    ],
)
def test_a_bad_value_is_named_with_the_way_out(settings, id_, message, hint):
    problem = problem_of(**settings)
    assert (problem.id, problem.message, problem.hint) == (f"bakery.{id_}", message, hint)


def test_a_setting_like_no_other_is_told_which_there_are():
    hint = problem_of(BAKERY_XYZZY=1).hint
    assert hint.startswith("Remove it; the settings are: BAKERY_LOAVES, BAKERY_HEAT,")


def test_a_secret_is_never_shown():
    problem = problem_of(BAKERY_RECIPE=12345)
    assert "12345" not in str(problem)
    assert problem.message == "BAKERY_RECIPE is a secret."
    with override_settings(BAKERY_RECIPE="flour"):
        (described,) = (one for one in Bakery.load().described() if one.secret)
    assert (described.name, described.value, described.default) == ("BAKERY_RECIPE", "set", "not set")


def test_loading_raises_with_every_problem_at_once():
    with (
        override_settings(BAKERY_LOAVES=-1, BAKERY_HEAT="hot", BAKERY_LOAFS=1),
        pytest.raises(ImproperlyConfigured) as caught,
    ):
        Bakery.load()
    assert all(name in str(caught.value) for name in ("BAKERY_LOAVES", "BAKERY_HEAT", "BAKERY_LOAFS"))


def test_reading_returns_the_settings_beside_problems_that_hurt_no_value():
    with override_settings(BAKERY_LOAFS=1):
        loaded, problems = Bakery.read()
    assert loaded == Bakery()
    assert len(problems) == 1
    with override_settings(BAKERY_LOAVES=-1):
        assert Bakery.read()[0] is None


def test_settings_are_read_once_until_one_of_theirs_changes():
    get_settings = cached(Bakery)
    first = get_settings()
    with override_settings(OTHER=1):
        assert get_settings() is first
    with override_settings(BAKERY_LOAVES=3):
        assert get_settings().loaves == 3
    assert get_settings().loaves == 10


@pytest.mark.parametrize(
    ("name", "text", "value"),
    [
        pytest.param("BAKERY_LOAVES", "5", 5, id="whole number"),
        pytest.param("BAKERY_HEAT", "180.5", 180.5, id="number"),
        pytest.param("BAKERY_OPEN", "Yes", True, id="yes"),
        pytest.param("BAKERY_OPEN", " off ", False, id="off"),
        pytest.param("BAKERY_OPEN", "0", False, id="0 is no"),
        pytest.param("BAKERY_TOWNS", "Ulm, Bonn,", ("Ulm", "Bonn"), id="list"),
        pytest.param("BAKERY_TOWNS", "", (), id="empty list"),
        pytest.param("BAKERY_BREAD", "wheat", "wheat", id="text"),
        pytest.param("BAKERY_CRUST", "thick", "thick", id="text where a mapping may be"),
        pytest.param("BAKERY_CRUST", '{"rye": "thick"}', {"rye": "thick"}, id="mapping, as JSON"),
        pytest.param("BAKERY_CRUST", "{rye", "{rye", id="what begins like JSON and is not"),
        pytest.param("BAKERY_BREAD", "{}", "{}", id="a brace where no mapping may be"),
        pytest.param("BAKERY_LOAVES", "many", "many", id="what cannot be converted stays as it came"),
        pytest.param("BAKERY_OPEN", "perhaps", "perhaps", id="neither yes nor no"),
    ],
)
def test_the_environment_gives_values_of_the_declared_type(name, text, value):
    found = from_environment([Bakery], {name: text, "BAKERY": "x", "OTHER": "y"})
    assert found == {name: value}
    assert type(found[name]) is type(value)


def test_what_the_environment_says_wrong_is_named_at_start_up():
    assert (
        problem_of(**from_environment([Bakery], {"BAKERY_LOAVES": "many"})).message
        == "BAKERY_LOAVES is 'many'."
    )


@pytest.mark.parametrize(
    ("environ", "settings", "source"),
    [
        pytest.param({}, {}, "default", id="nobody sets it"),
        pytest.param({"BAKERY_LOAVES": "5"}, {"BAKERY_LOAVES": 5}, "env", id="the environment"),
        pytest.param({}, {"BAKERY_LOAVES": 5}, "settings", id="the settings"),
        pytest.param(
            {"BAKERY_LOAVES": "5"},
            {"BAKERY_LOAVES": 7},
            "settings",
            id="the settings in spite of the environment",
        ),
    ],
)
def test_where_a_value_comes_from(environ, settings, source, monkeypatch):
    for name, text in environ.items():
        monkeypatch.setenv(name, text)
    with override_settings(**settings):
        (described,) = (one for one in Bakery.load().described() if one.name == "BAKERY_LOAVES")
    assert described.source == source
    assert (described.unit, described.doc, described.default) == ("loaves", "Loaves a day.", 10)
