"""The servers that know this app: here the hook that makes daphne's own commands run ours."""

from __future__ import annotations

import sys

from django.apps import apps

__all__ = ["install"]


def install() -> None:
    """
    Make ``daphne``, ``manage.py runserver`` and the live-server tests run our server. May be called again.

    Call it in ``asgi.py``: the ``daphne`` command looks at its hook after importing the application.
    ``runserver`` looks earlier, so ``AppConfig.ready()`` calls it too. Under a server that is not
    daphne nothing is imported: daphne brings a Twisted reactor, and with it an event loop, of its own.

    """
    if "daphne.server" not in sys.modules:
        return
    # Imported here because importing daphne installs its reactor, which must not happen under another server.
    import daphne.testing
    from daphne.cli import CommandLineInterface

    from realtime.server.process import ServerProcess
    from realtime.server.server import Server

    CommandLineInterface.server_class = Server
    # channels.testing takes it from there by name, when it is imported.
    stock, daphne.testing.DaphneProcess = daphne.testing.DaphneProcess, ServerProcess
    live = sys.modules.get("channels.testing.live")
    if live is not None and live.ChannelsLiveServerTestCase.ProtocolServerProcess is stock:
        live.ChannelsLiveServerTestCase.ProtocolServerProcess = ServerProcess
    if apps.is_installed("daphne"):
        from daphne.management.commands.runserver import Command

        Command.server_cls = Server
