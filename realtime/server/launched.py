"""The server as ``manage.py serve`` starts it: on a socket that is bound already, with or without TLS."""

from __future__ import annotations

import socket
from collections.abc import Callable
from pathlib import Path
from typing import Any

from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.serialization import load_pem_private_key
from OpenSSL import SSL
from twisted.internet import reactor
from twisted.protocols.tls import TLSMemoryBIOFactory

from realtime.server.server import Server


class Certificate:
    """A certificate, with the chain behind it, and its key: what Twisted calls a context factory."""

    def __init__(self, cert: str, key: str) -> None:
        """Read both files, in PEM. Raise ValueError, naming the file, where one cannot be used."""
        self._context = SSL.Context(SSL.TLS_SERVER_METHOD)
        self._context.set_min_proto_version(SSL.TLS1_2_VERSION)
        for path in (cert, key):
            if not Path(path).is_file():
                raise ValueError(f"There is no file {path}.")
        try:
            self._context.use_certificate_chain_file(cert)
        except SSL.Error as error:
            raise ValueError(f"{cert} cannot be used as a certificate in PEM: {_why(error)}.") from error
        # Not by OpenSSL, which asks for a pass phrase on the terminal, and waits.
        loaded = _read_key(key)
        try:
            self._context.use_privatekey(loaded)
            self._context.check_privatekey()
        except SSL.Error:
            raise ValueError(f"{key} is not the key of {cert}.") from None

    def getContext(self) -> SSL.Context:  # noqa: N802 - Twisted's name
        """Return what makes the connections."""
        return self._context


def _read_key(path: str) -> Any:
    try:
        return load_pem_private_key(Path(path).read_bytes(), None)
    except TypeError:
        raise ValueError(f"{path} has a pass phrase: give a key without one.") from None
    except OSError as error:
        raise ValueError(f"{path} cannot be read: {error.strerror}.") from error
    except (ValueError, UnsupportedAlgorithm):
        raise ValueError(f"{path} cannot be used as a key in PEM.") from None


def _why(error: SSL.Error) -> str:
    reasons = [reason for *_, reason in error.args[0]] if error.args else []
    return reasons[0] if reasons else "OpenSSL does not say why"


class LaunchedServer(Server):
    """A server on ``listener``. ``parent`` is the read end of a pipe: when that is at its end, so is the server."""

    def __init__(
        self,
        application: Any,
        listener: socket.socket,
        *,
        certificate: Certificate | None = None,
        parent: int | None = None,
        ready: Callable[[], None] | None = None,
    ) -> None:
        super().__init__(
            application=application, endpoints=["ours"], ready_callable=self._adopt, server_name=""
        )
        self.endpoints: list[str] = []
        self._listener = listener
        self._certificate: Any = certificate
        self._parent = parent
        self._ready = ready

    def look_around(self) -> None:
        """Leave it to the parent where there is one: what it says is true of every worker."""
        if self._parent is None:
            super().look_around()

    def _adopt(self) -> None:
        factory: Any = self.http_factory
        if self._certificate is not None:
            factory = TLSMemoryBIOFactory(self._certificate, False, factory)
        self._listener.setblocking(False)
        # Twisted works on a duplicate.
        port = reactor.adoptStreamPort(self._listener.fileno(), self._listener.family, factory)
        self._listener.close()
        self.listen_success(port)
        if self._parent is not None:
            loop = reactor._asyncioEventloop
            loop.add_reader(self._parent, self._orphaned, loop)
        if self._ready is not None:
            self._ready()

    def _orphaned(self, loop: Any) -> None:
        loop.remove_reader(self._parent)
        self.stop()
