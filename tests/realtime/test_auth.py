"""Who a socket's user is: as Channels has it, and at once for clients that have no session."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable, Coroutine
from datetime import timedelta
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest
from asgiref.sync import sync_to_async
from channels import auth as channels_auth
from django.contrib.auth import BACKEND_SESSION_KEY, HASH_SESSION_KEY, SESSION_KEY
from django.contrib.auth.models import User
from django.utils import timezone

from realtime.auth import AuthMiddleware, AuthMiddlewareStack

pytestmark = pytest.mark.django_db(transaction=True)

Stack = Callable[[Any], Any]
STACKS: list[Any] = [
    pytest.param(channels_auth.AuthMiddlewareStack, id="Channels"),
    pytest.param(AuthMiddlewareStack, id="ours"),
]
ENGINES = ("db", "cached_db", "cache", "file", "signed_cookies")
UNKNOWN = "abcdefghijklmnopqrstuvwxyz012345"


def scope_of(*headers: str, kind: str = "websocket") -> dict[str, Any]:
    return {"type": kind, "path": "/", "headers": [(b"cookie", header.encode()) for header in headers]}


async def receive() -> dict[str, Any]:
    raise AssertionError("nobody receives here")


async def send(message: dict[str, Any]) -> None:
    raise AssertionError(f"nobody sends here, least of all {message}")


async def served(stack: Stack, scope: dict[str, Any]) -> dict[str, Any]:
    """Return the scope that the application gets."""
    got: list[dict[str, Any]] = []

    async def application(scope: dict[str, Any], receive: Any, send: Any) -> None:
        got.append(scope)

    await stack(application)(scope, receive, send)
    (inner,) = got
    return inner


def told(scope: dict[str, Any]) -> dict[str, Any]:
    """Return what an application can find out. Call from a thread: storages are asked."""
    user, session = scope["user"], scope["session"]
    return {
        "names": sorted(scope),
        "cookies": scope["cookies"],
        "session": (session.__class__, session.session_key, dict(session.items()), session.modified),
        "user": (type(user), user.__class__, user.pk, user.is_anonymous, user.is_authenticated, str(user)),
    }


async def both(*headers: str) -> dict[str, Any]:
    """Return what an application can find out, which is the same behind Channels' stack and behind ours."""
    scope = scope_of(*headers)
    expected = await sync_to_async(told)(await served(channels_auth.AuthMiddlewareStack, scope))
    got = await sync_to_async(told)(await served(AuthMiddlewareStack, scope))
    assert got == expected
    return got


@sync_to_async
def logged_in(user: User | None, **data: Any) -> Any:
    """Return a saved session of ``user``, or of nobody."""
    from django.conf import settings

    session = import_module(settings.SESSION_ENGINE).SessionStore()
    session.update(data)
    if user is not None:
        session[SESSION_KEY] = str(user.pk)
        session[BACKEND_SESSION_KEY] = settings.AUTHENTICATION_BACKENDS[0]
        session[HASH_SESSION_KEY] = user.get_session_auth_hash()
    session.save()
    return session


@pytest.fixture
def user() -> User:
    return User.objects.create_user("vera", password="x")


@pytest.fixture(params=ENGINES)
def engine(request: pytest.FixtureRequest, settings: Any, tmp_path: Path) -> str:
    settings.SESSION_ENGINE = f"django.contrib.sessions.backends.{request.param}"
    settings.SESSION_FILE_PATH = str(tmp_path)
    return str(request.param)


# As Channels has it


@pytest.mark.parametrize(
    "headers",
    [
        pytest.param((), id="no cookie"),
        pytest.param(("",), id="an empty header"),
        pytest.param(("theme=dark; lang=de",), id="other cookies"),
        pytest.param(
            ("theme=dark", f"sessionid={UNKNOWN}"), id="a second header, which Channels does not read"
        ),
        pytest.param(("sessionid=",), id="an empty key"),
        pytest.param(("sessionid=short",), id="too short to be a key"),
        pytest.param((f"sessionid={UNKNOWN}",), id="an unknown key"),
        pytest.param((f"sessionid={UNKNOWN}; sessionid=",), id="two keys"),
    ],
)
async def test_a_client_without_a_session_is_anonymous(engine: str, headers: tuple[str, ...]) -> None:
    got = await both(*headers)
    assert got["names"] == ["cookies", "headers", "path", "session", "type", "user"]
    assert got["user"][2:5] == (None, True, False)


