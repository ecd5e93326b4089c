"""Serve the project: HTTP and WebSockets on one port, with an orderly end."""

from __future__ import annotations

import argparse
import errno
import logging
import os
from typing import Any

from channels.routing import get_default_application
from daphne.endpoints import build_endpoint_description_strings
from django.core.exceptions import ImproperlyConfigured
from django.core.management.base import BaseCommand, CommandError, CommandParser

from realtime.server.server import Server

DEFAULT_PORT = 8000


class LaunchedServer(Server):
    """Leaves it to the command to say why the port could not be had."""

    listen_failure: BaseException | None = None

    def listen_error(self, failure: Any) -> None:
        """Keep what went wrong, and do not start."""
        self.listen_failure = failure.value
        self.stop()


class Command(BaseCommand):
    """``manage.py serve``."""

    help = (
        "Serve ASGI_APPLICATION until SIGTERM or Ctrl-C, then let every client know and every consumer clean up."
        " A second signal ends the process at once."
    )

    def add_arguments(self, parser: CommandParser) -> None:
        """Declare the options."""
        parser.add_argument("--host", default="127.0.0.1", help="Address to listen on (default: 127.0.0.1).")
        parser.add_argument(
            "--port",
            type=_port,
            default=os.environ.get("PORT", str(DEFAULT_PORT)),
            help=f"Port to listen on; 0 takes a free one (default: PORT from the environment, or {DEFAULT_PORT}).",
        )

    def handle(self, *args: Any, **options: Any) -> None:
        """Serve, and return when the server has ended in order."""
        host: str = options["host"]
        port: int = options["port"]
        if options["verbosity"] < 2:
            # What it says at INFO while starting (no HTTP/2, which endpoint) is said better by one line of ours.
            logging.getLogger("daphne.server").setLevel(logging.WARNING)
        server: LaunchedServer = LaunchedServer(
            application=_application(),
            endpoints=build_endpoint_description_strings(host=host, port=port),
            ready_callable=lambda: self._tell_ready(server),
            server_name="",
        )
        server.run()
        if server.listen_failure is not None:
            raise CommandError(_explain(server.listen_failure, host, port))

    def _tell_ready(self, server: LaunchedServer) -> None:
        for host, port in server.listening_addresses:
            self.stdout.write(f"Serving http://{f'[{host}]' if ':' in host else host}:{port}/ (Ctrl-C stops)")
        self.stdout.flush()


def _port(text: str) -> int:
    try:
        port = int(text)
    except ValueError:
        port = -1
    if not 0 <= port <= 65535:
        raise argparse.ArgumentTypeError(f"{text!r} is not a port: use a number from 0 to 65535.")
    return port


def _application() -> Any:
    try:
        return get_default_application()
    except ImproperlyConfigured as error:
        raise CommandError(f"{error} ASGI_APPLICATION names the application to serve.") from error


def _explain(failure: BaseException, host: str, port: int) -> str:
    """Return in one line why the port could not be had."""
    reason = getattr(failure, "socketError", failure)
    number = getattr(reason, "errno", None)
    if number == errno.EADDRINUSE:
        return f"Port {port} of {host} is in use: stop what listens there, or choose another with --port."
    if number == errno.EACCES:
        return f"Port {port} needs more rights than this user has: choose one above 1023 with --port."
    return (
        f"Cannot listen on {host}, port {port}: {getattr(reason, 'strerror', None) or reason}. Check --host."
    )
