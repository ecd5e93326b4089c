"""The demonstration as its visitors meet it, in a real browser against a real server."""

from __future__ import annotations

import re
import signal

import pytest
from playwright.async_api import Page, expect

from realtime.close_codes import REASONS, UNAUTHENTICATED

pytestmark = pytest.mark.browser

# Chromium writes this for every attempt to connect, however well the page copes.
REFUSED = "net::ERR_CONNECTION_REFUSED"


async def live(page: Page) -> None:
    await expect(page.locator("#pill")).to_have_attribute("data-state", "live", timeout=15_000)


async def say(page: Page, text: str) -> None:
    await page.get_by_label("Message", exact=True).fill(text)
    await page.get_by_label("Message", exact=True).press("Enter")


def line(page: Page, text: str):
    return page.get_by_role("log").locator("li.line", has=page.get_by_text(text, exact=True))


def person(page: Page, name: str):
    return page.locator("#roster li", has_text=name)


async def own_name(page: Page) -> str:
    return await page.locator("#roster .person.own .name").inner_text()


# Chat


async def test_two_windows_chat(demo, open_window, complaints):
    one, other = await open_window(), await open_window()
    await live(one)
    await live(other)
    await say(one, "Anyone aboard?")
    await say(other, "Aye.")
    for page in (one, other):
        await expect(line(page, "Anyone aboard?")).to_have_count(1)
        await expect(line(page, "Aye.")).to_have_count(1)
    await expect(line(one, "Anyone aboard?")).to_have_class("line own")
    await expect(line(one, "Aye.")).to_have_class("line")
    await expect(one.locator("#outbox li")).to_have_count(0)
    assert complaints.seen == []


async def test_windows_see_each_other_come_and_go(demo, open_window):
    one = await open_window()
    await live(one)
    await expect(one.locator("#roster li")).to_have_count(1)
    other = await open_window()
    await live(other)
    name, other_name = await own_name(one), await own_name(other)
    assert name.startswith("guest-")
    await expect(person(one, other_name)).to_be_visible()
    await expect(person(other, name)).to_be_visible()
    await expect(person(one, name)).to_contain_text("you")
    await expect(person(one, other_name)).not_to_contain_text("you")
    await other.close()
    await expect(person(one, other_name)).to_have_count(0)
    await expect(one.get_by_text(f"{other_name} left")).to_be_visible()


async def test_rooms_are_apart_whatever_they_are_called(demo, open_window, complaints):
    odd = "a/b?c%20 #é🌊"
    here = await open_window("/?room=a%2Fb%3Fc%2520%20%23%C3%A9%F0%9F%8C%8A")
    lobby = await open_window()
    await live(here)
    await live(lobby)
    await expect(here.get_by_role("heading", level=2, name=odd)).to_be_visible()
    await say(here, "only here")
    await expect(line(here, "only here")).to_have_count(1)
    await say(lobby, "only there")
    await expect(line(lobby, "only there")).to_have_count(1)
    await expect(line(lobby, "only here")).to_have_count(0)
    assert complaints.seen == []


async def test_what_is_said_is_shown_as_text(demo, open_window, complaints):
    page = await open_window()
    await live(page)
    await say(page, "<img src=x onerror=alert(1)>")
    await expect(line(page, "<img src=x onerror=alert(1)>")).to_have_count(1)
    assert complaints.seen == []


async def test_shift_enter_starts_a_new_line(demo, open_window):
    page = await open_window()
    await live(page)
    message = page.get_by_label("Message", exact=True)
    await message.fill("one")
    await message.press("Shift+Enter")
    await message.press_sequentially("two")
    await message.press("Enter")
    await expect(page.locator("li.line .text")).to_have_text("one\ntwo")


async def test_round_trip_time_stands_beside_the_state(demo, open_window):
    page = await open_window()
    await live(page)
    await expect(page.locator("#pill-text")).to_contain_text("ms")


async def test_server_that_falls_silent_is_given_up(demo, open_window):
    """A connection that is open but dead would otherwise look live for minutes."""
    page = await open_window()
    await live(page)
    await expect(page.locator("#pill-text")).to_contain_text("ms")
    demo.server.send_signal(signal.SIGSTOP)
    try:
        await expect(page.locator("#notice")).to_contain_text("The connection was lost.", timeout=30_000)
    finally:
        demo.server.send_signal(signal.SIGCONT)
    await live(page)


