"""
The ``websockets`` library on uvloop. The arguments are the port, and how messages are compressed.

``none`` is without compression, ``default`` the library's own choice, ``15/8`` a window of 15 bits and a memory level of 8.

"""

from __future__ import annotations

import asyncio
import sys
from typing import Any

import uvloop
from websockets.asyncio.server import ServerConnection, broadcast, serve
from websockets.extensions.permessage_deflate import ServerPerMessageDeflateFactory

members: set[ServerConnection] = set()


async def handle(socket: ServerConnection) -> None:
    """On ``/room`` pass on what comes to everybody, elsewhere send it back."""
    if socket.request is not None and socket.request.path == "/room":
        members.add(socket)
        try:
            async for message in socket:
                broadcast(members, message)
        finally:
            members.discard(socket)
    else:
        async for message in socket:
            await socket.send(message)


def compression(told: str) -> dict[str, Any]:
    """Return the options of ``serve`` for what the command line says."""
    if told == "none":
        return {"compression": None}
    if told == "default":
        return {}
    bits, level = map(int, told.split("/"))
    factory = ServerPerMessageDeflateFactory(
        server_max_window_bits=bits, client_max_window_bits=bits, compress_settings={"memLevel": level}
    )
    return {"compression": None, "extensions": [factory]}


async def main() -> None:
    """Serve until killed."""
    async with serve(handle, "127.0.0.1", int(sys.argv[1]), backlog=1024, **compression(sys.argv[2])):
        await asyncio.get_running_loop().create_future()


if __name__ == "__main__":
    uvloop.run(main())
