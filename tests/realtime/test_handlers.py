"""Which method takes which message, and what its payload has to be."""

from __future__ import annotations

import dataclasses
import datetime
import decimal
import gc
import json
import uuid
from collections.abc import Callable
from typing import Annotated, Any, TypedDict

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from realtime.envelope import Envelope
from realtime.errors import ClientError, HandlerError
from realtime.handlers import Handler, HandlerInfo, gather, on, registered


class Line(msgspec.Struct):
    text: Annotated[str, msgspec.Meta(max_length=5)]


@dataclasses.dataclass
class Point:
    x: int
    y: int = 0

    def __post_init__(self) -> None:
        if self.x < 0:
            raise ValueError("x is negative")


class Options(TypedDict):
    loud: bool


class Base:
    """Stands for the consumer class: what it has, no handler may replace."""

    handlers: dict[str, Handler] = {}

    def __init_subclass__(cls) -> None:
        cls.handlers = gather(cls, Base)

    async def disconnect(self) -> None:
        """What a handler must not be called."""


class Chat(Base):
    @on("chat.send")
    async def send_line(self, line: Line) -> str:
        """Say something."""
        return line.text

    @on("chat.any")
    async def any_data(self, data) -> Any:
        return data

    @on("chat.bye", timeout=2.5)
    async def bye(self) -> str:
        return "bye"

    @on("point")
    async def point(self, point: Point) -> Point:
        return point

    @on("options")
    async def options(self, options: Options, /) -> Any:
        return options

    @on("numbers")
    async def numbers(self, numbers: list[int]) -> list[int]:
        return numbers

    @on("maybe")
    async def maybe(self, line: Line | None) -> Any:
        return line

    @on("whatever")
    async def whatever(self, data: Any) -> Any:
        return data


class Aside(Base):
    """Comes before ``Chat`` in every list, though its type does not."""

    @on("zzz")
    async def sleep(self) -> None: ...


def handler(type: str) -> Handler:
    return Chat.handlers[type]


async def handled(type: str, data: str) -> Any:
    return await handler(type).start(Chat(), Envelope(type, msgspec.Raw(data.encode())))


# Marking.


@pytest.mark.parametrize(
    "type",
    [
        pytest.param("", id="empty"),
        pytest.param("system.", id="the prefix alone"),
        pytest.param("system.ping", id="a type of the protocol"),
    ],
)
def test_a_type_that_applications_cannot_have(type):
    with pytest.raises(HandlerError, match=f"'{type}' cannot be handled"):
        on(type)


@pytest.mark.parametrize("type", ["systems.check", "SYSTEM.ping", "chat.system.ping", " "])
def test_a_type_that_only_looks_like_the_protocols(type):
    on(type)


def test_a_handler_must_be_async():
    def sync(self: Any) -> None:
        pass

    with pytest.raises(HandlerError, match=r"sync handles 'a' and must be an async function"):
        on("a")(sync)  # type: ignore[type-var]


def test_marking_leaves_the_method_as_it_is():
    async def method(self: Any) -> str:
        return "called"

    assert on("a")(method) is method


# Gathering.


def test_a_class_has_its_handlers_by_type():
    assert sorted(Chat.handlers) == [
        "chat.any", "chat.bye", "chat.send", "maybe", "numbers", "options", "point", "whatever",
    ]  # fmt: skip
    assert handler("chat.send").name == "send_line"
    assert (handler("chat.bye").timeout, handler("chat.send").timeout) == (2.5, None)


def test_a_subclass_has_those_of_its_bases_and_its_own():
    class Mixin:
        @on("mixed")
        async def mixed(self) -> None: ...

    class Loud(Mixin, Chat):
        @on("loud")
        async def shout(self) -> None: ...

    assert set(Loud.handlers) == {*Chat.handlers, "mixed", "loud"}
    assert "loud" not in Chat.handlers


async def test_a_subclass_that_overrides_a_handler_without_a_mark_keeps_the_mark_of_its_base():
    class Polite(Chat):
        async def bye(self) -> str:
            return "good bye"

    assert "chat.bye" in Polite.handlers
    assert await Polite.handlers["chat.bye"].start(Polite(), Envelope("chat.bye")) == "good bye"
    assert Polite.handlers["chat.bye"].timeout == 2.5


