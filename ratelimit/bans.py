"""The bans in force, in memory, as fresh as the settings ask for."""

from __future__ import annotations

import math
from collections.abc import Iterable
from datetime import datetime
from typing import Any, Final

from django.apps import apps

from ratelimit.clients import parse_hop, parse_network
from ratelimit.logs import get_logger
from ratelimit.watches import Watch

Row = tuple[str, Any, datetime | None]

_logger = get_logger("ratelimit")


class BanTable:
    """
    Bans of one moment. Never changes; asking costs one look into a dict per distinct prefix length.

    ``rows`` are pairs of network and user, of which one may be empty, with the time at which the ban ends.

    """

    __slots__ = ("_networks", "_untils", "_users", "unreadable")

    def __init__(self, rows: Iterable[Row] = ()) -> None:
        self._networks: dict[tuple[int, int], dict[int, float]] = {}
        self._users: dict[str, float] = {}
        self._untils: list[float] = []
        self.unreadable: list[str] = []
        """Networks that are none. They ban nobody."""
        for network, user, until in rows:
            self._add(network, user, math.inf if until is None else until.timestamp())

    def bans_address(self, address: str, now: float) -> bool:
        """Return whether an address is banned at ``now`` (seconds since the epoch)."""
        parsed = parse_hop(address) if self._networks else None
        if parsed is None:
            return False
        number, bits = int(parsed), parsed.max_prefixlen
        return any(
            networks.get(number >> shift, 0.0) > now
            for (version_bits, shift), networks in self._networks.items()
            if version_bits == bits
        )

    def bans_user(self, user: str, now: float) -> bool:
        """Return whether a user, named by primary key as text, is banned at ``now`` (seconds since the epoch)."""
        return self._users.get(user, 0.0) > now

    def count(self, now: float) -> int:
        """Return how many bans are in force at ``now`` (seconds since the epoch)."""
        return sum(until > now for until in self._untils)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, BanTable) and all(
            getattr(self, name) == getattr(other, name) for name in BanTable.__slots__
        )

    __hash__ = None  # type: ignore[assignment]

    def _add(self, network: str, user: Any, until: float) -> None:
        if network:
            try:
                parsed = parse_network(network)
            except ValueError:
                self.unreadable.append(network)
                return
            shift = parsed.max_prefixlen - parsed.prefixlen
            networks = self._networks.setdefault((parsed.max_prefixlen, shift), {})
            _prolong(networks, int(parsed.network_address) >> shift, until)
        if user is not None:
            _prolong(self._users, str(user), until)
        self._untils.append(until)


def _prolong(entries: dict[Any, float], key: Any, until: float) -> None:
    entries[key] = max(until, entries.get(key, -math.inf))


class BanWatch(Watch[BanTable]):
    """Keeps a :class:`BanTable` fresh."""

    def __init__(self) -> None:
        super().__init__("bans", BanTable())

    def query(self) -> BanTable:
        """Return the bans in force now."""
        bans = apps.get_model("ratelimit", "Ban")._default_manager.all()
        table = BanTable(bans.in_force().values_list("network", "user_id", "until"))
        if table.unreadable and table.unreadable != self.table.unreadable:
            _logger.warning("bans of no network", networks=table.unreadable)
        return table


watch: Final = BanWatch()
"""The bans as this process knows them."""