async def test_a_client_with_a_session_is_its_user(engine: str, user: User) -> None:
    session = await logged_in(user, theme="dark")
    got = await both(f"lang=de; sessionid={session.session_key}")
    assert got["user"][2:] == (user.pk, False, True, "vera")
    assert got["session"][2]["theme"] == "dark"


async def test_a_session_of_nobody_keeps_what_is_in_it(engine: str) -> None:
    session = await logged_in(None, theme="dark")
    got = await both(f"sessionid={session.session_key}")
    assert (got["user"][3], got["session"][2]) == (True, {"theme": "dark"})


async def test_a_key_that_was_tampered_with_is_nobodys(engine: str, user: User) -> None:
    key = (await logged_in(user)).session_key
    got = await both(f"sessionid={key[:-1]}{'a' if key[-1] != 'a' else 'b'}")
    assert got["user"][3] is True


async def test_a_session_that_is_over_is_nobodys(user: User) -> None:
    session = await logged_in(user)

    @sync_to_async
    def age() -> None:
        session.model.objects.update(expire_date=timezone.now() - timedelta(days=1))

    await age()
    assert (await both(f"sessionid={session.session_key}"))["user"][3] is True


@pytest.mark.parametrize("what", ["password", "is_active", "deleted", "backend"])
async def test_a_user_who_may_not_come_in_any_more_is_nobody(user: User, settings: Any, what: str) -> None:
    keys = [(await logged_in(user)).session_key for _ in STACKS]
    if what == "password":
        user.set_password("another")
    elif what == "is_active":
        user.is_active = False
    elif what == "backend":
        settings.AUTHENTICATION_BACKENDS = ["django.contrib.auth.backends.RemoteUserBackend"]
    await (user.adelete() if what == "deleted" else user.asave())
    got = [
        await sync_to_async(told)(await served(stack.values[0], scope_of(f"sessionid={key}")))
        for stack, key in zip(STACKS, keys, strict=True)
    ]
    assert [one["user"] for one in got] == [got[0]["user"]] * 2
    assert got[0]["user"][3] is True
    # Of a session whose user has another password nothing is left.
    assert [bool(one["session"][2]) for one in got] == [what != "password"] * 2


async def test_the_name_of_the_cookie_is_the_settings(user: User, settings: Any) -> None:
    settings.SESSION_COOKIE_NAME = "ticket"
    key = (await logged_in(user)).session_key
    assert (await both(f"sessionid={key}"))["user"][3] is True
    assert (await both(f"ticket={key}"))["user"][2] == user.pk


# Logging in and out, and what is kept


@pytest.mark.parametrize("stack", STACKS)
@pytest.mark.parametrize("cookie", [(), (f"sessionid={UNKNOWN}",)], ids=["no cookie", "an unknown key"])
async def test_a_client_may_log_in_and_out_while_it_is_connected(
    stack: Stack, engine: str, user: User, cookie: tuple[str, ...]
) -> None:
    scope = await served(stack, scope_of(*cookie))
    await channels_auth.login(scope, user)
    assert scope["user"] == user
    assert await channels_auth.get_user(scope) == user
    await sync_to_async(scope["session"].save)()
    key = scope["session"].session_key
    assert key != UNKNOWN
    again = await served(stack, scope_of(f"sessionid={key}"))
    assert again["user"] == user
    await channels_auth.logout(again)
    assert again["user"].is_anonymous
    if engine != "signed_cookies":
        gone = await served(stack, scope_of(f"sessionid={key}"))
        assert gone["user"].is_anonymous


@pytest.mark.parametrize("stack", STACKS)
async def test_a_session_is_saved_with_the_head_of_an_http_response(stack: Stack) -> None:
    sent: list[dict[str, Any]] = []

    async def application(scope: dict[str, Any], receive: Any, send: Any) -> None:
        scope["session"]["theme"] = "dark"
        await send({"type": "http.response.start", "status": 200})

    async def send(message: dict[str, Any]) -> None:
        sent.append(message)

    await stack(application)(scope_of(kind="http"), receive, send)
    ((name, cookie),) = sent[0]["headers"]
    assert name == b"Set-Cookie"
    scope = await served(stack, scope_of(cookie.decode().split(";")[0]))
    assert await sync_to_async(scope["session"].get)("theme") == "dark"


