"""Settings of one of several measured nodes: ``BENCH_LAYER`` is the channel layer, ``BENCH_REDIS`` the Redis of them all."""

from __future__ import annotations

import os
from typing import Any

from benchmarks.served.settings import *  # noqa: F403

# At its default capacity of 100 the stock layer would drop most of a broadcast to a hundred sockets of a process.
_HOSTS = [os.environ["BENCH_REDIS"]]
_LAYERS: dict[str, Any] = {
    "stock": {
        "BACKEND": "channels_redis.core.RedisChannelLayer",
        "CONFIG": {"hosts": _HOSTS, "capacity": 100_000},
    },
    "pubsub": {"BACKEND": "channels_redis.pubsub.RedisPubSubChannelLayer", "CONFIG": {"hosts": _HOSTS}},
}

REALTIME_STATE_URL = os.environ["BENCH_REDIS"]
CHANNEL_LAYERS = {"default": _LAYERS[os.environ.get("BENCH_LAYER", "stock")]}
ASGI_APPLICATION = "benchmarks.served.node.application"
