"""What operators did, in Django's own log of changes."""

from __future__ import annotations

from collections.abc import Sequence

from django.contrib.admin.models import LogEntry
from django.db.models import Model
from django.http import HttpRequest


def record(request: HttpRequest, objects: Sequence[Model], flag: int, message: str) -> None:
    """Write one line for each object; ``flag`` is ADDITION, CHANGE or DELETION of the log."""
    if objects:
        LogEntry.objects.log_actions(str(request.user.pk), objects, flag, message)
