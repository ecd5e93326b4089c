"""BustAPI: its standard handler in Python on ``/echo``, its turbo route on ``/turbo``. The argument is the port."""

from __future__ import annotations

import sys
from typing import Any

from bustapi import BustAPI

app = BustAPI(__name__)


async def echo(socket: Any) -> None:
    """Send back what comes."""
    async for message in socket:
        await socket.send(message)


def turbo(message: str) -> str:
    """Stand for the route: the server answers with prefix and message by itself and never calls this."""
    return message


app.websocket("/echo")(echo)
app.turbo_websocket("/turbo", response_prefix="Echo: ")(turbo)

if __name__ == "__main__":
    app.run(host="127.0.0.1", port=int(sys.argv[1]), workers=1)
