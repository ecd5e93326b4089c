"""The table of close codes: clients branch on the code, people read the text, metrics count the name."""

from __future__ import annotations

import dataclasses

import pytest

from realtime import close_codes
from realtime.close_codes import REASONS, CloseReason, name_of

RETRY = {
    1000: False, 1001: True, 1007: False, 1008: False, 1009: False, 1011: True, 1012: True, 1013: True,
    4400: False, 4401: False, 4403: False, 4408: True, 4409: False, 4410: False, 4413: True, 4429: True,
    4503: True,
}  # fmt: skip
"""Code: whether the client should come back. 4401 comes back with a fresh ticket, which is another connection."""


@pytest.mark.parametrize("reason", REASONS, ids=lambda reason: str(reason.code))
def test_a_text_fits_into_a_close_frame(reason):
    """RFC 6455 5.5: a control payload is at most 125 bytes, two of them the code."""
    assert 0 < len(reason.text.encode()) <= 123


@pytest.mark.parametrize("field", ["code", "name", "text"])
def test_no_two_reasons_share(field):
    values = [getattr(reason, field) for reason in REASONS]
    assert len(values) == len(set(values))


def test_the_table_is_what_clients_were_told():
    assert {reason.code: reason.retry for reason in REASONS} == RETRY


@pytest.mark.parametrize("reason", REASONS, ids=lambda reason: str(reason.code))
def test_a_code_may_be_sent(reason):
    """RFC 6455 7.4: some of the codes up to 1015 are never on the wire, and 4000 to 4999 are for applications."""
    assert reason.code in {1000, 1001, 1007, 1008, 1009, 1011, 1012, 1013} or 4000 <= reason.code <= 4999


@pytest.mark.parametrize("reason", REASONS, ids=lambda reason: str(reason.code))
def test_a_name_can_be_a_label(reason):
    assert reason.name.isidentifier()
    assert reason.name == reason.name.lower()


def test_every_reason_there_is_is_in_the_table_and_can_be_imported():
    named = {name for name, value in vars(close_codes).items() if isinstance(value, CloseReason)}
    assert {getattr(close_codes, name) for name in named} == set(REASONS)
    assert set(close_codes.__all__) == named | {"REASONS", "CloseReason", "name_of", "should_retry"}


@pytest.mark.parametrize(
    ("code", "name"),
    [
        *(pytest.param(reason.code, reason.name, id=str(reason.code)) for reason in REASONS),
        pytest.param(1005, "done", id="1005: closed without a code"),
        pytest.param(1006, "lost", id="1006: never closed"),
        pytest.param(None, "lost", id="no code at all"),
        pytest.param(1002, "other", id="a code of others"),
        pytest.param(4999, "other", id="an application's own"),
        pytest.param(0, "other", id="0"),
        pytest.param(-1, "other", id="negative"),
    ],
)
def test_the_name_of_a_code(code, name):
    assert name_of(code) == name


def test_names_are_bounded_whatever_clients_close_with():
    assert {name_of(code) for code in range(6000)} == {reason.name for reason in REASONS} | {"lost", "other"}


def test_a_reason_cannot_be_changed():
    with pytest.raises(dataclasses.FrozenInstanceError):
        REASONS[0].code = 1  # type: ignore[misc]


@pytest.mark.parametrize("reason", REASONS, ids=lambda reason: str(reason.code))
def test_a_client_comes_back_as_the_table_says(reason):
    assert close_codes.should_retry(reason.code) is reason.retry


def test_a_client_does_not_come_back_after_a_code_nobody_knows():
    assert not close_codes.should_retry(4999)
