"""Which method takes which message: ``@on`` marks them, the class gathers them, their payloads are typed."""

from __future__ import annotations

import inspect
import weakref
from collections.abc import Awaitable, Callable, Coroutine, Iterator
from dataclasses import dataclass
from typing import Any, TypeVar

import msgspec

from realtime.envelope import SYSTEM, Envelope
from realtime.errors import ClientError, HandlerError

Method = TypeVar("Method", bound=Callable[..., Coroutine[Any, Any, Any]])

_MARK = "_realtime_handles"
Mark = tuple[str, float | None]
"""The type a method handles, and its timeout in seconds."""


def on(type: str, *, timeout: float | None = None) -> Callable[[Method], Method]:
    """
    Mark an ``async`` method as the handler of messages of ``type``.

    Its one argument is the message's ``data``, decoded and checked as it is annotated: a
    ``msgspec.Struct``, a dataclass, a ``TypedDict``, ``dict``, ``list[int]`` and so on. Without an
    annotation it is a ``dict``; without an argument the data is ignored. ``timeout`` is seconds, in
    place of ``REALTIME_HANDLER_TIMEOUT``; 0 waits for ever.

    """
    if not type or type.startswith(SYSTEM):
        raise HandlerError(
            f"{type!r} cannot be handled: a type is not empty, and 'system.' is the protocol's own."
        )

    def mark(method: Method) -> Method:
        if not inspect.iscoroutinefunction(method):
            name = getattr(method, "__qualname__", repr(method))
            raise HandlerError(f"{name} handles {type!r} and must be an async function.")
        setattr(method, _MARK, (type, timeout))
        return method

    return mark


class Handler:
    """One handler of one consumer class, with what was counted of it."""

    __slots__ = (
        "calls",
        "decode",
        "doc",
        "errors",
        "method",
        "name",
        "payload",
        "seconds",
        "signature",
        "timeout",
        "type",
    )

    def __init__(self, type: str, method: Callable[..., Awaitable[Any]], timeout: float | None) -> None:
        self.type = type
        self.method = method
        self.timeout = timeout
        self.name = method.__name__
        self.doc = inspect.getdoc(method) or ""
        signature = _signature(method)
        self.signature = str(signature)
        self.payload = _payload(method, signature)
        self.decode = None if self.payload is None else msgspec.json.Decoder(self.payload).decode
        self.calls = self.errors = 0
        self.seconds = 0.0

    def start(self, consumer: Any, envelope: Envelope) -> Awaitable[Any]:
        """Return the awaitable that handles the message. Raise ClientError for data of the wrong shape."""
        if self.decode is None:
            return self.method(consumer)
        try:
            payload = self.decode(envelope.data)
        except msgspec.ValidationError as error:
            raise ClientError("bad_payload", f"The data of {self.type!r} does not fit: {error}.") from None
        except (msgspec.DecodeError, RecursionError) as error:
            raise ClientError("malformed", f"The data of {self.type!r} is not JSON: {error}.") from None
        return self.method(consumer, payload)


@dataclass(frozen=True, slots=True)
class HandlerInfo:
    """One handler as an observer sees it."""

    consumer: str
    type: str
    signature: str
    doc: str


_CLASSES: weakref.WeakSet[type] = weakref.WeakSet()


def gather(cls: type, base: type) -> dict[str, Handler]:
    """
    Return the handlers of a consumer class by type, and remember the class for :func:`registered`.

    A handler must not have the name of something that ``base`` needs.

    """
    found: dict[str, Handler] = {}
    for name, (type, timeout), method in _marked(cls):
        if hasattr(base, name):
            raise HandlerError(
                f"{cls.__qualname__}.{name} is a handler, and would replace {base.__name__}.{name}. Rename it."
            )
        if type in found:
            raise HandlerError(f"{cls.__qualname__}.{name} handles {type!r}, and so does {found[type].name}.")
        found[type] = Handler(type, method, timeout)
    _CLASSES.add(cls)
    return found


def registered() -> list[HandlerInfo]:
    """Return every handler of every consumer class, sorted by class and type."""
    return sorted(
        (
            HandlerInfo(f"{cls.__module__}.{cls.__qualname__}", handler.type, handler.signature, handler.doc)
            for cls in list(_CLASSES)
            for handler in getattr(cls, "handlers", {}).values()
        ),
        key=lambda info: (info.consumer, info.type),
    )


def _marked(cls: type) -> Iterator[tuple[str, Mark, Callable[..., Awaitable[Any]]]]:
    """Yield marked methods; one that a subclass overrides without a mark keeps the mark of its base."""
    for name in dir(cls):
        method = inspect.getattr_static(cls, name)
        mark = _mark_of(cls, name)
        if mark is None or method is None:
            continue
        if not inspect.iscoroutinefunction(method):
            raise HandlerError(
                f"{cls.__qualname__}.{name} handles {mark[0]!r} and must be an async function."
            )
        yield name, mark, method


def _mark_of(cls: type, name: str) -> Mark | None:
    """Return the nearest mark of a method: its own, or that of the method it overrides."""
    for base in cls.__mro__:
        mark: Mark | None = getattr(base.__dict__.get(name), _MARK, None)
        if mark is not None:
            return mark
    return None


def _signature(method: Callable[..., Any]) -> inspect.Signature:
    try:
        return inspect.signature(method, eval_str=True)
    except NameError as error:
        raise HandlerError(
            f"{method.__qualname__} has an annotation that cannot be resolved: {error}. Define it at the top of the module."
        ) from None


def _payload(method: Callable[..., Any], signature: inspect.Signature) -> Any:
    """Return the type of the one argument after ``self``; ``None`` where there is no such argument."""
    arguments = list(signature.parameters.values())[1:]
    if not arguments:
        return None
    if len(arguments) > 1 or arguments[0].kind not in (
        inspect.Parameter.POSITIONAL_ONLY,
        inspect.Parameter.POSITIONAL_OR_KEYWORD,
    ):
        raise HandlerError(
            f"{method.__qualname__}{signature} must take one argument after self: the message's data."
        )
    annotation = arguments[0].annotation
    return dict[str, Any] if annotation is inspect.Parameter.empty else annotation
