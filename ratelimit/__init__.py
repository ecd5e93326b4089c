"""Limits for any ASGI WebSocket application: connections, messages, bytes, sizes and bans."""
