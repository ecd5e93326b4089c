"""Addresses of the health, info and metrics pages, for the root of the site."""

from __future__ import annotations

from django.urls import path
from django_prometheus.exports import ExportToDjangoView

from dashboard import views

app_name = "dashboard"

urlpatterns = [
    path("metrics", ExportToDjangoView, name="metrics"),
    path("health/live", views.live, name="live"),
    path("health/ready", views.ready, name="ready"),
    path("info/health", views.health_report, name="health"),
    path("info/stats", views.stats, name="stats"),
    path("info/clients", views.clients, name="clients"),
    path("info/config", views.config, name="config"),
]
