"""Where the tests of Channels come from, and what is said where they cannot be had."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests import channelsuite
from tests.channelsuite import Unavailable, sources


def checkout(folder: Path, version: str) -> Path:
    (folder / "channels").mkdir(parents=True)
    (folder / "channels" / "__init__.py").write_text(f'__version__ = "{version}"\n')
    (folder / "tests" / "sample_project").mkdir(parents=True)
    return folder


@pytest.fixture(autouse=True)
def new_machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("CHANNELS_SOURCES", raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr(channelsuite, "REPOSITORY", str(tmp_path / "no-repository"))


def test_checkout_that_was_named_is_taken(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    named = checkout(tmp_path / "named", "4.3.2")
    monkeypatch.setenv("CHANNELS_SOURCES", str(named))
    assert sources("4.3.2") == named


def test_sources_are_fetched_once(tmp_path: Path) -> None:
    fetched = checkout(tmp_path / "cache" / "channels-ops" / "channels-4.3.2", "4.3.2")
    assert sources("4.3.2") == fetched


def test_another_version_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CHANNELS_SOURCES", str(checkout(tmp_path / "named", "4.3.1")))
    with pytest.raises(Unavailable, match=r"holds Channels 4\.3\.1, and 4\.3\.2 is installed"):
        sources("4.3.2")


def test_a_folder_without_the_tests_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CHANNELS_SOURCES", str(tmp_path))
    with pytest.raises(Unavailable, match="does not hold the sources of Channels with their tests"):
        sources("4.3.2")


def test_where_nothing_can_be_fetched_it_says_what_to_do(tmp_path: Path) -> None:
    with pytest.raises(Unavailable, match=r"cannot be had from .*no-repository.*CHANNELS_SOURCES=/path"):
        sources("4.3.2")
    assert not (tmp_path / "cache" / "channels-ops" / "channels-4.3.2").exists()
