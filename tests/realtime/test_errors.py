"""The tree of errors: what the docstring draws is what the classes are."""

from __future__ import annotations

import re

import pytest
from django.core.exceptions import ImproperlyConfigured

from realtime import errors
from realtime.errors import (
    ChannelLayerMissing,
    ClientError,
    HandlerError,
    MissingTarget,
    PublishQueueFull,
    RealtimeError,
    SessionDataError,
    SocketClosed,
)


def drawn() -> dict[str, str | None]:
    """Return each class in the docstring's drawing with the class it hangs from."""
    parents: dict[str, str | None] = {}
    path: list[str] = []
    for line in (errors.__doc__ or "").splitlines():
        found = re.match(r"([│ ]*(?:[├└]── )?)([A-Z]\w+)(?:  +\S.*)?$", line)
        if found:
            level = len(found[1]) // 4
            del path[level:]
            parents[found[2]] = path[-1] if path else None
            path.append(found[2])
    return parents


def defined() -> dict[str, str | None]:
    classes = [
        value
        for value in vars(errors).values()
        if isinstance(value, type) and value.__module__ == errors.__name__
    ]
    return {cls.__name__: None if cls is RealtimeError else cls.__bases__[0].__name__ for cls in classes}


def test_the_tree_is_as_it_is_drawn():
    """S14"""
    assert drawn() == defined()
    assert list(drawn()) == list(defined())


def test_every_error_of_this_app_can_be_caught_at_once():
    for name in defined():
        assert issubclass(getattr(errors, name), RealtimeError)
        assert getattr(errors, name).__doc__


@pytest.mark.parametrize(
    ("error", "also"),
    [
        pytest.param(HandlerError, TypeError, id="a wrong handler is a programming error"),
        pytest.param(
            ChannelLayerMissing, ImproperlyConfigured, id="a missing layer is a wrong configuration"
        ),
        pytest.param(MissingTarget, ValueError, id="a missing target is a wrong value"),
        pytest.param(SessionDataError, ValueError, id="session data is a wrong value"),
        pytest.param(SocketClosed, OSError, id="a closed socket is what ASGI servers raise"),
    ],
)
def test_who_does_not_know_this_app_can_catch_it_too(error, also):
    assert issubclass(error, also)


def test_a_full_queue_is_not_a_wrong_value():
    """It passes by itself: who catches programming errors must not catch it."""
    assert not issubclass(PublishQueueFull, ValueError | TypeError)


def test_a_client_error_has_a_code_for_programs_and_a_message_for_people():
    error = ClientError("forbidden", "You may not join.")
    assert (error.code, error.message, str(error)) == ("forbidden", "You may not join.", "You may not join.")
