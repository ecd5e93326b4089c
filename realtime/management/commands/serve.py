"""Serve the project: HTTP and WebSockets on one port, with an orderly end."""

from __future__ import annotations

import argparse
import contextlib
import logging
import os
import socket
import sys
import threading
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from channels.routing import get_default_application
from django.conf import settings
from django.core.exceptions import ImproperlyConfigured
from django.core.management.base import BaseCommand, CommandError, CommandParser

from realtime.checks import split_rooms
from realtime.server import openfiles
from realtime.server.interrupts import interrupts
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

    _started_as: list[str] = []
    """The command line of this process; empty where the command is called by a program."""

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
        parser.add_argument(
            "--allow-split-rooms",
            action="store_true",
            help="Run several workers without a channel layer between them: each has rooms of its own.",
        )
        # How a parent starts its workers.
        parser.add_argument("--worker-of", nargs=2, type=int, default=None, help=argparse.SUPPRESS)

    def run_from_argv(self, argv: list[str]) -> None:
        """Remember how we were started: workers are started the same way."""
        self._started_as = [sys.executable, *sys.orig_argv[1:]]
        super().run_from_argv(argv)

    def handle(self, *args: Any, **options: Any) -> None:
        """Serve, and return when the server has ended in order."""
        if options["verbosity"] < 2:
            # What it says at INFO while starting (no HTTP/2, which endpoint) is said better by one line of ours.
            logging.getLogger("daphne.server").setLevel(logging.WARNING)
        certificate = _certificate(options["tls_cert"], options["tls_key"])
        if options["worker_of"] is not None:
            descriptor, parent = options["worker_of"]
            self._serve(_application(), inherited_listener(descriptor), certificate, parent=parent)
            return
        workers = _workers(options)
        if workers > 1 and not options["allow_split_rooms"]:
            _refuse_split_rooms(workers)
        application = _application()
        path: str | None = options["uds"]
        # From the moment it listens there may be clients.
        with interrupts.heard(), contextlib.closing(_listener(path, options)) as listener:
            try:
                address = address_of(listener, encrypted=certificate is not None)
                if workers == 1:
                    self._serve(application, listener, certificate, ready=lambda: self._tell(address))
                else:
                    self._tell(f"{address} with {workers} workers")
                    openfiles.tell()
                    self._share(listener, workers, options)
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

    def _share(self, listener: socket.socket, count: int, options: Mapping[str, Any]) -> None:
        command, environment = self._started_as, None
        if not command:
            command, environment = _command(options), _environment()

        def as_worker(descriptors: Sequence[int]) -> list[str]:
            # The socket, and the pipe that ends with its parent.
            return [*command, "--skip-checks", "--worker-of", *map(str, descriptors)]

        code = Workers(as_worker, count, [listener.fileno()], environment=environment).run()
        if code:
            raise CommandError("Not every worker ended in order.", returncode=code)

    def _tell(self, where: str) -> None:
        self.stdout.write(f"Serving {where} (Ctrl-C stops)")
        self.stdout.flush()


def _listener(path: str | None, options: Mapping[str, Any]) -> socket.socket:
    try:
        return unix_listener(path) if path else tcp_listener(options["host"], options["port"])
    except CannotListen as error:
        raise CommandError(str(error)) from error


def _command(options: Mapping[str, Any]) -> list[str]:
    """Return a command line for ``options``, of which workers need those that are not about the port."""
    return [
        sys.executable,
        *(f"-W{option}" for option in sys.warnoptions),
        *("-P", "-m", "django", "serve", f"--verbosity={options['verbosity']}"),
        *(f"--{name.replace('_', '-')}={options[name]}" for name in ("tls_cert", "tls_key") if options[name]),
    ]


def _environment() -> dict[str, str]:
    """Return our environment, with what a process that is started anew would not find by itself."""
    return {
        **os.environ,
        "DJANGO_SETTINGS_MODULE": settings.SETTINGS_MODULE,
        "PYTHONPATH": os.pathsep.join(path or str(Path.cwd()) for path in sys.path),
    }


def _workers(options: Mapping[str, Any]) -> int:
    try:
        count = _count(str(options["workers"]))
    except argparse.ArgumentTypeError as error:
        raise CommandError(str(error)) from error
    if count > 1 and threading.current_thread() is not threading.main_thread():
        raise CommandError(
            "Several workers can be started in the main thread only: that is where signals come."
        )
    if count > 1 and not settings.SETTINGS_MODULE:
        raise CommandError("Several workers need settings in a module: set DJANGO_SETTINGS_MODULE.")
    return count


def _refuse_split_rooms(workers: int) -> None:
    if reason := split_rooms():
        raise CommandError(
            f"--workers is {workers}: {reason} Each worker would have rooms of its own, and a message would reach a"
            " part of its room. Use channels_redis (the demonstration does with REDIS_URL), run one worker,"
            " or say --allow-split-rooms if no message goes from one socket to another."
        )


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
