"""Wrong settings are named before anything runs with them."""

from __future__ import annotations

import pytest
from django.test import override_settings

from dashboard.checks import check_settings, check_token


def test_defaults_are_fine():
    assert check_settings() == []
    assert check_token() == []


@override_settings(DASHBOARD_REFRESH_INTERVAL=-1)
def test_value_out_of_range_is_an_error_with_value_and_unit():
    (error,) = check_settings()
    assert error.id == "dashboard.E003"
    assert error.msg == "DASHBOARD_REFRESH_INTERVAL is -1 seconds."


@override_settings(DASHBOARD_REFRESH_INTERVALL=1)
def test_misspelt_setting_is_named_with_its_likely_spelling():
    (error,) = check_settings()
    assert error.id == "dashboard.E002"
    assert error.hint == "Did you mean DASHBOARD_REFRESH_INTERVAL?"


@pytest.mark.parametrize(("length", "warned"), [(0, False), (1, True), (15, True), (16, False)])
def test_short_token_is_warned_of_without_being_shown(length, warned):
    with override_settings(DASHBOARD_TOKEN="x" * length):
        found = check_token()
    assert [warning.id for warning in found] == (["dashboard.W001"] if warned else [])
    assert all("xx" not in warning.msg for warning in found)


@override_settings(DASHBOARD_TOKEN=7)
def test_unusable_token_is_reported_once_and_not_shown():
    (error,) = check_settings()
    assert error.id == "dashboard.E001"
    assert "7" not in error.msg
    assert check_token() == []
