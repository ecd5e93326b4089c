"""The model of the users."""

from __future__ import annotations

import uuid

from django.contrib.auth.base_user import AbstractBaseUser, BaseUserManager
from django.db import models


class Member(AbstractBaseUser):
    """Known by an address, and in the database by a UUID."""

    id = models.UUIDField(primary_key=True, default=uuid.uuid4)
    email = models.EmailField(unique=True)

    objects: BaseUserManager[Member] = BaseUserManager()

    USERNAME_FIELD = "email"

    class Meta:
        app_label = "members"
