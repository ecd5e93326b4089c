"""An open list keeps itself fresh and leaves the operator's hands alone."""

from __future__ import annotations

import re
import time

import pytest
import pytest_asyncio
from django.conf import settings as django_settings
from django.contrib.auth.models import User
from django.test import Client
from playwright.async_api import async_playwright, expect

LIST = "/admin/dashboard/client/"

pytestmark = [
    pytest.mark.browser,
    pytest.mark.django_db(transaction=True),
    pytest.mark.asyncio(loop_scope="module"),
]


@pytest.fixture
def cookie(live_server, settings):
    """The session of an operator, and pages that refresh five times a second."""
    settings.DASHBOARD_REFRESH_INTERVAL = 0.2
    operator = Client()
    operator.force_login(User.objects.create_superuser("ops"))
    name = django_settings.SESSION_COOKIE_NAME
    return {"name": name, "value": operator.cookies[name].value, "url": live_server.url}


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def browser(chromium_path):
    async with async_playwright() as playwright:
        running = await playwright.chromium.launch(executable_path=chromium_path, args=["--no-sandbox"])
        yield running
        await running.close()


@pytest.fixture
def opened(browser, cookie, live_server):
    """Return a function that opens a page as the operator; an error of a script fails the test."""

    async def open_page(path=LIST, **options):
        context = await browser.new_context(base_url=live_server.url, **options)
        await context.add_cookies([cookie])
        page = await context.new_page()

        def broken(error):
            raise AssertionError(error)

        page.on("pageerror", broken)
        await page.goto(path)
        return page

    return open_page


def rows(page):
    return page.locator("#result_list tbody tr")


def status(page):
    return page.locator("[data-ops-status]")


async def test_rows_and_totals_follow_without_a_reload(opened, clients):
    clients.add(id="first", opened_at=1.0, limited=0)
    page = await opened()
    await page.evaluate("window.untouched = true")
    clients.add(id="second", opened_at=2.0, limited=3)
    await expect(rows(page)).to_have_count(2)
    await expect(rows(page).first).to_contain_text("second")
    await expect(page.locator(".ops-tiles div", has_text="Limited")).to_contain_text("1")
    await expect(page.locator(".paginator")).to_contain_text("2 clients")
    clients.infos.pop(0)
    await expect(rows(page)).to_have_count(1)
    clients.infos.clear()
    await expect(rows(page)).to_have_count(0)
    assert await page.evaluate("window.untouched")


async def test_first_client_of_an_empty_list_appears_and_can_be_selected(opened, clients):
    page = await opened("/admin/dashboard/client/?q=c")
    await expect(page.locator(".paginator")).to_contain_text("0 clients")
    clients.add(id="c1")
    await expect(rows(page)).to_have_count(1)
    await page.locator("#action-toggle").check()
    await expect(page.locator(".action-counter")).to_have_text("1 of 1 selected")


async def test_select_all_knows_the_rows_that_came_later(opened, clients):
    clients.add(id="c1")
    page = await opened()
    clients.add(id="c2")
    await expect(rows(page)).to_have_count(2)
    await page.locator("#action-toggle").check()
    await expect(page.locator(".action-counter")).to_have_text("2 of 2 selected")
    await expect(page.locator("tr.selected")).to_have_count(2)


async def test_focus_and_scroll_stay(opened, clients):
    for number in range(60):
        clients.add(id=f"c{number:02}", opened_at=float(number))
    page = await opened()
    link = rows(page).nth(30).locator("a")
    await link.focus()
    name = await link.inner_text()
    before = await page.evaluate("scrollY")
    clients.infos.pop(59)
    await expect(rows(page).first).to_contain_text("c58")
    assert await page.evaluate("document.activeElement.innerText") == name
    assert abs(await page.evaluate("scrollY") - before) < 80


async def test_focus_on_a_row_that_goes_stays_in_the_table(opened, clients):
    clients.add(id="c1", opened_at=1.0)
    clients.add(id="c2", opened_at=2.0)
    page = await opened()
    await rows(page).first.locator("a").focus()
    clients.infos.pop()
    await expect(rows(page)).to_have_count(1)
    assert await page.evaluate("document.activeElement.className") == "results"


