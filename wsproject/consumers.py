"""The demonstration's sockets: a chat room, a background job to follow, and an echo."""

from __future__ import annotations

from typing import Annotated

import msgspec

from realtime.consumers import RealtimeConsumer
from realtime.errors import ClientError
from realtime.handlers import on
from realtime.sockets import WebSocket, websocket
from realtime.tasks import FollowsTasks, TaskStatus
from wsproject import survey

MAX_LINE = 1000
"""Characters in one line of chat."""
MAX_ROOM_NAME = 1000
"""Characters in the name of a chat room."""


class Line(msgspec.Struct):
    """What somebody says."""

    text: Annotated[str, msgspec.Meta(min_length=1, max_length=MAX_LINE)]


class ChatConsumer(RealtimeConsumer):
    """One visitor of one chat room. Whoever comes may speak; what is said is kept for those who come back."""

    @property
    def chat_room(self) -> str:
        """The room that the address names."""
        return f"chat.{self.scope['url_route']['kwargs']['room']}"

    async def connected(self) -> None:
        """Let the visitor in."""
        await self.join(self.chat_room, presence=True, recover=True)

    @on("chat.send")
    async def send_line(self, line: Line) -> None:
        """Say something to everybody in the room, the speaker included."""
        if not line.text.strip():
            raise ClientError("blank_line", "There is nothing in this line but blanks. Say something.")
        await self.room(self.chat_room).publish("chat.line", {"user": self.user_label, "text": line.text})


class SurveyConsumer(FollowsTasks, RealtimeConsumer):
    """One visitor who begins a survey, or follows one."""

    async def may_follow(self, task: TaskStatus) -> bool:
        """Whoever knows the id of a survey was given it by the page that began it; jobs of users stay theirs."""
        return task.owner is None or await super().may_follow(task)

    @on("survey.start")
    async def start_survey(self) -> None:
        """Begin a survey in the background."""
        if not survey.start(self.client_id):
            raise ClientError("busy", "All boats are out surveying. Try again in some seconds.")


@websocket()
async def echo(ws: WebSocket) -> None:
    """Send every message back as it came."""
    async for message in ws:
        await ws.send(message)
