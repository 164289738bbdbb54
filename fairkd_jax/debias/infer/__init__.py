"""Columns by example that a stage of its own infers: a file a plugin."""