async def test_the_mark_goes_down_every_level_and_the_nearest_counts():
    class Polite(Chat):
        @on("chat.farewell", timeout=1)
        async def bye(self) -> str:
            return "good bye"

    class Formal(Polite):
        async def bye(self) -> str:
            return "sincerely"

    assert "chat.bye" not in Formal.handlers
    assert Formal.handlers["chat.farewell"].timeout == 1
    assert await Formal.handlers["chat.farewell"].start(Formal(), Envelope("chat.farewell")) == "sincerely"


def test_a_subclass_that_overrides_a_handler_with_what_is_not_async_is_refused():
    """Said when the class is made; its messages would be unknown otherwise."""
    with pytest.raises(HandlerError, match="must be an async function"):

        class Blunt(Chat):
            def bye(self) -> str:  # type: ignore[override]
                return "bye"


async def test_a_subclass_may_mark_the_override_anew():
    class Polite(Chat):
        @on("chat.farewell")
        async def bye(self) -> str:
            return "good bye"

    assert "chat.bye" not in Polite.handlers
    assert Polite.handlers["chat.farewell"].timeout is None


def test_a_subclass_can_take_a_handler_out():
    class Quiet(Chat):
        send_line = None  # type: ignore[assignment]

    assert "chat.send" not in Quiet.handlers


def test_two_handlers_of_one_type_are_refused_by_name():
    with pytest.raises(HandlerError, match=r"Twice\.second handles 'a', and so does first"):

        class Twice(Base):
            @on("a")
            async def first(self) -> None: ...

            @on("a")
            async def second(self) -> None: ...


def test_a_handler_must_not_replace_what_the_base_needs():
    with pytest.raises(
        HandlerError, match=r"Wrong\.disconnect is a handler, and would replace Base\.disconnect"
    ):

        class Wrong(Base):
            @on("a")
            async def disconnect(self) -> None: ...


def _takes_two() -> type:
    class TakesTwo(Base):
        @on("a")
        async def two(self, one: int, other: int) -> None: ...

    return TakesTwo


def _takes_keyword() -> type:
    class TakesKeyword(Base):
        @on("a")
        async def keyword(self, *, data: int) -> None: ...

    return TakesKeyword


def _takes_many() -> type:
    class TakesMany(Base):
        @on("a")
        async def many(self, *data: int) -> None: ...

    return TakesMany


def _unresolved() -> type:
    class Unresolved(Base):
        @on("a")
        async def unresolved(self, data: Nowhere) -> None: ...  # type: ignore[name-defined]  # noqa: F821

    return Unresolved


@pytest.mark.parametrize(
    ("make", "words"),
    [
        pytest.param(_takes_two, "must take one argument after self", id="two arguments"),
        pytest.param(_takes_keyword, "must take one argument after self", id="keyword only"),
        pytest.param(_takes_many, "must take one argument after self", id="any number"),
        pytest.param(
            _unresolved, "annotation that cannot be resolved: name 'Nowhere'", id="unknown annotation"
        ),
    ],
)
def test_a_handler_that_cannot_be_called_is_refused_when_the_class_is_made(make: Callable[[], type], words):
    with pytest.raises(HandlerError, match=words):
        make()


# Observing.


def test_every_handler_of_every_class_is_listed_in_order():
    mine = [info for info in registered() if info.consumer in (f"{__name__}.Aside", f"{__name__}.Chat")]
    assert [info.type for info in mine] == ["zzz", *sorted(Chat.handlers)]
    assert (
        HandlerInfo(
            f"{__name__}.Chat",
            "chat.send",
            "(self, line: tests.realtime.test_handlers.Line) -> str",
            "Say something.",
        )
        in mine
    )
    assert registered() == sorted(registered(), key=lambda info: (info.consumer, info.type))


def test_a_class_that_is_gone_is_not_listed():
    def count() -> int:
        gc.collect()
        return len([info for info in registered() if info.type == "short.lived"])

    class ShortLived(Base):
        @on("short.lived")
        async def handle(self) -> None: ...

    assert count() == 1
    del ShortLived
    assert count() == 0


def test_a_handler_starts_with_nothing_counted():
    fresh = Handler("a", Chat.bye, None)
    assert (fresh.calls, fresh.errors, fresh.seconds) == (0, 0, 0.0)
    assert (fresh.doc, handler("chat.send").doc) == ("", "Say something.")


# Payloads.


