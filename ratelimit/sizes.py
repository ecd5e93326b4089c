"""How many bytes a message is on the wire."""

from __future__ import annotations


def text_size(text: str) -> int:
    """Return how many bytes ``text`` is on the wire."""
    return len(text) if text.isascii() else len(text.encode("utf-8", "surrogatepass"))


def payload_size(payload: str | bytes) -> int:
    """Return how many bytes what a message carries is on the wire."""
    return text_size(payload) if isinstance(payload, str) else len(payload)
