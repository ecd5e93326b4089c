"""Measurements of the project against plain Channels, on the same daphne in the same run."""
