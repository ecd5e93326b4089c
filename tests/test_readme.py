"""What README.md and docs/ tell a reader to do, done: their examples are made into projects, served, and talked to."""

from __future__ import annotations

import ast
import asyncio
import contextlib
import http.cookiejar
import json
import os
import re
import signal
import sys
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Iterator, Mapping
from pathlib import Path

import pytest
from playwright.async_api import async_playwright
from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed

from docs.generate import DOCUMENTS, ROOT
from tests.acceptance import processes
from tests.acceptance.processes import ServerProcess, free_port
from tests.documentation import Block, Project, blocks, blocks_of

BLOCKS = list(blocks())
CODE = [block for block in BLOCKS if block.language in ("python", "js")]

TIMEOUT = 10.0
"""Seconds that anything may take to happen."""


def made(name: str, folder: Path, *apps: str, settings: str = "") -> Project:
    """Return the project ``name`` with every example that belongs to it, migrated."""
    project = Project(name, folder)
    project.start(*apps)
    for block in CODE:
        if block.language == "python" and block.path.split("/")[0] in (name, *apps):
            project.write(block)
    with (folder / name / "settings.py").open("a") as file:
        file.write(settings)
    project.environment["PYTHONPATH"] += f"{os.pathsep}{ROOT}"
    project.environment["DJANGO_SETTINGS_MODULE"] = f"{name}.settings"
    project.python("manage.py", "migrate", "--verbosity", "0")
    return project


@pytest.fixture(scope="module")
def mysite(tmp_path_factory) -> Project:
    # All of these tests come from one address, many in a minute.
    return made(
        "mysite", tmp_path_factory.mktemp("mysite"), "chat", settings="RATELIMIT_CONNECTIONS_PER_WINDOW = 0\n"
    )


@pytest.fixture(scope="module")
def server(mysite) -> Iterator[ServerProcess]:
    with ServerProcess(*daphne(mysite)) as running:
        yield running


def daphne(project: Project) -> tuple[list[str], int, dict[str, str]]:
    """Return how to serve a project as the README does."""
    port = free_port()
    return processes.daphne(f"{project.name}.asgi:application", port), port, project.environment


def talk(server: ServerProcess, path: str, **options: object) -> connect:
    return connect(f"{server.ws}{path}", origin=server.url, proxy=None, **options)


async def expect(socket: ClientConnection, wanted: str) -> dict:
    """Return the next message of a type, passing over others."""
    async with asyncio.timeout(TIMEOUT):
        while True:
            message = json.loads(await socket.recv())
            if message["type"] == wanted:
                return message


async def closed(socket: ClientConnection) -> int:
    """Read until the socket is closed and return the code."""
    async with asyncio.timeout(TIMEOUT):
        with contextlib.suppress(ConnectionClosed):
            while True:
                await socket.recv()
    frame = socket.protocol.close_rcvd
    assert frame is not None, "the socket was dropped without a close frame"
    return frame.code


def fetch(url: str, **headers: str) -> tuple[int, str]:
    try:
        with urllib.request.urlopen(urllib.request.Request(url, headers=headers), timeout=TIMEOUT) as answer:
            return answer.status, answer.read().decode()
    except urllib.error.HTTPError as error:
        with error:
            return error.code, error.read().decode()


# The examples as such.


@pytest.mark.parametrize("block", CODE, ids=str)
def test_example_says_which_file_it_is(block: Block):
    assert block.path, f"{block}: begin with a comment such as # chat/consumers.py"


@pytest.mark.parametrize("block", [block for block in CODE if block.language == "python"], ids=str)
def test_example_is_used_here(block: Block):
    assert block.path.split("/")[0] in ("mysite", "chat", "alone", "client.py"), (
        f"nothing here runs {block.path}"
    )


def test_no_file_is_given_twice():
    files = [block.path for block in CODE if not block.adds]
    assert sorted(files) == sorted(set(files))