async def test_chat_waits_as_the_limit_asks_and_delivers_everything_once(stage, open_window):
    """F3: whoever waits for retry_after is served."""
    await stage.start(RATELIMIT_MESSAGES_PER_WINDOW="2", RATELIMIT_MESSAGE_WINDOW="2")
    page = await open_window()
    await live(page)
    texts = [f"message {number}" for number in range(6)]
    for text in texts:
        await say(page, text)
    await expect(page.get_by_text("asks for", exact=False).first).to_be_visible()
    await expect(page.locator("#outbox li")).to_have_count(0, timeout=20_000)
    assert sorted(await page.locator("li.line .text").all_inner_texts()) == texts


# Coming back


async def lines(page: Page) -> list[str]:
    return await page.locator("li.line .text").all_inner_texts()


async def test_who_drops_the_connection_gets_what_was_said_meanwhile_once_and_in_order(
    demo, open_window, complaints
):
    """S4, X16."""
    away, here = await open_window(), await open_window()
    await live(away)
    await live(here)
    name = await own_name(away)
    await say(away, "before")
    await expect(line(here, "before")).to_have_count(1)
    await away.get_by_role("button", name="Drop my connection").click()
    await expect(away.locator("#notice")).to_contain_text("You dropped the connection.")
    await expect(here.get_by_text(f"{name} left")).to_be_visible()
    meanwhile = [f"meanwhile {number}" for number in range(5)]
    for text in meanwhile:
        await say(here, text)
    await say(away, "written while away")
    await expect(away.locator("#outbox li")).to_have_count(1)
    await live(away)
    await expect(away.get_by_text("5 messages while you were away.")).to_be_visible()
    everything = ["before", *meanwhile, "written while away"]
    for page in (away, here):
        await expect(line(page, "written while away")).to_have_count(1)
        assert await lines(page) == everything
    await expect(away.locator("#outbox li")).to_have_count(0)
    # Still the same guest, and there is no other.
    assert await own_name(away) == name
    for page in (away, here):
        await expect(page.locator("#roster li")).to_have_count(2)
    assert complaints.seen == []


@pytest.mark.redis
async def test_a_server_that_is_killed_costs_nobody_a_message(stage, open_window, redis_server):
    """The room, its messages and who the visitors are: all of it is in Redis."""
    redis = {"REDIS_URL": redis_server.url, "REALTIME_STATE_PREFIX": "killed"}
    await stage.start(**redis)
    one, other = await open_window(), await open_window()
    for page in (one, other):
        await live(page)
    names = [await own_name(page) for page in (one, other)]
    for number in range(3):
        await say(one, f"before {number}")
    await expect(line(other, "before 2")).to_have_count(1)
    await stage.stop(signal.SIGKILL)
    await expect(one.locator("#notice")).to_be_visible()
    await say(one, "while it was down")
    await stage.start(**redis)
    for page in (one, other):
        await live(page)
        await expect(line(page, "while it was down")).to_have_count(1)
        assert await lines(page) == ["before 0", "before 1", "before 2", "while it was down"]
        await expect(page.get_by_text("too long ago")).to_have_count(0)
    assert [await own_name(page) for page in (one, other)] == names


# Flood gate


async def test_flood_is_warned_then_closed_with_4429_and_comes_back(demo, open_window, complaints):
    page = await open_window()
    await live(page)
    # What is shown for a moment only is written down, so that a slow machine misses none of it.
    await page.evaluate(
        """() => {
            window.shown = { state: [], left: [], wait: [] };
            for (const [name, texts] of Object.entries(shown)) {
                const element = document.getElementById(`flood-${name}`);
                new MutationObserver(() => texts.push(element.textContent)).observe(element, { childList: true });
            }
        }"""
    )
    await page.get_by_role("button", name="Start flooding").click()
    state = page.locator("#flood-state")
    await expect(state).to_contain_text("Closed with 4429, and back after", timeout=30_000)
    shown = await page.evaluate("shown")
    warnings = [text for text in shown["state"] if text.startswith("Soft warning: 60 messages in 60 s")]
    assert any("2 warnings left" in text for text in warnings)
    assert any(text.startswith("Closed with 4429. Too many messages") for text in shown["state"])
    assert "2" in shown["left"]
    assert any(text.endswith(" s") for text in shown["wait"])
    assert int(await page.locator("#flood-accepted").inner_text()) >= 120
    assert int(await page.locator("#flood-refused").inner_text()) >= 2
    await expect(page.locator("#pill")).to_have_attribute("data-state", "live")
    assert complaints.seen == []


async def test_flood_without_a_limit_ends_by_itself(stage, open_window):
    await stage.start(RATELIMIT_MESSAGES_PER_WINDOW="0")
    page = await open_window()
    await page.get_by_role("button", name="Start flooding").click()
    await expect(page.locator("#flood-state")).to_contain_text("sets no such limit", timeout=20_000)


# Echo sounder


