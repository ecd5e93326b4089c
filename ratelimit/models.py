"""What operators decide while the servers run: who is not let in, and which settings are others than those deployed."""

from __future__ import annotations

import uuid
from datetime import datetime

from django.conf import settings
from django.core.exceptions import ValidationError
from django.db import models
from django.db.models import Q
from django.utils import timezone
from django.utils.translation import gettext_lazy as _

from ratelimit.clients import parse_network


class BanQuerySet(models.QuerySet["Ban"]):
    """Bans, and which of them count."""

    def in_force(self, now: datetime | None = None) -> BanQuerySet:
        """Return the bans that keep somebody out at ``now``, or at this moment."""
        return self.filter(Q(until__isnull=True) | Q(until__gt=now or timezone.now()))


class Ban(models.Model):
    """A network, a user, or both, kept out: each of them is banned by itself."""

    network = models.CharField(
        _("network"),
        max_length=43,
        blank=True,
        help_text=_("An address such as 192.0.2.7 or a network such as 192.0.2.0/24 or 2001:db8::/64."),
    )
    user = models.ForeignKey(
        settings.AUTH_USER_MODEL,
        verbose_name=_("user"),
        on_delete=models.CASCADE,
        null=True,
        blank=True,
        related_name="websocket_bans",
    )
    reason = models.CharField(
        _("reason"), max_length=200, blank=True, help_text=_("For operators; clients never see it.")
    )
    until = models.DateTimeField(
        _("until"), null=True, blank=True, help_text=_("Empty: until the ban is lifted.")
    )
    by = models.ForeignKey(
        settings.AUTH_USER_MODEL,
        verbose_name=_("by"),
        on_delete=models.SET_NULL,
        null=True,
        blank=True,
        editable=False,
        related_name="+",
    )
    created_at = models.DateTimeField(_("created"), auto_now_add=True)

    objects = BanQuerySet.as_manager()

    class Meta:
        verbose_name = _("ban")
        verbose_name_plural = _("bans")
        ordering = ("-created_at", "-pk")
        constraints = (
            models.CheckConstraint(
                condition=~Q(network="") | Q(user__isnull=False),
                name="ratelimit_ban_names_somebody",
                violation_error_message=_("Name a network, a user, or both."),
            ),
        )

    def __str__(self) -> str:
        return " and ".join(str(part) for part in (self.network, self.user) if part)

    def clean(self) -> None:
        """Write the network the one way it is compared in. Raise ValidationError if it is none."""
        super().clean()
        if not self.network.strip():
            self.network = ""
            return
        try:
            self.network = str(parse_network(self.network))
        except ValueError as error:
            raise ValidationError({"network": str(error)}) from error

    def in_force(self, now: datetime | None = None) -> bool:
        """Return whether this ban keeps somebody out at ``now``, or at this moment."""
        return self.until is None or self.until > (now or timezone.now())


class Override(models.Model):
    """A setting that an operator has set apart from what is deployed, for all processes."""

    name = models.CharField(_("setting"), max_length=100, primary_key=True)
    value = models.JSONField(_("value"))
    version = models.UUIDField(default=uuid.uuid4, editable=False)
    """Another one each time it is set, so that whoever changes it can say what he has seen."""
    by = models.ForeignKey(
        settings.AUTH_USER_MODEL,
        verbose_name=_("by"),
        on_delete=models.SET_NULL,
        null=True,
        blank=True,
        editable=False,
        related_name="+",
    )
    set_at = models.DateTimeField(_("set"), default=timezone.now)

    class Meta:
        verbose_name = _("override")
        verbose_name_plural = _("overrides")
        ordering = ("name",)
        # It is seen and changed as a setting, on the page of the settings.
        default_permissions = ()

    def __str__(self) -> str:
        return self.name
