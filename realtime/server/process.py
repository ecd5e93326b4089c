"""The server in a process of its own, as the live-server tests of Channels start it."""

from __future__ import annotations

import traceback
from concurrent.futures import ThreadPoolExecutor

from asgiref.sync import SyncToAsync
from daphne.endpoints import build_endpoint_description_strings
from daphne.testing import DaphneProcess
from django.db import connections

from realtime.server.loops import begin_anew
from realtime.server.server import Server


class ServerProcess(DaphneProcess):
    """
    What ``ChannelsLiveServerTestCase`` serves from: daphne's process with our server, and so our engine, in it.

    ``realtime.server.install()`` puts it in the place of daphne's. Where that comes too late, set it
    as ``ProtocolServerProcess`` of the test case.

    """

    def start(self) -> None:
        """
        Start the process, after closing the database connections of this thread that are not in a transaction.

        A forked process would share them; SQLite then shows it the database as it was, not as it is.

        """
        for connection in connections.all(initialized_only=True):
            if not connection.in_atomic_block:
                connection.close()
        super().start()

    def run(self) -> None:
        """Serve until the process is ended; what goes wrong is put into ``errors`` for the test."""
        begin_anew()
        # A thread that the parent has started is not in this process, though its executor still counts on it.
        SyncToAsync.single_thread_executor = ThreadPoolExecutor(max_workers=1)
        try:
            self.server = Server(
                application=self.get_application(),
                endpoints=build_endpoint_description_strings(host=self.host, port=self.port.value),
                signal_handlers=False,
                ready_callable=self.resolve_port,
                **self.kwargs,
            )
            if self.setup is not None:
                self.setup()
            try:
                self.server.run()
            finally:
                if self.teardown is not None:
                    self.teardown()
        except BaseException as error:
            self.errors.put((error, traceback.format_exc()))
            raise
