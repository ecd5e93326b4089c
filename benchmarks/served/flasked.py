"""Flask with flask-sock, for gunicorn with threads: a thread serves a socket."""

from __future__ import annotations

from typing import Any

from flask import Flask
from flask_sock import Sock

app = Flask(__name__)


def echo(socket: Any) -> None:
    """Send back what comes."""
    while True:
        socket.send(socket.receive())


Sock(app).route("/echo")(echo)