def test_an_example_without_a_file_is_noticed():
    (named, unnamed, added) = blocks_of(
        "x.md", "```python\n# a/b.py\n1\n```\n\n```python\n1\n```\n```python\n# a/c.py (add)\n```\n"
    )
    assert (named.path, named.line, unnamed.path, added.path, added.adds) == ("a/b.py", 1, "", "a/c.py", True)


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.name)
def test_links_lead_somewhere(document: Path):
    text = document.read_text(encoding="utf-8")
    missing = []
    for target in re.findall(r"\]\((?!https?:)([^)\s]+)\)", text):
        name, _, anchor = target.partition("#")
        path = (document.parent / name) if name else document
        if not path.exists() or (anchor and anchor not in anchors(path.read_text(encoding="utf-8"))):
            missing.append(target)
    assert missing == []


def anchors(text: str) -> set[str]:
    """Return what GitHub calls the headings."""
    titles = re.findall(r"^#+ (.+)$", text, re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-") for title in titles}


# The project of the quick start.


def test_project_passes_its_checks(mysite):
    assert "no issues" in mysite.python("manage.py", "check")


def test_every_module_can_be_imported(mysite):
    paths = {block.path for block in CODE if block.path.startswith("chat/") and block.language == "python"}
    names = ", ".join(path.removesuffix(".py").replace("/", ".") for path in sorted(paths))
    mysite.python("-c", f"import django; django.setup(); import {names}")


def test_its_own_tests_pass(mysite):
    assert "OK" in mysite.python("manage.py", "test")


async def test_a_line_reaches_both_windows(server):
    async with talk(server, "/ws/chat/lobby/") as ada, talk(server, "/ws/chat/lobby/") as bob:
        joined = await expect(bob, "system.joined")
        assert joined["data"]["room"] == "chat.lobby"
        assert len(joined["data"]["presence"]) == 2
        await ada.send('{"type": "chat.send", "data": {"text": "hello"}}')
        for socket in (ada, bob):
            line = await expect(socket, "chat.line")
            assert line["data"]["text"] == "hello"
            assert line["data"]["user"].startswith("guest-")


@pytest.mark.parametrize("data", ['{"text": ""}', '{"text": 1}', "{}", json.dumps({"text": "x" * 1001})])
async def test_a_wrong_payload_costs_a_message_and_not_the_socket(server, data):
    async with talk(server, "/ws/chat/errors/") as socket:
        await socket.send(f'{{"type": "chat.send", "data": {data}}}')
        error = await expect(socket, "system.error")
        assert (error["data"]["code"], error["data"]["errors_left"]) == ("bad_payload", 9)
        await socket.send('{"type": "chat.send", "data": {"text": "still here"}}')
        assert (await expect(socket, "chat.line"))["data"]["text"] == "still here"


async def test_the_python_client_sees_its_line_acknowledged(server, mysite):
    (client,) = (block for block in CODE if block.path == "client.py")
    code = client.code.replace("127.0.0.1:8000", f"127.0.0.1:{server.port}")
    printed = await asyncio.to_thread(mysite.python, "-c", code)
    assert "chat.line {'user': 'guest-" in printed
    assert printed.splitlines()[-1].startswith("system.ack")


@pytest.mark.browser
async def test_the_browser_code_prints_its_line(server, chromium_path):
    (script,) = (block for block in CODE if block.path == "chat.js")
    async with async_playwright() as playwright:
        browser = await playwright.chromium.launch(executable_path=chromium_path, args=["--no-sandbox"])
        page = await browser.new_page()
        await page.goto(f"{server.url}/health/live")
        async with page.expect_console_message(
            lambda message: message.text.endswith(": hello"), timeout=10_000
        ):
            await page.evaluate(f"() => {{ {script.code} }}")
        await browser.close()


async def test_a_view_publishes_to_the_room(server):
    async with talk(server, "/ws/chat/news/") as socket:
        await expect(socket, "system.joined")
        assert await asyncio.to_thread(post_announcement, server, "news", "dinner") == {
            "targets": 1,
            "failed": 0,
        }
        assert (await expect(socket, "chat.notice"))["data"] == {"text": "dinner"}


def post_announcement(server: ServerProcess, name: str, text: str) -> dict:
    """POST as a browser does, with the token of a form."""
    cookies = http.cookiejar.CookieJar()
    opener = urllib.request.build_opener(urllib.request.HTTPCookieProcessor(cookies))
    opener.open(f"{server.url}/admin/login/", timeout=TIMEOUT).close()
    token = next(cookie.value for cookie in cookies if cookie.name == "csrftoken")
    data = urllib.parse.urlencode({"text": text, "csrfmiddlewaretoken": token}).encode()
    with opener.open(f"{server.url}/announce/{name}/", data, timeout=TIMEOUT) as answer:
        return json.loads(answer.read())


@pytest.mark.parametrize("message", ["text", b"binary"], ids=["text", "binary"])
async def test_the_function_echoes(server, message):
    async with talk(server, "/ws/echo/") as socket:
        await socket.send(message)
        assert await asyncio.wait_for(socket.recv(), TIMEOUT) == message


async def test_a_plain_consumer_is_limited(server):
    async with talk(server, "/ws/shout/") as socket:
        for _ in range(5):
            await socket.send("quiet")
            assert await asyncio.wait_for(socket.recv(), TIMEOUT) == "QUIET"
        await refused_twice_then_closed(socket, window=60, limit=5)


async def refused_twice_then_closed(socket: ClientConnection, *, window: float, limit: int) -> None:
    for left in (2, 1):
        await socket.send("one too many")
        told = (await expect(socket, "system.rate_limited"))["data"]
        assert 0 < told.pop("retry_after") <= window / limit
        assert told == {"limit": limit, "window": window, "scope": "messages", "violations_left": left}
    await socket.send("and the last")
    assert await closed(socket) == 4429


async def test_a_banned_user_is_sent_home(server, mysite):
    session = mysite.python("-c", MAKE_USER).strip()
    cookie = {"Cookie": f"sessionid={session}"}
    async with talk(server, "/ws/chat/lobby/", additional_headers=cookie) as socket:
        await socket.send('{"type": "chat.send", "data": {"text": "hello"}}')
        assert (await expect(socket, "chat.line"))["data"]["user"] == "eve"
        await asyncio.to_thread(mysite.python, "-c", BAN_USER)
        assert await closed(socket) == 1008


SET_UP = "import django; django.setup()\nfrom django.contrib.auth.models import User\n"
MAKE_USER = f"""{SET_UP}
from django.contrib.auth import BACKEND_SESSION_KEY, HASH_SESSION_KEY, SESSION_KEY
from django.contrib.sessions.backends.db import SessionStore
user = User.objects.create_user("eve")
session = SessionStore()
session[SESSION_KEY] = str(user.pk)
session[BACKEND_SESSION_KEY] = "django.contrib.auth.backends.ModelBackend"
session[HASH_SESSION_KEY] = user.get_session_auth_hash()
session.save()
print(session.session_key)
"""
BAN_USER = f"""{SET_UP}
from chat.moderation import send_home
moderator = User.objects.create_user("mod")
assert send_home(User.objects.get(username="eve"), moderator).in_force()
"""


def test_pages_for_probes_and_programs_answer(server):
    assert fetch(f"{server.url}/health/live") == (200, '{"status": "live"}')
    assert fetch(f"{server.url}/health/ready") == (200, '{"status": "ready", "reasons": []}')
    status, metrics = fetch(f"{server.url}/metrics")
    assert status == 200
    assert "channels_ops_active_connections" in metrics
    assert [fetch(f"{server.url}/info/{page}")[0] for page in ("health", "stats", "clients", "config")] == [
        401
    ] * 4


async def test_a_server_that_is_stopped_says_so_and_exits_in_order(mysite):
    with ServerProcess(*daphne(mysite)) as stopping:
        async with talk(stopping, "/ws/chat/lobby/") as socket:
            await expect(socket, "system.joined")
            stopping.send_signal(signal.SIGTERM)
            closing = (await expect(socket, "system.closing"))["data"]
            assert (closing["code"], closing["retry"]) == (1012, True)
            assert 0 <= closing["retry_after"] <= 10
            assert await closed(socket) == 1012
        ended = await asyncio.to_thread(stopping.wait)
    assert ended.code == 0
    assert "Traceback" not in ended.stderr


@pytest.mark.parametrize("command", ["runserver", "serve", "uvicorn"])
async def test_other_commands_serve_the_same_application(mysite, command):
    port = free_port()
    manage = [sys.executable, str(mysite.folder / "manage.py")]
    words = {
        "runserver": [*manage, "runserver", "--noreload", str(port)],
        "serve": [*manage, "serve", "--port", str(port)],
        "uvicorn": processes.uvicorn("mysite.asgi:application", port),
    }[command]
    with ServerProcess(words, port, mysite.environment) as running:
        async with talk(running, "/ws/chat/lobby/") as socket:
            await socket.send('{"type": "chat.send", "data": {"text": "hello"}}')
            assert (await expect(socket, "chat.line"))["data"]["text"] == "hello"


@pytest.mark.redis
async def test_processes_share_their_rooms_on_redis(mysite, redis_server):
    environment = {**mysite.environment, "REDIS_URL": redis_server.url}
    ports = free_port(), free_port()
    commands = [processes.daphne("mysite.asgi:application", port) for port in ports]
    with (
        ServerProcess(commands[0], ports[0], environment) as here,
        ServerProcess(commands[1], ports[1], environment) as there,
    ):
        async with talk(here, "/ws/chat/lobby/") as ada, talk(there, "/ws/chat/lobby/") as bob:
            for socket in (ada, bob):
                await expect(socket, "system.joined")
            await ada.send('{"type": "chat.send", "data": {"text": "hello"}}')
            assert (await expect(bob, "chat.line"))["data"]["text"] == "hello"


def console_of(document: str, beginning: str) -> list[str]:
    """Return the commands of the console block that begins with this."""
    (block,) = (
        block
        for block in BLOCKS
        if (block.document, block.language) == (document, "console")
        and block.code.startswith(f"$ {beginning}")
    )
    return [line.removeprefix("$ ") for line in block.code.splitlines()]


@pytest.mark.redis
async def test_three_nodes_are_started_used_and_restarted_as_the_document_says(mysite, tmp_path):
    """C11: the commands themselves, on free ports."""
    ports = {old: str(free_port()) for old in ("6379", "8001", "8002", "8003")}

    def command(line: str) -> list[str]:
        line = re.sub("|".join(ports), lambda old: ports[old[0]], line)
        return ["/bin/sh", "-c", f"cd {mysite.folder} && exec env {line}"]

    environment = {**mysite.environment, "PATH": f"{processes.SCRIPTS}{os.pathsep}{os.environ['PATH']}"}
    redis_line, *node_lines = console_of("cluster.md", "redis-server")
    ready_line, publish_line = console_of("cluster.md", "curl")
    redis_words = command(f"{redis_line} --dir {tmp_path}")
    with (
        ServerProcess(redis_words, int(ports["6379"]), environment),
        contextlib.ExitStack() as stack,
    ):
        nodes = [
            stack.enter_context(ServerProcess(command(line), int(port), environment))
            for line, port in zip(node_lines, list(ports.values())[1:], strict=True)
        ]
        async with contextlib.AsyncExitStack() as talking:
            clients = [await talking.enter_async_context(talk(node, "/ws/chat/lobby/")) for node in nodes]
            welcomes = [(await expect(client, "system.welcome"))["data"] for client in clients]
            assert [welcome["node"] for welcome in welcomes] == ["one", "two", "three"]
            for client in clients:
                await expect(client, "system.joined")
            ready = await asyncio.to_thread(processes.run, command(ready_line), environment)
            assert ready.stdout == '{"status": "ready", "reasons": []}'
            told = await asyncio.to_thread(processes.run, command(publish_line), environment)
            assert told.code == 0, told.stderr
            for client in clients:
                assert (await expect(client, "chat.notice"))["data"]["text"] == "hello, all three"
            # A new version of the second node.
            nodes[1].send_signal(signal.SIGTERM)
            assert (await expect(clients[1], "system.closing"))["data"]["retry"]
            assert await closed(clients[1]) == 1012
            assert (await asyncio.to_thread(nodes[1].wait)).code == 0
            await clients[0].send('{"type": "chat.send", "data": {"text": "meanwhile"}}')
            await expect(clients[2], "chat.line")
            again = ServerProcess(command(node_lines[1]), int(ports["8002"]), environment)
            await asyncio.to_thread(stack.enter_context, again)
            async with talk(again, f"/ws/chat/lobby/?session={welcomes[1]['session']}") as back:
                welcome = (await expect(back, "system.welcome"))["data"]
                assert (welcome["resumed"], welcome["client_id"]) == (True, welcomes[1]["client_id"])
                assert (await expect(back, "chat.line"))["data"]["text"] == "meanwhile"


def nginx(path: Path, folder: Path, document: str, ports: Mapping[str, int]) -> ServerProcess:
    """Return nginx with the configuration of a document, on free ports: ``80`` is its own."""
    (block,) = (block for block in BLOCKS if (block.document, block.language) == (document, "nginx"))
    code = (
        block.code
        if "listen 80;" in block.code
        else block.code.replace("server {", "server {\n    listen 80;", 1)
    )
    code = code.replace("listen 80;", "listen 127.0.0.1:80;")
    code = re.sub(r"(?<=127\.0\.0\.1:)\d+", lambda old: str(ports[old[0]]), code)
    temporary = "".join(
        f"{what}_temp_path {folder};\n" for what in ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
    )
    (folder / "nginx.conf").write_text(
        "daemon off;\nmaster_process off;\nerror_log stderr;\nevents {}\n"
        f"pid {folder / 'nginx.pid'};\nhttp {{\naccess_log off;\n{temporary}{code}}}\n"
    )
    words = [str(path), "-e", "stderr", "-p", str(folder), "-c", str(folder / "nginx.conf")]
    return ServerProcess(words, ports["80"])


@pytest.mark.nginx
async def test_a_server_behind_nginx_as_the_manual_has_it(mysite, server, nginx_path, tmp_path):
    ports = {"80": free_port(), "8000": server.port}
    with nginx(nginx_path, tmp_path, "operations.md", ports) as front:
        async with talk(front, "/ws/chat/lobby/") as socket:
            await expect(socket, "system.joined")
            await socket.send('{"type": "chat.send", "data": {"text": "hello"}}')
            assert (await expect(socket, "chat.line"))["data"]["text"] == "hello"
        assert fetch(f"{front.url}/health/live")[0] == 200
        assert fetch(f"{front.url}/metrics")[0] == 403


@pytest.mark.nginx
@pytest.mark.redis
async def test_nodes_behind_nginx_as_the_document_has_it(mysite, redis_server, nginx_path, tmp_path):
    """C11: no stickiness, and no request for a node that is away."""
    ports = {old: free_port() for old in ("80", "8001", "8002", "8003")}
    environment = {**mysite.environment, "REDIS_URL": redis_server.url}
    with contextlib.ExitStack() as stack:
        nodes = {}
        for name, old in (("one", "8001"), ("three", "8003")):
            words = [sys.executable, str(mysite.folder / "manage.py"), "serve", "--port", str(ports[old])]
            node = ServerProcess(words, ports[old], {**environment, "REALTIME_NODE_NAME": name})
            nodes[name] = await asyncio.to_thread(stack.enter_context, node)
        front = stack.enter_context(nginx(nginx_path, tmp_path, "cluster.md", ports))
        async with contextlib.AsyncExitStack() as talking:
            clients = [await talking.enter_async_context(talk(front, "/ws/chat/lobby/")) for _ in range(4)]
            welcomes = [(await expect(client, "system.welcome"))["data"] for client in clients]
            assert {welcome["node"] for welcome in welcomes} == {"one", "three"}
            for client in clients:
                await expect(client, "system.joined")
            gone, session = welcomes[0]["node"], welcomes[0]["session"]
            nodes[gone].send_signal(signal.SIGTERM)
            assert await closed(clients[0]) == 1012
            async with talk(front, f"/ws/chat/lobby/?session={session}") as back:
                welcome = (await expect(back, "system.welcome"))["data"]
                assert (welcome["resumed"], welcome["node"]) == (True, ({"one", "three"} - {gone}).pop())
        assert fetch(f"{front.url}/metrics")[0] == 403


def test_a_job_is_followed_by_its_owner_and_by_staff(mysite):
    """F12."""
    code = """
import asyncio, django
django.setup()
from django.contrib.auth.models import User
from chat.imports import import_rows
from chat.jobs import Jobs
from realtime.testing import connect

async def main():
    ann, eve, staff = User(pk=7, username="ann"), User(pk=8, username="eve"), User(pk=9, is_staff=True)
    id = await asyncio.to_thread(import_rows, ["one", "", "three"], ann)
    for user, answer in ((ann, "task.state"), (staff, "task.state"), (eve, "system.error")):
        async with connect(Jobs.as_asgi(), user=user) as socket:
            await socket.send("task.follow", {"id": id})
            data = (await socket.expect(answer))["data"]
            if answer == "task.state":
                assert (data["done"], data["result"], data["log"]) == (3, {"rows": 3}, ["Row 2 is empty"]), data
    print("followed")

asyncio.run(main())
"""
    assert "followed" in mysite.python("-c", code)


# What the documents list.


def test_every_metric_is_in_the_operations_manual(server):
    manual = (ROOT / "docs" / "operations.md").read_text(encoding="utf-8").partition("## Metrics")[2]
    manual = manual.partition("\n## ")[0]
    exported = set(
        re.findall(r"^# TYPE channels_ops_(\w+) ", fetch(f"{server.url}/metrics")[1], re.MULTILINE)
    )
    assert set(re.findall(r"`(\w+)(?:\{\w+\})?`", manual)) == exported


def test_every_error_code_is_in_the_protocol():
    raised = {
        node.args[0].value
        for path in (ROOT / "realtime").rglob("*.py")
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.Call) and ast.unparse(node.func) == "ClientError" and node.args
        if isinstance(node.args[0], ast.Constant)
    }
    protocol = (ROOT / "docs" / "protocol.md").read_text(encoding="utf-8").partition("## Errors")[2]
    assert set(re.findall(r"^\| `(\w+)` ", protocol.partition("\n## ")[0], re.MULTILINE)) == raised


# The limits alone.


@pytest.fixture(scope="module")
def alone(tmp_path_factory) -> Iterator[ServerProcess]:
    with ServerProcess(*daphne(made("alone", tmp_path_factory.mktemp("alone")))) as running:
        yield running


async def test_limits_work_without_the_other_apps(alone):
    async with talk(alone, "/") as socket:
        for _ in range(4):
            await socket.send("quiet")
            assert await asyncio.wait_for(socket.recv(), TIMEOUT) == "quiet"
        await refused_twice_then_closed(socket, window=60, limit=4)
