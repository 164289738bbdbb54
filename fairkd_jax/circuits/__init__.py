"""Circuits of nets: what of their inside does the work."""
