"""The tower wsproject -> dashboard -> realtime -> ratelimit: imports go down, never round, and stand at the top."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests import importgraph

ROOT = Path(__file__).resolve().parent.parent

TOWER = ("wsproject", "dashboard", "realtime", "ratelimit")
"""From the top: each may import itself and what stands to its right."""

OPTIONAL = ("picows", "uvloop", "redis", "channels_redis", "prometheus_client", "opentelemetry")
"""What may be missing at run time, or be exchanged: each is known to one module at most."""

INSIDE_FUNCTIONS = {
    ("dashboard.apps", "ready"): "models, and what uses them, can be imported once all apps are loaded",
    ("realtime.auth", "resolve_scope"): "models, as above; this module may be imported before",
    ("realtime.server", "install"): "importing daphne brings its reactor, which another server must not get",
}
"""Imports inside a function that are wanted, (module, function), each with its reason."""


def upward(imports: list[importgraph.Import]) -> list[str]:
    """Return the imports that go up the tower, or out of it to what is not shipped."""
    floors = {name: floor for floor, name in enumerate(TOWER)}
    lowest = {"tests": -1, "benchmarks": -1, "docs": -1, **floors}
    return [
        str(found)
        for found in imports
        if lowest.get(found.target.split(".")[0], len(TOWER)) < floors[found.source.split(".")[0]]
    ]


def hidden(imports: list[importgraph.Import]) -> list[importgraph.Import]:
    """Return the imports that stand inside a function."""
    return [found for found in imports if found.function is not None]


def shared(imports: list[importgraph.Import]) -> dict[str, set[str]]:
    """Return the optional packages that more than one module imports, with those modules."""
    users: dict[str, set[str]] = {}
    for found in imports:
        if (package := found.target.split(".")[0]) in OPTIONAL:
            users.setdefault(package, set()).add(found.source)
    return {package: modules for package, modules in users.items() if len(modules) > 1}


@pytest.fixture(scope="module")
def imports() -> list[importgraph.Import]:
    found = importgraph.read(ROOT, TOWER)
    assert {one.source.split(".")[0] for one in found} == set(TOWER), "an app was not read"
    return found


def test_imports_only_go_down_the_tower(imports):
    assert upward(imports) == []


def test_no_modules_import_each_other(imports):
    assert importgraph.cycles(imports) == []


def test_imports_stand_at_the_top_of_their_module(imports):
    surprising = [
        str(found) for found in hidden(imports) if (found.source, found.function) not in INSIDE_FUNCTIONS
    ]
    assert surprising == []


def test_every_exception_is_still_used(imports):
    assert set(INSIDE_FUNCTIONS) == {(found.source, found.function) for found in hidden(imports)}


def test_an_optional_package_is_known_to_one_module(imports):
    assert shared(imports) == {}


class TestTheRulesCanFail:
    """Small trees that break one rule each."""

    @pytest.fixture
    def tree(self, tmp_path):
        def plant(**modules: str) -> list[importgraph.Import]:
            for name, source in modules.items():
                path = tmp_path / f"{name.replace('__', '/')}.py"
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_text(source)
            return importgraph.read(tmp_path, TOWER)

        return plant

    @pytest.mark.parametrize(
        ("module", "source"),
        [
            pytest.param("ratelimit__a", "import realtime.b", id="import"),
            pytest.param("ratelimit__a", "from realtime import b", id="from"),
            pytest.param("realtime__a", "from dashboard.b import c", id="one floor"),
            pytest.param("dashboard__a", "def f():\n    from wsproject import b", id="hidden in a function"),
            pytest.param(
                "realtime__a", "import importlib\nimportlib.import_module('dashboard.b')", id="by name"
            ),
            pytest.param("wsproject__a", "from tests import b", id="what is not shipped"),
            pytest.param("ratelimit__a", "if TYPE_CHECKING:\n    import realtime", id="for types"),
        ],
    )
    def test_an_upward_import_is_found(self, tree, module, source):
        assert len(upward(tree(**{module: source}))) == 1

    def test_a_downward_import_is_allowed(self, tree):
        assert upward(tree(dashboard__a="from realtime import b\nimport ratelimit.c\nfrom .d import e")) == []

    @pytest.mark.parametrize(
        ("first", "second"),
        [
            pytest.param("import realtime.b", "import realtime.a", id="import"),
            pytest.param("from realtime import b", "from realtime.a import name", id="from"),
            pytest.param("from . import b", "from .a import name", id="relative"),
            pytest.param(
                "from realtime import b", "def f():\n    from realtime import a", id="hidden in a function"
            ),
        ],
    )
    def test_a_cycle_is_found(self, tree, first, second):
        found = tree(realtime__a=first, realtime__b=second)
        assert importgraph.cycles(found) == [["realtime.a", "realtime.b"]]

    def test_a_long_way_round_is_a_cycle(self, tree):
        found = tree(
            realtime__a="from . import b", realtime__b="from . import c", realtime__c="from . import a"
        )
        assert importgraph.cycles(found) == [["realtime.a", "realtime.b", "realtime.c"]]

    def test_an_import_for_types_only_closes_no_cycle(self, tree):
        found = tree(realtime__a="from . import b", realtime__b="if TYPE_CHECKING:\n    from . import a")
        assert importgraph.cycles(found) == []

    def test_an_import_inside_a_method_is_found(self, tree):
        (found,) = hidden(tree(realtime__a="class A:\n    async def f(self):\n        import json"))
        assert (found.source, found.function, found.target) == ("realtime.a", "f", "json")

    def test_an_optional_package_known_to_two_modules_is_found(self, tree):
        found = tree(
            realtime__a="import redis.asyncio",
            dashboard__b="try:\n    from redis import Redis\nfinally: pass",
        )
        assert shared(found) == {"redis": {"realtime.a", "dashboard.b"}}
