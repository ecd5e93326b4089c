"""The command that creates the demonstration's administrator."""

from __future__ import annotations

import os
import secrets
from typing import Any

from django.contrib.auth import get_user_model
from django.core.management.base import BaseCommand

USERNAME = "admin"
PASSWORD_VARIABLE = "DEMO_ADMIN_PASSWORD"  # noqa: S105 - the name of a variable


class Command(BaseCommand):
    """Creates the user once. A password that was made up is printed then, and never again."""

    help = (
        f"Create the superuser {USERNAME!r} if there is none, with the password in {PASSWORD_VARIABLE} or a random one"
        f" that is printed once. An existing user gets a new password only if {PASSWORD_VARIABLE} is set and differs."
    )

    def handle(self, *args: Any, **options: Any) -> None:
        users = get_user_model()._default_manager
        wanted = os.environ.get(PASSWORD_VARIABLE) or None
        user = users.filter(**{get_user_model().USERNAME_FIELD: USERNAME}).first()
        if user is None:
            password = wanted or secrets.token_urlsafe(12)
            get_user_model().objects.create_superuser(USERNAME, password=password)
            told = f"the one in {PASSWORD_VARIABLE}" if wanted else f"{password} (not shown again)"
            self.stdout.write(f"Demo admin created: user {USERNAME}, password {told}")
        elif wanted is not None and not user.check_password(wanted):
            user.set_password(wanted)
            user.save(update_fields=["password"])
            self.stdout.write(f"Demo admin {USERNAME}: password set to the one in {PASSWORD_VARIABLE}.")
        else:
            self.stdout.write(
                f"Demo admin {USERNAME}: there already. {PASSWORD_VARIABLE} sets another password."
            )
