"""Sizes are counted in bytes on the wire, not in characters."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ratelimit.sizes import payload_size, text_size


@given(st.text())
def test_the_size_of_any_text_is_that_of_its_utf8(text):
    assert text_size(text) == payload_size(text) == len(text.encode())


@given(st.binary())
def test_the_size_of_bytes_is_their_length(payload):
    assert payload_size(payload) == len(payload)


@pytest.mark.parametrize("size", [text_size, payload_size])
def test_a_lone_surrogate_has_a_size_though_no_server_will_send_it(size):
    assert size("\ud800") == 3
