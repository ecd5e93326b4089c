"""The ops admin: which page shows what."""

from __future__ import annotations

from django.contrib import admin

from dashboard.banadmin import BanAdmin
from dashboard.clientadmin import ClientAdmin
from dashboard.limitadmin import RateLimitEntryAdmin
from dashboard.models import Client, RateLimitEntry, Setting
from dashboard.settingadmin import SettingAdmin
from ratelimit.models import Ban

admin.site.register(Client, ClientAdmin)
admin.site.register(RateLimitEntry, RateLimitEntryAdmin)
admin.site.register(Setting, SettingAdmin)
admin.site.register(Ban, BanAdmin)