@pytest.mark.parametrize("hold", ["box", "action"])
async def test_waits_while_the_operator_is_choosing(hold, opened, clients):
    clients.add(id="c1")
    page = await opened()
    box, action = page.locator("input.action-select"), page.locator("select[name=action]")
    await (box.check() if hold == "box" else action.select_option("disconnect"))
    clients.add(id="c2")
    await expect(status(page)).to_contain_text("Waiting")
    await expect(rows(page)).to_have_count(1)
    assert await box.is_checked() == (hold == "box")
    await (box.uncheck() if hold == "box" else action.select_option(""))
    await expect(rows(page)).to_have_count(2)
    await expect(status(page)).to_have_text("")


async def test_can_be_paused_and_resumed_by_keyboard(opened, clients):
    clients.add(id="c1")
    page = await opened()
    button = page.get_by_role("button", name="Pause updates")
    await button.focus()
    await page.keyboard.press("Enter")
    await expect(status(page)).to_have_text("Paused.")
    asked = clients.asked
    clients.add(id="c2")
    await page.wait_for_timeout(500)
    assert clients.asked <= asked + 1
    await expect(rows(page)).to_have_count(1)
    await page.get_by_role("button", name="Resume updates").press("Enter")
    await expect(rows(page)).to_have_count(2)


async def test_hidden_tab_asks_for_nothing(opened, clients):
    page = await opened()
    hide = "value => { Object.defineProperty(document, 'hidden', {value, configurable: true});"
    hide += " document.dispatchEvent(new Event('visibilitychange')); }"
    await page.evaluate(hide, True)
    await page.wait_for_timeout(300)
    asked = clients.asked
    await page.wait_for_timeout(700)
    assert clients.asked == asked
    clients.add(id="c1")
    await page.evaluate(hide, False)
    await expect(rows(page)).to_have_count(1)


async def test_failure_is_said_and_updates_go_on_afterwards(opened, clients):
    clients.add(id="c1")
    page = await opened()
    failing = True

    async def answer(route):
        await (route.abort() if failing else route.continue_())

    await page.route(re.compile("/client/"), answer)
    await expect(status(page)).to_have_text("Not updated: the server cannot be reached. Trying again.")
    clients.add(id="c2")
    failing = False
    await expect(rows(page)).to_have_count(2)
    await expect(status(page)).to_have_text("")


async def test_signed_out_operator_is_told(opened, clients):
    page = await opened()
    await page.context.clear_cookies()
    await expect(status(page)).to_contain_text("you are signed out")


async def test_open_table_of_minutes_stays_open(opened, limits, clients):
    page = await opened("/admin/dashboard/ratelimitentry/")
    await page.get_by_text("The same as a table").click()
    limits.count_message("messages", "192.0.2.1", "ada", time.time())
    await expect(page.locator("#ops-minutes tr").first.locator("td").first).to_have_text("1")
    await expect(page.get_by_role("region", name="Limits by minute")).to_be_visible()
    await expect(rows(page)).to_have_count(2)


async def test_filter_menu_closes_on_escape_and_gives_the_focus_back(opened, clients):
    clients.add(id="c1", user="ada", user_id="1")
    clients.add(id="c2")
    page = await opened()
    menu = page.locator(".ops-filter", has_text="Identity")
    await menu.locator("summary").press("Enter")
    await expect(menu.get_by_role("link", name="Named")).to_be_visible()
    await page.keyboard.press("Tab")
    await page.keyboard.press("Escape")
    await expect(menu.get_by_role("link", name="Named")).to_be_hidden()
    assert await page.evaluate("document.activeElement.tagName") == "SUMMARY"
    await menu.locator("summary").click()
    await menu.get_by_role("link", name="Named").click()
    await expect(rows(page)).to_have_count(1)
    await expect(menu.locator("summary")).to_have_text("Identity: Named")


async def test_works_without_scripts(opened, clients):
    clients.add(id="c1")
    page = await opened(java_script_enabled=False)
    await expect(rows(page)).to_have_count(1)
    await expect(page.locator("[data-ops-toggle]")).to_be_hidden()
    await page.locator("input.action-select").check()
    await page.locator("select[name=action]").select_option("disconnect")
    await page.locator("button[name=index]").click()
    await expect(page.locator(".messagelist")).to_contain_text("1 client had already gone.")


@pytest.mark.parametrize("width", [390, 1280])
async def test_pages_are_no_wider_than_their_window(width, opened, clients):
    clients.add(id="c1", path="/ws/" + "x" * 200, route="/ws/" + "x" * 200, user="u" * 100)
    page = await opened(viewport={"width": width, "height": 800})
    for name in ("client", "ratelimitentry", "setting", "client/c1/change"):
        await page.goto(f"/admin/dashboard/{name}/")
        assert await page.evaluate("document.documentElement.scrollWidth") <= width, name
