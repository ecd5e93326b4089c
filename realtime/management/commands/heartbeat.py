"""Run the heartbeat outside the servers."""

from __future__ import annotations

import asyncio
import contextlib
import secrets
import signal
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from django.core.management.base import BaseCommand, CommandError, CommandParser

from ratelimit import overrides
from ratelimit.logs import get_logger
from realtime import publish
from realtime.checks import split_rooms
from realtime.conf import get_settings
from realtime.errors import StateUnavailable
from realtime.lease import RENEWALS, Chores
from realtime.state import open_state

logger = get_logger("realtime")


class Command(BaseCommand):
    """Tell every server process, through the channel layer, to look after its sockets."""

    help = (
        "Tells every server process, through the channel layer, to ping silent sockets and close dead ones. For"
        " servers that run with REALTIME_HEARTBEAT_ENABLED = False. Several may run; a socket is pinged when it is"
        " due, however often it is looked at. With a REALTIME_STATE_URL that nodes share, one of all that run, and of"
        " the servers, also removes what dead nodes have left there."
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
        overrides.watch.read_once()
        asyncio.run(_beat_until_stopped(every))


async def _beat_until_stopped(every: float) -> None:
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, stop.set)
    logger.info("heartbeat started", every=every)
    async with _chores():
        await _beat(every, stop)
    logger.info("heartbeat stopped")


@asynccontextmanager
async def _chores() -> AsyncIterator[None]:
    """Do meanwhile what one process of all does for the others."""
    settings = get_settings()
    if settings.state_url == "memory://":
        yield
        return
    state = open_state(settings.state_url)
    task = asyncio.create_task(_do_chores(Chores(state, f"heartbeat.{secrets.token_hex(4)}")))
    try:
        yield
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        await state.aclose()


async def _do_chores(chores: Chores) -> None:
    while True:
        lease = get_settings().node_lease
        # A state that is away says so itself.
        with contextlib.suppress(StateUnavailable):
            await chores.turn(lease)
        # No news comes here; the lease is the only setting this goes by.
        await overrides.watch.refresh()
        await asyncio.sleep(lease / RENEWALS)


async def _beat(every: float, stop: asyncio.Event) -> None:
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
