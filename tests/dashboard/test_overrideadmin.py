"""Overriding settings on the Configuration page: with validation, history and a way back."""

from __future__ import annotations

import re
from html import unescape

import pytest
from django.contrib.admin.models import LogEntry
from django.contrib.auth.models import User
from django.test import override_settings
from django.urls import reverse

from dashboard.models import all_settings
from ratelimit import conf as ratelimit_conf
from ratelimit import overrides
from ratelimit.models import Override
from realtime import conf as realtime_conf

LIST = "admin:dashboard_setting_changelist"
LIMIT = "RATELIMIT_MESSAGES_PER_WINDOW"

pytestmark = pytest.mark.django_db


def page_of(name):
    return reverse("admin:dashboard_setting_change", args=[name.replace("_", "_5F")])


def seen_at(client, name):
    """Return which override the page that is open now was made with."""
    found = re.search(r'name="seen"(?: value="(\w+)")?', client.get(page_of(name)).content.decode())
    return (found.group(1) or "") if found else ""


@pytest.fixture
def save(django_capture_on_commit_callbacks):
    """Save a value as a browser does that has the page open now."""

    def save(client, name, value, seen=None):
        seen = seen_at(client, name) if seen is None else seen
        with django_capture_on_commit_callbacks(execute=True):
            return client.post(page_of(name), {"new_value": value, "seen": seen, "_save": "1"})

    return save


@pytest.fixture
def revert(django_capture_on_commit_callbacks):
    def revert(client, name, seen=None):
        seen = seen_at(client, name) if seen is None else seen
        with django_capture_on_commit_callbacks(execute=True):
            return client.post(page_of(name), {"new_value": "nonsense", "seen": seen, "_revert": "1"})

    return revert


def errors(answer):
    return [
        unescape(one)
        for one in re.findall(r'<ul class="errorlist.*?<li>(.*?)</li>', answer.content.decode(), re.DOTALL)
    ]


def log():
    return [
        (entry.user.username, entry.object_id, entry.change_message)
        for entry in LogEntry.objects.order_by("pk")
    ]


def test_a_value_that_is_saved_is_in_force_stored_and_audited(admin, save):
    answer = save(admin, LIMIT, "7")
    assert answer.status_code == 302
    assert ratelimit_conf.get_settings().messages_per_window == 7
    stored = Override.objects.get()
    assert (stored.name, stored.value, stored.by.username) == (LIMIT, 7, "ops")
    assert log() == [("ops", LIMIT, "Overridden: 60 messages before, 7 messages from now on.")]


def test_the_page_says_where_the_value_is_from_what_is_deployed_and_who_did_it(admin, save):
    save(admin, LIMIT, "7")
    content = admin.get(page_of(LIMIT)).content.decode()
    assert "<strong>7 messages</strong>" in content
    assert "Overridden by ops at" in content
    assert "Revert to 60 messages" in content
    assert "Overridden: 60 messages before, 7 messages from now on." in content
    row = admin.get(reverse(LIST), {"from_source": "override"}).content.decode()
    assert re.findall(r'data-row="([^"]+)"', row) == [LIMIT]


def test_reverting_needs_no_valid_value_and_is_audited(admin, save, revert):
    save(admin, LIMIT, "7")
    answer = revert(admin, LIMIT)
    assert answer.status_code == 302
    assert ratelimit_conf.get_settings().messages_per_window == 60
    assert not Override.objects.exists()
    assert log()[-1] == ("ops", LIMIT, "Reverted: 7 messages before, 60 messages from now on.")
    content = admin.get(page_of(LIMIT)).content.decode()
    assert "Revert to" not in content
    assert "Reverted: 7 messages before" in content


