"""The server as ``manage.py serve`` starts it: on a socket that is bound already, with or without TLS."""

from __future__ import annotations

import socket
from collections.abc import Callable
from pathlib import Path
from typing import Any

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
        for path, use in (
            (cert, self._context.use_certificate_chain_file),
            (key, self._context.use_privatekey_file),
        ):
            if not Path(path).is_file():
                raise ValueError(f"There is no file {path}.")
            try:
                use(path)
            except SSL.Error as error:
                raise ValueError(f"{path} cannot be used: {error}.") from error
        try:
            self._context.check_privatekey()
        except SSL.Error:
            raise ValueError(f"{key} is not the key of {cert}.") from None

    def getContext(self) -> SSL.Context:  # noqa: N802 - Twisted's name
        """Return what makes the connections."""
        return self._context


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
