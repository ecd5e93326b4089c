"""The wheel: what a project that installs it gets, and what stays in the repository."""

from __future__ import annotations

import email
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
APPS = ("ratelimit", "realtime", "dashboard")


@pytest.fixture(scope="module")
def wheel(tmp_path_factory) -> zipfile.ZipFile:
    folder = tmp_path_factory.mktemp("wheel")
    done = subprocess.run(
        [sys.executable, "-m", "hatchling", "build", "--target", "wheel", "--directory", folder],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    (path,) = folder.glob("channels_ops-*.whl")
    with zipfile.ZipFile(path) as opened:
        yield opened


@pytest.fixture(scope="module")
def files(wheel) -> set[str]:
    return set(wheel.namelist())


def sources(*patterns: str) -> set[str]:
    """Return the files of the repository that match, as they are called there."""
    return {
        path.relative_to(ROOT).as_posix()
        for pattern in patterns
        for path in ROOT.glob(pattern)
        if path.is_file() and "__pycache__" not in path.parts
    }


@pytest.mark.parametrize("app", APPS)
def test_every_module_is_in_it(app, files):
    assert sources(f"{app}/**/*.py") <= files


@pytest.mark.parametrize("app", APPS)
def test_it_says_that_it_is_typed(app, files):
    assert f"{app}/py.typed" in files


@pytest.mark.parametrize("app", ["ratelimit", "dashboard"])
def test_migrations_are_in_it(app, files):
    migrations = sources(f"{app}/migrations/0*.py")
    assert migrations
    assert migrations <= files


def test_commands_are_in_it(files):
    assert {f"realtime/management/commands/{name}.py" for name in ("serve", "heartbeat")} <= files


def test_admin_templates_come_with_the_dashboard(files):
    templates = sources("templates/admin/**/*")
    assert templates
    assert {f"dashboard/{name}" for name in templates} <= files


def test_static_files_are_in_it(files):
    static = sources("dashboard/static/**/*")
    assert static
    assert static <= files


def test_nothing_else_is_in_it(files):
    tops = {name.split("/")[0] for name in files}
    assert {top for top in tops if not top.endswith(".dist-info")} == set(APPS)
    assert not [name for name in files if "demo" in name or "__pycache__" in name]


def test_license_and_description_come_along(wheel, files):
    (metadata,) = (name for name in files if name.endswith("METADATA"))
    described = email.message_from_bytes(wheel.read(metadata))
    assert described["Name"] == "channels-ops"
    assert described["License-Expression"] == "MIT"
    assert "# Channels Ops" in described.get_payload()
    assert any(name.endswith("licenses/LICENSE") for name in files)