@pytest.mark.parametrize(
    ("name", "text", "said"),
    [
        (LIMIT, "many", f"{LIMIT} is 'many'. Set it to a whole number of messages."),
        (LIMIT, "-1", f"{LIMIT} is -1 messages. It must be at least 0 messages."),
        (LIMIT, "", f"{LIMIT} is ''. Set it to a whole number of messages."),
        (LIMIT, "60", f"{LIMIT} is 60 messages already."),
        (
            "RATELIMIT_MESSAGE_WINDOW",
            "nan",
            "RATELIMIT_MESSAGE_WINDOW is nan. Set it to a number of seconds.",
        ),
        (
            "RATELIMIT_USER_LIMIT_POLICY",
            "newst",
            "RATELIMIT_USER_LIMIT_POLICY is 'newst'. Did you mean 'newest'?",
        ),
        ("RATELIMIT_TRUSTED_PROXIES", "10.0.0.0/8\nhere", "'here' is not a network such as '10.0.0.0/8'"),
        (
            "REALTIME_HEARTBEAT_INTERVAL",
            "90",
            "REALTIME_HEARTBEAT_TIMEOUT is 60 seconds and REALTIME_HEARTBEAT_INTERVAL 90.",
        ),
        ("REALTIME_HISTORY_TTL", '{"*": 5, "a": 6}', "Put '*' last"),
        ("REALTIME_SLOW_CONSUMER", '{"a": "drop"}', "REALTIME_SLOW_CONSUMER['a'] is 'drop'."),
        (LIMIT, "9" * 5000, "Ensure this value has at most 4000 characters"),
    ],
)
def test_a_wrong_value_is_named_with_its_unit_and_what_to_do(admin, save, name, text, said):
    answer = save(admin, name, text)
    assert answer.status_code == 200
    assert any(said in error for error in errors(answer)), errors(answer)
    assert not Override.objects.exists()
    assert log() == []


@pytest.mark.parametrize(
    ("name", "text", "value"),
    [
        ("RATELIMIT_TRUSTED_PROXIES", "10.0.0.0/8\r\n::1", ("10.0.0.0/8", "::1")),
        ("RATELIMIT_TRUSTED_PROXIES", "10.0.0.0/8, ::1", ("10.0.0.0/8", "::1")),
        ("RATELIMIT_USER_LIMIT_POLICY", "newest", "newest"),
        ("RATELIMIT_MESSAGE_WINDOW", "0.5", 0.5),
        (
            "REALTIME_SLOW_CONSUMER",
            '{"a.*": "coalesce", "*": "disconnect"}',
            {"a.*": "coalesce", "*": "disconnect"},
        ),
        ("REALTIME_SLOW_CONSUMER", "drop_oldest", "drop_oldest"),
        ("REALTIME_HISTORY_TTL", "60", 60),
    ],
)
def test_values_of_every_kind_are_typed_saved_and_shown_again(admin, save, name, text, value):
    assert save(admin, name, text).status_code == 302
    (settings,) = (settings for settings in all_settings() if name in settings.names())
    assert getattr(settings, settings.names()[name].name) == value
    shown = admin.get(page_of(name)).content.decode()
    again = re.search(
        r'<(?:input|textarea|select)[^>]*name="new_value".*?(?=</div>)', shown, re.DOTALL
    ).group()
    assert all(part in unescape(again) for part in re.findall(r"[\w.:]+", text))


def test_an_empty_list_is_a_value(admin, save):
    with override_settings(RATELIMIT_TRUSTED_PROXIES=["10.0.0.1"]):
        assert save(admin, "RATELIMIT_TRUSTED_PROXIES", "").status_code == 302
        assert ratelimit_conf.get_settings().trusted_proxies == ()


def test_two_settings_are_moved_one_after_the_other_where_one_bounds_the_other(admin, save):
    assert save(admin, "REALTIME_HEARTBEAT_TIMEOUT", "200").status_code == 302
    assert save(admin, "REALTIME_HEARTBEAT_INTERVAL", "90").status_code == 302
    assert realtime_conf.get_settings().heartbeat_interval == 90


def test_a_revert_that_would_leave_another_override_in_conflict_is_refused_and_says_so(admin, save, revert):
    save(admin, "REALTIME_HEARTBEAT_TIMEOUT", "200")
    save(admin, "REALTIME_HEARTBEAT_INTERVAL", "90")
    assert revert(admin, "REALTIME_HEARTBEAT_TIMEOUT").status_code == 302
    said = unescape(admin.get(page_of("REALTIME_HEARTBEAT_TIMEOUT")).content.decode())
    assert (
        "Not reverted. REALTIME_HEARTBEAT_TIMEOUT is 60 seconds and REALTIME_HEARTBEAT_INTERVAL 90." in said
    )
    assert "Change or revert REALTIME_HEARTBEAT_INTERVAL first." in said
    assert realtime_conf.get_settings().heartbeat_interval == 90
    assert len(log()) == 2
    revert(admin, "REALTIME_HEARTBEAT_INTERVAL")
    revert(admin, "REALTIME_HEARTBEAT_TIMEOUT")
    assert not Override.objects.exists()


