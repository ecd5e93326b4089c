"""Which page is at which address."""

from __future__ import annotations

from django.contrib import admin
from django.templatetags.static import static
from django.urls import include, path
from django.views.generic import RedirectView

from wsproject import views

urlpatterns = [
    path("", views.demo, name="demo"),
    # Browsers ask for this on pages that name no icon, such as those of the admin.
    path("favicon.ico", RedirectView.as_view(url=static("demo/mark.svg"))),
    path("admin/", admin.site.urls),
    path("", include("dashboard.urls")),
]
