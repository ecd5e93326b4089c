"""The stage of the browser tests: the demonstration served by stock daphne, and real browser windows on it."""

from __future__ import annotations

import asyncio
import shutil
import signal
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest
import pytest_asyncio
from playwright.async_api import Browser, ConsoleMessage, Page, async_playwright

from tests.acceptance.processes import Ended, ServerProcess, daphne, free_port, manage, run

PASSWORD = "correct-horse-battery"
# The demonstration's own settings, not those of this test run.
PROJECT = {"DJANGO_SETTINGS_MODULE": "wsproject.settings", "SECRET_KEY": "tests"}
BROWSER_OPTIONS = [
    "--no-sandbox",
    "--disable-gpu",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]


class Demo:
    """The demonstration on one port: it can be stopped and started again there, with the same database."""

    def __init__(self, environment: dict[str, str]) -> None:
        self.port = free_port()
        self.environment = environment
        self._stack = ExitStack()
        self.server: ServerProcess

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    async def start(self, **environment: str) -> None:
        """Serve, with these variables besides the usual ones; return when the port answers."""
        command = daphne("wsproject.asgi:application", self.port)
        server = ServerProcess(command, self.port, {**self.environment, **environment})
        self.server = await asyncio.to_thread(self._stack.enter_context, server)

    async def stop(self, number: int = signal.SIGINT) -> Ended:
        """Stop as Ctrl-C does, and return how the server ended."""
        return await asyncio.to_thread(self.server.stop, number)

    def close(self) -> None:
        self._stack.close()


@pytest.fixture(scope="session")
def prepared_database(tmp_path_factory) -> Path:
    """A migrated database with the demo admin in it."""
    path = tmp_path_factory.mktemp("demo") / "db.sqlite3"
    environment = {**PROJECT, "SQLITE_PATH": str(path), "DEMO_ADMIN_PASSWORD": PASSWORD}
    for words in (("migrate", "--noinput", "--verbosity", "0"), ("demo_admin",)):
        done = run(manage(*words), environment)
        assert done.code == 0, done.stderr
    return path


@pytest.fixture
def stage(prepared_database, tmp_path) -> Iterator[Demo]:
    """The demonstration, not started yet."""
    database = tmp_path / "db.sqlite3"
    shutil.copy(prepared_database, database)
    demo = Demo(
        {
            **PROJECT,
            "SQLITE_PATH": str(database),
            "REALTIME_RECONNECT_SPREAD": "1",
            "DASHBOARD_REFRESH_INTERVAL": "0.5",
        }
    )
    yield demo
    demo.close()


@pytest_asyncio.fixture
async def demo(stage) -> Demo:
    """The demonstration, serving."""
    await stage.start()
    return stage


@pytest_asyncio.fixture
async def browser(chromium_path) -> AsyncIterator[Browser]:
    """A headless browser."""
    async with async_playwright() as playwright:
        browser = await playwright.chromium.launch(executable_path=chromium_path, args=BROWSER_OPTIONS)
        yield browser
        await browser.close()


class Complaints:
    """What the consoles of the windows complained about."""

    def __init__(self) -> None:
        self.seen: list[str] = []

    def listen(self, page: Page) -> None:
        page.on("console", self._console)
        page.on("pageerror", lambda error: self.seen.append(str(error)))

    def _console(self, message: ConsoleMessage) -> None:
        if message.type in ("error", "warning"):
            self.seen.append(message.text)


@pytest.fixture
def complaints() -> Complaints:
    return Complaints()


@pytest.fixture
def open_window(browser, stage, complaints) -> Callable[..., object]:
    """Open a window of somebody else each time: ``await open_window("/?room=quiet", width=390)``."""

    async def open_window(path: str = "/", *, width: int = 1280, scheme: str = "light") -> Page:
        context = await browser.new_context(viewport={"width": width, "height": 800}, color_scheme=scheme)
        context.set_default_timeout(15_000)
        page = await context.new_page()
        complaints.listen(page)
        await page.goto(stage.url + path)
        return page

    return open_window


@pytest.fixture
def sign_in() -> Callable[[Page], object]:
    """Sign the window in as the demo admin, where an admin page asks for it."""

    async def sign_in(page: Page) -> None:
        await page.get_by_label("Username").fill("admin")
        await page.get_by_label("Password").fill(PASSWORD)
        await page.get_by_role("button", name="Log in").click()
        await page.wait_for_load_state()

    return sign_in
