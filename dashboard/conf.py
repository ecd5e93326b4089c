"""The settings of ``dashboard``."""

from __future__ import annotations

from dataclasses import dataclass

from ratelimit.appsettings import AppSettings, cached, setting


@dataclass(frozen=True, kw_only=True)
class DashboardSettings(AppSettings):
    """Each field is the Django setting ``DASHBOARD_<FIELD>``."""

    app = "dashboard"
    prefix = "DASHBOARD"

    token: str = setting(
        "", "Bearer token that opens `/info/*` to programs; empty lets only staff in.", secret=True
    )
    refresh_interval: float = setting(
        2.0,
        "How often an open admin page fetches fresh rows; 0 turns that off.",
        unit="seconds",
        minimum=0,
        maximum=3600,
        live=True,
    )
    max_rows: int = setting(
        10000,
        "Rows an admin list holds at most; the newest connections come first.",
        unit="rows",
        minimum=1,
        live=True,
    )


get_settings = cached(DashboardSettings)
