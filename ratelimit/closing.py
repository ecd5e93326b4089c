"""Close a socket through any ASGI server, whichever close codes it takes."""

from __future__ import annotations

from typing import Final

from ratelimit.asgi import Send
from ratelimit.close_codes import CloseReason
from ratelimit.logs import get_logger

STAND_INS: Final = {1008: 4403, 1009: 4400}
"""Codes to close with instead, where a server refuses the proper one; each asks the same of the client."""
_OTHERS: Final = {True: 4503, False: 4403}

_logger = get_logger("ratelimit")


async def send_close(send: Send, reason: CloseReason) -> None:
    """
    Close a socket for ``reason``, before or after it was accepted.

    daphne raises for every code but 1000 and 3000 to 4999: it then gets the stand-in of the code. A
    socket that is closed already stays so.

    """
    try:
        await send({"type": "websocket.close", "code": reason.code, "reason": reason.text})
    except OSError:
        # ASGI 2.4: the peer is gone, which is what was wanted.
        return
    except Exception as error:  # noqa: BLE001 - what a server raises for a code it does not take is its own affair
        if reason.code >= 3000:
            # No stand-in is better, so it was not the code: the socket was closed before.
            _logger.debug("socket not closed", code=reason.code, error=str(error))
            return
        code = STAND_INS.get(reason.code) or _OTHERS[reason.retry]
        await send_close(send, CloseReason(code, reason.name, reason.text, reason.retry))
