"""A consumer whose clients have a name and rooms, which they find again when they come back."""

from __future__ import annotations

from typing import Any

from realtime.handlers import on
from tests.acceptance.apps.rooms import Member

__all__ = ["application"]


class Guest(Member):
    """Whoever comes may enter any room."""

    async def may_join(self, room: str) -> bool:
        """Let everybody in."""
        return True

    @on("name")
    async def name(self, data: str) -> None:
        """Remember a name."""
        self.set_session("name", data)

    @on("who")
    async def who(self) -> None:
        """Answer with who this is, and where."""
        rooms = sorted(self.connection.rooms)
        await self.send_event("you", {"id": self.client_id, "name": self.get_session("name"), "rooms": rooms})


application: Any = Guest.as_asgi()
