"""What makes the page usable by everybody: names, headings, focus, contrast, width. Leaves screenshots to look at."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from playwright.async_api import Page, expect

pytestmark = pytest.mark.browser

SHOTS = Path(__file__).parent / "shots"
ADMIN_PAGES = {
    "index": "/admin/",
    "clients": "/admin/dashboard/client/",
    "rate-limits": "/admin/dashboard/ratelimitentry/",
    "configuration": "/admin/dashboard/setting/",
}

NAMELESS = """() => [...document.querySelectorAll("input, textarea, select, button, a[href], [role], section, nav, aside")]
    .filter((element) => !(
        element.labels?.length || element.getAttribute("aria-label") || element.textContent.trim() ||
        document.getElementById(element.getAttribute("aria-labelledby"))
    ) && element.role !== "status")
    .map((element) => element.outerHTML)"""

UNLABELLED = """() => [...document.querySelectorAll("input, textarea, select")]
    .filter((field) => field.labels.length === 0).map((field) => field.outerHTML)"""

BROKEN_REFERENCES = """() => [...document.querySelectorAll("[aria-labelledby], [aria-describedby], label[for]")]
    .flatMap((element) => ["aria-labelledby", "aria-describedby", "for"].map((name) => element.getAttribute(name)))
    .filter((id) => id && !document.getElementById(id))"""

# Relative luminance and contrast as WCAG 2 defines them.
FAINT = """() => {
    const numbers = (color) => {
        const [r, g, b, a = 1] = color.match(/[\\d.]+/g).map(Number);
        // What color-mix() gives counts to one, not to 255.
        const scale = color.startsWith("color(") ? 255 : 1;
        return { rgb: [r, g, b].map((part) => part * scale), a };
    };
    const luminance = (rgb) => {
        const [r, g, b] = rgb.map((c) => (c /= 255) <= 0.03928 ? c / 12.92 : ((c + 0.055) / 1.055) ** 2.4);
        return 0.2126 * r + 0.7152 * g + 0.0722 * b;
    };
    const behind = (element) => {
        for (let at = element; at; at = at.parentElement) {
            const { rgb, a } = numbers(getComputedStyle(at).backgroundColor);
            if (a === 1) return rgb;
        }
        return [255, 255, 255];
    };
    const faint = [];
    for (const element of document.querySelectorAll("body *")) {
        if (element.closest("svg, noscript, .visually-hidden, .skip") || !element.checkVisibility()) continue;
        if (![...element.childNodes].some((node) => node.nodeType === 3 && node.data.trim())) continue;
        const one = luminance(numbers(getComputedStyle(element).color).rgb);
        const other = luminance(behind(element));
        const contrast = (Math.max(one, other) + 0.05) / (Math.min(one, other) + 0.05);
        if (contrast < 4.5) faint.push(`${contrast.toFixed(2)} ${element.outerHTML.slice(0, 80)}`);
    }
    return faint;
}"""

FOCUSED = """() => {
    const element = document.activeElement;
    if (element === document.body) return null;
    const { outlineStyle, outlineWidth } = getComputedStyle(element);
    const ring = outlineStyle !== "none" && parseFloat(outlineWidth) >= 2;
    return { name: element.id || element.textContent.trim(), ring };
}"""


async def live(page: Page) -> None:
    await expect(page.locator("#pill")).to_have_attribute("data-state", "live", timeout=15_000)


async def sideways(page: Page) -> int:
    """How many pixels the page can be scrolled to the side."""
    return await page.evaluate("document.documentElement.scrollWidth - document.documentElement.clientWidth")


async def lively(page: Page) -> None:
    """Wait until there is something to see on the page."""
    await live(page)
    await page.get_by_label("Message", exact=True).fill("Just came alongside. The water is calm.")
    await page.get_by_role("button", name="Send").click()
    await expect(page.locator("li.line.own")).to_have_count(1)
    await expect(page.locator("#echo-count")).to_have_text(re.compile(r"^(2[4-9]|[3-9]\d)$"))


async def test_everything_has_a_name_and_there_is_one_first_heading(demo, open_window):
    page = await open_window()
    await live(page)
    assert await page.evaluate(UNLABELLED) == []
    assert await page.evaluate(NAMELESS) == []
    assert await page.evaluate(BROKEN_REFERENCES) == []
    assert await page.locator("h1").count() == 1
    assert await page.locator("html").get_attribute("lang") == "en"
    for landmark in ("banner", "navigation", "main", "contentinfo", "complementary"):
        await expect(page.get_by_role(landmark).first).to_be_visible()
    await expect(page.get_by_role("log")).to_have_attribute("aria-live", "polite")


async def test_focus_is_visible_on_everything_the_keyboard_reaches(demo, open_window):
    page = await open_window()
    await live(page)
    reached = []
    while True:
        await page.keyboard.press("Tab")
        focused = await page.evaluate(FOCUSED)
        if focused is None or focused in reached:
            break
        reached.append(focused)
    assert [focused["name"] for focused in reached if not focused["ring"]] == []
    names = {focused["name"] for focused in reached}
    assert {"message", "log", "flood-toggle", "echo-toggle", "Clients", "/metrics"} <= names


@pytest.mark.parametrize("scheme", ["light", "dark"])
async def test_text_stands_out_from_what_is_behind_it(demo, open_window, scheme):
    """WCAG 2 AA: 4.5 to 1."""
    page = await open_window(scheme=scheme)
    await lively(page)
    assert await page.evaluate(FAINT) == []


@pytest.mark.parametrize("room", ["lobby", "x" * 400])
async def test_phone_has_no_sideways_scroll(demo, open_window, complaints, room):
    page = await open_window(f"/?room={room}", width=390)
    await live(page)
    await page.get_by_label("Message", exact=True).fill("w" * 500)
    await page.get_by_role("button", name="Send").click()
    await expect(page.locator("li.line.own")).to_have_count(1)
    assert await sideways(page) == 0
    assert complaints.seen == []


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [1280, 390])
async def test_screenshots_are_there_to_look_at(demo, open_window, sign_in, complaints, width, scheme):
    SHOTS.mkdir(exist_ok=True)
    guest = await open_window()
    await live(guest)
    page = await open_window(width=width, scheme=scheme)
    await lively(page)
    await guest.get_by_label("Message", exact=True).fill("Good to see you in the list.")
    await guest.get_by_role("button", name="Send").click()
    await expect(page.locator("li.line")).to_have_count(2)
    await page.screenshot(path=SHOTS / f"demo-{width}-{scheme}.png", full_page=True)
    admin = await open_window("/admin/", width=width, scheme=scheme)
    await sign_in(admin)
    for name, path in ADMIN_PAGES.items():
        response = await admin.goto(demo.url + path)
        assert response is not None
        assert response.status == 200
        await admin.screenshot(path=SHOTS / f"admin-{name}-{width}-{scheme}.png", full_page=True)
    assert complaints.seen == []
