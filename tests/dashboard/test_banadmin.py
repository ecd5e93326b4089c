"""Bans are added, lifted and deleted by hand."""

from __future__ import annotations

from datetime import timedelta

import pytest
from django.contrib.admin.models import LogEntry
from django.contrib.auth.models import User
from django.urls import reverse
from django.utils import timezone

from ratelimit.bans import watch
from ratelimit.models import Ban

LIST = "admin:ratelimit_ban_changelist"
ADD = "admin:ratelimit_ban_add"

pytestmark = pytest.mark.django_db


@pytest.fixture
def bans():
    """One ban in force for ever, one for an hour, one that is over."""
    now = timezone.now()
    return [
        Ban.objects.create(network="192.0.2.1/32", reason="floods"),
        Ban.objects.create(network="192.0.2.2/32", until=now + timedelta(hours=1)),
        Ban.objects.create(network="192.0.2.3/32", until=now - timedelta(hours=1)),
    ]


def networks(answer):
    return sorted(ban.network for ban in answer.context["cl"].result_list)


def test_ban_is_made_by_who_makes_it(admin):
    answer = admin.post(reverse(ADD), {"network": " 192.0.2.7/24 ", "reason": "noise", "by": "999"})
    assert answer.status_code == 302
    ban = Ban.objects.get()
    assert (ban.network, ban.reason, ban.until, ban.by.username) == ("192.0.2.0/24", "noise", None, "ops")


def test_maker_and_date_are_shown_of_a_ban_that_exists(admin, bans):
    assert b"field-created_at" not in admin.get(reverse(ADD)).content
    change = admin.get(reverse("admin:ratelimit_ban_change", args=[bans[0].pk])).content
    assert b"field-created_at" in change
    assert b"field-by" in change


def test_changing_a_ban_leaves_its_maker(admin, bans):
    other = User.objects.create_user("other")
    Ban.objects.filter(pk=bans[0].pk).update(by=other)
    admin.post(
        reverse("admin:ratelimit_ban_change", args=[bans[0].pk]), {"network": "192.0.2.9", "reason": "x"}
    )
    bans[0].refresh_from_db()
    assert (bans[0].network, bans[0].by) == ("192.0.2.9/32", other)


def test_user_can_be_banned(admin):
    user = User.objects.create_user("eve")
    admin.post(reverse(ADD), {"user": user.pk})
    assert Ban.objects.get().user == user
    assert "user eve" in admin.get(reverse(LIST)).content.decode()


@pytest.mark.parametrize(
    "text", ["everybody", "192.0.2.300", "192.0.2.0/33", "2001:db8::/129", "10.0.0.1-10.0.0.9"]
)
def test_wrong_network_is_named_with_what_would_be_right(text, admin):
    answer = admin.post(reverse(ADD), {"network": text})
    (error,) = answer.context["adminform"].form.errors["network"]
    assert f"“{text}”" in error
    assert "203.0.113.0/24" in error
    assert not Ban.objects.exists()


def test_ban_of_nobody_is_refused(admin):
    answer = admin.post(reverse(ADD), {"network": " ", "reason": "x"})
    assert answer.status_code == 200
    assert not Ban.objects.exists()


@pytest.mark.parametrize(
    ("state", "shown"),
    [("in_force", ["192.0.2.1/32", "192.0.2.2/32"]), ("expired", ["192.0.2.3/32"]), (None, None)],
)
def test_filter_by_state(state, shown, admin, bans):
    answer = admin.get(reverse(LIST), {"state": state} if state else {})
    assert networks(answer) == (shown or [ban.network for ban in bans])


def test_search(admin, bans):
    assert networks(admin.get(reverse(LIST), {"q": "floods"})) == ["192.0.2.1/32"]
    assert networks(admin.get(reverse(LIST), {"q": "2.3/"})) == ["192.0.2.3/32"]


def test_list_says_which_are_in_force(admin, bans):
    content = admin.get(reverse(LIST)).content.decode()
    assert content.count('alt="True"') == 2
    assert content.count('alt="False"') == 1


def test_lifting_ends_those_in_force_now_and_at_once(admin, bans, django_capture_on_commit_callbacks):
    watch.read()
    assert watch.table.bans_address("192.0.2.1", timezone.now().timestamp())
    before = bans[2].until
    form = {"action": "lift", "_selected_action": [ban.pk for ban in bans], "index": "0"}
    with django_capture_on_commit_callbacks(execute=True):
        answer = admin.post(reverse(LIST), form, follow=True)
    assert [str(message) for message in answer.context["messages"]] == ["Lifted 2 bans."]
    assert not Ban.objects.in_force().exists()
    assert Ban.objects.get(pk=bans[2].pk).until == before
    assert sorted(LogEntry.objects.values_list("object_id", flat=True)) == sorted(
        str(ban.pk) for ban in bans[:2]
    )
    assert not watch.table.bans_address("192.0.2.1", timezone.now().timestamp())


def test_lifting_needs_the_permission_to_change(operator, bans):
    browser = operator("ratelimit.view_ban")
    assert b'value="lift"' not in browser.get(reverse(LIST)).content
    browser.post(reverse(LIST), {"action": "lift", "_selected_action": [bans[0].pk], "index": "0"})
    assert Ban.objects.in_force().count() == 2


def test_bans_can_be_deleted(admin, bans):
    form = {"action": "delete_selected", "_selected_action": [bans[0].pk], "index": "0", "post": "yes"}
    admin.post(reverse(LIST), form)
    assert not Ban.objects.filter(pk=bans[0].pk).exists()
