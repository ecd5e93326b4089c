"""Signals of this app."""

from __future__ import annotations

from django.dispatch import Signal

client_refused = Signal()
"""
A connection was refused before it was accepted. Sent with ``scope`` and ``refusal``, after the answer.

Asynchronous receivers run on the loop of the socket; synchronous ones run in a thread.
"""
