"""Consumers, rooms, delivery and heartbeats for Django Channels."""
