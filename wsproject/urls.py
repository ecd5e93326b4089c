"""Which page is at which address."""

from __future__ import annotations

from django.contrib import admin
from django.urls import include, path

from wsproject import views

urlpatterns = [
    path("", views.demo, name="demo"),
    path("admin/", admin.site.urls),
    path("", include("dashboard.urls")),
]
