"""The progress bar of a background job, in a real browser: it moves, it is read out, and it survives a reload."""

from __future__ import annotations

import re

import pytest
from playwright.async_api import Page, expect

from tests.browser.test_looks import FAINT, SHOTS, sideways
from wsproject.survey import STATIONS

pytestmark = pytest.mark.browser

DONE = f"Surveyed: {STATIONS} stations, 4.0 m of water at the least."


async def started(page: Page) -> None:
    await page.get_by_role("button", name="Start a survey").click()
    await expect(page.locator("#survey-done")).to_have_text(re.compile(rf"^[1-9]\d* of {STATIONS}$"))


async def stations(page: Page) -> int:
    return int((await page.locator("#survey-done").inner_text()).split()[0])


async def test_the_bar_moves_to_the_end_and_says_so(demo, open_window, complaints):
    """F12."""
    page = await open_window()
    await page.evaluate(
        """() => {
            window.said = [];
            const state = document.getElementById("survey-state");
            new MutationObserver(() => said.push(state.textContent)).observe(state, { childList: true });
        }"""
    )
    bar = page.get_by_role("progressbar", name="Progress")
    await expect(bar).to_be_visible()
    await started(page)
    await expect(page.locator("#survey-start")).to_be_disabled()
    await expect(page.locator("#survey-note")).to_have_text(re.compile(r"^Station \d+: [\d.]+ m$"))
    await expect(page.get_by_role("status").filter(has_text=DONE)).to_be_visible(timeout=20_000)
    assert await bar.evaluate("bar => [bar.value, bar.max]") == [STATIONS, STATIONS]
    assert len(await page.locator("#survey-lines li").all()) == 4
    await expect(page.locator("#survey-start")).to_be_enabled()
    # Read out now and then, not at every station.
    said = await page.evaluate("said")
    assert {"Sending the boat out.", DONE} <= set(said)
    assert 3 <= len(said) <= 8
    assert complaints.seen == []


async def test_a_reload_and_a_second_window_find_the_bar_where_the_job_is(demo, open_window):
    page = await open_window()
    await started(page)
    link = page.get_by_role("link", name="Follow it in a second window")
    await expect(link).to_be_visible()
    before = await stations(page)
    address = (await link.get_attribute("href") or "").removeprefix(demo.url)
    await page.reload()
    other = await open_window(address)
    for window in (page, other):
        await expect(window.locator("#survey-done")).to_have_text(re.compile(r"^[1-9]"))
        assert await stations(window) >= before
        await expect(window.locator("#survey-state")).to_have_text(DONE, timeout=20_000)
        assert await stations(window) == STATIONS
        assert len(await window.locator("#survey-lines li").all()) == 4


async def test_a_survey_goes_on_while_the_page_is_cut_off(demo, open_window):
    page = await open_window()
    await page.evaluate(
        """() => {
            const Real = WebSocket;
            window.WebSocket = class extends Real {
                constructor(url) {
                    super(url);
                    window.opened = [...(window.opened ?? []), this];
                }
            };
        }"""
    )
    await started(page)
    before = await stations(page)
    await page.evaluate("opened[0].close(4000)")
    await expect(page.locator("#survey-state")).to_contain_text("The survey goes on without this page.")
    await expect(page.locator("#survey-state")).to_have_text(DONE, timeout=20_000)
    assert await stations(page) == STATIONS > before
    assert await page.evaluate("opened.length") == 2


async def test_a_survey_nobody_knows_is_said_to_be_gone(demo, open_window):
    page = await open_window("/?survey=unheard-of")
    await expect(page.locator("#survey-state")).to_contain_text("There is no such job")
    await expect(page.locator("#survey-start")).to_be_enabled()


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [1280, 390])
async def test_the_bar_can_be_seen_everywhere(demo, open_window, complaints, width, scheme):
    """3 to 1 between the bar and what is not done yet, and no text fainter than WCAG 2 AA allows."""
    SHOTS.mkdir(exist_ok=True)
    page = await open_window(width=width, scheme=scheme)
    await started(page)
    await expect(page.locator("#survey-lines li")).to_have_count(2, timeout=20_000)
    await page.screenshot(path=SHOTS / f"survey-{width}-{scheme}.png", full_page=True)
    assert await page.evaluate(FAINT) == []
    assert await sideways(page) == 0
    box = await page.get_by_role("progressbar").bounding_box()
    assert box is not None
    assert box["width"] > 200
    assert box["height"] >= 12
    assert complaints.seen == []