@pytest.mark.parametrize("stack", STACKS)
@pytest.mark.parametrize(
    "kind", ["websocket.accept", "websocket.send", "websocket.http.response.start", "websocket.close"]
)
async def test_a_session_is_not_saved_with_what_is_sent_to_a_websocket(
    stack: Stack, kind: str, settings: Any
) -> None:
    settings.SESSION_SAVE_EVERY_REQUEST = True
    sent: list[dict[str, Any]] = []

    async def application(scope: dict[str, Any], receive: Any, send: Any) -> None:
        scope["session"]["theme"] = "dark"
        await send({"type": kind})
        assert scope["session"].session_key is None

    async def send(message: dict[str, Any]) -> None:
        sent.append(message)

    await stack(application)(scope_of(), receive, send)
    assert sent == [{"type": kind}]


# At once


def at_once(coroutine: Coroutine[Any, Any, None]) -> bool:
    """Whether ``coroutine`` ends without waiting for anything, such as a thread."""
    try:
        coroutine.send(None)
    except StopIteration:
        return True
    coroutine.close()
    return False


@pytest.mark.parametrize(
    ("headers", "expected"),
    [
        pytest.param((), True, id="no cookie"),
        pytest.param(("theme=dark",), True, id="other cookies"),
        pytest.param(("sessionid=short",), True, id="too short to be a key"),
        pytest.param((f"sessionid={UNKNOWN}",), False, id="a key, of which the storage knows more"),
    ],
)
async def test_nobody_is_asked_about_a_client_that_has_no_session(
    engine: str, headers: tuple[str, ...], expected: bool
) -> None:
    async def application(scope: dict[str, Any], receive: Any, send: Any) -> None:
        assert scope["user"].is_anonymous

    assert at_once(AuthMiddlewareStack(application)(scope_of(*headers), receive, send)) is expected
    assert not at_once(channels_auth.AuthMiddlewareStack(application)(scope_of(*headers), receive, send))


async def test_nothing_stands_between_the_application_and_a_websocket() -> None:
    async def application(scope: dict[str, Any], its_receive: Any, its_send: Any) -> None:
        assert (its_receive, its_send) == (receive, send)

    await AuthMiddlewareStack(application)(scope_of(), receive, send)


# Sessions of others


async def test_a_session_that_another_middleware_filled_is_looked_into(user: User) -> None:
    """It has no key yet."""
    saved = await logged_in(user)
    session = saved.__class__()
    session.update(saved.items())
    scope = await served(AuthMiddleware, {**scope_of(), "session": session})
    assert scope["user"] == user


async def test_a_session_that_is_not_djangos_is_looked_into(user: User) -> None:
    session = dict((await logged_in(user)).items())
    assert (await served(AuthMiddleware, {**scope_of(), "session": session}))["user"] == user
    assert (await served(AuthMiddleware, {**scope_of(), "session": {}}))["user"].is_anonymous


async def test_a_session_is_needed() -> None:
    with pytest.raises(ValueError, match="cannot find session in scope"):
        await served(AuthMiddleware, scope_of())


# Users of others

MEMBERS = """
import asyncio, django
from django.conf import settings
settings.configure(
    SECRET_KEY="members", USE_TZ=True, AUTH_USER_MODEL="members.Member",
    INSTALLED_APPS=[
        "django.contrib.auth", "django.contrib.contenttypes", "django.contrib.sessions", "tests.realtime.members"
    ],
    DATABASES={"default": {"ENGINE": "django.db.backends.sqlite3", "NAME": %r}},
)
from realtime.auth import AuthMiddlewareStack  # before the apps are loaded, as asgi.py may
django.setup()
from channels.auth import login
from django.core.management import call_command
call_command("migrate", run_syncdb=True, verbosity=0)
from tests.realtime.members.models import Member
member = Member.objects.create(email="vera@example.org")

async def served(*headers):
    async def application(scope, receive, send):
        scopes.append(scope)
    scopes = []
    await AuthMiddlewareStack(application)({"type": "websocket", "headers": list(headers)}, None, None)
    return scopes[0]

async def main():
    scope = await served()
    print(scope["user"].is_anonymous)
    await login(scope, member)
    await scope["session"].asave()
    key = scope["session"].session_key.encode()
    again = (await served((b"cookie", b"sessionid=" + key)))["user"]
    print(again.pk == member.pk, again.__class__ is Member)

asyncio.run(main())
"""


def test_a_user_model_of_the_projects_own_is_served(tmp_path: Path) -> None:
    root = Path(__file__).resolve().parents[2]
    environment = {name: value for name, value in os.environ.items() if name != "DJANGO_SETTINGS_MODULE"}
    done = subprocess.run(
        [sys.executable, "-c", MEMBERS % str(tmp_path / "members.sqlite3")],
        cwd=root,
        env={**environment, "PYTHONPATH": str(root)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.stdout, done.stderr) == ("True\nTrue True\n", "")
