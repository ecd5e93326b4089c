"""Listening sockets: bound where they are asked for, and what to say when that cannot be."""

from __future__ import annotations

import errno
import os
import socket
import stat
from pathlib import Path

BACKLOG = 2048
"""Connections the kernel keeps until they are accepted: a crowd that comes back after a restart comes at once."""


class CannotListen(OSError):
    """The address cannot be had; the text says why and what to do, in one line."""


def tcp_listener(host: str, port: int) -> socket.socket:
    """Return a socket that listens on the first address of ``host``. Raise :class:`CannotListen`."""
    try:
        family, *_, address = socket.getaddrinfo(
            host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
        return socket.create_server(address[:2], family=family, backlog=BACKLOG)
    except OSError as error:
        raise CannotListen(_why_not(error, host, port)) from error


def unix_listener(path: str) -> socket.socket:
    """
    Return a socket that listens at ``path``. Raise :class:`CannotListen`.

    A socket that was left behind there, and that nobody listens at any more, is replaced.

    """
    try:
        _remove_stale(path)
        listener = socket.socket(socket.AF_UNIX)
        try:
            listener.bind(path)
            listener.listen(BACKLOG)
        except OSError:
            listener.close()
            raise
    except OSError as error:
        reason = error.strerror or str(error)
        raise CannotListen(f"Cannot listen at {path}: {reason}. Check --uds.") from error
    return listener


def inherited_listener(descriptor: int) -> socket.socket:
    """Return the listening socket that a parent process has bound."""
    return socket.socket(fileno=descriptor)


def address_of(listener: socket.socket, *, encrypted: bool) -> str:
    """Return where ``listener`` can be reached, as people write it."""
    name = listener.getsockname()
    if not isinstance(name, tuple):
        return f"unix:{os.fsdecode(name)}"
    host = f"[{name[0]}]" if ":" in name[0] else name[0]
    return f"http{'s' if encrypted else ''}://{host}:{name[1]}/"


def _remove_stale(path: str) -> None:
    try:
        if not stat.S_ISSOCK(Path(path).stat().st_mode):
            raise OSError(errno.EEXIST, "there is a file that is not a socket")
    except FileNotFoundError:
        return
    with socket.socket(socket.AF_UNIX) as probe:
        try:
            probe.connect(path)
        except ConnectionRefusedError:
            Path(path).unlink()
            return
    raise OSError(errno.EADDRINUSE, "somebody listens there")


def _why_not(error: OSError, host: str, port: int) -> str:
    if error.errno == errno.EADDRINUSE:
        return f"Port {port} of {host} is in use: stop what listens there, or choose another with --port."
    if error.errno == errno.EACCES:
        return f"Port {port} needs more rights than this user has: choose one above 1023 with --port."
    return f"Cannot listen on {host}, port {port}: {error.strerror or error}. Check --host."