async def test_echo_sounder_plots_and_says_what_it_measures(demo, open_window):
    page = await open_window()
    await expect(page.locator("#echo-count")).to_have_text(re.compile(r"^([89]|\d\d)$"))
    await expect(page.locator("#echo-p50")).to_contain_text("ms")
    await expect(page.locator("#echo-p99")).to_contain_text("ms")
    await expect(page.get_by_role("img", name="half came back within")).to_be_visible()
    await expect(page.locator("#plot-svg .trace")).to_have_count(1)
    await page.locator("#echo-toggle").click()
    await expect(page.locator("#echo-summary")).to_contain_text("Stopped.")
    await expect(page.locator("#echo-toggle")).to_have_text("Start")


async def test_echo_sounder_waits_for_those_who_want_less_motion(demo, browser):
    context = await browser.new_context(reduced_motion="reduce")
    page = await context.new_page()
    await page.goto(demo.url)
    await live(page)
    await expect(page.locator("#echo-toggle")).to_have_text("Start")
    await expect(page.locator("#echo-count")).to_have_text("0")


# Operators


async def test_operator_disconnects_one_window_which_says_so(demo, open_window, sign_in):
    """C7: the client list shows both windows, and its action closes one with 4410."""
    one, other = await open_window(), await open_window()
    await live(one)
    await live(other)
    admin = await open_window()
    await admin.goto(demo.url)
    await admin.get_by_role("link", name="Clients").click()
    await sign_in(admin)
    await admin.goto(admin.url.split("?")[0] + "?q=/ws/chat/lobby/")
    rows = admin.locator("#result_list tbody tr")
    await expect(rows).to_have_count(2)
    # The newest is on top: the window that was opened last.
    await rows.first.locator("input.action-select").check()
    await admin.locator("select[name=action]").select_option("disconnect")
    await admin.locator("button[name=index]").click()
    if await admin.locator("input[name=post]").count():
        await admin.locator("form:has(input[name=post]) [type=submit]").click()
    await expect(other.locator("#notice")).to_contain_text("An operator disconnected you.")
    await expect(other.locator("#pill")).to_have_text("Stopped")
    await expect(other.locator("#announcer")).to_contain_text("An operator disconnected you.")
    await expect(one.locator("#pill")).to_have_attribute("data-state", "live")
    await other.get_by_role("button", name="Reconnect").click()
    await live(other)
    await expect(other.locator("#notice")).to_be_hidden()


async def test_page_comes_back_after_the_closes_the_server_means_as_temporary(demo, open_window):
    page = await open_window()
    codes = [*(reason.code for reason in REASONS), 1006, 4999]
    meanings = await page.evaluate(
        """async (codes) => {
            const { meaning } = await import('/static/demo/socket.js');
            return codes.map(meaning);
        }""",
        codes,
    )
    final = {code for code, meaning in zip(codes, meanings, strict=True) if meaning["stop"]}
    # Whoever is no longer signed in may still come in as a visitor.
    assert final == {reason.code for reason in REASONS if not reason.retry} - {UNAUTHENTICATED.code}
    assert all(meaning["words"].endswith(".") for meaning in meanings)


async def test_backoff_doubles_up_to_a_ceiling_with_full_jitter(demo, open_window):
    page = await open_window()
    delays = await page.evaluate(
        """async () => {
            const { backoff } = await import('/static/demo/socket.js');
            return [0, 1, 2, 3, 4, 5, 60].map((attempt) => [backoff(attempt, () => 0), backoff(attempt, () => 1)]);
        }"""
    )
    assert [highest for _, highest in delays] == [500, 1000, 2000, 4000, 8000, 8000, 8000]
    assert {lowest for lowest, _ in delays} == {200}


# Restart


async def test_stopped_server_is_waited_for(demo, open_window, complaints):
    """W1: Ctrl-C leaves no traceback; both windows say what happens and are there again when the server is."""
    one, other = await open_window(), await open_window()
    await live(one)
    await live(other)
    ended = await demo.stop()
    assert ended.code == 0
    assert "Traceback" not in ended.stderr
    for page in (one, other):
        await expect(page.locator("#notice")).to_contain_text("The server is restarting.")
        await expect(page.locator("#pill")).to_have_text("Server restarting")
    await say(one, "written while away")
    await expect(one.locator("#outbox")).to_contain_text("Goes out when the connection is back")
    await demo.start()
    for page in (one, other):
        await live(page)
        await expect(page.locator("#notice")).to_be_hidden()
        await expect(page.locator("#roster li")).to_have_count(2)
    await expect(line(one, "written while away")).to_have_count(1)
    await expect(one.locator("#outbox")).to_be_hidden()
    assert [complaint for complaint in complaints.seen if REFUSED not in complaint] == []