@pytest.mark.parametrize(
    "name", ["REALTIME_ENGINE", "DASHBOARD_TOKEN", "REALTIME_STATE_URL", "RATELIMIT_SCOPE"]
)
def test_what_is_read_at_the_start_and_what_is_secret_cannot_be_edited(admin, name):
    content = admin.get(page_of(name)).content.decode()
    assert "needs a restart" in content
    assert "new_value" not in content
    assert admin.post(page_of(name), {"new_value": "daphne", "seen": "", "_save": "1"}).status_code == 403
    assert not Override.objects.exists()


def test_who_may_only_view_cannot_override_nor_revert(operator, admin, save):
    save(admin, LIMIT, "7")
    User.objects.filter(username="ops").update(username="chief")
    viewer = operator("dashboard.view_setting")
    content = viewer.get(page_of(LIMIT)).content.decode()
    assert "Overridden by chief" in content
    assert "new_value" not in content
    assert "Revert" not in re.sub(r"<section.*?</section>", "", content, flags=re.DOTALL)
    seen = Override.objects.get().version.hex
    for action in ("_save", "_revert"):
        answer = viewer.post(page_of(LIMIT), {"new_value": "8", "seen": seen, action: "1"})
        assert answer.status_code == 403
    assert Override.objects.get().value == 7


def test_the_right_to_change_is_enough(operator, save):
    changer = operator("dashboard.view_setting", "dashboard.change_setting")
    assert save(changer, LIMIT, "7").status_code == 302


def test_a_request_from_another_site_changes_nothing(admin):
    admin.handler.enforce_csrf_checks = True
    for action in ("_save", "_revert"):
        assert admin.post(page_of(LIMIT), {"new_value": "8", "seen": "", action: "1"}).status_code == 403


class TestTwoEditors:
    """The later does not win over what he has not seen."""

    def test_he_is_told_what_the_other_did_and_may_save_again(self, admin, save):
        seen = seen_at(admin, LIMIT)
        save(admin, LIMIT, "7")
        answer = save(admin, LIMIT, "8", seen=seen)
        assert answer.status_code == 200
        (said,) = errors(answer)
        assert said.startswith("Meanwhile ops has set this to 7 messages, at ")
        assert Override.objects.get().value == 7
        content = answer.content.decode()
        assert 'value="8"' in content, "what was typed is kept"
        again = re.search(r'name="seen" value="(\w+)"', content).group(1)
        assert save(admin, LIMIT, "8", seen=again).status_code == 302
        assert Override.objects.get().value == 8

    def test_a_list_is_told_as_it_is_shown(self, admin, save):
        save(admin, "RATELIMIT_TRUSTED_PROXIES", "::1\n10.0.0.1")
        answer = save(admin, "RATELIMIT_TRUSTED_PROXIES", "::1", seen="")
        assert "has set this to ::1, 10.0.0.1, at" in errors(answer)[0]

    def test_he_is_told_of_a_revert(self, admin, save, revert):
        save(admin, LIMIT, "7")
        seen = seen_at(admin, LIMIT)
        revert(admin, LIMIT)
        answer = save(admin, LIMIT, "8", seen=seen)
        assert errors(answer)[0].startswith("Meanwhile somebody has reverted this setting.")
        assert not Override.objects.exists()

    def test_one_that_was_reverted_and_set_again_is_another(self, admin, save, revert):
        save(admin, LIMIT, "7")
        seen = seen_at(admin, LIMIT)
        revert(admin, LIMIT)
        save(admin, LIMIT, "9")
        assert save(admin, LIMIT, "8", seen=seen).status_code == 200
        assert Override.objects.get().value == 9

    def test_a_revert_of_what_was_not_seen_does_nothing(self, admin, save, revert):
        save(admin, LIMIT, "7")
        seen = seen_at(admin, LIMIT)
        save(admin, LIMIT, "9")
        answer = revert(admin, LIMIT, seen=seen)
        assert answer.status_code == 302
        assert (
            "Meanwhile somebody else has changed this setting" in admin.get(page_of(LIMIT)).content.decode()
        )
        assert Override.objects.get().value == 9
        assert len(log()) == 2

    def test_both_in_the_same_moment_end_with_one_of_them(self, admin, monkeypatch, save):
        """Between the look of the form and the write."""
        seen = seen_at(admin, LIMIT)
        put = overrides.put

        def slower(name, value, **how):
            monkeypatch.setattr(overrides, "put", put)
            put(name, 7, seen=None)
            put(name, value, **how)

        monkeypatch.setattr(overrides, "put", slower)
        assert save(admin, LIMIT, "8", seen=seen).status_code == 302
        assert (
            "Meanwhile somebody else has changed this setting" in admin.get(page_of(LIMIT)).content.decode()
        )
        assert log() == []

    @pytest.mark.parametrize("seen", ["x", "0" * 32, "\x00"])
    def test_nonsense_is_nothing_that_was_seen(self, admin, save, revert, seen):
        save(admin, LIMIT, "7")
        assert save(admin, LIMIT, "8", seen=seen).status_code == 200
        assert revert(admin, LIMIT, seen=seen).status_code == 302
        assert Override.objects.get().value == 7


