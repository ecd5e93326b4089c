"""FastAPI on uvicorn, with fastapi-websocket-stabilizer for the room. The argument is the port."""

from __future__ import annotations

import contextlib
import itertools
import sys
from collections.abc import AsyncIterator

import uvicorn
from fastapi import FastAPI, WebSocket, WebSocketDisconnect
from fastapi_websocket_stabilizer import WebSocketConfig, WebSocketConnectionManager

manager = WebSocketConnectionManager(WebSocketConfig())
numbers = itertools.count()


@contextlib.asynccontextmanager
async def lifespan(_: FastAPI) -> AsyncIterator[None]:
    """Start the manager, as its documentation asks."""
    await manager.start()
    yield


async def echo(socket: WebSocket) -> None:
    """Send back what comes."""
    await socket.accept()
    with contextlib.suppress(WebSocketDisconnect):
        while True:
            await socket.send_text(await socket.receive_text())


async def room(socket: WebSocket) -> None:
    """Pass on what comes to everybody."""
    await socket.accept()
    client = str(next(numbers))
    await manager.connect(client, socket)
    try:
        while True:
            await manager.broadcast(await socket.receive_text())
    except WebSocketDisconnect:
        await manager.disconnect(client)


app = FastAPI(lifespan=lifespan)
app.add_api_websocket_route("/echo", echo)
app.add_api_websocket_route("/room", room)

if __name__ == "__main__":
    uvicorn.run(app, host="127.0.0.1", port=int(sys.argv[1]), log_level="warning", loop="uvloop")
