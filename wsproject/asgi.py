"""The ASGI application: what stands between a socket and its consumer, outermost first."""

from __future__ import annotations

import os

from django.core.asgi import get_asgi_application

os.environ.setdefault("DJANGO_SETTINGS_MODULE", "wsproject.settings")
# Sets Django up: what is imported below needs its apps.
django_application = get_asgi_application()

from channels.routing import ProtocolTypeRouter  # noqa: E402
from channels.security.websocket import AllowedHostsOriginValidator  # noqa: E402
from django.contrib.staticfiles.handlers import ASGIStaticFilesHandler  # noqa: E402

import realtime.server  # noqa: E402
from ratelimit.middleware import RateLimit  # noqa: E402
from realtime.auth import AuthMiddlewareStack  # noqa: E402
from wsproject.routing import route  # noqa: E402

realtime.server.install()

application = ProtocolTypeRouter(
    {
        # Serves static files whatever DEBUG is, so that one process is all the demonstration needs.
        "http": ASGIStaticFilesHandler(django_application),
        "websocket": RateLimit(AllowedHostsOriginValidator(AuthMiddlewareStack(route))),
    }
)
