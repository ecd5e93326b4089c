"""Run the heartbeat outside the servers."""

from __future__ import annotations

import asyncio
import signal
from typing import Any

from django.core.management.base import BaseCommand, CommandError, CommandParser

from ratelimit.logs import get_logger
from realtime import publish
from realtime.checks import split_rooms

logger = get_logger("realtime")


class Command(BaseCommand):
    """Tell every server process, through the channel layer, to look after its sockets."""

    help = (
        "Tells every server process, through the channel layer, to ping silent sockets and close dead ones. For"
        " servers that run with REALTIME_HEARTBEAT_ENABLED = False. Several may run; a socket is pinged when it is"
        " due, however often it is looked at."
    )

    def add_arguments(self, parser: CommandParser) -> None:
        """Add the one option."""
        parser.add_argument(
            "--every", type=float, default=1.0, metavar="SECONDS", help="time between two rounds (1)"
        )

    def handle(self, *args: Any, every: float, **options: Any) -> None:
        """Beat until interrupted."""
        if every <= 0:
            raise CommandError(f"--every is {every:g} seconds; it must be more than 0.")
        if reason := split_rooms():
            raise CommandError(
                f"{reason} No server would hear the heartbeat."
                " Configure CHANNEL_LAYERS with channels_redis, or let the servers beat themselves with"
                " REALTIME_HEARTBEAT_ENABLED = True."
            )
        asyncio.run(_beat_until_stopped(every))


async def _beat_until_stopped(every: float) -> None:
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, stop.set)
    logger.info("heartbeat started", every=every)
    failing = False
    while not stop.is_set():
        try:
            await publish.beat()
        except Exception as error:  # noqa: BLE001 - any layer may raise anything; the worker outlives it
            if not failing:
                logger.warning("heartbeat does not reach the channel layer", error=str(error))
            failing = True
        else:
            if failing:
                logger.info("heartbeat reaches the channel layer again")
            failing = False
        try:
            async with asyncio.timeout(every):
                await stop.wait()
        except TimeoutError:
            continue
    logger.info("heartbeat stopped")
