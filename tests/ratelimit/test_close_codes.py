"""The table of reasons to close for."""

from __future__ import annotations

import pytest

from ratelimit import close_codes
from ratelimit.close_codes import CloseReason

REASONS = [reason for reason in vars(close_codes).values() if isinstance(reason, CloseReason)]


@pytest.mark.parametrize(
    ("name", "code", "comes_back"),
    [
        ("policy", 1008, False),
        ("too_big", 1009, False),
        ("at_capacity", 1013, True),
        ("replaced", 4409, False),
        ("rate_limited", 4429, True),
    ],
)
def test_code_and_what_the_client_should_do(name, code, comes_back):
    (reason,) = (reason for reason in REASONS if reason.name == name)
    assert (reason.code, reason.retry) == (code, comes_back)


@pytest.mark.parametrize("reason", REASONS, ids=lambda reason: reason.name)
def test_reason_fits_in_a_close_frame(reason):
    """RFC 6455 5.5: a control payload is at most 125 bytes, two of them the code."""
    assert 0 < len(reason.text.encode()) <= 123


def test_codes_and_names_are_unique():
    assert (
        len({reason.code for reason in REASONS})
        == len({reason.name for reason in REASONS})
        == len(REASONS)
        == 5
    )
