"""The Configuration page in a real browser: settings are overridden by keyboard, without scripts, on a phone."""

from __future__ import annotations

import pytest
from playwright.async_api import Page, expect

from tests.browser.conftest import PASSWORD
from tests.browser.test_looks import BROKEN_REFERENCES, FAINT, NAMELESS, SHOTS, sideways

pytestmark = pytest.mark.browser

SETTING = "/admin/dashboard/setting/RATELIMIT_5FMESSAGES_5FPER_5FWINDOW/change/"
POLICY = "/admin/dashboard/setting/REALTIME_5FSLOW_5FCONSUMER/change/"


async def override(page: Page, value: str) -> None:
    await page.get_by_label("New value").fill(value)
    await page.get_by_role("button", name="Override on all nodes").click()
    await page.wait_for_load_state()


async def test_overridden_and_reverted_with_the_keyboard_alone(demo, open_window, sign_in, complaints):
    page = await open_window(SETTING)
    await sign_in(page)
    field = page.get_by_role("spinbutton", name="New value")
    await field.focus()
    await page.keyboard.press("Control+a")
    await page.keyboard.type("500")
    await page.keyboard.press("Enter")
    await expect(
        page.get_by_text("RATELIMIT_MESSAGES_PER_WINDOW is overridden, on all nodes.")
    ).to_be_visible()
    await expect(page.locator(".field-value_in_force .readonly")).to_have_text("500 messages changed")
    revert = page.get_by_role("button", name="Revert to 60 messages")
    await revert.focus()
    await page.keyboard.press("Enter")
    await expect(page.get_by_text("is 60 messages again, as deployed.")).to_be_visible()
    await expect(revert).to_have_count(0)
    rows = page.get_by_role("region", name="Changes").get_by_role("row")
    await expect(rows).to_have_count(3)
    assert complaints.seen == []


async def test_an_error_is_where_the_field_is_and_the_field_says_so(demo, open_window, sign_in):
    page = await open_window(POLICY)
    await sign_in(page)
    await override(page, '{"*": "coalese"}')
    said = page.get_by_text("REALTIME_SLOW_CONSUMER['*'] is 'coalese'. Did you mean 'coalesce'?")
    await expect(said).to_be_visible()
    field = page.get_by_label("New value")
    await expect(field).to_have_attribute("aria-invalid", "true")
    await expect(field).to_have_value('{"*": "coalese"}')


async def test_it_works_without_scripts(demo, browser):
    context = await browser.new_context(java_script_enabled=False)
    page = await context.new_page()
    await page.goto(demo.url + SETTING)
    await page.get_by_label("Username").fill("admin")
    await page.get_by_label("Password").fill(PASSWORD)
    await page.get_by_role("button", name="Log in").click()
    await override(page, "500")
    await expect(page.get_by_text("is overridden, on all nodes.")).to_be_visible()
    await page.get_by_role("button", name="Revert to 60 messages").click()
    await expect(page.get_by_text("is 60 messages again, as deployed.")).to_be_visible()


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [1280, 390])
async def test_it_can_be_read_and_used_everywhere(demo, open_window, sign_in, complaints, width, scheme):
    SHOTS.mkdir(exist_ok=True)
    page = await open_window(SETTING, width=width, scheme=scheme)
    await sign_in(page)
    await override(page, "500")
    await page.goto(demo.url + SETTING)
    await page.screenshot(path=SHOTS / f"admin-setting-{width}-{scheme}.png", full_page=True)
    for look in (NAMELESS, BROKEN_REFERENCES, FAINT):
        # What is hidden has no name, and the colours around the content are Django's.
        mine = look.replace('"input,', '"input:not([type=hidden]),').replace('"body *"', '"#content *"')
        assert await page.evaluate(mine) == []
    assert await sideways(page) == 0
    for name in ("Override on all nodes", "Revert to 60 messages"):
        box = await page.get_by_role("button", name=name).bounding_box()
        assert box is not None
        assert box["height"] >= 24
        assert box["x"] + box["width"] <= width
    await page.goto(demo.url + POLICY)
    await override(page, '{"' + "x" * 100 + '": "coalesce", "*": "disconnect"}')
    await page.goto(demo.url + POLICY)
    await override(page, "x")
    await page.screenshot(path=SHOTS / f"admin-setting-error-{width}-{scheme}.png", full_page=True)
    assert await sideways(page) == 0
    await page.goto(demo.url + "/admin/dashboard/setting/?from_source=override")
    await page.screenshot(path=SHOTS / f"admin-configuration-overridden-{width}-{scheme}.png", full_page=True)
    assert complaints.seen == []