class TestOverridesThatCannotBeUsed:
    """After an upgrade, say."""

    @pytest.mark.parametrize(
        ("name", "value", "said"),
        [
            pytest.param(LIMIT, "lots", f"{LIMIT} is 'lots'. Set it to a whole number", id="wrong"),
            pytest.param(
                "REALTIME_ENGINE", "daphne", "REALTIME_ENGINE is read when a process starts.", id="not live"
            ),
            pytest.param(
                "REALTIME_GONE", 1, "REALTIME_GONE is not a setting. Remove the override.", id="gone"
            ),
            pytest.param("OTHER_GONE", 1, "OTHER_GONE is a setting of no installed app.", id="app gone"),
        ],
    )
    def test_the_page_names_them_and_they_can_be_reverted(self, admin, revert, name, value, said):
        Override.objects.create(name=name, value=value)
        content = unescape(admin.get(reverse(LIST)).content.decode())
        assert f"<strong>Override ignored.</strong> {said}" in content
        assert re.search(rf'data-row="{name}".*?override ignored', content, re.DOTALL)
        page = unescape(admin.get(page_of(name)).content.decode())
        assert said in page
        assert 'name="_revert"' in page
        assert revert(admin, name, seen=Override.objects.get().version.hex).status_code == 302
        assert not Override.objects.exists()
        assert "Override ignored" not in admin.get(reverse(LIST)).content.decode()

    def test_two_that_fit_nothing_can_be_reverted_in_any_order(self, admin, revert):
        Override.objects.create(name="REALTIME_HEARTBEAT_TIMEOUT", value=20)
        Override.objects.create(name="REALTIME_HEARTBEAT_INTERVAL", value=90)
        content = admin.get(reverse(LIST)).content.decode()
        assert content.count("Override ignored.") == 2
        for name in ("REALTIME_HEARTBEAT_TIMEOUT", "REALTIME_HEARTBEAT_INTERVAL"):
            revert(admin, name)
        assert not Override.objects.exists()

    def test_one_that_is_wrong_can_be_put_right(self, admin, save):
        Override.objects.create(name=LIMIT, value="lots")
        assert save(admin, LIMIT, "60").status_code == 302
        assert "Override ignored" not in admin.get(reverse(LIST)).content.decode()


def test_a_database_that_cannot_be_read_is_said_on_the_page(admin, monkeypatch):
    monkeypatch.setattr(overrides.watch, "query", lambda: 1 / 0)
    assert "The overrides cannot be read from the database." in admin.get(reverse(LIST)).content.decode()
    monkeypatch.undo()
    assert "cannot be read" not in admin.get(reverse(LIST)).content.decode()


def test_filter_by_what_is_editable(admin):
    live = {
        name
        for settings in all_settings()
        for name, field in settings.names().items()
        if field.metadata["live"]
    }
    content = admin.get(reverse(LIST), {"is_live": "yes"}).content.decode()
    assert set(re.findall(r'data-row="([^"]+)"', content)) == live
    assert "needs a restart" not in re.sub(r".*<tbody>", "", content, flags=re.DOTALL)


@override_settings(DASHBOARD_TOKEN="a-token-nobody-may-see")
def test_a_secret_that_somebody_stored_is_neither_used_nor_shown(admin):
    Override.objects.create(name="DASHBOARD_TOKEN", value="stolen-token")
    for url in (reverse(LIST), page_of("DASHBOARD_TOKEN"), "/info/config"):
        content = admin.get(url).content.decode()
        assert "nobody-may-see" not in content
        assert "stolen-token" not in content
    assert all_settings()[2].token == "a-token-nobody-may-see"
