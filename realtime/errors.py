"""
What this app raises.

RealtimeError
├── ClientError             what a client did wrong; becomes a ``system.error`` frame
├── HandlerError            a handler that cannot be registered
├── ChannelLayerMissing     no channel layer is configured
├── PublishError            a publish that reached nobody it should have
│   ├── PublishQueueFull    too many publishes wait in this process
│   ├── MissingTarget       a target that names nobody, such as ``None``
│   └── StateUnavailable    what nodes share cannot be reached, or refuses
├── SessionDataError        session data that cannot be kept
├── TaskError               a background job that is told in a way it cannot be
└── SocketClosed            a message for a socket that is gone

"""

from __future__ import annotations

from django.core.exceptions import ImproperlyConfigured


class RealtimeError(Exception):
    """The root of the tree."""


class ClientError(RealtimeError):
    """
    Something the client did wrong.

    Raise it in a handler to answer with ``system.error``: ``code`` is a stable string programs
    branch on, the message tells a person what to do.

    """

    def __init__(self, code: str, message: str) -> None:
        super().__init__(message)
        self.code = code
        self.message = message


class HandlerError(RealtimeError, TypeError):
    """A handler that cannot be registered: said when the class is made, not when a message comes."""


class ChannelLayerMissing(RealtimeError, ImproperlyConfigured):
    """No channel layer is configured, and something needs one."""


class PublishError(RealtimeError):
    """A publish that did not happen."""


class PublishQueueFull(PublishError):
    """As many publishes wait in this process as ``REALTIME_MAX_QUEUE_SIZE`` allows. Slow down, or raise it."""


class MissingTarget(PublishError, ValueError):
    """The target names nobody. ``None`` never means everybody: use ``broadcast`` for that."""


class StateUnavailable(PublishError):
    """What nodes share cannot be reached, or refuses. Whether it did what was asked is not known; ask again later."""


class SessionDataError(RealtimeError, ValueError):
    """Session data that cannot be kept."""


class TaskError(RealtimeError, ValueError):
    """A background job that is told in a way it cannot be: begun twice, or with a result that is too large."""


class SocketClosed(RealtimeError, OSError):
    """The socket is gone, so nothing can be sent to it. Serving a socket may end with it."""
