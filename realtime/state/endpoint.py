"""Where a Redis is, and how to be let in: what a URL says."""

from __future__ import annotations

import asyncio
import contextlib
import ssl
from collections.abc import Callable
from typing import Any, TypeVar, cast
from urllib.parse import parse_qsl, urlencode, urlsplit

from django.core.exceptions import ImproperlyConfigured
from redis.asyncio.connection import Connection, SSLConnection, parse_url
from redis.asyncio.retry import Retry
from redis.asyncio.sentinel import Sentinel
from redis.backoff import NoBackoff
from redis.exceptions import RedisError

P = TypeVar("P", bound=asyncio.Protocol)

_SENTINEL = {"sentinel": "redis", "sentinels": "rediss"}
"""Schemes that name Sentinels, with that of the Redis they lead to."""

_SENTINEL_PORT = 26379


class Endpoint:
    """
    One Redis.

    ``redis://``, ``rediss://`` (TLS) and ``unix://`` URLs mean what they mean to redis-py, with its options for
    TLS (``ssl_ca_certs``, ``ssl_certfile``, ``ssl_keyfile``, ``ssl_cert_reqs``, ``ssl_check_hostname``).
    ``sentinel://user:password@host:port,host:port/service?db=0`` asks each Sentinel in turn for the master of
    ``service``; ``sentinels://`` speaks TLS with all of them. User and password are for Redis, ``sentinel_username``
    and ``sentinel_password`` for the Sentinels.

    Raise ImproperlyConfigured for a URL that says something else.

    """

    def __init__(self, url: str) -> None:
        try:
            self._read(url)
        except (ValueError, TypeError, AttributeError, OSError, RedisError) as error:
            raise ImproperlyConfigured(
                f"REALTIME_STATE_URL cannot be used: {self.redacted(_without_url(error, url))}. It is memory://,"
                " redis://host:port/db, rediss://host:port/db, unix:///path or sentinel://host:port,host:port/service."
            ) from None

    def _read(self, url: str) -> None:
        self._secrets: tuple[str, ...] = ()
        self._sentinels: list[tuple[str, int]] = []
        self._sentinel_options: dict[str, Any] = {}
        if url.partition("://")[0] in _SENTINEL:
            url = self._read_sentinel(url)
        options: dict[str, Any] = dict(parse_url(url))
        kind = options.pop("connection_class", Connection)
        if kind is SSLConnection:
            options.setdefault("ssl_check_hostname", True)
        # Never connected: redis-py knows what each option means, and refuses those it does not know.
        connection = kind(**options)
        self.username: str | None = options.get("username")
        self.password: str | None = options.get("password")
        self._secrets += tuple(filter(None, (self.password,)))
        self.db = int(options.get("db") or 0)
        self._path: str | None = options.get("path")
        self._host: str = options.get("host") or "localhost"
        self._port = int(options.get("port") or 6379)
        self._ssl: ssl.SSLContext | None = None
        if kind is SSLConnection:
            self._ssl = connection.ssl_context.get()
            self._sentinel_options |= {"ssl": True}
            self._sentinel_options |= {k: v for k, v in options.items() if k.startswith("ssl_")}

    def _read_sentinel(self, url: str) -> str:
        """Take what is about the Sentinels out of a URL, and return the rest as that of a Redis."""
        # By hand: what stands for the host here is no host to urllib.
        scheme, _, rest = url.partition("://")
        where, _, query = rest.partition("?")
        place, _, self._service = where.rstrip("/").partition("/")
        user, _, hosts = place.rpartition("@")
        self._sentinels = [_address(host) for host in hosts.split(",")]
        if not self._service:
            raise ValueError("it names no service, as in sentinel://host:port/service")
        options = dict(parse_qsl(query))
        db = int(options.pop("db", "0"))
        for name in ("username", "password"):
            if value := options.pop(f"sentinel_{name}", None):
                self._sentinel_options[name] = value
                self._secrets += (value,)
        return f"{_SENTINEL[scheme]}://{user}{'@' if user else ''}localhost/{db}?{urlencode(options)}"

    def __str__(self) -> str:
        if self._sentinels:
            return f"the master of {self._service!r}"
        return self._path or f"{self._host}:{self._port}"

    def redacted(self, text: str) -> str:
        """Return ``text`` without the passwords that the URL holds."""
        for secret in self._secrets:
            text = text.replace(secret, "***")
        return text

    def greeting(self) -> list[list[bytes]]:
        """Return the commands with which a connection begins."""
        commands = []
        if self.password:
            user = [self.username.encode()] if self.username else []
            commands.append([b"AUTH", *user, self.password.encode()])
        if self.db:
            commands.append([b"SELECT", b"%d" % self.db])
        return commands

    async def connect(self, factory: Callable[[], P]) -> P:
        """Open a connection and return its protocol. Raise OSError where nobody answers."""
        loop = asyncio.get_running_loop()
        if self._path:
            return (await loop.create_unix_connection(factory, self._path))[1]
        host, port = await self._master() if self._sentinels else (self._host, self._port)
        name = host if self._ssl else None
        return (await loop.create_connection(factory, host, port, ssl=self._ssl, server_hostname=name))[1]

    async def _master(self) -> tuple[str, int]:
        sentinel = cast("Any", Sentinel)(
            self._sentinels,
            sentinel_kwargs={**self._sentinel_options, "retry": Retry(NoBackoff(), 0)},
        )
        try:
            host, port = await sentinel.discover_master(self._service)
        except RedisError as error:
            asked = ", ".join(f"{host}:{port}" for host, port in self._sentinels)
            raise ConnectionError(
                f"none of the Sentinels {asked} knows a master of {self._service!r} that is well"
            ) from error
        finally:
            for client in sentinel.sentinels:
                with contextlib.suppress(RedisError, OSError):
                    await client.aclose()
        return str(host), int(port)


def _address(text: str) -> tuple[str, int]:
    """Return host and port of ``host``, ``host:port`` or ``[host]:port``."""
    parts = urlsplit(f"//{text}")
    if not parts.hostname:
        raise ValueError("it names a Sentinel without a host")
    return parts.hostname, parts.port or _SENTINEL_PORT


def _without_url(error: Exception, url: str) -> str:
    return str(error).replace(url, "the URL")