@pytest.mark.parametrize(
    ("type", "data", "expected"),
    [
        pytest.param("chat.send", '{"text": "hi", "more": 1}', "hi", id="struct"),
        pytest.param("point", '{"x": 1}', Point(1), id="dataclass"),
        pytest.param("options", '{"loud": true}', {"loud": True}, id="typed dict"),
        pytest.param("numbers", "[1, 2]", [1, 2], id="list"),
        pytest.param("maybe", "null", None, id="optional"),
        pytest.param("chat.any", '{"a": [1]}', {"a": [1]}, id="no annotation is a dict"),
        pytest.param("whatever", '"anything"', "anything", id="any"),
        pytest.param("chat.bye", '{"ignored": 1}', "bye", id="no argument, data ignored"),
        pytest.param("chat.bye", "null", "bye", id="no argument, no data"),
    ],
)
async def test_a_payload_is_what_its_annotation_says(type, data, expected):
    assert await handled(type, data) == expected


@pytest.mark.parametrize(
    ("type", "data", "words"),
    [
        pytest.param("chat.send", "null", "Expected `object`, got `null`", id="no data"),
        pytest.param("chat.send", "{}", "missing required field `text`", id="field missing"),
        pytest.param(
            "chat.send", '{"text": 1}', r"Expected `str`, got `int` - at `\$.text`", id="wrong type"
        ),
        pytest.param("chat.send", '{"text": "longer"}', "length <= 5", id="too long"),
        pytest.param("point", '{"x": "1"}', "Expected `int`, got `str`", id="number in a string"),
        pytest.param("point", '{"x": -1}', "x is negative", id="refused by the dataclass itself"),
        pytest.param("numbers", "[1, 2.5]", r"\$\[1\]", id="the element is named"),
        pytest.param("chat.any", "[]", "Expected `object`, got `array`", id="no annotation takes no list"),
        pytest.param("chat.any", "null", "Expected `object`, got `null`", id="no annotation takes no null"),
    ],
)
def test_data_of_the_wrong_shape_is_the_clients_error(type, data, words):
    with pytest.raises(ClientError, match=rf"The data of '{type}' does not fit: .*{words}") as caught:
        handler(type).start(Chat(), Envelope(type, msgspec.Raw(data.encode())))
    assert caught.value.code == "bad_payload"


@pytest.mark.parametrize(
    "data", [pytest.param('"\\ud800"', id="escaped lone surrogate"), pytest.param("[" * 100_000, id="deep")]
)
def test_data_that_is_no_json_is_the_clients_error(data):
    """The envelope only looked at where the data ends."""
    with pytest.raises(ClientError) as caught:
        handler("whatever").start(Chat(), Envelope("whatever", msgspec.Raw(data.encode())))
    assert caught.value.code == "malformed"


async def test_nothing_runs_before_the_awaitable_is_awaited():
    ran: list[Any] = []

    async def method(self: Any, data: int) -> None:
        ran.append(data)

    awaitable = Handler("a", method, None).start(None, Envelope("a", msgspec.Raw(b"1")))
    assert ran == []
    await awaitable
    assert ran == [1]


PAYLOADS: list[Any] = [
    Line, Point, Options, Any, int, float, str, bytes, bool, list[int], dict[str, Any], dict[int, float], set[str],
    datetime.datetime, datetime.date, datetime.time, datetime.timedelta, uuid.UUID, decimal.Decimal, tuple[int, ...],
]  # fmt: skip

texts = st.one_of(
    st.recursive(
        st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
        lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(["x", "y", "text", "loud", "1"]), inner),
        max_leaves=6,
    ).map(json.dumps),
    st.integers(1, 6000).map(lambda digits: "9" * digits),
    st.integers(1, 6000).map(lambda digits: f'"{"9" * digits}"'),
    st.sampled_from([
        "1e999", "-1e999", '"1e99999999999"', '"9999-12-31T23:59:59.9999999Z"', '"0001-01-01T00:00:00+23:59"',
        '"P99999999999D"', '"-P1e5D"', '"sNaN"', '"\\ud800"', '{"99999999999999999999999": 1}', "[", "", "\x00", "nul",
    ]),
)  # fmt: skip


@given(st.sampled_from(PAYLOADS), texts)
def test_no_data_raises_anything_but_a_client_error(payload, text):
    """X11"""

    async def method(self: Any, data: Any) -> None: ...

    method.__annotations__["data"] = payload
    awaitable: Any = None
    try:
        awaitable = Handler("a", method, None).start(None, Envelope("a", msgspec.Raw(text.encode())))
    except ClientError as error:
        problem = error
    else:
        awaitable.close()
        return
    assert problem.code in ("bad_payload", "malformed")
