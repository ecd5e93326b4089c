"""The baseline behind the middlewares that Channels' documentation puts in front: origin, session, user."""

from __future__ import annotations

from channels.routing import ProtocolTypeRouter

from benchmarks.served import plain  # first: it sets Django up

from channels.auth import AuthMiddlewareStack  # isort: skip
from channels.security.websocket import AllowedHostsOriginValidator  # isort: skip

application = ProtocolTypeRouter(
    {"websocket": AllowedHostsOriginValidator(AuthMiddlewareStack(plain.routes))}
)
