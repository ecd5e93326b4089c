"""Serve the project: HTTP and WebSockets on one port, with an orderly end."""

from __future__ import annotations

import argparse
import logging
import os
import socket
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from channels.routing import get_default_application
from django.core.exceptions import ImproperlyConfigured
from django.core.management.base import BaseCommand, CommandError, CommandParser

from realtime.server.launched import Certificate, LaunchedServer
from realtime.server.listeners import (
    CannotListen,
    address_of,
    inherited_listener,
    tcp_listener,
    unix_listener,
)
from realtime.server.loops import use_uvloop
from realtime.server.workers import Workers

DEFAULT_PORT = 8000


class Command(BaseCommand):
    """``manage.py serve``."""

    help = (
        "Serve ASGI_APPLICATION until SIGTERM or Ctrl-C, then let every client know and every consumer clean up."
        " A second signal ends the process at once. With several workers, SIGHUP replaces them one generation by another."
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
        parser.add_argument(
            "--uds", metavar="PATH", help="UNIX socket to listen at, in place of host and port."
        )
        parser.add_argument(
            "--workers", type=_count, default=1, help="Processes that share the port (default: 1)."
        )
        parser.add_argument(
            "--tls-cert", metavar="FILE", help="Certificate and its chain, in PEM: serve https."
        )
        parser.add_argument("--tls-key", metavar="FILE", help="Key of the certificate, in PEM.")
        # How a parent starts its workers.
        parser.add_argument("--worker-of", nargs=2, type=int, default=None, help=argparse.SUPPRESS)

    def handle(self, *args: Any, **options: Any) -> None:
        """Serve, and return when the server has ended in order."""
        if options["verbosity"] < 2:
            # What it says at INFO while starting (no HTTP/2, which endpoint) is said better by one line of ours.
            logging.getLogger("daphne.server").setLevel(logging.WARNING)
        certificate = _certificate(options["tls_cert"], options["tls_key"])
        application = _application()
        if options["worker_of"] is not None:
            descriptor, parent = options["worker_of"]
            self._serve(application, inherited_listener(descriptor), certificate, parent=parent)
            return
        path: str | None = options["uds"]
        try:
            listener = unix_listener(path) if path else tcp_listener(options["host"], options["port"])
        except CannotListen as error:
            raise CommandError(str(error)) from error
        try:
            address, workers = address_of(listener, encrypted=certificate is not None), options["workers"]
            if workers == 1:
                self._serve(application, listener, certificate, ready=lambda: self._tell(address))
            else:
                self._tell(f"{address} with {workers} workers")
                self._share(listener, workers)
        finally:
            if path:
                Path(path).unlink(missing_ok=True)

    def _serve(
        self,
        application: Any,
        listener: socket.socket,
        certificate: Certificate | None,
        *,
        parent: int | None = None,
        ready: Callable[[], None] | None = None,
    ) -> None:
        use_uvloop()
        LaunchedServer(application, listener, certificate=certificate, parent=parent, ready=ready).run()

    def _share(self, listener: socket.socket, count: int) -> None:
        with listener:
            code = Workers(_worker_command, count, [listener.fileno()]).run()
        if code:
            raise CommandError("Not every worker ended in order.", returncode=code)

    def _tell(self, where: str) -> None:
        self.stdout.write(f"Serving {where} (Ctrl-C stops)")
        self.stdout.flush()


def _worker_command(descriptors: Sequence[int]) -> list[str]:
    """Return this very command, as a worker on the parent's descriptors: the socket, and the pipe that ends with it."""
    return [sys.executable, *sys.orig_argv[1:], "--worker-of", *map(str, descriptors)]


def _port(text: str) -> int:
    try:
        port = int(text)
    except ValueError:
        port = -1
    if not 0 <= port <= 65535:
        raise argparse.ArgumentTypeError(f"{text!r} is not a port: use a number from 0 to 65535.")
    return port


def _count(text: str) -> int:
    if not text.isdecimal() or not 1 <= int(text) <= 1000:
        raise argparse.ArgumentTypeError(f"{text!r} is not a number of workers: use 1 to 1000.")
    return int(text)


def _certificate(cert: str | None, key: str | None) -> Certificate | None:
    if not cert and not key:
        return None
    if not cert or not key:
        raise CommandError("--tls-cert and --tls-key go together.")
    try:
        return Certificate(cert, key)
    except ValueError as error:
        raise CommandError(str(error)) from error


def _application() -> Any:
    try:
        return get_default_application()
    except ImproperlyConfigured as error:
        raise CommandError(f"{error} ASGI_APPLICATION names the application to serve.") from error
