"""The rows of the ops admin: models without tables, made of what the other apps report."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any, NoReturn, Self, TypeVar, cast

from django.db import models

from dashboard import conf as dashboard_conf
from dashboard.amounts import setting_text
from dashboard.listqueryset import ListQuerySet
from dashboard.moments import Moment
from ratelimit import conf as ratelimit_conf
from ratelimit import overrides
from ratelimit.appsettings import AppSettings, Described
from ratelimit.counters import RateLimitSnapshot
from realtime import conf as realtime_conf
from realtime.registry import ConnectionInfo

L = TypeVar("L", bound="LiveModel")


class LiveManager(models.Manager[L]):
    """Gives the rows of a fresh moment, so that ``Model.objects`` never meets a missing table."""

    use_in_migrations = False

    def get_queryset(self) -> models.QuerySet[L]:
        return self.model.rows(Moment())


class LiveModel(models.Model):
    """A row that exists only while it is looked at. Subclasses say where it comes from."""

    objects = LiveManager[Self]()

    class Meta:
        abstract = True
        managed = False
        default_permissions = ("view",)
        base_manager_name = "objects"

    def save(self, *args: Any, **kwargs: Any) -> NoReturn:
        raise TypeError(f"{type(self).__name__} shows what is; it cannot be saved.")

    def delete(self, *args: Any, **kwargs: Any) -> NoReturn:
        raise TypeError(f"{type(self).__name__} shows what is; it cannot be deleted.")

    @classmethod
    def records(cls, moment: Moment) -> Iterable[Any]:
        """Return the objects the rows are made of; they have the attributes that the model has fields."""
        raise NotImplementedError(f"{cls.__name__} must override records() to say where its rows come from.")

    @classmethod
    def of(cls, record: Any) -> Self:
        """Return the row of one record."""
        return cls(**{field.attname: getattr(record, field.attname) for field in cls._meta.fields})

    @classmethod
    def rows(cls, moment: Moment) -> models.QuerySet[Self]:
        """Return a queryset of the rows at a moment."""
        return cast("models.QuerySet[Self]", ListQuerySet(cls, cls.records(moment), cls.of))


class Client(LiveModel):
    """One open connection. Times are seconds since the epoch, ``rtt`` is seconds, sizes are bytes."""

    id = models.CharField("client", primary_key=True, max_length=64)
    user_id = models.CharField("user id", max_length=255, null=True)  # noqa: DJ001 - None: nobody; a user's id may be any text
    user = models.CharField(max_length=255)
    address = models.CharField(max_length=64)
    path = models.TextField()
    route = models.TextField()
    node = models.CharField(max_length=255)
    consumer = models.CharField(max_length=255)
    rooms = models.JSONField()
    opened_at = models.FloatField("connected since")
    last_seen = models.FloatField("last seen")
    rtt = models.FloatField("round-trip time", null=True)
    messages_in = models.BigIntegerField("messages in")
    messages_out = models.BigIntegerField("messages out")
    bytes_in = models.BigIntegerField("bytes in")
    bytes_out = models.BigIntegerField("bytes out")
    outbound_bytes = models.BigIntegerField("outbound queue")
    errors = models.IntegerField()
    limited = models.IntegerField("messages refused")
    remaining = models.IntegerField("messages it may send now", null=True)
    subprotocol = models.CharField(max_length=255)
    user_agent = models.TextField("user agent")
    transport = models.CharField(max_length=64)

    class Meta(LiveModel.Meta):
        verbose_name = "client"
        permissions = (("disconnect_client", "Can disconnect clients"),)

    def __str__(self) -> str:
        return f"{self.user or 'anonymous'} at {self.address} ({self.id})"

    @classmethod
    def records(cls, moment: Moment) -> list[ConnectionInfo]:
        return moment.connections


class RateLimitEntry(LiveModel):
    """One client or address that was limited, of the most limited ones."""

    CLIENT = "client"
    ADDRESS = "address"

    id = models.CharField(primary_key=True, max_length=320)
    kind = models.CharField(max_length=16)
    name = models.CharField("client or address", max_length=255)
    limited = models.IntegerField("times limited")
    share = models.FloatField()
    """Between 0 and 1."""

    class Meta(LiveModel.Meta):
        verbose_name = "limited sender"
        verbose_name_plural = "rate limits"

    def __str__(self) -> str:
        return f"{self.kind} {self.name}"

    @classmethod
    def records(cls, moment: Moment) -> list[RateLimitEntry]:
        return [*cls._of_kind(cls.CLIENT, moment.limits), *cls._of_kind(cls.ADDRESS, moment.limits)]

    @classmethod
    def _of_kind(cls, kind: str, limits: RateLimitSnapshot) -> Iterator[RateLimitEntry]:
        total = sum(limits.limited_messages.values())
        if kind == cls.ADDRESS:
            total += limits.limited_connections
        for one in limits.top_clients if kind == cls.CLIENT else limits.top_addresses:
            # A name that displaced another took over its count, so a share could pass the whole.
            share = min(1.0, one.count / total) if total else 0.0
            yield cls(id=f"{kind}:{one.name}", kind=kind, name=one.name, limited=one.count, share=share)

    @classmethod
    def of(cls, record: RateLimitEntry) -> RateLimitEntry:
        return record


class Setting(LiveModel):
    """One setting of the three apps, with the value in force and where that comes from."""

    name = models.CharField(primary_key=True, max_length=100)
    app = models.CharField(max_length=32)
    value = models.TextField()
    default = models.TextField()
    source = models.CharField(max_length=16)
    unit = models.CharField(max_length=32)
    doc = models.TextField("what it does")
    changed = models.BooleanField("changed from the default")
    live = models.BooleanField("can be overridden")
    deployed = models.TextField("without an override")
    ignored = models.TextField("why the override that is stored is not in force")

    class Meta(LiveModel.Meta):
        verbose_name = "setting"
        verbose_name_plural = "configuration"
        default_permissions = ("view", "change")  # type: ignore[assignment]  # one more than its parent

    def __str__(self) -> str:
        return self.name

    @classmethod
    def records(cls, moment: Moment) -> list[Setting]:
        found = all_settings()
        rows = [cls._of_described(settings.app, one) for settings in found for one in settings.described()]
        known = {name for settings in found for name in settings.names()}
        strays = {name: why for name, why in overrides.unusable().items() if name not in known}
        return rows + [cls._of_stray(name, problem.explanation) for name, problem in strays.items()]

    @classmethod
    def _of_described(cls, app: str, one: Described) -> Setting:
        return cls(
            name=one.name,
            app=app,
            value=setting_text(one.value, one.unit),
            default=setting_text(one.default, one.unit),
            source=one.source,
            unit=one.unit,
            doc=one.doc,
            changed=one.value != one.default,
            live=one.live,
            deployed=setting_text(one.deployed, one.unit),
            ignored=one.ignored,
        )

    @classmethod
    def _of_stray(cls, name: str, ignored: str) -> Setting:
        """Return the row of an override of what is no setting any more."""
        return cls(
            name=name,
            app=name.partition("_")[0].lower(),
            value="none",
            default="none",
            source="default",
            unit="",
            doc="",
            changed=False,
            live=False,
            deployed="none",
            ignored=ignored,
        )

    @classmethod
    def of(cls, record: Setting) -> Setting:
        return record


def all_settings() -> tuple[AppSettings, ...]:
    """Return the settings in force of the three apps."""
    return ratelimit_conf.get_settings(), realtime_conf.get_settings(), dashboard_conf.get_settings()
